from __future__ import annotations

from pathlib import Path

import pytest

from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project, find_projects, get_project, state_home, workspace_root


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with two projects, something else, and state."""
    for name in ("sales", "stock"):
        folder = tmp_path / f"project-{name}" / "config"
        folder.mkdir(parents=True)
        (folder.parent / "pyproject.toml").write_text(f'[tool.dml]\nproject = "{name}"\n')
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (tmp_path / ".dml").mkdir()
    return tmp_path


def test_project_is_found_from_any_folder_of_it(workspace: Path) -> None:
    root = workspace / "project-sales"
    project = Project("sales", root, "project_sales.definitions")
    assert find_projects(root / "config") == [project]
    assert get_project(start=root / "config") == project
    assert (project.config_dir, project.dbt_dir) == (root / "config", root / "dbt")


def test_projects_of_a_workspace_are_found_beside_each_other(workspace: Path) -> None:
    assert [p.name for p in find_projects(workspace / "library")] == ["sales", "stock"]
    assert get_project("stock", workspace).name == "stock"


def test_choice_has_to_be_clear(workspace: Path) -> None:
    with pytest.raises(ConfigError, match="cannot choose a project: found sales, stock") as caught:
        get_project(start=workspace)
    assert caught.value.fix == "Add --project <name> or change into its folder."
    with pytest.raises(ConfigError, match="cannot find project 'nope'"):
        get_project("nope", workspace)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[tool.dml]\n", r"\[tool\.dml\] names no project"),
        ('[tool.dml]\nproject = "a"\nprojekt = 1\n', r"\[tool\.dml\] has unknown keys \['projekt'\]"),
        ("[tool.dml\n", r"cannot read .*pyproject\.toml"),
    ],
)
def test_broken_project_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        find_projects(tmp_path)


def test_module_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dml]\nproject = "a"\nmodule = "b.defs"\n')
    assert get_project(start=tmp_path).module == "b.defs"


def test_state_is_beside_the_projects(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "project-sales" / ".git").mkdir()
    assert state_home(workspace / "project-sales" / "config") == workspace / ".dml"
    monkeypatch.setenv("DML_HOME", str(workspace / "elsewhere"))
    assert state_home(workspace) == workspace / "elsewhere"


def test_without_state_the_git_root_is_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".dml").mkdir()  # a person's home is nobody's workspace
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "deep").mkdir()
    assert workspace_root(tmp_path / "repo" / "deep") == tmp_path / "repo"
