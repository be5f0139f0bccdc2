"""What dbt read before saves reading it again, and never hides that the project cannot be read any more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dml_platform.cli.app import ci_parse
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project
from dml_platform.dbt import manifest
from dml_platform.dbt.assets import build_dbt_assets
from dml_platform.dbt.manifest import target_dir

Fault = tuple[str, Callable[[str], str] | None, str]
# File, what becomes of it (None: it goes), what dbt says.
FAULTS: dict[str, Fault] = {
    "a model that is not there": (
        "models/marts/fct_orders.sql",
        lambda text: text.replace("'countries'", "'nowhere'"),
        "depends on a node named 'nowhere'",
    ),
    "a model that others read is gone": ("models/staging/stg_orders.sql", None, "depends on a node named 'stg_orders'"),
    "a tag that is not closed": ("models/marts/fct_log.sql", lambda text: text + "{% if true %}\n", "endif"),
    "YAML that is none": ("models/schema.yml", lambda text: text + "  - {name: [\n", "schema.yml"),
    "a source that is gone": (
        "models/schema.yml",
        lambda text: text.replace("web__orders", "web__others"),
        "depends on a source named 'raw.web__orders'",
    ),
}


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What dbt is asked to do."""
    asked: list[list[str]] = []
    invoke = manifest.invoke

    def spy(arguments: list[str], *args: Any, **options: Any) -> Any:
        asked.append(arguments)
        return invoke(arguments, *args, **options)

    monkeypatch.setattr(manifest, "invoke", spy)
    return asked


def cloned(project: Project, root: Path) -> Project:
    """The project's files elsewhere, with what a workflow's cache brings."""
    shutil.copytree(project.root, root)
    return replace(project, root=root)


def test_definitions_that_load_after_the_command_read_nothing_again(
    project: Project,
    parses: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project.root)
    ci_parse()
    assert "dbt can read the project: 4 models, 3 tests" in capsys.readouterr().out
    assert parses == [["parse", "--quiet"]]
    there = cloned(project, tmp_path / "another clone" / project.root.name)
    monkeypatch.chdir(there.root)
    ci_parse()
    build_dbt_assets(there)
    assert len(parses) == 1, "the same files were read again"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_although_most_was_read_before(
    project: Project, parses: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(project.root)
    ci_parse()
    there = cloned(project, tmp_path / "another clone" / project.root.name)
    monkeypatch.chdir(there.root)
    file, change, says = FAULTS[name]
    path = there.dbt_dir / file
    if change is None:
        path.unlink()
    else:
        path.write_text(change(before := path.read_text()))
        assert path.read_text() != before
    kept = (target_dir(there) / "manifest.json").read_bytes()
    for _ in range(2):  # what failed is not remembered as read
        with pytest.raises(ConfigError, match=says) as caught:
            ci_parse()
    assert "cannot parse the dbt project" in caught.value.what
    assert len(parses) == 3
    assert (target_dir(there) / "manifest.json").read_bytes() == kept


def run_tests(project: Project) -> subprocess.CompletedProcess[str]:
    """The project's own tests, as its noxfile runs them."""
    (project.root / "test_own.py").write_text("def test_own() -> None:\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "dml_platform.dbt.pytest_parse", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)


def test_a_projects_tests_let_dbt_read_it_first(project: Project) -> None:
    manifest = target_dir(project) / "manifest.json"
    assert not manifest.exists()
    done = run_tests(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dbt can read the project: 4 models, 3 tests" in done.stdout
    assert "1 passed" in done.stdout
    assert manifest.exists()


def test_a_projects_tests_do_not_start_where_dbt_cannot_read_it(project: Project) -> None:
    path = project.dbt_dir / "models/marts/fct_orders.sql"
    path.write_text(path.read_text().replace("'countries'", "'nowhere'"))
    done = run_tests(project)
    assert done.returncode == 2
    assert "cannot parse the dbt project" in done.stderr
    assert "depends on a node named 'nowhere'" in done.stderr
    assert "passed" not in done.stdout
