"""An installation as a clone of its repository, with the hosting beside it. No test in here."""

from __future__ import annotations

from pathlib import Path

from stack.engine import sh
from stack.server import COPIED

LIST = "registry/code-locations.yaml"


def git(root: Path, *arguments: str) -> str:
    """What a git command printed."""
    return sh("git", *arguments, cwd=root).stdout.strip()


def make_clone(root: Path, hosting: Path) -> None:
    """Turn an installation's folder into a clone that stands on its release, with an author for its commits."""
    hosting.mkdir(parents=True)
    git(hosting, "init", "--quiet", "--bare", "--initial-branch=main")
    git(root, "init", "--quiet", "--initial-branch=main")
    _name(root, "dml deploys")
    git(root, "add", *COPIED)
    git(root, "commit", "--quiet", "--message=first release")
    git(root, "tag", "v0.0.1")
    git(root, "remote", "add", "origin", str(hosting))
    git(root, "push", "--quiet", "--tags", "origin", "main")
    git(root, "switch", "--quiet", "--detach", "v0.0.1")


def clone(hosting: Path, place: Path) -> Path:
    """A person's clone."""
    git(hosting, "clone", "--quiet", str(hosting), str(place))
    _name(place, "Ada")
    return place


def merge(person: Path, message: str) -> None:
    """What a person changed in a clone arrives on main, as by a pull request."""
    git(person, "commit", "--quiet", "--all", f"--message={message}")
    git(person, "pull", "--quiet", "--rebase", "origin", "main")
    git(person, "push", "--quiet", "origin", "HEAD:main")


def _name(root: Path, who: str) -> None:
    git(root, "config", "user.name", who)
    git(root, "config", "user.email", "test@example.com")
