"""``dml new``, with a small template: what it makes, what it refuses before anything is made, where it looks."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dml_platform.core.settings import load_settings
from dml_platform.template import client

QUESTIONS = """
_subdirectory: template
name:
  type: str
  validator: "{% if name != name | lower %}{{ name }} has capitals.{% endif %}"
owner: {type: str}
sources: {type: str, multiselect: true, choices: [files, connector], default: [files]}
dvc_remote: {type: str, choices: {no DVC: none, here: local, S3: s3}, default: none}
"""
PYPROJECT = """[project]
name = "project-{{ name }}"
[tool.dml]
project = "{{ name }}"
"""
DEFINITIONS = """
import dagster as dg

@dg.asset(key=["{{ name }}", "marts", "fine"])
def fine() -> None:
    if {{ owner == "team:broken" }}:
        raise ValueError("no luck")

defs = dg.Definitions(assets=[fine])
"""
Dml = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with a state folder and a template."""
    root = tmp_path / "workspace"
    template = root / client.FOLDER / "template"
    package = template / "project_{{ name }}"
    package.mkdir(parents=True)
    (root / ".dml").mkdir()
    (template.parent / "copier.yml").write_text(QUESTIONS)
    (template / "pyproject.toml.jinja").write_text(PYPROJECT)
    (template / "{{ _copier_conf.answers_file }}.jinja").write_text("{{ _copier_answers | to_nice_yaml }}")
    (package / "definitions.py.jinja").write_text(DEFINITIONS)
    (package / "__init__.py").touch()
    return root


@pytest.fixture
def dml(workspace: Path, tmp_path: Path) -> Dml:
    """Runs the command in the workspace, as somebody whom git knows."""

    def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DML_", "GIT_"))}
        known = {"GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1"}
        (tmp_path / "gitconfig").write_text("[user]\nname = Test\nemail = test@example.com\nuseConfigOnly = true\n")
        return subprocess.run(
            [sys.executable, "-m", "dml_platform.cli", *arguments],
            cwd=cwd or workspace,
            env=kept | known | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


@pytest.mark.integration
def test_a_project_is_made_committed_and_run(dml: Dml, workspace: Path) -> None:
    done = dml("new", "web", "--owner", "team:web", "--source", "files", "--source", "connector")

    assert done.returncode == 0, done.stdout + done.stderr
    project = workspace / "project-web"
    assert "sources:\n- files\n- connector\n" in (project / ".copier-answers.yml").read_text()
    log = subprocess.run(["git", "log", "--format=%s"], cwd=project, capture_output=True, text=True, check=True).stdout
    assert log == "feat: make project-web from the project template\n"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True, check=True)
    assert set(status.stdout.splitlines()) <= {"?? project_web/__pycache__/"}
    assert "✓ web__marts__fine" in done.stdout
    assert "cd project-web" in done.stdout
    assert "dml infra register web --image <repository>@sha256:<digest> --owner team:web" in done.stdout
    assert "dvc" not in done.stdout
    # The project is found beside the others.
    assert "web (" in dml("doctor").stdout


DVC_FILES = {
    "dvc.yaml": "stages:\n  made:\n    cmd: echo made > made.txt\n    outs: [made.txt]\n",
    "dvc.lock": "schema: '2.0'\nstages:\n  made:\n    cmd: echo made > made.txt\n    outs:\n    - path: made.txt\n"
    "      hash: md5\n      md5: a98e0a25ba0d4e7ea3c2fc2e3f4a7cd5\n      size: 5\n",
    ".dvc/config": "[core]\n    remote = local\n['remote \"local\"']\n    url = ../.dvc-storage\n",
    ".gitignore": "/made.txt\n/.dvc-storage\n/.dvc/cache\n/.dvc/tmp\n/.dvc/config.local\n__pycache__\n",
}


@pytest.mark.integration
@pytest.mark.parametrize("remote", ["local", "s3"])
def test_a_new_project_passes_its_check_of_files_or_is_told_how(dml: Dml, workspace: Path, remote: str) -> None:
    lock = DVC_FILES["dvc.lock"].replace("a98e0a25ba0d4e7ea3c2fc2e3f4a7cd5", hashlib.md5(b"made\n").hexdigest())
    for name, text in (DVC_FILES | {"dvc.lock": lock}).items():
        path = workspace / client.FOLDER / "template" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    done = dml("new", "web", "--owner", "team:web", "--dvc-remote", remote)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (workspace / "project-web" / "made.txt").read_text() == "made\n"
    checked = dml("dvc", "check", cwd=workspace / "project-web")
    if remote == "local":
        assert (checked.returncode, checked.stdout) == (0, "files, lock, remote and git agree\n")
        assert "dvc push" not in done.stdout
    else:
        assert "not in remote" in checked.stdout
        assert "dml dvc repro && dml dvc push" in done.stdout


@pytest.mark.integration
def test_in_a_tree_the_next_steps_are_typed_by_its_launcher(dml: Dml, workspace: Path) -> None:
    (workspace / "dml").write_text("#!/bin/sh\n")
    (workspace / "dml").chmod(0o755)
    path = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "dml").exists()
    )

    done = dml("new", "web", "--owner", "team:web", "--no-run", PATH=path)

    assert done.returncode == 0, done.stderr
    typed = [line.split("#")[0].split("--image")[0].strip() for line in done.stdout.splitlines() if "dml " in line]
    assert typed == ["../dml run", "../dml up", "../dml test", "../dml infra register web"]


