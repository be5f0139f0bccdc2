"""Rendered projects in full: their own lint, their own tests and the commands that their README shows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SOURCES, Answers, describe, make_answers, render

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
pytest.importorskip("dml_platform", reason="dml-platform is not installed: nox -s integration does")

EVERYTHING = make_answers(["files", "connector", "connection"], True, True, "local")
LITTLE = make_answers(["files"], False, False, "none")
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Runs a program of this environment, with no setting of the surroundings."""

    def run(folder: Path, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DML_")}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            command,
            cwd=folder,
            env=kept | {"PATH": path, "DML_HOME": str(tmp_path / ".dml")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def make_project(folder: Path, answers: Answers) -> Path:
    render(folder, answers)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("answers", [EVERYTHING, LITTLE], ids=["everything", "little"])
def test_a_project_passes_all_its_own_checks(tmp_path: Path, call: Call, answers: Answers) -> None:
    project = make_project(tmp_path / "project-marketing", answers)
    # Lint, quick tests and integration: its pipeline runs in them. As one session after another in this environment.
    done = call(
        project,
        sys.executable,
        "-m",
        "nox",
        "-f",
        "noxfile.py",
        "--no-venv",
        "-s",
        "lint",
        "secrets",
        "tests",
        "integration",
    )
    assert "skipped" not in done.stdout
    assert " failed" not in done.stdout
    # Nothing that it makes belongs into git.
    assert call(project, "git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize("answers", [EVERYTHING, LITTLE], ids=["everything", "little"])
def test_the_alerts_of_the_example_work_once_they_are_no_comment(tmp_path: Path, call: Call, answers: Answers) -> None:
    project = make_project(tmp_path / "project-marketing", answers)
    path = project / "config" / "project.yaml"
    before, marker, example = path.read_text().partition("# alerts:")
    assert "has no section 'alerts'" in call(project, "dml", "alerts", "show", code=2).stderr
    lines = (marker + example).split("\n")
    commented = [line.removeprefix("# ") if line.startswith("# ") else line for line in lines[:4]]
    path.write_text(before + "\n".join(commented + lines[4:]))
    said = call(project, "dml", "alerts", "show").stdout
    assert "chat" in said
    assert "MARKETING_CHAT_URL is not set" in said


# Of the answers these alone decide what dbt and Dagster read.
READ = [make_answers(sources, sample, True, "none") for sources in SOURCES for sample in (True, False)]


@pytest.mark.parametrize("answers", READ, ids=describe)
def test_a_project_of_any_answers_passes_its_own_quick_tests(tmp_path: Path, call: Call, answers: Answers) -> None:
    project = make_project(tmp_path / "project-marketing", answers)
    done = call(project, sys.executable, "-m", "nox", "--no-venv", "-s", "tests")
    assert " passed" in done.stdout
    assert "dbt can read the project" in done.stdout


def test_the_commands_of_the_readme_work(tmp_path: Path, call: Call) -> None:
    project = make_project(tmp_path / "project-marketing", make_answers(["files"], True, False, "local"))
    assert "marketing.marts.fct_daily_orders" in call(project, "dml", "run").stdout
    assert "order_count" in call(project, "dml", "sql", "from marketing.marts.fct_daily_orders limit 5").stdout
    lock = (project / "dvc.lock").read_text()
    call(project, "dml", "dvc", "repro")
    call(project, "dml", "dvc", "push")
    assert "agree" in call(project, "dml", "dvc", "check").stdout
    assert (project / "dvc.lock").read_text() == lock


def test_the_main_branch_pushes_with_files_that_only_the_shared_storage_has(tmp_path: Path, call: Call) -> None:
    """A clone has neither what DVC tracks nor the folder that .dvc/config names: the settings' one has it."""
    project = make_project(tmp_path / "project-marketing", make_answers(["files"], True, False, "local"))
    shared = tmp_path / "shared"
    shared.mkdir()
    settings = ["env", f"DML_DVC__REMOTE_URL={shared}"]
    (project / "prices.csv").write_text("2\n1\n")
    call(project, "dml", "dvc", "add", "prices.csv")
    pipeline = project / "dvc.yaml"
    stage = "  sorted:\n    cmd: sort prices.csv > sorted.csv\n    deps: [prices.csv]\n    outs: [sorted.csv]\n"
    pipeline.write_text(pipeline.read_text().replace("stages:\n", f"stages:\n{stage}"))
    call(project, *settings, "dml", "dvc", "repro")
    call(project, *settings, "dml", "dvc", "push", "prices.csv.dvc")
    call(project, "git", "add", "--all")
    call(project, "git", "commit", "--quiet", "--message=prices")
    clone = tmp_path / "clone" / "project-marketing"
    call(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    nox = [*settings, sys.executable, "-m", "nox", "-f", "noxfile.py", "--no-venv", "-s", "files", "--"]

    call(clone, *nox, "push")

    assert (clone / "sorted.csv").read_text() == "1\n2\n"
    call(project, *settings, "dml", "dvc", "check")


def test_a_failing_test_of_a_team_publishes_nothing(tmp_path: Path, call: Call) -> None:
    project = make_project(tmp_path / "project-marketing", make_answers(["files"], True, False, "none"))
    (project / "dbt/tests/assert_planted.sql").write_text("select * from {{ ref('fct_orders') }} limit 3\n")
    done = call(project, "dml", "run", code=3)
    assert "cannot publish project 'marketing': 1 blocking check failed: assert_planted" in done.stderr
