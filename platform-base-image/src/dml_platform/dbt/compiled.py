"""Compiled SQL of a project's models, kept beside the lake: what lineage reads, and what a person wants to see.

`dbt parse` compiles nothing and a build only what was selected. So each build leaves what it compiled, and what is
still missing is compiled once, without running anything, until a dbt file changes.
"""

from __future__ import annotations

import json
import logging
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project
from dml_platform.core.storage import open_storage
from dml_platform.dbt.invoke import invoke
from dml_platform.dbt.manifest import ensure_manifest, load_manifest, load_parsed, parsed_digest
from dml_platform.dbt.results import NodeResult
from dml_platform.dbt.session import Session, activate
from dml_platform.lake import Lake

logger = logging.getLogger(__name__)

_KINDS = ("model", "snapshot")
_AREA, _NAME = "catalog", "compiled.json"


def ensure_compiled(project: Project, lake: Lake) -> dict[str, str]:
    """Compiled SQL of every SQL model, and of tests as far as they were compiled, by unique id.

    What a build compiled comes first: macros that look into the data (``dbt_utils.get_column_values``) saw it there.

    Raises:
        ConfigError: dbt cannot parse or compile the project, in its own words.
    """
    manifest = load_manifest(project)
    wanted = {
        key
        for key, node in manifest["nodes"].items()
        if node["resource_type"] in _KINDS and node.get("language", "sql") == "sql"
    }
    stamp = parsed_digest(project)
    known = _read(lake, project, stamp)
    if wanted - known.keys():
        known = {**compile_models(project, lake), **known}
        _write(lake, project, stamp, known)
    return known


def known_compiled(project: Project, lake: Lake) -> dict[str, str]:
    """What is kept of a project's very files: all of its models, or only some, or none. Compiles nothing."""
    ensure_manifest(project)
    return _read(lake, project, parsed_digest(project))


def keep_compiled(lake: Lake, project: Project, nodes: Iterable[NodeResult]) -> None:
    """Keep what a build compiled, beside what is known of the same files."""
    stamp = parsed_digest(project)
    known = _read(lake, project, stamp)
    built = {node.unique_id: node.sql for node in nodes if node.sql}
    if any(known.get(key) != sql for key, sql in built.items()):
        _write(lake, project, stamp, {**known, **built})


def compile_models(project: Project, lake: Lake, *, select: Iterable[str] = ()) -> dict[str, str]:
    """Compile now, without running or keeping anything; by unique id.

    Args:
        select: unique ids; default: everything.
    Raises:
        ConfigError: dbt cannot compile the project, in its own words.
    """
    run_id = f"compile{uuid.uuid4().hex[:8]}"
    lake.settings.temp_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compile-", dir=lake.settings.temp_dir) as folder:
        session = Session(
            lake=lake,
            project=project.name,
            step=lake.step(run_id, "compile"),
            database=Path(folder) / "compile.duckdb",
        )
        # What is parsed is not parsed again: that is most of the time that compiling takes.
        manifest, how = load_parsed(project)
        arguments = ["compile", "--quiet", "--no-write-json", *how]
        if chosen := set(select):
            nodes = load_manifest(project)["nodes"]
            arguments += ["--indirect-selection", "empty"]
            arguments += ["--select", *sorted(".".join(nodes[key]["fqn"]) for key in chosen & nodes.keys())]
            # A query that asks for nothing opens no database, where every table of the lake would become a view first.
            arguments.append("--no-populate-cache")
        with activate(session):
            outcome = invoke(arguments, project, target=Path(folder) / "target", manifest=manifest)
    found = {}
    for result in getattr(outcome.result, "results", None) or []:
        node = result.node
        if sql := getattr(node, "compiled_code", None):
            found[node.unique_id] = sql
    if not found and not outcome.success:
        reason = str(session.error or outcome.exception or "dbt gave no reason").strip()
        raise ConfigError(
            f"cannot compile the dbt project in {project.dbt_dir}",
            reason,
            "Correct the file; 'dbt compile' shows it again.",
        )
    return found


def _read(lake: Lake, project: Project, stamp: str) -> dict[str, str]:
    try:
        kept: dict[str, Any] = json.loads(open_storage(lake.settings, project.name, _AREA).read(_NAME) or b"{}")
    except (OSError, ValueError):  # none yet, or cut short: it is only kept to save time
        return {}
    nodes = kept.get("nodes") if kept.get("stamp") == stamp else None
    return dict(nodes) if isinstance(nodes, dict) else {}


def _write(lake: Lake, project: Project, stamp: str, nodes: Mapping[str, str]) -> None:
    content = json.dumps({"stamp": stamp, "nodes": dict(sorted(nodes.items()))}).encode()
    try:
        open_storage(lake.settings, project.name, _AREA).write(_NAME, content)
    except OSError as error:  # a build is no worse for it
        logger.warning("the compiled SQL of project %r could not be kept: %s", project.name, error)
