"""What is read: discovered streams, the configured catalogue, and each stream's table and columns.

JSON schema becomes DuckDB types here. Objects, arrays and unions of unlike types are kept as JSON text,
so that a change inside of them changes no table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dml_platform.airbyte.config import StreamConfig, SyncMode
from dml_platform.core.errors import ConfigError, SourceError
from dml_platform.core.naming import TableRef

PLATFORM_COLUMNS = ("_extra", "_emitted_at", "_loaded_at", "_run_id")
_JSON_TYPES = {"boolean": "BOOLEAN", "integer": "BIGINT", "number": "DOUBLE", "string": "VARCHAR"}


@dataclass(frozen=True)
class StreamPlan:
    """One stream that is read: where it lands, its columns (name and DuckDB type), its entry in the catalogue."""

    name: str
    ref: TableRef
    sync_mode: SyncMode
    columns: tuple[tuple[str, str], ...]
    configured: Mapping[str, Any]


def plan_streams(
    project: str, source: str, discovered: Sequence[Mapping[str, Any]], chosen: Mapping[str, StreamConfig]
) -> list[StreamPlan]:
    """Match the chosen streams with what the connector offers.

    Raises:
        ConfigError: a stream does not exist, cannot be read that way, or two would land in one table.
        SourceError: a stream's schema cannot be a table.
    """
    offered = Counter(str(s.get("name")) for s in discovered)
    what = f"cannot read source {source!r}"
    if unknown := sorted(set(chosen) - set(offered)):
        raise ConfigError(
            what,
            f"the connector has no stream {', '.join(map(repr, unknown))}; it has {', '.join(sorted(offered))}",
            "Correct 'streams' in config/sources.yaml.",
        )
    if doubled := sorted(n for n in chosen if offered[n] > 1):
        raise ConfigError(
            what,
            f"the connector has {', '.join(doubled)} in more than one namespace, which cannot be told apart here",
            "Restrict the connector's config to one namespace (often 'schemas').",
        )
    by_name = {str(s.get("name")): s for s in discovered}
    plans = [_plan(project, source, by_name[name], options) for name, options in chosen.items()]
    tables = Counter(plan.ref for plan in plans)
    for ref, number in tables.items():
        if number > 1:
            names = [p.name for p in plans if p.ref == ref]
            raise ConfigError(what, f"streams {names} would both land in {ref.dotted!r}", "Read one of them only.")
    return plans


def configured_catalog(plans: Sequence[StreamPlan]) -> dict[str, Any]:
    """The ConfiguredAirbyteCatalog of the plans."""
    return {"streams": [dict(plan.configured) for plan in plans]}


def table_name(source: str, stream: str) -> str:
    """``<source>__<stream>`` in snake_case, whatever its name upstream: ``OrderItems`` is ``order_items``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", stream)
    return f"{source}__{re.sub(r'[^a-z0-9]+', '_', spaced.lower()).strip('_')}"


def duckdb_type(schema: Any) -> str:
    """The DuckDB type for one property of a stream's JSON schema.

    Source: Airbyte docs, "Data Types in Records".
    """
    kinds = _kinds(schema)
    if len(kinds) == 1:
        return kinds.pop()
    if kinds == {"BIGINT", "DOUBLE"}:
        return "DOUBLE"
    if kinds and kinds <= {"DATE", "TIMESTAMP", "TIMESTAMPTZ", "VARCHAR"}:
        return "VARCHAR"
    return "JSON"


def _kinds(schema: Any) -> set[str]:
    """The types that a value may have, null left out."""
    if not isinstance(schema, Mapping):
        return {"JSON"}
    for union in ("oneOf", "anyOf"):
        if isinstance(branches := schema.get(union), list) and branches:
            return set().union(*(_kinds(branch) for branch in branches if not _is_null(branch)))
    declared = schema.get("type")
    types = declared if isinstance(declared, list) else [declared]
    kinds = set()
    for name in types:
        if name == "null":
            continue
        kind = _JSON_TYPES.get(str(name), "JSON")
        if kind == "VARCHAR":
            kind = _string_type(schema)
        elif kind == "DOUBLE" and schema.get("airbyte_type") == "integer":
            kind = "BIGINT"
        kinds.add(kind)
    return kinds


def _string_type(schema: Mapping[str, Any]) -> str:
    if schema.get("format") == "date":
        return "DATE"
    if schema.get("format") == "date-time" or str(schema.get("airbyte_type", "")).startswith("timestamp_with"):
        return "TIMESTAMP" if schema.get("airbyte_type") == "timestamp_without_timezone" else "TIMESTAMPTZ"
    return "VARCHAR"


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") in ("null", ["null"])


def _plan(project: str, source: str, stream: Mapping[str, Any], options: StreamConfig) -> StreamPlan:
    name = str(stream["name"])
    what = f"cannot read stream {name!r} of source {source!r}"
    supported = stream.get("supported_sync_modes") or ["full_refresh"]
    if options.sync_mode not in supported:
        raise ConfigError(
            what, f"it supports {' and '.join(supported)}, not {options.sync_mode}", "Correct its sync_mode."
        )
    cursor = list(options.cursor_field or stream.get("default_cursor_field") or [])
    if options.sync_mode == "incremental" and not cursor and not stream.get("source_defined_cursor"):
        raise ConfigError(what, "it has no cursor of its own", "Set its cursor_field, e.g. cursor_field: [updated_at].")
    key = options.primary_key or stream.get("source_defined_primary_key") or []
    return StreamPlan(
        name=name,
        ref=TableRef(project, "raw", table_name(source, name)),
        sync_mode=options.sync_mode,
        columns=_columns(stream, what),
        configured={
            "stream": dict(stream),
            "sync_mode": options.sync_mode,
            "destination_sync_mode": "append" if options.sync_mode == "incremental" else "overwrite",
            "cursor_field": cursor,
            "primary_key": [list(path) for path in key],
        },
    )


def _columns(stream: Mapping[str, Any], what: str) -> tuple[tuple[str, str], ...]:
    schema = stream.get("json_schema")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    columns = tuple((str(name), duckdb_type(kind)) for name, kind in (properties or {}).items())
    seen = Counter(name.lower() for name, _ in columns) + Counter(PLATFORM_COLUMNS)
    if doubled := sorted(name for name, number in seen.items() if number > 1):
        raise SourceError(
            what,
            f"its columns {', '.join(doubled)} differ in case only, or are the platform's own",
            "Leave one of them out at the source (column selection).",
        )
    return columns
