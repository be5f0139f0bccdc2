"""What the commands print and how they end, in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from dml_platform.catalog.store import read_document
from dml_platform.cli import services
from dml_platform.cli.dagster_home import open_instance, run_tags
from dml_platform.core.errors import PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import read_project
from dml_platform.core.runrecord import RunRecord, read_records, write_record
from dml_platform.core.settings import load_settings
from dml_platform.lake import open_lake
from dml_platform.lake.reporting import recorded

ORDERS = TableRef("shop", "raw", "web__orders")
QUIET = Console(quiet=True)
Dml = Callable[..., tuple[int, str, str]]

DEFINITIONS = """
import time
from pathlib import Path
import dagster as dg
from dml_platform.core.errors import TooManyRejectsError
from dml_platform.core.project import state_home
from dml_platform.definitions import build_definitions
from dml_platform.lake.reporting import RETRY_POLICY, failures

@dg.asset(key=["shop", "marts", "fine"])
def fine(context: dg.AssetExecutionContext) -> None:
    context.log.info("reading [/archive]")

@dg.asset(key=["shop", "marts", "picky"])
def picky() -> None:
    raise TooManyRejectsError("cannot land 'x'", "3 of 4 rows: rejected", "Mend [the] file.")

@dg.asset(key=["shop", "marts", "slow"], retry_policy=RETRY_POLICY)
def slow() -> None:
    with failures():
        Path("started").touch()
        time.sleep(60)

@dg.asset(key=["shop", "marts", "greedy"])
def greedy() -> None:
    with (state_home() / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"x" * 512):
            pass

