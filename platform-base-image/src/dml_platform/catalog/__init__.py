"""The catalogue document: all that is known of a project, gathered after each run from dbt, the lake and Dagster."""

from dml_platform.catalog.builder import build_document
from dml_platform.catalog.store import read_document, write_document

__all__ = ["build_document", "read_document", "write_document"]
