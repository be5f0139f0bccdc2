"""Landing of files into ``raw``: CSV, JSON lines and Parquet, read by DuckDB, each file exactly once."""

from dml_platform.files.config import CsvOptions, FileTable
from dml_platform.files.land import Landing, land_files, landed_files
from dml_platform.files.load import LandedFile

__all__ = ["CsvOptions", "FileTable", "LandedFile", "Landing", "land_files", "landed_files"]