defs = build_definitions(Path(__file__).parent.parent, assets=[fine, picky, slow, greedy])
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three assets and no sources in a workspace of its own; also the current folder."""
    root = tmp_path / "project-shop"
    (tmp_path / ".dml").mkdir()
    (root / "project_shop").mkdir(parents=True)
    (root / "config").mkdir()
    (root / "pyproject.toml").write_text('[tool.dml]\nproject = "shop"\n')
    (root / "project_shop" / "__init__.py").touch()
    (root / "project_shop" / "definitions.py").write_text(DEFINITIONS)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [n for n in sys.modules if n.startswith("project_shop")]:
        monkeypatch.delitem(sys.modules, name)
    return root


def publish(run_id: str = "land1") -> None:
    lake = open_lake()
    step = lake.step(run_id, "land")
    step.write_query(ORDERS, lake.connect(), "select * from (values (1, 'a'), (2, '[/b]')) as t(order_id, note)")
    step.publish()


def record(**values: object) -> RunRecord:
    base = {"project": "shop", "run_id": "r1", "step": "land", "status": "success", "duration_s": 1.0}
    base |= {"git_commit": "abc", "started_at": "2026-01-01T00:00:00.000+00:00"}
    return RunRecord(**(base | values))  # type: ignore[arg-type]


def test_tables_and_history_show_what_was_published(dml: Dml) -> None:
    assert dml("tables") == (0, "The lake has no tables yet. 'dml run' fills it.\n", "")
    publish()
    code, output, _ = dml("tables", "-p", "shop")
    assert code == 0
    assert output.split("\n")[1].split() == ["shop.raw.web__orders", "2", "just", "now", "land1"]
    code, output, _ = dml("history", "shop.raw.web__orders")
    assert code == 0
    assert "land1" in output


def test_tables_of_an_unknown_project_are_refused(dml: Dml) -> None:
    assert dml("tables", "-p", "shop")[0] == 0
    code, _, errors = dml("tables", "-p", "typo")
    assert code == 2
    assert "project 'typo': there is no such project here or in the lake.\nThere are: shop." in errors


def test_history_lists_runs_and_passes_over_what_is_no_record(dml: Dml) -> None:
    settings = load_settings()
    write_record(settings, record(error="bad [/x] file", status="failed"))
    folder = Path(write_record(settings, record(run_id="r2", step="[b]"))).parent
    (folder / "other.json").write_text('{"a": 1}')
    (folder / "list.json").write_text("[1]")
    (folder / "damaged.json").write_bytes(b"\xff{")
    code, output, _ = dml("history")
    assert code == 0
    assert "bad [/x] file" in output
    assert "shop/[b]" in output
    assert len(output.splitlines()) == 3


@pytest.mark.parametrize("query", ["select '[/x]'", 'select 1 as "[/x]"', "select note from shop.raw.web__orders"])
def test_sql_prints_square_brackets_as_they_are(dml: Dml, query: str) -> None:
    publish()
    code, output, _ = dml("sql", query)
    assert code == 0
    assert "[/x]" in output or "[/b]" in output


def test_sql_formats_and_mistakes(dml: Dml) -> None:
    publish()
    query = "select order_id from shop.raw.web__orders order by 1"
    assert dml("sql", "-f", "csv", query)[:2] == (0, "order_id\n1\n2\n")
    assert [json.loads(line) for line in dml("sql", "-f", "json", query)[1].splitlines()] == [
        {"order_id": 1},
        {"order_id": 2},
    ]
    code, _, errors = dml("sql", "from shop.raw.nothing")
    assert code == 2
    assert "nothing does not exist" in errors
    for wrong in (["sql", "selec 1"], ["sql", "-f", "xml", "select 1"], ["sql", "--run", "nope", "select 1"]):
        assert dml(*wrong)[0] == 2


def test_wrong_usage_and_wrong_settings_end_with_2(dml: Dml, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dml("nonsense")[0] == 2
    assert dml("tables", "--nonsense")[0] == 2
    monkeypatch.setenv("DML_LAKE__WAREHOSE", "x")
    code, _, errors = dml("tables")
    assert code == 2
    assert "did you mean DML_LAKE__WAREHOUSE?" in errors


@pytest.mark.parametrize("file", ["config/project.yaml", "config/sources.yaml"])
def test_files_that_are_not_utf8_are_named(dml: Dml, root: Path, file: str) -> None:
    (root / file).write_bytes(b"# K\xe4se\n")
    code, _, errors = dml("run")
    assert code == 2
    assert f"cannot read {root / file}" in errors.replace("\n", "")


def test_sources_that_are_a_list_are_refused(dml: Dml, root: Path) -> None:
    (root / "config/sources.yaml").write_text("sources: [a]\n")
    code, _, errors = dml("run")
    assert code == 2
    assert "'sources' is no mapping" in errors


def test_doctor_says_what_is_wrong_and_goes_on(dml: Dml, root: Path) -> None:
    assert dml("doctor")[0] == 0
    catalogue = load_settings().home / "lake" / "catalog.db"
    catalogue.write_bytes(b"no database" * 1000)
    code, output, _ = dml("doctor")
    assert code == 1
    assert "wrong lake: file is not a database. Check the free space" in output
    assert "ok    projects: shop" in output
    (root / "pyproject.toml").write_text("[tool.dml]\nnothing = 1\n")
    assert "[tool.dml] names no project" in dml("doctor")[1]


def test_doctor_says_that_a_project_and_the_base_do_not_fit(dml: Dml, root: Path) -> None:
    assert "ok    base: shop names no version of dml-platform" in dml("doctor")[1]
    project = root / "pyproject.toml"
    text = '[project]\nname = "project-shop"\ndependencies = ["dml-platform{}"]\n[tool.dml]\nproject = "shop"\n'
    for bound, said in ((">=99", "the base is too old"), ("<0.0.1", "the base is too new")):
        project.write_text(text.format(bound))
        code, output, _ = dml("doctor")
        assert code == 1
        assert f"wrong base: {said}: shop is made for dml-platform{bound}, this is " in output
    assert "'nox -s template'" in output
    project.write_text(text.format(">=0.0.1"))
    (root / "project_shop" / "own.py").write_text("from dml_platform.lake.write import Step\n")
    output = dml("doctor")[1]
    assert "wrong base: not for projects: shop: project_shop/own.py:1: dml_platform.lake.write.Step" in output


def test_arguments_for_the_tests_get_to_them(dml: Dml, root: Path) -> None:
    pytest.importorskip("nox", reason="nox is a developer tool: DML_DEV=1 ./dml doctor installs it")
    noted = "import nox\n@nox.session\ndef tests(session):\n    open('given', 'w').write(repr(session.posargs))\n"
    (root / "noxfile.py").write_text(noted)
    assert dml("test", "-s", "tests", "--", "-k", "a name", "--", "--stack")[0] == 0
    assert (root / "given").read_text() == "['-k', 'a name', '--', '--stack']"


def test_damaged_databases_are_a_sentence(dml: Dml) -> None:
    home = load_settings().home
    publish()
    (home / "lake" / "catalog.db").write_bytes(b"no database" * 1000)
    code, _, errors = dml("tables")
    assert code == 2
    assert "cannot open the lake's catalogue: file is not a database." in errors
    (home / "dagster" / "history").mkdir(parents=True)
    (home / "dagster" / "history" / "runs.db").write_bytes(b"no database" * 1000)
    code, _, errors = dml("run", "-s", "shop/marts/fine")
    assert code == 1
    assert "cannot go on: file is not a database." in errors


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs root on Linux to make a small disk")
def test_full_disk_is_a_sentence(dml: Dml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "small"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(home)], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        monkeypatch.setenv("DML_HOME", str(home))
        code, _, errors = dml("run", "-s", "shop/marts/greedy")
        assert code == 1
        assert "free space" in errors
        assert (home / "filler").stat().st_size > 2**20
        (home / "lake").mkdir(exist_ok=True)
        for command in (["tables"], ["run", "-s", "shop/marts/fine"]):
            code, _, errors = dml(*command)
            assert code in (1, 2)
            assert "free space" in errors
            assert "--debug" not in errors
        code, output, _ = dml("doctor")
        assert code == 1
        assert "wrong disk: only 0.0 GB are free" in output
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_record_that_cannot_be_written_does_not_hide_the_error_of_the_step(root: Path) -> None:
    lake, project = open_lake(), read_project(root)
    assert project is not None
    (lake.settings.home / "runs").touch()
    with pytest.raises(ValueError, match="the step's own"), recorded(project, lake, run_id="r", step="land"):
        raise ValueError("the step's own")
    with (
        pytest.raises(PermanentError, match="cannot keep the run record of step 'land'"),
        recorded(project, lake, run_id="r", step="land"),
    ):
        pass


def test_run_prints_log_lines_and_ends_with_0(dml: Dml) -> None:
    code, output, errors = dml("run", "-s", "shop/marts/fine")
    assert (code, errors) == (0, "")
    assert "✓ shop__marts__fine" in output


def test_run_shows_the_error_of_an_own_asset_and_its_exit_code(dml: Dml) -> None:
    code, _, errors = dml("run", "-s", "shop/marts/picky")
    assert code == 3
    assert errors == "cannot land 'x': 3 of 4 rows: rejected.\nMend [the] file.\n"


@pytest.mark.parametrize(
    ("selection", "why"),
    [
        ("x((", "Invalid selection string: x(("),
        ("shop/marts/nope+", "shop/marts/nope"),
        ("kind:nope", "it selects no asset"),
    ],
)
def test_run_of_a_wrong_selection_says_what_is_wrong(dml: Dml, selection: str, why: str) -> None:
    code, _, errors = dml("run", "-s", selection)
    assert code == 2
    assert errors.startswith(f"cannot run {selection!r}: ")
    assert why in errors
    assert "Select assets such as" in errors


def dead_process() -> tuple[int, float]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid, time.time()


def test_runs_of_dead_processes_are_failed_and_those_of_living_ones_left() -> None:
    home = load_settings().home
    pid, started = dead_process()
    dead = {**run_tags("shop"), "dml/pid": str(pid), "dml/process_started": str(started)}
    reused = {**run_tags("shop"), "dml/process_started": "1.5"}
    with open_instance(home) as instance:
        ids = {}
        for name, tags in {"dead": dead, "reused": reused, "living": run_tags("shop"), "daemon's": {}}.items():
            ids[name] = instance.create_run_for_job(
                dg.GraphDefinition(name="job").to_job(), status=dg.DagsterRunStatus.STARTED, tags=tags
            ).run_id
    with open_instance(home) as instance:
        found = {name: instance.get_run_by_id(run_id).status.value for name, run_id in ids.items()}  # type: ignore[union-attr]
    assert found == {"dead": "FAILURE", "reused": "FAILURE", "living": "STARTED", "daemon's": "STARTED"}


def test_up_does_not_believe_what_a_killed_supervisor_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tmp_path / "up" / "ready"
    ready.parent.mkdir()
    ready.write_text("http://old")
    monkeypatch.setattr(services.sys, "executable", "/bin/false")
    with pytest.raises(PermanentError, match="cannot start Dagster"):
        services._detach(QUIET, tmp_path / "up" / "state.json", port=1)
    assert not ready.exists()


def test_down_clears_what_a_killed_supervisor_left(dml: Dml) -> None:
    up = load_settings().home / "up"
    up.mkdir()
    (up / "ready").write_text("http://old")
    assert dml("down") == (0, "nothing was running\n", "")
    assert list(up.iterdir()) == []


def test_up_fails_when_everything_has_ended() -> None:
    pid, started = dead_process()
    with pytest.raises(PermanentError, match="webserver have all ended"):
        services._watch([services.Service(name, pid, started, "/l/x.log") for name in ("x", "webserver")], QUIET)


def start_slow_run(root: Path, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "dml_platform.cli", "run", "-s", "shop/marts/slow"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (root / "started").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    return process


@pytest.mark.integration
@pytest.mark.parametrize(("number", "code", "status"), [(signal.SIGINT, 130, None), (signal.SIGKILL, -9, "FAILURE")])
def test_interrupted_and_killed_runs(root: Path, number: int, code: int, status: str | None) -> None:
    process = start_slow_run(root)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors == ("interrupted\n" if code == 130 else "")
    with open_instance(load_settings().home) as instance:
        [run] = instance.get_runs()
    assert run.is_finished
    assert status in (None, run.status.value)


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_in_the_background_of_a_shell_is_ended_by_signals(root: Path, number: int) -> None:
    """Such a shell has what it starts ignore Ctrl-C, and Dagster has SIGTERM do as Ctrl-C does."""
    process = start_slow_run(root, "sh", "-c", 'trap "" INT QUIT TERM; exec "$@"', "sh")
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted\n")


@pytest.mark.integration
def test_the_next_run_leaves_a_record_in_place_of_a_killed_one(root: Path, dml: Dml) -> None:
    process = start_slow_run(root)
    process.kill()
    process.communicate(timeout=30)
    settings = load_settings(root)
    assert list(read_records(settings, "shop")) == []
    assert dml("run", "-s", "shop/marts/fine")[0] == 0
    [lost] = [record for record in read_records(settings, "shop") if record.status == "failed"]
    assert (lost.step, lost.error) == ("run", "The process of 'dml run' was killed.")
    document = read_document(settings, "shop")
    assert document is not None
    shown = {run.run_id: (run.status, run.steps[0].error if run.steps else None) for run in document.runs}
    assert shown[lost.run_id] == ("failed", "The process of 'dml run' was killed.")
    # Once: a later run finds it recorded.
    assert dml("run", "-s", "shop/marts/fine")[0] == 0
    assert [r.run_id for r in read_records(settings, "shop") if r.status == "failed"] == [lost.run_id]
