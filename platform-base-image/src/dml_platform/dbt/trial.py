"""Try a change: build and test what it touches on what is published, in a DuckDB file, and say how the data differ.

Models that the change does not touch are read as they are published (dbt calls that deferring). Nothing is written to
the lake, so the right to read it is enough.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dml_platform.core.errors import ChecksFailedError, PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.dbt.failures import error_of
from dml_platform.dbt.invoke import invoke
from dml_platform.dbt.manifest import load_manifest, load_parsed, with_foundations
from dml_platform.dbt.messages import told
from dml_platform.dbt.packages import ELEMENTARY, are_installed
from dml_platform.dbt.postmortem import keep_queries
from dml_platform.dbt.replay import _key, _ref
from dml_platform.dbt.results import NodeResult, node_results
from dml_platform.dbt.session import Session, activate, readable_tables
from dml_platform.lake import Lake, create_view
from dml_platform.lake.diff import TableDiff, diff_rows
from dml_platform.lake.engine import quote, quote_name
from dml_platform.lake.replay import replayed_name
from dml_platform.lake.trial import TrialStep, trial_step

_TESTS = ("test", "unit_test")


@dataclass(frozen=True)
class Trial:
    """What came out.

    Attributes:
        diffs: of every table that was made, or is there no more.
        refused: by table, the columns for which publishing needs a full refresh.
        missing: what the models read and the lake does not have.
        error: why this change cannot be published; None where it can.
    """

    run_id: str
    database: Path
    nodes: list[NodeResult] = field(default_factory=list)
    diffs: list[TableDiff] = field(default_factory=list)
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    anomalies: tuple[NodeResult, ...] = ()
    error: PlatformError | None = None
    duration_s: float = 0.0


def try_build(
    project: Project,
    lake: Lake,
    *,
    run_id: str,
    select: Iterable[str],
    removed: Iterable[str] = (),
    on_node: Callable[[NodeResult], None] | None = None,
) -> Trial:
    """Build and test a selection without publishing.

    Args:
        select: dbt unique ids; tests run only if they are among them.
        removed: tables that the change takes away, by their dotted name.
        on_node: called as each node finishes.
    Returns: results and differences; ``error`` is set, not raised.
    """
    clock = time.monotonic()
    folder = lake.settings.home / "runs" / project.name / run_id
    folder.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest(project)
    chosen = sorted(set(select) & {**manifest["nodes"], **manifest["unit_tests"]}.keys())
    step = trial_step(lake, run_id=run_id, readable=readable_tables(lake, project.name))
    session = Session(
        lake=lake,
        project=project.name,
        step=step,
        database=folder / "dbt.duckdb",
        with_history=are_installed(project.dbt_dir),
    )
    needed = _with_tested(manifest, chosen)
    if missing := _missing(manifest, needed, step):
        return Trial(run_id, session.database, missing=tuple(missing), error=_not_landed(project, missing))
    nodes = _build(project, session, manifest, needed, on_node) if chosen else _Built([], None)
    anomalies = tuple(n for n in nodes.results if n.status == "warn" and _is_elementary(manifest, n.unique_id))
    return Trial(
        run_id=run_id,
        database=session.database,
        nodes=nodes.results,
        diffs=_diffs(lake, session, step, manifest, removed),
        refused={ref.dotted: found for ref, found in sorted(step.refused.items())},
        anomalies=anomalies,
        error=nodes.error or (_anomalous(project, run_id, anomalies) if anomalies else None),
        duration_s=round(time.monotonic() - clock, 3),
    )


@dataclass(frozen=True)
class _Built:
    results: list[NodeResult]
    error: PlatformError | None


def _build(
    project: Project,
    session: Session,
    manifest: dict[str, Any],
    needed: list[str],
    on_node: Callable[[NodeResult], None] | None,
) -> _Built:
    loaded, how = load_parsed(project)
    arguments = ["build", "--quiet", "--no-write-json", *how, "--threads", str(session.lake.settings.dbt.threads)]
    everything = {**manifest["nodes"], **manifest["unit_tests"]}
    arguments += ["--indirect-selection", "empty", "--select", *(".".join(everything[key]["fqn"]) for key in needed)]
    if session.with_history:
        arguments.append(f"package:{ELEMENTARY.name}")
    with activate(session):
        target = session.database.with_suffix(".dbt")
        # A log is read by more people than the lake.
        tell = str if sys.stdout.isatty() else told
        outcome = invoke(arguments, project, target=target, on_node=on_node, manifest=loaded, tell=tell)
    results = node_results(outcome)
    keep_queries(session.database, results)
    return _Built(results, error_of(session, outcome, results, session.step.run_id))


def _with_tested(manifest: dict[str, Any], chosen: list[str]) -> list[str]:
    """With the models of unit tests, and with what is not in the lake and lies below."""
    nodes, parents = manifest["nodes"], manifest["parent_map"]
    # dbt's build runs a unit test only where it builds the model that is tested.
    tested = {
        model for key in chosen if key in manifest["unit_tests"] for model in parents.get(key, []) if model in nodes
    }
    return with_foundations(manifest, {*chosen, *tested})


def _missing(manifest: dict[str, Any], needed: list[str], step: TrialStep) -> list[str]:
    """Tables of the lake that the nodes read, and that are neither published nor made along."""
    nodes, sources = manifest["nodes"], manifest["sources"]
    found: set[str] = set()
    for key in needed:
        if (nodes.get(key) or {"resource_type": "unit_test"})["resource_type"] == "unit_test":
            continue
        for parent in manifest["parent_map"].get(key, []):
            if parent in needed:
                continue
            if (node := nodes.get(parent)) is not None and node["config"].get("materialized") == "lake":
                ref = _ref(node)
            elif (source := sources.get(parent)) is not None:
                ref = TableRef(source["database"], source["schema"], source["identifier"])
            else:
                continue
            if ref not in step.pinned:
                found.add(ref.dotted)
    return sorted(found)


def _not_landed(project: Project, missing: list[str]) -> PlatformError:
    keys = " or ".join(f"key:{'/'.join(name.split('.'))}" for name in missing)
    return PlatformError(
        f"cannot try the change of project {project.name!r}",
        f"it reads {', '.join(missing)}, which the published state does not have",
        f'Land it first: dml run --select "{keys}", or merge the source before the models that read it.',
    )


def _anomalous(project: Project, run_id: str, found: tuple[NodeResult, ...]) -> PlatformError:
    names = "; ".join(f"{n.name} ({' '.join((n.message or '').split())})" for n in found[:5])
    return ChecksFailedError(
        f"cannot accept the change of project {project.name!r}",
        f"Elementary sees {len(found)} {'anomaly' if len(found) == 1 else 'anomalies'}: {names}",
        f"Look at the rows with: dml sql --run {run_id} --test {found[0].name}\n"
        "Where they are meant, change the test's configuration along.",
    )


def _is_elementary(manifest: dict[str, Any], unique_id: str) -> bool:
    test = manifest["nodes"].get(unique_id, {}).get("test_metadata") or {}
    return bool(test.get("namespace") == ELEMENTARY.name)


def _diffs(
    lake: Lake, session: Session, step: TrialStep, manifest: dict[str, Any], removed: Iterable[str]
) -> list[TableDiff]:
    models = {_ref(n).dotted: n for n in manifest["nodes"].values() if n["resource_type"] == "model"}
    found = []
    with contextlib.closing(lake.connect()) as connection:
        if session.database.is_file():
            name = quote_name(session.project)
            connection.execute(f"ATTACH {quote(str(session.database))} AS {name} (READ_ONLY)")
        for ref in sorted(step.made):
            before = _published(lake, connection, step, ref)
            key = _key(manifest, models[ref.dotted]) if ref.dotted in models else ()
            found.append(diff_rows(connection, before, replayed_name(ref), table=ref.dotted, key=key))
        for dotted in sorted(removed):
            if before := _published(lake, connection, step, TableRef.parse(dotted)):
                found.append(diff_rows(connection, before, None, table=dotted))
    return found


def _published(lake: Lake, connection: Any, step: TrialStep, ref: TableRef) -> str | None:
    pinned = step.pinned.get(ref)
    if pinned is None:
        return None
    if (select := pinned.select()) is not None:
        return f"({select})"
    # With row deletes, which pyiceberg applies.
    with contextlib.closing(lake.connect()) as other:
        create_view(other, pinned)
        rows = other.sql(f"SELECT * FROM {pinned.ref.sql}").to_arrow_table()
    name = f"_dml_before_{pinned.snapshot_id}"
    connection.register(name, rows)
    return name