@pytest.mark.integration
def test_the_line_for_the_server_is_one_line_whatever_the_width(dml: Dml, workspace: Path) -> None:
    owner = f"team:{'w' * 180}"
    done = dml("new", "web", "--owner", owner, "--no-run")
    assert done.returncode == 0, done.stderr
    registers = [line for line in done.stdout.splitlines() if "dml infra register" in line]
    assert [line.endswith(f" --owner {owner}") for line in registers] == [True], done.stdout


@pytest.mark.integration
def test_a_first_run_that_fails_leaves_the_project_and_says_so(dml: Dml, workspace: Path) -> None:
    done = dml("new", "web", "--owner", "team:broken")
    assert done.returncode == 1
    assert "no luck" in done.stderr
    assert "the first run failed (exit code 1); the project is made." in done.stdout
    assert (workspace / "project-web" / ".git").is_dir()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("Web", "--owner", "x"), 2, "cannot make project-Web: Web has capitals."),
        (("web",), 2, "cannot make project-web: 'owner' has no default.\nAdd --owner, or answer in a terminal."),
        (
            ("web", "--owner", "x", "--source", "ftp"),
            2,
            "cannot make project-web: 'ftp' is no answer to 'sources'.\nChoose of: files, connector.",
        ),
        (
            ("web", "--owner", "x", "--dvc-remote", "gcs"),
            2,
            "'gcs' is no answer to 'dvc_remote'.\nChoose of: none, local, s3.",
        ),
    ],
)
def test_a_wrong_answer_makes_nothing(
    dml: Dml, workspace: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    before = sorted(workspace.parent.rglob("project*"))
    done = dml("new", *arguments, "--no-run")
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(workspace.parent.rglob("project*")) == before


@pytest.mark.integration
def test_a_project_is_made_beside_the_one_that_one_stands_in(dml: Dml, workspace: Path) -> None:
    (workspace / "project-old" / "config").mkdir(parents=True)
    (workspace / "project-old" / "pyproject.toml").write_text('[tool.dml]\nproject = "old"\n')
    done = dml("new", "web", "--owner", "x", "--no-run", cwd=workspace / "project-old" / "config")
    assert done.returncode == 0, done.stderr
    assert (workspace / "project-web" / "pyproject.toml").is_file()


def test_a_folder_that_is_there_is_refused(dml: Dml, workspace: Path) -> None:
    (workspace / "project-web").mkdir()
    (workspace / "project-web" / "mine").touch()
    done = dml("new", "web")
    assert done.returncode == 2
    assert f"cannot make project-web: {workspace / 'project-web'} is there already." in done.stderr


def test_without_a_name_for_git_nothing_is_made(dml: Dml, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "nobody").write_text("[user]\nuseConfigOnly = true\n")
    done = dml("new", "web", "--owner", "x", GIT_CONFIG_GLOBAL=str(tmp_path / "nobody"))
    assert done.returncode == 2
    assert "cannot make a first commit: git does not know who you are.\nTell it: git config" in done.stderr
    assert not (workspace / "project-web").exists()


@pytest.mark.parametrize(
    ("template", "code", "sentence"),
    [
        ("/nowhere/template", 2, "DML_TEMPLATE names /nowhere/template, which has no copier.yml."),
        ("http://127.0.0.1:9/t.git", 75, "http://127.0.0.1:9/t.git cannot be reached ("),
        ("http://me:" + "word@127.0.0.1:9/t.git", 75, "http://***@127.0.0.1:9/t.git cannot be reached ("),
    ],
)
def test_a_template_that_is_not_there_is_told(dml: Dml, template: str, code: int, sentence: str) -> None:
    done = dml("new", "web", "--owner", "x", DML_TEMPLATE=template, no_proxy="127.0.0.1")
    assert done.returncode == code
    assert f"cannot find the project template: {sentence}" in done.stderr
    assert "word" not in done.stderr
    assert "DML_TEMPLATE" in done.stderr.splitlines()[-1]


def test_without_any_template_the_setting_is_named(dml: Dml, tmp_path: Path) -> None:
    (tmp_path / "empty" / ".dml").mkdir(parents=True)
    done = dml("new", "web", cwd=tmp_path / "empty")
    assert done.returncode == 2
    assert f"there is no folder project-template in {tmp_path / 'empty'}, and DML_TEMPLATE is not set" in done.stderr


def test_a_repository_gives_its_newest_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "template.git"
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    made = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.com", "commit", "-qm", "x", "--allow-empty"]
    subprocess.run(made, cwd=repository, check=True)
    monkeypatch.setenv("DML_TEMPLATE", repository.as_uri())
    monkeypatch.setenv("DML_HOME", str(tmp_path))
    assert client.find_template(load_settings(), tmp_path) == repository.as_uri()


def test_copier_is_locked_by_hash() -> None:
    pins = client.REQUIREMENTS.read_text()
    wanted = client.REQUIREMENTS.with_suffix(".in").read_text().splitlines()[-1]
    assert f"\n{wanted} \\\n" in pins
    assert pins.count("--hash=sha256:") > pins.count("==")
    assert "://" not in pins
