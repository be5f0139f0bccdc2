"""What a pull request must pass: files as the lock says, pushed, committed, and nothing big in git itself."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dml_platform.core.dvcfiles import LOCK, PIPELINE, read_hashes, uses_dvc
from dml_platform.core.errors import ConfigError
from dml_platform.core.settings import Settings
from dml_platform.dvc.client import Dvc

# An output that is not here but in the remote is no fault: 'dml dvc pull' brings it.
_NOT_HERE = ("deleted", "not in cache")


@dataclass(frozen=True)
class Finding:
    """One fault: what is wrong, in one line, and the command that mends it."""

    kind: str
    subject: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem} → {self.fix}"


def check(root: Path, settings: Settings, *, dvc: Dvc | None = None) -> list[Finding] | None:
    """Check a project's folder.

    Returns: the faults; None where nothing uses DVC, so that there is nothing to check.
    Raises:
        ConfigError: the folder is in no git repository.
        RetryableError: the remote cannot be reached.
    """
    if not uses_dvc(root):
        if (root / PIPELINE).is_file():
            return [Finding("setup", PIPELINE, "DVC is not set up here", "dml dvc init, then commit .dvc")]
        return None
    dvc = dvc or Dvc(root, settings)
    return [
        *_outdated(dvc),
        *_not_pushed(dvc),
        *_not_committed(root),
        *_big_files(root, settings.dvc.max_git_mb),
    ]


def _outdated(dvc: Dvc) -> Iterator[Finding]:
    found = dvc.status()
    changes = [change for stage in found.values() for change in stage if isinstance(change, dict)]
    away = {path for change in changes for path, state in change.get("changed outs", {}).items() if state in _NOT_HERE}
    for stage, stage_changes in found.items():
        problems = list(_problems(stage_changes, away))
        fix = "dml dvc commit " + stage if stage.endswith(".dvc") else f"dml dvc repro {stage}"
        if problems:
            yield Finding("status", stage, "; ".join(problems), f"{fix}, then commit {LOCK}")


def _problems(changes: list[Any], away: set[str]) -> Iterator[str]:
    for change in changes:
        if not isinstance(change, dict):  # e.g. "changed command"
            yield "its command is not the one in the lock" if change == "changed command" else str(change)
            continue
        for what, files in change.items():
            for path, state in files.items():
                if isinstance(state, dict):  # parameters, by name
                    yield f"{what.removeprefix('changed ')}: " + ", ".join(f"{key} {how}" for key, how in state.items())
                elif not (path in away and state in _NOT_HERE):
                    yield f"{what.removeprefix('changed ')}: {path} {state}"


def _not_pushed(dvc: Dvc) -> Iterator[Finding]:
    if (remote := dvc.default_remote()) is None:
        yield Finding("remote", ".dvc/config", "it names no default remote", "dml dvc remote add -d local <folder>")
        return
    for path, state in sorted(dvc.remote_status().items()):
        if state == "new":
            yield Finding("remote", path, f"not in remote {remote[0]!r}", "dml dvc push")
        elif state == "missing":
            problem = f"neither here nor in remote {remote[0]!r}"
            yield Finding("remote", path, problem, "dml dvc repro && dml dvc push, or push it from where it was made")


def _not_committed(root: Path) -> Iterator[Finding]:
    # What decides which files a commit means, and what stages leave in git itself. What DVC keeps is ignored there.
    wanted = [".dvc/config", PIPELINE, LOCK, "params.yaml", ":(glob)**/*.dvc"]
    wanted += [f":(literal){path}" for path in read_hashes(root)]
    above = _git(root, "rev-parse", "--show-prefix").strip()
    changed = _git(root, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--", *wanted)
    for entry in filter(None, changed.split("\0")):
        name = entry[3:].removeprefix(above)
        yield Finding("git", name, "its change is not committed", f"git add {name} && git commit")


def _big_files(root: Path, limit_mb: float) -> Iterator[Finding]:
    listed = [line.split("\t", 1) for line in _git(root, "ls-files", "--stage", "-z", "--", ".").split("\0") if line]
    blobs = [(entry.split()[1], name) for entry, name in listed if not entry.startswith("160000")]
    sizes = _git(root, "cat-file", "--batch-check=%(objectsize)", stdin="\n".join(blob for blob, _ in blobs) + "\n")
    for (_, name), size in zip(blobs, sizes.split("\n"), strict=False):
        if size.isdigit() and int(size) > limit_mb * 1e6:
            yield Finding(
                "size",
                name,
                f"{int(size) / 1e6:.1f} MB in git, the limit is {limit_mb:g} MB (settings: dvc: max_git_mb)",
                f"git rm --cached {name} && dml dvc add {name}",
            )


def _git(root: Path, *arguments: str, stdin: str | None = None) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise ConfigError(
            f"cannot check the files of {root}",
            f"git says: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'nothing'}",
            "Run it in a clone of the project.",
        )
    return done.stdout
