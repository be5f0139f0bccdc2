"""A project's repository for tests: a copy of a real one in git, its published state, and faults to plant in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import acting

_MADE = (".venv", ".nox", ".dml", "dist", "target", "logs", "__pycache__", "dbt_packages", ".dvc-storage", ".*_cache")
_IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]


@dataclass(frozen=True)
class Project:
    """A repository on its main branch; ``state`` is what `dml ci prepare` made of it, ``remote`` has its DVC files."""

    root: Path
    state: Path
    remote: Path

    @property
    def base(self) -> str:
        return git(self.root, "rev-parse", "origin/main")

    def fill_caches(self, folder: Path) -> None:
        """What a run of the main branch leaves for pull requests: the published state, and what dbt parsed."""
        kept, parsed = folder / f"dml-Linux-{self.base}", Path("dbt/target/dml")
        shutil.copytree(self.state, kept / ".dml")
        if not self.with_elementary:
            for place in (kept, folder / f"dbt-Linux-{self.base}"):
                shutil.copytree(self.root / parsed, place / parsed)

    @property
    def with_elementary(self) -> bool:
        """Its package is then part of what dbt parsed; the tests job has none."""
        return (self.root / "dbt/dbt_packages/elementary").exists()


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *_IDENTITY, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def prepare(
    source: Path,
    folder: Path,
    *,
    with_files: bool = True,
    plant: Callable[[Path], None] | None = None,
    commands: Sequence[Sequence[str]] = (("ci", "prepare"),),
    variables: Mapping[str, str] | None = None,
) -> Project:
    """Copy a project into a repository of its own, run it once, and push the files that DVC tracks.

    Args:
        plant: what the repository has besides.
        commands: of dml, which make its published state.
        variables: what they find in their environment.
    """
    root, state, remote = folder / source.name, folder / "state", folder / "remote"
    shutil.copytree(source, root, ignore=shutil.ignore_patterns(*_MADE, ".git", "tmp", "cache"))
    remote.mkdir()
    if plant:
        plant(root)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    git(root, "remote", "add", "origin", f"https://github.com/{acting.REPOSITORY}")
    git(root, "update-ref", "refs/remotes/origin/main", "HEAD")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DML_")}
    environment |= {"DML_HOME": str(state), "DML_DVC__REMOTE_URL": str(remote), **(variables or {})}
    for command in [*commands, *([["dvc", "repro"], ["dvc", "push"]] if with_files else [])]:
        done = subprocess.run(
            [sys.executable, "-m", "dml_platform.cli", *command],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return Project(root, state, remote)


def pull_request(project: Project, folder: Path, *changes: Callable[[Path], None]) -> tuple[Path, dict[str, Any]]:
    """A clone of the repository with a branch, and what GitHub would say of its pull request."""
    root = folder / project.root.name
    shutil.copytree(project.root, root, symlinks=True)
    git(root, "clean", "-fdxq")
    git(root, "switch", "--quiet", "--create", "change")
    for change in changes:
        change(root)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=change")
    head = {"sha": git(root, "rev-parse", "HEAD"), "ref": "change", "repo": {"full_name": acting.REPOSITORY}}
    request = {"number": 7, "base": {"sha": project.base, "ref": "main"}, "head": head}
    repository = {"full_name": acting.REPOSITORY, "default_branch": "main"}
    return root, {"action": "opened", "number": 7, "pull_request": request, "repository": repository}


def _mart(root: Path) -> Path:
    """A mart with a contract that no other model reads."""
    texts = [path.read_text() for path in sorted((root / "dbt/models").rglob("*.sql"))]
    marts = sorted((root / "dbt/models/marts").glob("*.sql"))
    return next(mart for mart in marts if not any(f"ref('{mart.stem}')" in text for text in texts))


def touch_mart(root: Path) -> None:
    """A change of a model that could change any row, and changes none."""
    mart = _mart(root)
    mart.write_text(mart.read_text() + "order by all\n")


def fail_a_test(root: Path) -> None:
    mart = _mart(root).stem
    (root / "dbt/tests").mkdir(exist_ok=True)
    (root / "dbt/tests/assert_planted.sql").write_text(f"select * from {{{{ ref('{mart}') }}}} limit 3\n")


def break_the_contract(root: Path) -> None:
    """Promise another type of a column than the model makes."""
    mart = _mart(root).stem
    for path in (root / "dbt/models/marts").glob("*.yml"):
        text = path.read_text()
        changed = re.sub(rf"(- name: {mart}\n.*?data_type: )\w+", r"\g<1>blob", text, count=1, flags=re.DOTALL)
        if changed != text:
            path.write_text(changed)
            return
    raise AssertionError(f"no YAML describes {mart}")


def watch_a_table(root: Path) -> None:
    """A mart of a thousand rows, whose number Elementary watches."""
    marts = root / "dbt/models/marts"
    (marts / "fct_watched.sql").write_text("select range as number from range(1000)\n")
    (marts / "_watched.yml").write_text(
        "version: 2\nmodels:\n  - name: fct_watched\n    description: One row per number.\n"
        "    columns: [{name: number, data_type: bigint, description: Counts from zero.}]\n"
        "    data_tests:\n      - elementary.volume_anomalies:\n"
        "          arguments: {anomaly_direction: drop, anomaly_sensitivity: 2}\n"
        "          config:\n            severity: warn\n"
        "            enabled: \"{{ env_var('DBT_HAS_ELEMENTARY', 'false') == 'true' }}\"\n"
    )


def lose_rows(root: Path) -> None:
    (root / "dbt/models/marts/fct_watched.sql").write_text("select range as number from range(10)\n")


def add_a_secret(root: Path) -> None:
    # Built from parts, so that this file does not hold one itself.
    (root / "config/planted.env").write_text("ACCESS_KEY=" + "AKIA" + "IOSFODNN7" + "EXAMPLQ\n")


def unformat_a_file(root: Path) -> None:
    package = next(path.parent for path in sorted(root.glob("project_*/definitions.py")))
    (package / "planted.py").write_text('"""Planted."""\n\nTHINGS = {  }\n')


def break_the_definitions(root: Path) -> None:
    path = next(iter(sorted(root.glob("project_*/definitions.py"))))
    path.write_text(path.read_text() + '\nraise RuntimeError("planted")\n')
