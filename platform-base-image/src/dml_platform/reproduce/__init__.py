"""A run made again from its commit and its input snapshots, and compared with what it published."""

from dml_platform.reproduce.checkout import check_out
from dml_platform.reproduce.run import Reproduction, TableResult, reproduce

__all__ = ["Reproduction", "TableResult", "check_out", "reproduce"]
