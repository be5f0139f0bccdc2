"""Puts the document together: each part says what it knows, and what it could not know is a notice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import dagster as dg

from dml_platform import __version__
from dml_platform.catalog.columns import add_lineage
from dml_platform.catalog.draft import KINDS, Draft, parse_owner
from dml_platform.catalog.manifest import has_package, read_manifest
from dml_platform.catalog.orchestration import load_definitions, read_definitions
from dml_platform.catalog.profiles import Profiler
from dml_platform.catalog.published import add_profiles, add_published, check_freshness
from dml_platform.catalog.runs import add_results, make_runs, recent_records
from dml_platform.catalog.sources import connect_columns, read_sources
from dml_platform.catalog.store import AREA
from dml_platform.core.config import load_project_config
from dml_platform.core.document import Document, Pipeline
from dml_platform.core.errors import PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import git_commit
from dml_platform.core.storage import open_storage
from dml_platform.dbt.compiled import ensure_compiled
from dml_platform.dbt.manifest import load_manifest
from dml_platform.lake import Lake

if TYPE_CHECKING:
    from dml_platform.lineage.memory import Memory


def build_document(
    project: Project,
    lake: Lake,
    *,
    defs: dg.Definitions | None = None,
    run_id: str = "",
    current: Iterable[Mapping[str, Any]] = (),
    compiled: Mapping[str, str] | None = None,
    memory: Memory | None = None,
    with_profiles: bool = True,
) -> Document:
    """All that is known of a project now.

    Args:
        defs: its Dagster definitions; default: imported.
        run_id: the run that it is built for.
        current: outcomes of checks in that run which no record has yet.
        compiled: SQL of the models by unique id; default: as the last build left it, or compiled now.
        memory: queries that were traced before.
        with_profiles: look into the tables for profiles and figures, which a big table makes slow.
    Raises:
        PlatformError: a file of the project is wrong, or the lake or its records cannot be read.
    """
    config, now = load_project_config(project.root), datetime.now(timezone.utc)
    draft = Draft(project.name, owner=parse_owner(config.owner))
    storage = open_storage(lake.settings, project.name, AREA)
    manifest: Mapping[str, Any] = {"nodes": {}, "macros": {}}
    loaded_at: dict[str, str] = {}
    if project.dbt_dir.is_dir():
        manifest = load_manifest(project)
        compiled = _compiled(draft, project, lake) if compiled is None else compiled
        loaded_at = read_manifest(draft, manifest, compiled)
    # What Elementary remembers lies in the lake too, and is no part of what a project publishes.
    published = [ref for ref in lake.tables(project.name) if ref.layer in KINDS]
    tables = {pinned.ref.dotted: pinned for pinned in lake.pin_all(published)}
    add_published(draft, tables)
    read_sources(draft, project)
    profiler = Profiler(lake, storage)
    if with_profiles:
        add_profiles(draft, profiler.profile(tables.values()))
    connect_columns(draft, project)
    pipelines = _read_definitions(draft, project, defs)
    if manifest["nodes"]:
        add_lineage(draft, manifest, compiled or {}, storage, memory)
    # Another project's table is described in its own document; whether it is late is for its team to know.
    own = {name: column for name, column in loaded_at.items() if TableRef.parse(name).project == project.name}
    check_freshness(draft, own, run_id=run_id, now=now)
    records = recent_records(lake.settings, project.name)
    add_results(draft.tests, records, current, run_id=run_id)
    figures = profiler.draw(config.figures, tables) if with_profiles else []
    if with_profiles:
        profiler.save()
    if manifest["nodes"] and not has_package(manifest, "elementary"):
        draft.notices.append(
            "Elementary's dbt package is not installed: its anomaly tests are absent, they neither passed nor failed."
        )
    return Document(
        project=project.name,
        description=config.description or "",
        owner=draft.owner,
        generated_at=now.isoformat(timespec="milliseconds"),
        git_commit=git_commit(project.root),
        image=lake.settings.image,
        platform_version=__version__,
        dagster_url=lake.settings.dagster_url,
        tables=tuple(table.finish() for _, table in sorted(draft.tables.items())),
        tests=tuple(test for _, test in sorted(draft.tests.items())),
        table_edges=tuple(sorted(draft.table_edges, key=lambda edge: (edge.target, edge.source))),
        column_edges=tuple(draft.column_edges),
        consumers=tuple(draft.consumers),
        pipelines=pipelines,
        runs=make_runs(records, dagster_url=lake.settings.dagster_url),
        figures=tuple(figures),
        notices=tuple(dict.fromkeys([*draft.notices, *profiler.notices])),
    )


def _compiled(draft: Draft, project: Project, lake: Lake) -> dict[str, str]:
    try:
        return ensure_compiled(project, lake)
    except PlatformError as error:
        draft.notices.append(f"The models could not be compiled, so columns are not traced: {error.why}.")
        return {}


def _read_definitions(draft: Draft, project: Project, defs: dg.Definitions | None) -> tuple[Pipeline, ...]:
    defs = defs or load_definitions(project)
    if defs is None:
        draft.notices.append(f"{project.module} could not be imported, so jobs and own assets are not shown.")
        return ()
    return read_definitions(draft, defs)
