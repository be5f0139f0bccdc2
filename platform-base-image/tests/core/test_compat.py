from __future__ import annotations

import re
from pathlib import Path

import pytest

from dml_platform import __version__
from dml_platform.api import PUBLIC
from dml_platform.core.compat import foreign_imports, require_base
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project, read_project
from dml_platform.definitions import build_definitions


def make_project(root: Path, *dependencies: str) -> Project:
    listed = ", ".join(repr(line) for line in dependencies)
    (root / "pyproject.toml").write_text(
        f'[project]\nname = "project-shop"\ndependencies = [{listed}]\n[tool.dml]\nproject = "shop"\n'
    )
    project = read_project(root)
    assert project
    return project


@pytest.mark.parametrize(
    ("bound", "version"),
    [
        (">=0.1,<0.2", "0.1.0"),
        (">=0.1,<0.2", "0.1.7"),
        ("~=0.3.2", "0.3.9"),
        (">=0.1,<0.3", "0.2.0rc1"),
        ("[server]>=0.1", "1.0"),
        ("", "5.0"),
    ],
)
def test_a_base_within_the_bound_is_fine(tmp_path: Path, bound: str, version: str) -> None:
    project = make_project(tmp_path, "pandas>=2", f"DML_Platform{bound}")
    assert "shop is made for" in require_base(project, version)


@pytest.mark.parametrize(
    ("bound", "version", "said", "fix"),
    [
        (">=0.3,<0.4", "0.2.9", "the base is too old: shop is made for dml-platform", "nox -s environment"),
        ("~=0.3.2", "0.3.1", "the base is too old", "BASE_IMAGE"),
        ("==0.3.*", "0.2.0", "the base is too old", "nox -s environment"),
        (">=0.3", "0.3.0.dev1", "the base is too old", "nox -s environment"),
        (">=0.1,<0.2", "0.2.0", "the base is too new: shop is made for dml-platform", "nox -s template"),
        (">=0.1,<0.2", "0.2.0rc1", "the base is too new", "CHANGELOG"),
        ("==0.3.*", "0.4.0", "the base is too new", "nox -s lock"),
        ("~=0.3.2", "0.4", "the base is too new", "raise the bound"),
    ],
)
def test_another_base_is_refused_with_what_to_do(tmp_path: Path, bound: str, version: str, said: str, fix: str) -> None:
    project = make_project(tmp_path, f"dml-platform{bound}")
    with pytest.raises(
        ConfigError, match=f"cannot use project 'shop' with dml-platform {re.escape(version)}"
    ) as caught:
        require_base(project, version)
    assert said in caught.value.why
    assert fix in caught.value.fix


def test_a_project_that_names_no_version_is_not_refused(tmp_path: Path) -> None:
    assert require_base(make_project(tmp_path, "pandas")) == "shop names no version of dml-platform"


def test_a_dependency_that_does_not_parse_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dependency 'dml-platform=>1'"):
        require_base(make_project(tmp_path, "dml-platform=>1"))


def test_definitions_do_not_load_on_another_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_HOME", str(tmp_path / ".dml"))
    make_project(tmp_path, "dml-platform>=99")
    with pytest.raises(ConfigError, match=f"dml-platform {re.escape(__version__)}: the base is too old"):
        build_definitions(tmp_path)
    make_project(tmp_path, f"dml-platform=={__version__}")
    assert build_definitions(tmp_path)


def test_imports_beyond_the_public_names_are_found_with_their_line(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    package = tmp_path / "project_shop"
    package.mkdir()
    (package / "fine.py").write_text(
        "from dml_platform.lake import open_lake\nimport dml_platform.lake\nfrom . import x\nimport dagster\n"
        "from dml_platform.core.errors import ConfigError\n"
    )
    (package / "broken.py").write_text("def (\n")
    assert foreign_imports(project, PUBLIC) == []
    (package / "deep.py").write_text(
        "import os\nfrom dml_platform.lake.write import Step\nfrom dml_platform.lake import PinnedTable\n"
        "import dml_platform.core.runrecord as records\n"
    )
    assert foreign_imports(project, PUBLIC) == [
        "project_shop/deep.py:2: dml_platform.lake.write.Step",
        "project_shop/deep.py:3: dml_platform.lake.PinnedTable",
        "project_shop/deep.py:4: dml_platform.core.runrecord",
    ]
