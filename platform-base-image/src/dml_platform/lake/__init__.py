"""The lake: Iceberg tables as the only shared state, DuckDB as the engine that reads and writes them."""

from dml_platform.lake.client import Lake, SnapshotInfo, open_lake, published_states
from dml_platform.lake.read import PinnedTable, create_view
from dml_platform.lake.write import Mode, StagedTable, Step

__all__ = [
    "Lake",
    "Mode",
    "PinnedTable",
    "SnapshotInfo",
    "StagedTable",
    "Step",
    "create_view",
    "open_lake",
    "published_states",
]
