"""`copier update` of projects that teams have changed, from an earlier release of this template to the newest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import copier
import pytest
import yaml
from conftest import MADE, TEMPLATE, make_answers, render

OLD, NEW = "v0.0.9", "v0.1.0"
ANSWERS = make_answers(["files"], True, True, "local")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def last_releases(count: int = 3) -> list[str]:
    """The newest tags of this template; in the tree that it comes from they begin with its folder's name."""
    prefix = "" if (TEMPLATE / ".git").exists() else f"{TEMPLATE.name}/"
    command = ["git", "tag", "--list", f"{prefix}v*", "--merged=HEAD", "--sort=-version:refname"]
    done = subprocess.run(command, cwd=TEMPLATE, capture_output=True, text=True, check=False)  # a plain folder has none
    return done.stdout.split()[:count]


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This template as a repository with two releases; the earlier one differs in each kind of file."""
    folder = tmp_path_factory.mktemp("template") / "project-template"
    folder.mkdir()
    for name in ("copier.yml", "template", "locks"):
        path = TEMPLATE / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=now")
    now = git(folder, "rev-parse", "HEAD").strip()
    template = folder / "template"
    # The template's own: changed, new since, and gone since.
    replace(template / ".yamllint.yaml", "line-length: {max: 120}", "line-length: {max: 100}")
    (template / "docs/adr/0001-follow-the-platforms-pins.md").unlink()
    (template / "docs/old.md").write_text("An old page.\n")
    # Shared.
    replace(template / "pyproject.toml.jinja", "dml-platform>=0.1,<0.2", "dml-platform>=0.0.9,<0.1")
    # The team's, of which an update must bring nothing.
    replace(template / "dbt/models/marts/_orders.yml", "Orders of the day.", "Orders.")
    replace(template / "README.md.jinja", "## What comes in", "## Sources")
    (template / "dbt/tests/assert_orders_add_up.sql").unlink()
    # A question that did not exist.
    replace(folder / "copier.yml", "sample_model:\n  type: bool\n", "sample_model:\n  when: false\n  type: bool\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=earlier")
    git(folder, "tag", OLD)
    git(folder, "checkout", "--quiet", now, "--", ".")
    (template / "docs/old.md").unlink()
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=today")
    git(folder, "tag", NEW)
    return folder


@pytest.fixture
def project(repository: Path, tmp_path: Path) -> Path:
    """A project of the earlier release, in a repository of its own."""
    folder = tmp_path / "project-marketing"
    known = {name: answer for name, answer in ANSWERS.items() if name != "sample_model"}
    copier.run_copy(str(repository), str(folder), data=known, defaults=True, quiet=True, vcs_ref=OLD)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(project: Path) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message=work")


def update(project: Path) -> list[str]:
    """Update as `copier update --defaults` does. Returns: what git says has changed."""
    copier.run_update(str(project), defaults=True, overwrite=True, quiet=True)
    return git(project, "status", "--porcelain", "--untracked-files=all").splitlines()


def answers_of(project: Path) -> dict[str, object]:
    return yaml.safe_load((project / ".copier-answers.yml").read_text())


def test_an_update_reaches_the_new_version_and_changes_only_what_is_the_templates(project: Path) -> None:
    changed = update(project)

    assert sorted(changed) == [
        " D docs/old.md",
        " M .copier-answers.yml",
        " M .yamllint.yaml",
        " M pyproject.toml",
        "?? docs/adr/0001-follow-the-platforms-pins.md",
    ]
    assert answers_of(project)["_commit"] == NEW
    assert answers_of(project)["sample_model"] is True


def test_a_teams_edits_stay(project: Path) -> None:
    (project / "README.md").write_text("# Ours\n")
    replace(project / "config/sources.yaml", "data/drop/orders/*.csv", "data/drop/all/*.csv")
    replace(project / "pyproject.toml", '    "pandas>=2.3,<4",\n', '    "pandas>=2.3,<4",\n    "scipy>=1.14",\n')
    replace(project / "pyproject.toml", 'version = "0.1.0"', 'version = "2.0.0"')
    replace(
        project / "dbt/dbt_project.yml",
        "    intermediate:\n",
        "    finance:\n      +schema: marts\n    intermediate:\n",
    )
    replace(project / "project_marketing/jobs.py", '"0 5 * * *"', '"30 3 * * *"')
    (project / "dbt/models/marts/fct_visits.sql").write_text("select 1 as visit_id\n")
    (project / "tests/dbt/test_visits.py").write_text("")
    commit(project)
    mine = {name: (project / name).read_text() for name in git(project, "ls-files").split()}

    update(project)

    for name in ("README.md", "config/sources.yaml", "dbt/dbt_project.yml", "project_marketing/jobs.py"):
        assert (project / name).read_text() == mine[name]
    assert (project / "dbt/models/marts/fct_visits.sql").exists()
    assert (project / "tests/dbt/test_visits.py").exists()
    merged = (project / "pyproject.toml").read_text()
    assert merged == mine["pyproject.toml"].replace("dml-platform>=0.0.9,<0.1", "dml-platform>=0.1,<0.2")


def test_what_a_team_deleted_stays_away(project: Path) -> None:
    gone = [
        "notebooks/review.ipynb",
        "tests/test_notebooks.py",
        "dbt/models/marts/fct_daily_orders.sql",
        "data/make_sample.py",
    ]
    for name in gone:
        (project / name).unlink()
    commit(project)

    update(project)

    assert [name for name in gone if (project / name).exists()] == []


@pytest.mark.parametrize(
    ("name", "old", "new", "templates"),
    [
        ("pyproject.toml", "dml-platform>=0.0.9,<0.1", "dml-platform==0.0.9.1", "dml-platform>=0.1,<0.2"),
        (".yamllint.yaml", "line-length: {max: 100}", "line-length: {max: 90}", "line-length: {max: 120}"),
    ],
)
def test_a_conflict_is_shown(project: Path, name: str, old: str, new: str, templates: str) -> None:
    replace(project / name, old, new)
    commit(project)

    changed = update(project)

    text = (project / name).read_text()
    before, _, after = text.partition("<<<<<<< before updating\n")[2].partition("=======\n")
    assert new in before
    assert templates in after.partition(">>>>>>> after updating")[0]
    assert f"UU {name}" in changed
    # Nobody commits that by mistake.
    done = subprocess.run(["git", "commit", "--message=x"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert name in done.stdout + done.stderr


def test_an_update_of_uncommitted_work_is_refused(project: Path) -> None:
    (project / "README.md").write_text("# Not committed\n")
    with pytest.raises(copier.errors.UserMessageError, match="dirty"):
        update(project)
    assert (project / "README.md").read_text() == "# Not committed\n"


def test_a_project_made_from_a_plain_folder_is_updated_from_the_published_template(
    repository: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "project-template"
    shutil.copytree(repository, plain, ignore=shutil.ignore_patterns(".git"))
    replace(plain / "copier.yml", f"default: {NEW}", f"default: {OLD}")
    folder = render(tmp_path / "project-marketing", ANSWERS, plain)
    address = str(answers_of(folder)["_src_path"])
    git(folder, "init", "--quiet")
    commit(folder)
    # What the published address stands for. By the command, as the README says: copier keeps its first environment.
    stand_in = {"GIT_CONFIG_COUNT": "4", "GIT_CONFIG_KEY_3": f"url.{repository.as_uri()}.insteadOf"}
    stand_in |= {"GIT_CONFIG_VALUE_3": address, "GIT_ALLOW_PROTOCOL": "file:https"}
    command = [sys.executable, "-m", "copier", "update", "--defaults"]
    subprocess.run(command, cwd=folder, env=os.environ | stand_in, check=True, capture_output=True)

    assert answers_of(folder)["_commit"] == NEW
    assert answers_of(folder)["_src_path"] == address


NONE_YET = pytest.param("", marks=pytest.mark.skip("no release of this template is tagged yet"))


@pytest.mark.parametrize("tag", last_releases() or [NONE_YET])
def test_a_project_of_a_release_reaches_todays_template_with_its_edits(tag: str, tmp_path: Path) -> None:
    repository = tmp_path / "project-template"
    repository.mkdir()
    folder, _, release = tag.rpartition("/")
    top = git(TEMPLATE, "rev-parse", "--show-toplevel").strip()
    packed = subprocess.run(["git", "archive", f"{tag}:{folder}"], cwd=top, check=True, capture_output=True)
    subprocess.run(["tar", "--extract"], cwd=repository, input=packed.stdout, check=True)
    git(repository, "init", "--quiet")
    commit(repository)
    git(repository, "tag", release)
    git(repository, "rm", "--quiet", "-r", ".")
    shutil.copytree(TEMPLATE, repository, ignore=MADE, dirs_exist_ok=True)
    commit(repository)
    git(repository, "tag", "v999.0.0")
    project = tmp_path / "project-marketing"
    copier.run_copy(str(repository), str(project), data=ANSWERS, defaults=True, quiet=True, vcs_ref=release)
    git(project, "init", "--quiet")
    (project / "README.md").write_text("# Ours\n")
    (project / "dbt/models/marts/fct_visits.sql").write_text("select 1 as visit_id\n")
    commit(project)

    changed = update(project)

    assert [line for line in changed if line.startswith("UU")] == []
    assert answers_of(project)["_commit"] == "v999.0.0"
    assert (project / "README.md").read_text() == "# Ours\n"
    assert (project / "dbt/models/marts/fct_visits.sql").exists()
    fresh = render(tmp_path / "fresh" / "project-marketing", ANSWERS, repository)
    for name in ("noxfile.py", ".github/workflows/ci.yml", "docker/Dockerfile", "requirements/run.txt"):
        assert (project / name).read_text() == (fresh / name).read_text()


@pytest.fixture
def rerender(project: Path) -> Callable[[], list[str]]:
    def run() -> list[str]:
        copier.run_recopy(str(project), defaults=True, overwrite=True, quiet=True, vcs_ref=OLD)
        return git(project, "status", "--porcelain").splitlines()

    return run


def test_rendering_again_changes_nothing_of_the_teams(project: Path, rerender: Callable[[], list[str]]) -> None:
    (project / "README.md").write_text("# Ours\n")
    replace(project / "project_marketing/jobs.py", '"0 5 * * *"', '"30 3 * * *"')
    commit(project)
    assert rerender() == []
