"""How the columns of a project's models differ from those at a commit, by their traced lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dml_platform.core.project import Project
from dml_platform.dbt.baseline import Baseline, Modified, find_modified, open_baseline
from dml_platform.dbt.compiled import compile_models, known_compiled
from dml_platform.dbt.manifest import load_manifest
from dml_platform.lake import Lake
from dml_platform.lake.schema import duckdb_type
from dml_platform.lineage import Lineage, relation_name, trace_project
from dml_platform.lineage.changes import Change, compare
from dml_platform.lineage.memory import Memory

_COMPILED = ("model.", "snapshot.")
_SETTINGS = ("dbt_project.yml", "profiles.yml", "vars.yml")


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
        return compare_columns(lake, baseline, compile_both(project, lake, baseline, modified), Memory())


def has_models(modified: Modified) -> bool:
    """Whether a model, seed or snapshot is not what it was; a test changes no column."""
    kinds = ("model.", "seed.", "snapshot.")
    return bool(modified.removed) or any(key.startswith(kinds) for key in modified.own)


@dataclass(frozen=True)
class Compiled:
    """The manifest as it is now, and the SQL of all models by unique id: ``before`` at the base, and ``after``."""

    manifest: dict[str, Any]
    before: dict[str, str]
    after: dict[str, str]


def compile_both(project: Project, lake: Lake, baseline: Baseline, modified: Modified) -> Compiled:
    """Compile what differs and what is downstream of it; the rest is taken as the base's build left it.

    Raises:
        ConfigError: dbt cannot compile the project, in its own words.
    """
    manifest = load_manifest(project)
    after = _compile_now(project, lake, baseline, modified, manifest)
    # What nobody touched compiles to what it did; an ephemeral model is in the SQL of those that read it.
    nodes = baseline.manifest["nodes"]
    changed = [key for key in modified.own if key.startswith(_COMPILED) and key in nodes]
    if any(nodes[key]["config"].get("materialized") == "ephemeral" for key in changed):
        return Compiled(manifest, compile_models(baseline.project, lake), after)
    then = compile_models(baseline.project, lake, select=changed) if changed else {}
    return Compiled(manifest, {**after, **then}, after)


def _compile_now(
    project: Project, lake: Lake, baseline: Baseline, modified: Modified, manifest: Mapping[str, Any]
) -> dict[str, str]:
    wanted = {
        key
        for key, node in manifest["nodes"].items()
        if key.startswith(_COMPILED) and node.get("language", "sql") == "sql"
    }
    chosen = wanted & set(modified.all)
    known = known_compiled(baseline.project, lake)
    # A variable, or a profile, is in no model's own text.
    if wanted - chosen - known.keys() or _has_other_settings(project, baseline.project):
        return compile_models(project, lake)
    unchanged = {key: known[key] for key in wanted - chosen}
    return {**unchanged, **(compile_models(project, lake, select=chosen) if chosen else {})}


def _has_other_settings(project: Project, then: Project) -> bool:
    def read(path: Path) -> bytes | None:
        return path.read_bytes() if path.is_file() else None

    return any(read(project.dbt_dir / name) != read(then.dbt_dir / name) for name in _SETTINGS)


def compare_columns(lake: Lake, baseline: Baseline, compiled: Compiled, memory: Memory) -> list[Change]:
    """Trace both versions and compare; ``memory`` is what was traced before."""
    manifest, before = compiled.manifest, baseline.manifest
    raw = _published_columns(lake)
    return compare(
        _trace(before, raw, compiled.before, memory),
        _trace(manifest, raw, compiled.after, memory),
        sql_before=_by_name(before, compiled.before),
        sql_after=_by_name(manifest, compiled.after),
    )


def _published_columns(lake: Lake) -> dict[str, dict[str, str | None]]:
    return {
        pinned.ref.dotted: {field.name: duckdb_type(field.field_type) for field in pinned.schema.fields}
        for pinned in lake.pin_all(lake.tables())
    }


def _trace(
    manifest: Mapping[str, object],
    raw: Mapping[str, dict[str, str | None]],
    compiled: Mapping[str, str],
    memory: Memory,
) -> Lineage:
    nodes: Mapping[str, dict[str, object]] = manifest["nodes"]  # type: ignore[assignment]
    models = {relation_name(nodes[key]) for key in nodes.keys() & compiled.keys()}
    known = {name: columns for name, columns in raw.items() if name not in models}
    return trace_project(manifest, known, compiled=compiled, memory=memory)


def _by_name(manifest: Mapping[str, dict[str, dict[str, object]]], compiled: Mapping[str, str]) -> dict[str, str]:
    nodes = manifest["nodes"]
    return {relation_name(nodes[key]): compiled[key] for key in nodes.keys() & compiled.keys()}
