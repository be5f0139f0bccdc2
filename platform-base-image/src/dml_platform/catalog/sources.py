"""Where raw tables come from: the files and connector streams of ``config/sources.yaml``."""

from __future__ import annotations

from dml_platform.airbyte.catalog import table_name
from dml_platform.catalog.draft import Draft
from dml_platform.core.document import ColumnEdge, Kind
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.sources import FileSource, load_sources

_PATH = "config/sources.yaml"


def read_sources(draft: Draft, project: Project) -> None:
    """Add each file table and stream, and what is landed from it."""
    for source, config in load_sources(project).items():
        if isinstance(config, FileSource):
            for entity, spec in config.tables.items():
                text = f"Files {spec.path}, {spec.format}."
                _add(draft, source, entity, "file", text, f"{source}__{entity}", dict(spec.columns or {}))
        else:
            for stream, how in config.streams.items():
                text = f"Stream {stream!r} of the connector {source!r}, read {how.sync_mode.replace('_', ' ')}."
                _add(draft, source, stream, "stream", text, table_name(source, stream), {})


def connect_columns(draft: Draft, project: Project) -> None:
    """Landed columns are copies of the source's; those that the platform adds have no source."""
    for edge in list(draft.table_edges):
        source, target = draft.tables.get(edge.source), draft.tables.get(edge.target)
        if source is None or target is None or source.kind not in ("file", "stream") or target.kind != "raw":
            continue
        if target.name.endswith("__rejects"):
            continue
        for name, column in target.columns.items():
            if name.startswith("_"):
                continue
            source.fill_column(name, type=column.get("type"), description=column.get("description"))
            made = ColumnEdge(
                source=source.name, source_column=name, target=target.name, target_column=name, via="copy"
            )
            draft.column_edges.setdefault(made)


def _add(draft: Draft, source: str, entity: str, kind: Kind, text: str, table: str, columns: dict[str, str]) -> None:
    name = f"{draft.project}.source:{source}.{entity}"
    found = draft.table(name, kind)
    assert found is not None
    found.fill(description=text, owner=draft.owner, path=_PATH)
    for column, type_name in columns.items():
        found.fill_column(column, type=type_name.upper())
    ref = TableRef(draft.project, "raw", table)
    if draft.table(ref.dotted) is not None:
        draft.connect(name, ref.dotted)
    if ref.rejects.dotted in draft.tables:
        rejects = draft.tables[ref.rejects.dotted]
        rejects.fill(description=f"Rows for {ref.dotted} that did not parse: file, line and reason.", owner=draft.owner)
        draft.connect(name, ref.rejects.dotted)
