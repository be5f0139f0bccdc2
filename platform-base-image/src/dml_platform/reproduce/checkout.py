"""A commit's files in a folder of their own, from a clone of this machine or from the repository's address.

Of a clone the objects are shared, not copied; unlike a worktree nothing is written into it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.project import Project, read_project

DIRTY = "-dirty"
_TIMEOUT_S = 900.0


def clone(source: Path | str, folder: Path) -> None:
    """Clone without files.

    Args:
        source: any folder of a clone, or an address that git understands.
    Raises:
        ConfigError: a folder that is in no repository.
        RetryableError: the repository cannot be reached.
    """
    if isinstance(source, Path):
        top = _git(source, "rev-parse", "--show-toplevel")
        if top.returncode != 0:
            raise ConfigError(
                "cannot restore the commit of the run",
                f"{source} is in no git repository",
                "Name the project's repository with --repo.",
            )
        options, address = ["--shared"], top.stdout.strip()
    else:
        options, address = [], source
    done = _git(folder.parent, "clone", "--quiet", "--no-checkout", *options, address, str(folder))
    if done.returncode != 0:
        raise RetryableError(
            f"cannot clone {address}", _last_line(done), "Check the address, the network and your rights."
        )


def folder_name(source: Path | str) -> str:
    """What to name a clone: as the repository, since a project's module may be named after its folder."""
    if isinstance(source, Path):
        top = _git(source, "rev-parse", "--show-toplevel").stdout.strip()
        return Path(top or source).name
    return re.split(r"[/:\\]", source.rstrip("/"))[-1].removesuffix(".git") or "project"


def check_out(folder: Path, commit: str, name: str, *, allow_dirty: bool = False) -> Project:
    """Bring a clone to a commit and find the project in it.

    Raises:
        PermanentError: the commit was not recorded, had changes that nobody committed, or is not in the repository.
    """
    what = f"cannot restore the commit of the run ({commit})"
    if commit.removesuffix(DIRTY) in ("", "unknown"):
        raise PermanentError(
            what, "the run was started outside of a git repository", "Only runs of committed code can be made again."
        )
    if commit.endswith(DIRTY) and not allow_dirty:
        raise PermanentError(
            what,
            "files were changed and not committed when it ran, so its code is not in git",
            "Add --allow-dirty to try the commit without those changes.",
        )
    done = _git(folder, "checkout", "--quiet", "--detach", commit.removesuffix(DIRTY))
    if done.returncode != 0:
        raise PermanentError(
            what, f"git says: {_last_line(done)}", "Fetch it, or name a repository that has it with --repo."
        )
    return find_project(folder, name)


def find_project(folder: Path, name: str | None) -> Project:
    """The project of that name in a checkout, or its only one; at the top, or one folder below.

    Raises:
        ConfigError: there is none, or there are several and none was named.
    """
    places = [folder, *sorted(path.parent for path in folder.glob("*/pyproject.toml"))]
    found = [project for place in places if (project := read_project(place)) and name in (None, project.name)]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"cannot find project {name!r} in the repository" if name else "cannot choose a project of the repository",
        f"it has {', '.join(project.name for project in found) or 'no such project'}",
        "Name the right one with --project, or another repository with --repo.",
    )


def head(folder: Path) -> None:
    """Check out what the repository's own HEAD is."""
    _git(folder, "checkout", "--quiet", "--detach", "HEAD")


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "git gave no reason"
