"""What Dagster's definitions say: jobs and when they run, own assets with their checks, what they are made from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from dml_platform.catalog.draft import Draft, parse_owner
from dml_platform.core.document import ColumnEdge, Pipeline, Test
from dml_platform.core.errors import ConfigError, PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project

_DBT = "dagster_dbt/unique_id"
_COLUMN_LINEAGE = "dagster/column_lineage"


def load_definitions(project: Project) -> dg.Definitions | None:
    """The project's definitions where its package can be imported, as in Dagster and in ``dml``."""
    if str(project.root) not in sys.path:
        sys.path.insert(0, str(project.root))
    try:
        found = getattr(importlib.import_module(project.module), "defs", None)
    except (ImportError, PlatformError, dg.DagsterError):
        return None
    return found if isinstance(found, dg.Definitions) else None


def read_definitions(draft: Draft, defs: dg.Definitions) -> tuple[Pipeline, ...]:
    """Add own assets, their edges and checks.

    Returns: the jobs.
    """
    graph = defs.resolve_asset_graph()
    for spec in defs.resolve_all_asset_specs():
        name = _table_name(spec.key)
        if name is None or _DBT in spec.metadata:
            continue
        table = draft.table(name)
        assert table is not None
        owners = [owner for owner in spec.owners if isinstance(owner, str)]
        table.fill(
            description=" ".join((spec.description or "").split()),
            owner=parse_owner(owners[0] if owners else None) or draft.owner,
            tags=tuple(tag for tag in spec.tags if not tag.startswith("dagster/")),
        )
        _connect(draft, spec, name)
    dbt_checks = {
        check.key for assets in graph.assets_defs for check in assets.check_specs if _DBT in (check.metadata or {})
    }
    for key in graph.asset_check_keys:
        node = graph.get(key)
        name = _table_name(key.asset_key)
        if name in draft.tables and key not in dbt_checks:
            test_id = check_id(key)
            draft.tests[test_id] = Test(
                id=test_id, name=key.name, kind="check", table=name, description=node.description or ""
            )
    return tuple(_pipeline(defs, job, graph) for job in defs.jobs or () if getattr(job, "name", None))


def check_id(key: dg.AssetCheckKey) -> str:
    """The id of an own asset's check."""
    return f"check.{'.'.join(key.asset_key.path)}.{key.name}"


def check_outcomes(instance: dg.DagsterInstance, dagster_run_id: str) -> list[dict[str, Any]]:
    """What the checks of own assets found in a run, by Dagster's event log."""
    found = []
    records = instance.get_records_for_run(
        dagster_run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION, limit=10_000
    ).records
    for record in records:
        event = record.event_log_entry.dagster_event
        data: Any = event.event_specific_data if event else None
        if data is None or ("failing_rows" in data.metadata and "query" in data.metadata):
            continue  # dbt's, which its own step records
        failed = "warn" if data.severity == dg.AssetCheckSeverity.WARN else "fail"
        found.append(
            {
                "id": check_id(data.asset_check_key),
                "status": "pass" if data.passed else failed,
                "at": _iso(record.event_log_entry.timestamp),
                "message": None if data.passed else data.description or _figures(data.metadata),
            }
        )
    return found


def _connect(draft: Draft, spec: dg.AssetSpec, name: str) -> None:
    declared: Any = spec.metadata.get(_COLUMN_LINEAGE)
    by_column = getattr(getattr(declared, "value", declared), "deps_by_column", None)
    parents = [parent for dep in spec.deps if (parent := _table_name(dep.asset_key))]
    for parent in parents:
        if draft.table(parent) is not None:
            draft.connect(parent, name)
    for column, deps in (by_column or {}).items():
        for dep in deps:
            if source := _table_name(dep.asset_key):
                edge = ColumnEdge(
                    source=source,
                    source_column=dep.column_name,
                    target=name,
                    target_column=column,
                    via="declared",
                )
                draft.column_edges.setdefault(edge)
    for column in draft.tables[name].columns:
        if column not in (by_column or {}):
            for parent in parents:
                unknown = ColumnEdge(
                    source=parent, source_column=None, target=name, target_column=column, via="unknown"
                )
                draft.column_edges.setdefault(unknown)


def _pipeline(defs: dg.Definitions, job: Any, graph: Any) -> Pipeline:
    schedules = [s for s in defs.schedules or () if _job_name(s) == job.name]
    crons = [cron for s in schedules for cron in _crons(getattr(s, "cron_schedule", None))]
    sensors = [s for s in defs.sensors or () if job.name in _targets(s)]
    selection = getattr(job, "selection", None)
    keys = selection.resolve(graph) if selection is not None else ()
    return Pipeline(
        name=job.name,
        description=job.description or "",
        schedule="; ".join(crons) or None,
        sensors=tuple(sensor.name for sensor in sensors),
        tables=tuple(sorted(name for key in keys if (name := _table_name(key)))),
    )


def _job_name(schedule: Any) -> str | None:
    return getattr(schedule, "job_name", None) or getattr(getattr(schedule, "job", None), "name", None)


def _crons(cron: Any) -> list[str]:
    return [cron] if isinstance(cron, str) else list(cron or ())


def _targets(sensor: Any) -> set[str]:
    return {target.job_name for target in getattr(sensor, "targets", None) or () if hasattr(target, "job_name")}


def _table_name(key: dg.AssetKey) -> str | None:
    try:
        return TableRef.parse(".".join(key.path)).dotted
    except ConfigError:
        return None


def _figures(metadata: Mapping[str, Any]) -> str | None:
    values = [
        f"{name}: {value.value}" for name, value in metadata.items() if isinstance(value.value, (int, float, str))
    ]
    return ", ".join(values)[:300] or None


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, tz=timezone.utc).isoformat(timespec="milliseconds")
