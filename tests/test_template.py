"""The projects of this tree and the template: project-sales is an instance of it, and both agree with the server."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dml_infra.names import RESERVED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

copier = pytest.importorskip("copier", reason="copier is a tool of project-template: ./dml test installs it")
ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "project-template"
SALES = ROOT / "project-sales"
CONFIG = yaml.safe_load((TEMPLATE / "copier.yml").read_text())


def is_listed(name: str, patterns: list[str]) -> bool:
    """Whether a file is one of these, or in one of these folders."""
    places = [pattern.strip("/") for pattern in patterns]
    return any(fnmatch.fnmatch(name, place) or fnmatch.fnmatch(name, f"{place}/*") for place in places)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with the answers that project-sales remembers."""
    folder = tmp_path_factory.mktemp("rendered") / "project-sales"
    answers = yaml.safe_load((SALES / ".copier-answers.yml").read_text())
    data = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    copier.run_copy(str(TEMPLATE), str(folder), data=data, defaults=True, quiet=True)
    return folder


def test_rendering_project_sales_again_changes_nothing_that_is_the_templates(rendered: Path) -> None:
    names = [str(path.relative_to(rendered)) for path in sorted(rendered.rglob("*")) if path.is_file()]
    listed = [*CONFIG["_skip_if_exists"], *CONFIG["shared"]["default"]]
    owned = [name for name in names if not is_listed(name, listed)]
    assert {"noxfile.py", "docker/Dockerfile", ".github/workflows/ci.yml", ".copier-answers.yml"} <= set(owned)
    differing = [name for name in owned if not (SALES / name).exists() or read(rendered, name) != read(SALES, name)]
    assert differing == [], "change project-template/template and project-sales together"


def read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def test_project_sales_has_all_settings_of_the_shared_files(rendered: Path) -> None:
    ours = [tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (rendered, SALES)]
    for document in ours:
        del document["project"]["description"]
    assert missing(*ours) == []
    assert (
        missing(*(yaml.safe_load((folder / "dbt/dbt_project.yml").read_text()) for folder in (rendered, SALES))) == []
    )


def missing(wanted: Any, found: Any, where: str = "") -> list[str]:
    """What of the template's document is not in the project's, or is something else."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [text for key in wanted for text in missing(wanted[key], found.get(key), f"{where}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list):
        return [f"{where}: {entry!r}" for entry in wanted if entry not in found]
    return [] if wanted == found else [f"{where}: {wanted!r}"]


def test_an_update_of_project_sales_brings_what_the_template_changed_and_no_sample(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"user.name": "Test", "user.email": "test@example.com", "init.defaultBranch": "main"}
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(values)))
    for number, (name, value) in enumerate(values.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)

    def git(folder: Path, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout

    template, project = tmp_path / "project-template", tmp_path / "project-sales"
    shutil.copytree(copy / "project-template", template)
    shutil.copytree(copy / "project-sales", project)
    answers = project / ".copier-answers.yml"
    remembered = yaml.safe_load(answers.read_text())
    answers.write_text(answers.read_text().replace(remembered["_src_path"], str(template)))
    for folder in (template, project):
        git(folder, "init", "--quiet")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message=first")
    git(template, "tag", remembered["_commit"])
    with (template / "template/.gitignore").open("a") as file:
        file.write("new/\n")
    (template / "template/dbt/models/marts/fct_another_sample.sql").write_text("select 1 as one\n")
    git(template, "add", "--all")
    git(template, "commit", "--quiet", "--message=next")
    git(template, "tag", "v9.0.0")

    copier.run_update(str(project), defaults=True, overwrite=True, quiet=True)

    assert git(project, "status", "--porcelain").splitlines() == [" M .copier-answers.yml", " M .gitignore"]


def test_the_server_takes_every_name_that_the_template_takes() -> None:
    assert set(CONFIG["reserved_names"]["default"].split()) == RESERVED


@pytest.mark.parametrize("readme", [SALES / "README.md", TEMPLATE / "template/README.md.jinja"], ids=["sales", "new"])
def test_the_readme_names_every_setting_that_the_workflows_read(readme: Path) -> None:
    workflows = (SALES / ".github" / "workflows").glob("*.yml")
    read_there = {name for path in workflows for name in re.findall(r"\b(?:vars|secrets)\.(\w+)", path.read_text())}
    assert "DML_PROJECT" in read_there
    text = readme.read_text(encoding="utf-8").partition("## On GitHub")[2].partition("\n## ")[0]
    assert {name for name in read_there if f"`{name}`" not in text} == set()
