"""How the columns of a project's models differ from those at a commit, by their traced lineage."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dml_platform.core.project import Project
from dml_platform.dbt.baseline import Baseline, Modified, find_modified, open_baseline
from dml_platform.dbt.compiled import compile_models
from dml_platform.dbt.runner import ensure_manifest
from dml_platform.lake import Lake
from dml_platform.lake.schema import duckdb_type
from dml_platform.lineage import Lineage, relation_name, trace_project
from dml_platform.lineage.changes import Change, compare


def changes_since(project: Project, lake: Lake, base: str) -> list[Change]:
    """What differs since the branch left ``base``.

    Raises:
        ConfigError: git does not know the commit, or dbt cannot read the project as it was.
    """
    with open_baseline(project, base) as baseline:
        if baseline is None:
            return []
        modified = find_modified(project, baseline)
        if not has_models(modified):
            return []
        return compare_columns(project, lake, baseline, modified, compile_models(project, lake))


def has_models(modified: Modified) -> bool:
    """Whether a model, seed or snapshot is not what it was; a test changes no column."""
    kinds = ("model.", "seed.", "snapshot.")
    return bool(modified.removed) or any(key.startswith(kinds) for key in modified.own)


def compare_columns(
    project: Project, lake: Lake, baseline: Baseline, modified: Modified, compiled: Mapping[str, str]
) -> list[Change]:
    """Trace both versions and compare.

    Args:
        compiled: the SQL of all models as they are now, by unique id.
    """
    manifest = json.loads(ensure_manifest(project).read_text(encoding="utf-8"))
    before, after = baseline.manifest, dict(compiled)
    # What nobody touched compiles to what it did; an ephemeral model is in the SQL of those that read it.
    changed = [key for key in modified.own if key in before["nodes"]]
    if any(before["nodes"][key]["config"].get("materialized") == "ephemeral" for key in changed):
        changed = []
        then = compile_models(baseline.project, lake)
    else:
        then = {**after, **(compile_models(baseline.project, lake, select=changed) if changed else {})}
    raw = _published_columns(lake)
    return compare(
        _trace(before, raw, then),
        _trace(manifest, raw, after),
        sql_before=_by_name(before, then),
        sql_after=_by_name(manifest, after),
    )


def _published_columns(lake: Lake) -> dict[str, dict[str, str | None]]:
    return {
        pinned.ref.dotted: {field.name: duckdb_type(field.field_type) for field in pinned.schema.fields}
        for pinned in lake.pin_all(lake.tables())
    }


def _trace(
    manifest: Mapping[str, object], raw: Mapping[str, dict[str, str | None]], compiled: Mapping[str, str]
) -> Lineage:
    nodes: Mapping[str, dict[str, object]] = manifest["nodes"]  # type: ignore[assignment]
    models = {relation_name(nodes[key]) for key in nodes.keys() & compiled.keys()}
    known = {name: columns for name, columns in raw.items() if name not in models}
    return trace_project(manifest, known, compiled=compiled)


def _by_name(manifest: Mapping[str, dict[str, dict[str, object]]], compiled: Mapping[str, str]) -> dict[str, str]:
    nodes = manifest["nodes"]
    return {relation_name(nodes[key]): " ".join(compiled[key].split()) for key in nodes.keys() & compiled.keys()}
