"""`dml dvc check` on a real pipeline: each fault is caused, found, and mended by the command that the check names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.settings import DvcSettings, LakeSettings, Settings
from dml_platform.dvc import Dvc, check

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-4711"  # pragma: allowlist secret
PIPELINE = """
stages:
  double:
    cmd: python double.py
    deps: [numbers.txt, double.py]
    params: [factor]
    outs: [out/doubled.txt]
    metrics:
      - out/sum.json:
          cache: false
"""
CODE = """
import json, pathlib, yaml
factor = yaml.safe_load(open("params.yaml"))["factor"]
numbers = [factor * int(line) for line in open("numbers.txt")]
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/doubled.txt").write_text("\\n".join(map(str, numbers)))
pathlib.Path("out/sum.json").write_text(json.dumps({"sum": sum(numbers)}))
"""
FILES = {
    "pyproject.toml": '[tool.dml]\nproject = "shop"\n',
    "dvc.yaml": PIPELINE,
    "params.yaml": "factor: 2\n",
    "double.py": CODE,
    "numbers.txt": "1\n2\n3\n",
    ".gitignore": "/storage\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvc/config": "[core]\n    remote = local\n['remote \"local\"']\n    url = ../storage\n",
}

pytestmark = pytest.mark.integration


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a pipeline, in a subfolder of a git repository whose path has a space."""
    for number, (name, value) in enumerate({"user.name": "Test", "user.email": "test@example.com"}.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    folder = tmp_path / "a tree" / "project-shop"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder.parent, "init", "--quiet", ".")
    return folder


@pytest.fixture
def pushed(root: Path, local: Settings) -> Path:
    """The same, with everything done that has to be done."""
    dvc = Dvc(root, local)
    dvc.run("repro")
    commit(root)
    dvc.run("push")
    assert check(root, local) == []
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message=work")


def found(root: Path, settings: Settings) -> list[str]:
    return [str(finding) for finding in check(root, settings) or []]


def test_a_changed_input_and_a_changed_parameter_ask_for_a_run(pushed: Path, local: Settings) -> None:
    (pushed / "numbers.txt").write_text("5\n")
    (pushed / "params.yaml").write_text("factor: 3\n")
    commit(pushed)
    (only,) = found(pushed, local)
    assert only.startswith("double: ")
    assert "deps: numbers.txt modified" in only
    assert "deps: factor modified" in only
    assert only.endswith("→ dml dvc repro double, then commit dvc.lock")

    Dvc(pushed, local).run("repro", "double")
    faults = found(pushed, local)
    assert "dvc.lock: its change is not committed → git add dvc.lock && git commit" in faults
    assert "out/sum.json: its change is not committed → git add out/sum.json && git commit" in faults
    assert "out/doubled.txt: not in remote 'local' → dml dvc push" in faults
    assert len(faults) == 3

    commit(pushed)
    Dvc(pushed, local).run("push")
    assert found(pushed, local) == []


def test_a_fresh_clone_needs_the_remote_and_nothing_else(pushed: Path, local: Settings, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(pushed.parent), str(clone))
    (only,) = found(clone / "project-shop", local)
    assert only.startswith("out/doubled.txt: neither here nor in remote 'local'")

    settings = local.model_copy(update={"dvc": DvcSettings(remote_url=str(pushed / "storage"))})
    assert found(clone / "project-shop", settings) == []
    Dvc(clone / "project-shop", settings).run("pull")
    assert (clone / "project-shop" / "out" / "doubled.txt").read_text() == "2\n4\n6"


def test_a_big_file_in_git_is_named_with_its_size(pushed: Path, local: Settings) -> None:
    (pushed / "big.bin").write_bytes(os.urandom(1_500_000))
    commit(pushed)
    assert found(pushed, local) == []
    settings = local.model_copy(update={"dvc": DvcSettings(max_git_mb=1)})
    assert found(pushed, settings) == [
        "big.bin: 1.5 MB in git, the limit is 1 MB (settings: dvc: max_git_mb) "
        "→ git rm --cached big.bin && dml dvc add big.bin"
    ]
    git(pushed, "rm", "--quiet", "--cached", "big.bin")
    Dvc(pushed, local).run("add", "big.bin")
    Dvc(pushed, local).run("push")
    commit(pushed)
    assert found(pushed, settings) == []


def test_everything_works_with_an_object_store_that_the_settings_name(
    pushed: Path, local: Settings, object_store: str, tmp_path: Path
) -> None:
    store = LakeSettings(
        s3_endpoint=object_store, s3_access_key_id=ACCESS_KEY, s3_secret_access_key=SecretStr(SECRET_KEY)
    )
    remote = DvcSettings(remote_url=f"s3://lake/{tmp_path.name}/dvc")
    settings = local.model_copy(update={"dvc": remote, "lake": store})
    assert found(pushed, settings) == ["out/doubled.txt: not in remote 'server' → dml dvc push"]
    Dvc(pushed, settings).run("push")
    assert found(pushed, settings) == []
    assert "server" not in (pushed / ".dvc" / "config").read_text()
    assert not (pushed / ".dvc" / "config.local").exists()

    dead = settings.model_copy(update={"lake": store.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})})
    with pytest.raises(RetryableError, match="Check the remote"):
        check(pushed, dead)


def test_an_object_store_that_is_not_the_lakes_is_reached_with_what_a_workflow_gives(
    pushed: Path, local: Settings, object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    remote = DvcSettings(remote_url=f"s3://lake/{tmp_path.name}/dvc", s3_endpoint=object_store)
    lake = LakeSettings(s3_endpoint="http://127.0.0.1:9", s3_region="eu-west-3")
    settings = local.model_copy(update={"dvc": remote, "lake": lake})
    Dvc(pushed, settings).run("push")
    assert found(pushed, settings) == []


def test_what_cannot_be_checked_is_said_in_a_sentence(root: Path, local: Settings, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert check(empty, local) is None
    (empty / "dvc.yaml").touch()
    assert [f.fix for f in check(empty, local) or []] == ["dml dvc init, then commit .dvc"]

    absent = local.model_copy(update={"dvc": DvcSettings(program=tmp_path / "none")})
    with pytest.raises(ConfigError, match="Correct DML_DVC__PROGRAM"):
        check(root, absent)


def test_the_command_says_it_in_lines_and_in_json_with_exit_code_3(
    pushed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DML_HOME", str(tmp_path / "home"))

    def dml(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dml_platform.cli", "dvc", *arguments]
        return subprocess.run(command, cwd=pushed, capture_output=True, text=True, check=False)

    assert (dml("check").returncode, dml("check").stdout) == (0, "files, lock, remote and git agree\n")
    assert dml("metrics", "show", "--json").stdout.strip() == '{"": {"data": {"out/sum.json": {"data": {"sum": 12}}}}}'
    assert dml("repro", "--nonsense").returncode == 254
    (pushed / "params.yaml").write_text("factor: 3\n")
    done = dml("check", "--json")
    assert done.returncode == 3
    assert '"fix": "dml dvc repro double, then commit dvc.lock"' in done.stdout
