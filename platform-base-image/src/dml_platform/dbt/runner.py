"""Building a selection with dbt: publish all of it or nothing, say what failed, keep a record of the run."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from dml_platform import __version__
from dml_platform.core.dvcfiles import read_hashes
from dml_platform.core.errors import PermanentError, PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, git_commit, utc_now, write_record
from dml_platform.dbt.compiled import keep_compiled
from dml_platform.dbt.failures import error_of, one_line
from dml_platform.dbt.history import has_history, save_history
from dml_platform.dbt.invoke import invoke
from dml_platform.dbt.manifest import ensure_manifest, load_manifest, load_parsed, with_foundations
from dml_platform.dbt.packages import ELEMENTARY, are_installed
from dml_platform.dbt.postmortem import forget_old_files, keep_database, keep_queries
from dml_platform.dbt.results import BuildResult, NodeResult, node_results, test_outcomes
from dml_platform.dbt.session import Session, activate
from dml_platform.lake import Lake

# Projects have it from here.
__all__ = ["build", "build_history", "ensure_manifest"]

logger = logging.getLogger(__name__)

_ELEMENTARYS = f"package:{ELEMENTARY.name}"
_UPLOADS = ("dbt_artifacts_autoupload", "run_results", "tests_results", "dbt_invocation_autoupload")
_UPLOADING_NOTHING = ["--vars", json.dumps({f"disable_{name}": True for name in _UPLOADS})]


def build(
    project: Project,
    lake: Lake,
    *,
    run_id: str,
    step: str = "dbt",
    select: Sequence[str] = (),
    full_refresh: bool = False,
    on_node: Callable[[NodeResult], None] | None = None,
    details: Mapping[str, Any] | None = None,
) -> BuildResult:
    """Build and test a selection in a private DuckDB file, then publish all of it or nothing.

    Args:
        select: dbt unique ids or selectors; empty for the whole project. Views and seeds below them are built along.
        on_node: called as each node finishes.
        details: what else to keep in the run record.
    Returns: results; ``error`` is set, not raised, where something failed, so that the caller can report every node.
    """
    started, clock = utc_now(), time.monotonic()
    folder = lake.settings.home / "runs" / project.name / run_id
    session = Session(
        lake=lake,
        project=project.name,
        step=lake.step(run_id, step),
        database=folder / f"{step}.duckdb",
        with_history=are_installed(project.dbt_dir),
    )
    folder.mkdir(parents=True, exist_ok=True)
    session.database.unlink(missing_ok=True)
    # dbt's results and compiled SQL are the run's own, so that runs at the same time do not write over each other's.
    target = session.database.with_suffix(".dbt")
    options = ["--quiet", "--no-write-json", "--threads", str(lake.settings.dbt.threads)]
    manifest, how = load_parsed(project)
    options += how
    arguments = ["build", *options]
    if full_refresh:
        arguments.append("--full-refresh")
    if session.with_history:  # its tables come from the lake, and only its report reads its views
        arguments += ["--exclude", _ELEMENTARYS]
    if select:
        # A test that also reads what is not selected would fail for want of it.
        arguments += ["--indirect-selection", "buildable", "--select", *_selectors(load_manifest(project), select)]
    try:
        with activate(session):
            if session.with_history and not has_history(lake, project.name, ELEMENTARY.version):
                # dbt knows of no order between these tables and the tests that read them.
                tables = ["--select", f"{_ELEMENTARYS},config.materialized:incremental", f"{_ELEMENTARYS},metadata"]
                invoke(["run", *options, *tables, *_UPLOADING_NOTHING], project, target=target, manifest=manifest)
            outcome = invoke(arguments, project, target=target, on_node=on_node, manifest=manifest)
    except BaseException:
        session.step.abandon()
        raise
    history = _keep_history(session, run_id)
    nodes = node_results(outcome)
    error = error_of(session, outcome, nodes, run_id)
    if error is not None:
        keep_queries(session.database, nodes)
        error = keep_database(lake, project, run_id=run_id, database=session.database, error=error)
    result = BuildResult(
        nodes=nodes,
        published=session.published or [],
        duration_s=time.monotonic() - clock,
        database=session.database,
        error=error,
        inputs={ref.dotted: snapshot for ref, snapshot in sorted(session.pinned.items())},
    )
    if error is None:
        session.database.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
    else:
        if session.staged:
            session.step.abandon()
        forget_old_files(lake, project, run_id=run_id)
    # What `dml reproduce` has to say to dbt again.
    asked = {"select": list(select), "full_refresh": full_refresh, **history}
    keep_compiled(lake, project, nodes)
    write_record(lake.settings, _record(project, lake, run_id, step, started, result, {**asked, **(details or {})}))
    return result


def build_history(project: Project, lake: Lake, database: Path) -> dict[TableRef, int]:
    """Make a DuckDB file with Elementary's whole history and its views over it. Writes nothing to the lake.

    Returns: the snapshots that are in it, by table.
    Raises:
        PermanentError: dbt could not.
    """
    session = Session(
        lake=lake,
        project=project.name,
        step=lake.step(database.parent.name, "history"),
        database=database,
        with_history=True,
        with_whole_history=True,
    )
    manifest, how = load_parsed(project)
    arguments = ["run", "--quiet", "--no-write-json", *how, "--select", _ELEMENTARYS, *_UPLOADING_NOTHING]
    with activate(session):
        outcome = invoke(arguments, project, target=database.with_suffix(".dbt"), manifest=manifest)
    if not outcome.success:
        failed = [n for n in node_results(outcome) if n.has_failed]
        why = failed[0].message if failed else str(outcome.exception or "dbt gave no reason")
        raise PermanentError("cannot put Elementary's history together", one_line(why), "Run it again.")
    return session.history


def _keep_history(session: Session, run_id: str) -> dict[str, Any]:
    """Save what Elementary found, also of a build that failed. A fault here fails no run: it is in the record."""
    if not session.with_history or not session.database.is_file():
        return {}
    try:
        rows = save_history(session.lake, session.project, session.database, run_id=run_id, loaded=session.history)
    except (PlatformError, OSError, duckdb.Error) as error:
        logger.warning("what Elementary found in run %s is not kept: %s", run_id, error)
        return {"elementary_error": str(error)}
    return {"elementary_rows": sum(rows.values())}


def _selectors(manifest: Mapping[str, Any], select: Sequence[str]) -> list[str]:
    """What dbt takes: a run's private file begins empty, so each run builds the views and seeds that it needs."""
    nodes = manifest["nodes"]
    found = with_foundations(manifest, [key for key in select if key in nodes])
    names = {".".join(nodes[i]["fqn"]) if nodes[i]["resource_type"] != "test" else nodes[i]["name"] for i in found}
    return sorted(names) + [key for key in select if key not in nodes]


def _record(
    project: Project,
    lake: Lake,
    run_id: str,
    step: str,
    started: str,
    result: BuildResult,
    details: Mapping[str, Any],
) -> RunRecord:
    return RunRecord(
        project=project.name,
        run_id=run_id,
        step=step,
        status="failed" if result.error else "success",
        started_at=started,
        duration_s=round(result.duration_s, 3),
        git_commit=git_commit(project.root),
        image=lake.settings.image,
        inputs=result.inputs,
        outputs={s.ref.dotted: s.snapshot_id for s in result.published},
        rows={s.ref.dotted: s.rows_total for s in result.published},
        error=str(result.error) if result.error else None,
        details={**details, "results": test_outcomes(result.nodes)},
        dvc=read_hashes(project.root),
        platform=__version__,
    )
