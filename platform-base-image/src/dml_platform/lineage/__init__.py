"""Column lineage from SQL: pure functions over compiled queries, known tables and dbt's manifest."""

from dml_platform.lineage.columns import ALL, Edge, QueryError, trace_columns
from dml_platform.lineage.project import Lineage, relation_name, trace_project

__all__ = ["ALL", "Edge", "Lineage", "QueryError", "relation_name", "trace_columns", "trace_project"]
