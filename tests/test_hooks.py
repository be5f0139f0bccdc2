"""The pre-commit hooks, run as a developer's commit would run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# They need the installed packages; the lint sessions run the same commands.
SKIP = "mypy-base,mypy-sales,import-linter"


@pytest.fixture(scope="module")
def repository(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("repository") / "tree"
    shutil.copytree(copy, target)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=target, check=True)
    return target


def run_hooks(repository: Path, *names: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pre_commit", "run", "--color=never"]
    command += ["--files", *names] if names else ["--all-files"]
    env = {**os.environ, "SKIP": SKIP}
    return subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, check=False)


def test_every_hook_passes_on_the_tree(repository: Path) -> None:
    done = run_hooks(repository)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "text", "hook"),
    [
        ("tests/x.py", "import os\n", "ruff check"),
        ("tests/x.py", "x = {  }\n", "ruff format"),
        ("x.yaml", "a: 1\na: 2\n", "yamllint"),
        ("x.toml", f'key = "{"AKIA" + "IOSFODNN7" + "EXAMPLQ"}"\n', "secret scan"),
        ("project-sales/dbt/models/x.sql", "SELECT a,b from t\n", "sqlfluff lint"),
    ],
    ids=lambda value: value if " " in value else None,
)
def test_the_hook_stops_a_bad_file(repository: Path, name: str, text: str, hook: str) -> None:
    path = repository / name
    path.write_text(text)
    subprocess.run(["git", "add", name], cwd=repository, check=True)
    try:
        done = run_hooks(repository, name)
    finally:
        subprocess.run(["git", "rm", "--quiet", "--force", name], cwd=repository, check=True)
    failed = [line for line in done.stdout.splitlines() if line.endswith("Failed")]
    assert any(line.startswith(hook) for line in failed), done.stdout + done.stderr
