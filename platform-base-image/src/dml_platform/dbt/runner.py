"""Running dbt in this process: parse when files changed, build a selection, publish, say what failed.

dbt's own program starts a new process each time; staying in ours saves its start-up, and results come back as objects.
"""

from __future__ import annotations

import atexit
import errno
import functools
import gc
import hashlib
import json
import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
from filelock import FileLock

from dml_platform import __version__
from dml_platform.core.dvcfiles import read_hashes
from dml_platform.core.errors import ChecksFailedError, ConfigError, PermanentError, PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, git_commit, utc_now, write_record
from dml_platform.dbt.compiled import keep_compiled
from dml_platform.dbt.history import has_history, save_history
from dml_platform.dbt.packages import ELEMENTARY, FOLDER, are_installed, installed_versions, set_flag
from dml_platform.dbt.postmortem import forget_old_files, keep_database, keep_queries
from dml_platform.dbt.results import BuildResult, NodeResult, from_event, node_results, test_outcomes
from dml_platform.dbt.session import Session, activate
from dml_platform.lake import Lake

logger = logging.getLogger(__name__)

MANIFEST_STAMP = "dml_manifest.sha256"
_PARSED = ("manifest.json", "partial_parse.msgpack")
_ELEMENTARYS = f"package:{ELEMENTARY.name}"
_UPLOADS = ("dbt_artifacts_autoupload", "run_results", "tests_results", "dbt_invocation_autoupload")
_UPLOADING_NOTHING = ["--vars", json.dumps({f"disable_{name}": True for name in _UPLOADS})]


def target_dir(project: Project) -> Path:
    """Where the parsed project is kept; only ``ensure_manifest`` writes there, so an image may hold it read-only.

    Apart from a terminal's ``target/``: dbt caches the project's path as it was given; a relative one would break here.
    """
    return project.dbt_dir / "target" / "dml"


def ensure_manifest(project: Project) -> Path:
    """The project's manifest, parsed anew only if a dbt file changed since.

    Raises:
        ConfigError: dbt cannot parse the project, in its own words; or the manifest is missing or older than the files
            where nothing can be written, which is an image that was not built as it should.
    """
    target = target_dir(project)
    manifest = target / "manifest.json"
    set_flag(project.dbt_dir)
    digest = _digest(project.dbt_dir)
    if _is_marked(target, digest):
        return manifest
    try:
        target.mkdir(parents=True, exist_ok=True)
        turn = FileLock(target / "dml_manifest.lock").acquire()
    except OSError as error:  # in a container nothing can be written
        if error.errno == errno.ENOSPC:
            raise
        raise ConfigError(
            f"cannot use the dbt project in {project.dbt_dir}",
            f"its manifest in {target} is missing or older than its files, and {error.strerror or error}",
            "Build the image again: parsing the dbt project belongs to its build.",
        ) from error
    with turn:
        if _is_marked(target, digest):  # another process was faster
            return manifest
        outcome = _invoke(["parse", "--quiet"], project, target=target)
        if not outcome.success:
            raise ConfigError(
                f"cannot parse the dbt project in {project.dbt_dir}",
                str(outcome.exception).strip() if outcome.exception else "dbt gave no reason",
                "Correct the file; 'dbt parse' shows it again.",
            )
        partial = target / f"{MANIFEST_STAMP}.partial"
        partial.write_text(_mark_of(target, digest), encoding="utf-8")
        partial.replace(target / MANIFEST_STAMP)
    return manifest


def parsed_digest(project: Project) -> str:
    """What stands for the files that the manifest was parsed from; call ``ensure_manifest`` before it."""
    return (target_dir(project) / MANIFEST_STAMP).read_text(encoding="utf-8").split()[0]


def count_nodes(manifest: Path) -> str:
    """A sentence on what dbt has read."""
    nodes = json.loads(manifest.read_text(encoding="utf-8"))["nodes"].values()
    kinds = [node["resource_type"] for node in nodes]
    return f"dbt can read the project: {kinds.count('model')} models, {kinds.count('test')} tests"


def keep_parsed(project: Project, folder: Path) -> None:
    """Copy what is parsed of a project into a folder, for ``adopt_parsed``; not where nothing can be written."""
    place = ensure_manifest(project).parent
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        for name in (*_PARSED, MANIFEST_STAMP):
            shutil.copyfile(place / name, folder / name)
    except OSError as error:
        logger.warning("what dbt parsed could not be kept in %s: %s", folder, error)


