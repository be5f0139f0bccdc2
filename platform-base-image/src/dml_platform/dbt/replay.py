"""A recorded build made again: the same models on the same snapshots, without tests, and nothing is published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dml_platform.core.errors import PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord
from dml_platform.dbt.changes import volatile_words
from dml_platform.dbt.invoke import invoke
from dml_platform.dbt.manifest import load_manifest, load_parsed, with_foundations
from dml_platform.dbt.results import node_results
from dml_platform.dbt.session import Session, activate
from dml_platform.lake import Lake
from dml_platform.lake.replay import missing, replay_step


@dataclass(frozen=True)
class ReplayedModel:
    """A table that was made again: its key, and what in its SQL depends on the moment, for which it may differ."""

    ref: TableRef
    key: tuple[str, ...]
    volatile: tuple[str, ...]


def replay_build(project: Project, lake: Lake, record: RunRecord, *, database: Path) -> list[ReplayedModel]:
    """Make the tables of a build again, in a DuckDB file.

    Args:
        project: the checkout of the run's commit.
        database: the file, which is not there yet.
    Raises:
        PermanentError: a snapshot that it needs is gone, a model is not in the checkout, or dbt fails.
    """
    what = f"cannot make step {record.step!r} of run {record.run_id!r} again"
    manifest = load_manifest(project)
    models = {_ref(node).dotted: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}
    if unknown := [name for name in record.outputs if name not in models]:
        raise PermanentError(
            what, f"the checkout has no model for {', '.join(unknown)}", "Check that it is the right repository."
        )
    if gone := missing(lake, {**_needed(manifest, models, record), **record.outputs}):
        raise PermanentError(
            what,
            f"the lake no longer has the snapshots of {', '.join(sorted(gone))} that the run read or wrote",
            "Nothing brings back an expired snapshot; keep them longer, or tag those that count.",
        )
    step = replay_step(lake, run_id=record.run_id, name=record.step, inputs=record.inputs, outputs=record.outputs)
    session = Session(lake=lake, project=project.name, step=step, database=database)
    needed = with_foundations(manifest, [models[name]["unique_id"] for name in record.outputs])
    parsed, how = load_parsed(project)
    arguments = ["build", "--quiet", "--no-write-json", *how, "--threads", str(lake.settings.dbt.threads)]
    for kind in ("test", "unit_test"):
        arguments += ["--exclude-resource-type", kind]
    if record.details.get("full_refresh"):
        arguments.append("--full-refresh")
    arguments += ["--select", *(".".join(manifest["nodes"][key]["fqn"]) for key in needed)]
    with activate(session):
        outcome = invoke(arguments, project, target=database.with_suffix(".dbt"), manifest=parsed)
    if session.error is not None:
        raise session.error
    bad = [node for node in node_results(outcome) if node.has_failed]
    failed = [f"{node.name}: {' '.join((node.message or '').split())}" for node in bad]
    if failed or not outcome.success:
        why = "; ".join(failed[:3]) or str(outcome.exception or "dbt failed")
        raise PermanentError(what, why, "Compare this machine's packages with those of the run.")
    return [
        ReplayedModel(_ref(models[name]), _key(manifest, models[name]), tuple(_volatile(manifest, models[name])))
        for name in record.outputs
    ]


def _needed(manifest: Mapping[str, Any], models: Mapping[str, Any], record: RunRecord) -> dict[str, int]:
    """The inputs that the models read: sources, and tables that the run did not make itself."""
    sources = {f"{s['database']}.{s['schema']}.{s['identifier']}" for s in manifest["sources"].values()}
    read = sources | {name for name, node in models.items() if node["config"]["materialized"] == "lake"}
    return {name: snapshot for name, snapshot in record.inputs.items() if name in read and name not in record.outputs}


def _ref(node: Mapping[str, Any]) -> TableRef:
    return TableRef(node["database"], node["schema"], node.get("alias") or node["name"])


def _key(manifest: Mapping[str, Any], model: Mapping[str, Any]) -> tuple[str, ...]:
    """Its ``unique_key``, else the column that is tested as unique."""
    if key := model["config"].get("unique_key"):
        return (key,) if isinstance(key, str) else tuple(key)
    for node in manifest["nodes"].values():
        if (
            node.get("attached_node") == model["unique_id"]
            and (node.get("test_metadata") or {}).get("name") == "unique"
        ):
            return (node["column_name"],)
    return ()


def _volatile(manifest: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Words in the SQL of a model, what it is made of and its macros, whose result is another one the next time."""
    found: dict[str, None] = {}
    for code in _code(manifest, model["unique_id"], set()):
        found |= dict.fromkeys(volatile_words(code))
    return list(found)


def _code(manifest: Mapping[str, Any], unique_id: str, seen: set[str]) -> Iterator[str]:
    node = manifest["nodes"].get(unique_id) or manifest["macros"].get(unique_id)
    if node is None or unique_id in seen:
        return
    seen.add(unique_id)
    is_macro = "macro_sql" in node
    if is_macro and node["package_name"] != manifest["metadata"]["project_name"]:
        return
    yield (node["macro_sql"] if is_macro else node.get("raw_code")) or ""
    below = node["depends_on"]
    for other in [*below.get("nodes", []), *below.get("macros", [])]:
        yield from _code(manifest, other, seen)