def adopt_parsed(project: Project, folder: Path) -> bool:
    """Take from a folder what was parsed of a project, if it is of the same files and as it was written."""
    set_flag(project.dbt_dir)
    digest = _digest(project.dbt_dir)
    if not _is_marked(folder, digest):
        return False
    target = target_dir(project)
    target.mkdir(parents=True, exist_ok=True)
    for name in (*_PARSED, MANIFEST_STAMP):
        shutil.copyfile(folder / name, target / name)
    return True


def _is_marked(folder: Path, digest: str) -> bool:
    """Whether what lies there was parsed from these files: dbt also leaves what it read before it refused it."""
    try:
        return (folder / MANIFEST_STAMP).read_text(encoding="utf-8") == _mark_of(folder, digest)
    except (OSError, UnicodeDecodeError):  # none yet, or cut short
        return False


def _mark_of(folder: Path, digest: str) -> str:
    found = [(folder / name, (folder / name).stat()) for name in _PARSED]
    return " ".join([digest, *(_hash(path, stat.st_size, stat.st_mtime_ns) for path, stat in found)])


@functools.cache
def _hash(path: Path, _size: int, _mtime_ns: int) -> str:
    """A file's hash, made once as long as the file stays: a build asks several times, and the files are large."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    manifest = _load_parsed(parsed := ensure_manifest(project).with_name("partial_parse.msgpack"))
    if manifest is None:
        options += ["--partial-parse-file-path", str(parsed)]
    arguments = ["build", *options]
    if full_refresh:
        arguments.append("--full-refresh")
    if session.with_history:  # its tables come from the lake, and only its report reads its views
        arguments += ["--exclude", _ELEMENTARYS]
    if select:
        # A test that also reads what is not selected would fail for want of it.
        arguments += ["--indirect-selection", "buildable", "--select", *_with_foundations(project, select)]
    try:
        with activate(session):
            if session.with_history and not has_history(lake, project.name, ELEMENTARY.version):
                # dbt knows of no order between these tables and the tests that read them.
                tables = ["--select", f"{_ELEMENTARYS},config.materialized:incremental", f"{_ELEMENTARYS},metadata"]
                _invoke(["run", *options, *tables, *_UPLOADING_NOTHING], project, target=target, manifest=manifest)
            outcome = _invoke(arguments, project, target=target, on_node=on_node, manifest=manifest)
    except BaseException:
        session.step.abandon()
        raise
    history = _keep_history(session, run_id)
    nodes = node_results(outcome)
    error = _error_of(session, outcome, nodes, run_id)
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
    arguments = ["run", "--quiet", "--no-write-json", "--select", _ELEMENTARYS, *_UPLOADING_NOTHING]
    manifest = _load_parsed(ensure_manifest(project).with_name("partial_parse.msgpack"))
    with activate(session):
        outcome = _invoke(arguments, project, target=database.with_suffix(".dbt"), manifest=manifest)
    if not outcome.success:
        failed = [n for n in node_results(outcome) if n.has_failed]
        why = failed[0].message if failed else str(outcome.exception or "dbt gave no reason")
        raise PermanentError("cannot put Elementary's history together", _one_line(why), "Run it again.")
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


def _invoke(
    arguments: list[str],
    project: Project,
    *,
    target: Path,
    on_node: Callable[[NodeResult], None] | None = None,
    manifest: Any = None,
    shows: bool = True,
    tell: Callable[[str], str] = str,
) -> Any:
    """Run a command of dbt.

    Args:
        shows: what it prints is for people, as it is not where a list is the result.
        tell: what of its messages is printed.
    """
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner
    from dbt_common.exceptions import env_secrets, scrub_secrets

    def on_event(event: Any) -> None:
        # What dbt shows with --quiet, as it shows it; the trace of what ends it is the caller's, who raises that.
        if (event.info.level == "error" and event.info.name != "MainStackTrace") or (
            shows and event.info.name == "PrintEvent"
        ):
            print(tell(scrub_secrets(event.info.msg, env_secrets())), flush=True)
        if on_node is not None and event.info.name == "NodeFinished":
            on_node(from_event(event))

    folder = str(project.dbt_dir)
    common = ["--project-dir", folder, "--profiles-dir", folder, "--target-path", str(target)]
    # dbt never closes its log file; what it would hold is in the run's own log and record. Its console logger writes
    # out each of thousands of events before it drops all but the errors.
    quiet = ["--log-level", "none", "--log-level-file", "none"]
    common += ["--no-send-anonymous-usage-stats", "--no-version-check", *quiet]
    # dbt makes millions of objects that live on: collecting as often as Python does takes a tenth of a build.
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    # For the same reason Python's last look for cycles would take half a second, on its way out.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        outcome = dbtRunner(manifest, callbacks=[on_event]).invoke([*arguments, *common])
        if isinstance(outcome.exception, KeyboardInterrupt):  # dbt makes an ordinary failure of it
            raise outcome.exception
        return outcome
    finally:
        gc.set_threshold(*thresholds)
        # dbt-duckdb keeps the connection for the process; the next invocation must not inherit it.
        if DuckDBConnectionManager._ENV is not None:
            DuckDBConnectionManager._ENV.close()
        DuckDBConnectionManager.close_all_connections()


def _load_parsed(path: Path) -> Any:
    """The parsed project, which spares dbt its look at every file; None where only dbt can tell if it is current."""
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(path.read_bytes())
    if any(os.environ.get(name) != value for name, value in manifest.env_vars.items()):
        return None
    # What dbt does after it has read the same file.
    manifest.rebuild_ref_lookup()
    manifest.build_flat_graph()
    return manifest


def _error_of(session: Session, outcome: Any, nodes: list[NodeResult], run_id: str) -> PlatformError | None:
    if session.error is not None:
        return session.error
    failed = [n for n in nodes if n.has_failed]
    what = f"cannot publish project {session.project!r}"
    tests = [n for n in failed if n.resource_type in ("test", "unit_test") and n.status == "fail"]
    if failed and len(tests) == len(failed):
        return ChecksFailedError(
            what,
            f"{len(tests)} blocking {'check' if len(tests) == 1 else 'checks'} failed: "
            + "; ".join(f"{n.name} ({(n.message or '').strip().split(chr(10))[0].rstrip(':')})" for n in tests[:5]),
            _how_to_look(tests, run_id),
        )
    if failed:
        return PermanentError(
            what,
            "; ".join(f"{n.resource_type} {n.name}: {_one_line(n.message)}" for n in failed[:3]),
            f"Correct it and run again; 'dml sql --run {run_id}' opens the run's DuckDB file.",
        )
    if not outcome.success:
        return PermanentError(
            what, _one_line(str(outcome.exception or session.held_back or "dbt failed")), "Correct it and run again."
        )
    return None


def _how_to_look(failed: list[NodeResult], run_id: str) -> str:
    """A unit test reads no table: how its rows differ is its message, which dbt has printed."""
    if of_rows := [n for n in failed if n.resource_type == "test"]:
        return f"Look at the failing rows with: dml sql --run {run_id} --test {shlex.quote(of_rows[0].name)}"
    return "What was printed before says which rows differ from the expected ones: mend the model, or the unit test."


def _with_foundations(project: Project, select: Sequence[str]) -> list[str]:
    """Add the views and seeds below the selection: they live in the run's private file, so each run builds its own."""
    manifest = json.loads(ensure_manifest(project).read_text(encoding="utf-8"))
    nodes, parents = manifest["nodes"], manifest["parent_map"]
    chosen = [s for s in select if s in nodes]
    pending, found = list(chosen), set(chosen)
    while pending:
        for parent in parents.get(pending.pop(), []):
            node = nodes.get(parent)
            if node and parent not in found and node["config"].get("materialized") != "lake":
                found.add(parent)
                pending.append(parent)
    selectors = [s for s in select if s not in nodes]
    return (
        sorted({".".join(nodes[i]["fqn"]) if nodes[i]["resource_type"] != "test" else nodes[i]["name"] for i in found})
        + selectors
    )


def source_files(folder: Path) -> Iterator[Path]:
    """The files of a dbt project, without what dbt makes of them and the packages that are installed."""
    for name in sorted(_files_of(folder)):
        if (folder / name).is_file():  # an editor's lock is a link to nothing
            yield folder / name


def _digest(folder: Path) -> str:
    packages = installed_versions(folder)
    digest = hashlib.sha256(f"{__version__} {version('dbt-core')} {version('dbt-duckdb')} {packages}".encode())
    for path in source_files(folder):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files_of(folder: Path) -> Iterator[str]:
    """Names of the files below a folder of dbt's, but of those that dbt or we make in it."""
    for place, folders, files in os.walk(folder, followlinks=False):
        inside = os.path.relpath(place, folder)
        if inside == ".":
            folders[:] = [name for name in folders if name not in ("target", "logs", FOLDER)]
            yield from files
        else:
            yield from (f"{inside}/{name}" for name in files)


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


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
