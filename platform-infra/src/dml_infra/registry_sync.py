"""The server's list of code locations and the one on the main branch of its repository, brought together.

Main decides which projects there are and with which settings, because people change it by pull requests. This server
decides which image of each is live, and which project was ended. So what was deployed or ended here since the last time
is committed to main, and then the server's file becomes main's. Nothing else of the working tree is touched, and it
matters not which commit is checked out: a server stays on its release while its list goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from dml_infra.errors import ConfigError, RetryableError
from dml_infra.installation import Installation
from dml_infra.records import read_records
from dml_infra.registry import TOP, committed_images, known_names, load_yaml, parse_registry
from dml_infra.registry_edit import difference, edit, with_entries, with_image, without
from dml_infra.workspace import deployed_projects, load_state

REMOTE = "origin"
# Somebody else's commit may come first, again and again: each time it is taken along.
ATTEMPTS = 8
_GIT_TIMEOUT_S = 120


@dataclass(frozen=True)
class Synced:
    """What a synchronisation did, or would do.

    Args:
        sent: what main was told, a line each: ``deploy(sales): sha256:…``.
        brought: the change of the server's file as a unified diff.
        unlisted: projects of the server's file that main does not list; whether each is live here.
    """

    sent: tuple[str, ...] = ()
    brought: str = ""
    unlisted: Mapping[str, bool] = field(default_factory=dict)

    @property
    def differs(self) -> bool:
        """Whether server and main were not the same."""
        return bool(self.sent or self.brought or self.unlisted)


def sync(installation: Installation, *, check: bool = False) -> Synced:
    """Tell main what is live here, then take over its list.

    Args:
        installation: a clone of the repository, or a folder of one.
        check: change nothing, only say what would be.

    Raises:
        ConfigError: this is no clone, main's list is wrong, or main does not take the commit.
        RetryableError: main does not stand still, or the remote does not answer.
    """
    branch = _Branch(installation)
    lock = installation.state / "locks" / "sync.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(lock), timeout=_GIT_TIMEOUT_S):
        for _ in range(ATTEMPTS):
            commit, text = branch.fetch()
            live, told = _live(installation), _told(installation)
            # Never told: whatever was ended here may still be on main's list.
            ended = (set(told) or _names(text, branch.file)) - live.keys()
            ended = {name for name in ended if _was_removed(installation, name)}
            new, sent = _tell(text, branch.file, live, told, ended)
            if check or new == text or branch.push(commit, new, sent):
                break
        else:
            raise RetryableError(
                f"cannot push to {branch.name}",
                f"somebody else's commit came first {ATTEMPTS} times",
                "Run it again: dml infra sync.",
            )
        parse_registry(new, path=branch.file, known=known_names(installation))
        listed = _names(new, branch.file)
        unlisted = {name: name in live for name in _only_here(installation, listed, live)}
        if check:
            here = installation.registry_file.read_text(encoding="utf-8")
            return Synced(sent, difference(here, _here(installation, here, new, listed, told)), unlisted)
        told = {name: image for name, image in live.items() if name in listed}
        _remember(installation, told)
        brought = edit(installation, lambda text, _: _here(installation, text, new, listed, told))
    return Synced(sent, brought, unlisted)


def _tell(
    text: str, path: Path, live: Mapping[str, str], told: Mapping[str, str], ended: Iterable[str]
) -> tuple[str, tuple[str, ...]]:
    """Main's list with what happened here since it was last told, and what that is."""
    sent = []
    images = {location.name: location.image for location in parse_registry(text, path=path)}
    for name, image in sorted(live.items()):
        # An image that main has and this server never told is a person's wish: it stays until a deploy.
        if name in images and told.get(name) != image != images[name]:
            text = with_image(text, path, name, image)
            sent.append(f"deploy({name}): {image.partition('@')[2]}")
    for name in sorted(set(ended) & images.keys()):
        text = without(text, path, name)
        sent.append(f"remove({name})")
    return text, tuple(sent)


def _here(installation: Installation, here: str, new: str, listed: set[str], told: Mapping[str, str]) -> str:
    """The server's list: main's, what main does not list yet, and what went live while this was done."""
    path, live = installation.registry_file, _live(installation)
    kept = _only_here(installation, listed, live)
    if kept:
        entries = load_yaml(here, path)[TOP]
        new = with_entries(new, path, [entry for entry in entries if entry.get("name") in kept])
    for name in sorted(listed & live.keys()):
        if told.get(name) != live[name]:
            new = with_image(new, path, name, live[name])
    return new


def _only_here(installation: Installation, listed: set[str], live: Mapping[str, str]) -> list[str]:
    """Projects of the server's file that main does not list: live, or registered here.

    What is not live and came with the commit that is checked out was taken off main since.
    """
    file = installation.registry_file
    names = _names(file.read_text(encoding="utf-8"), file)
    released = committed_images(file)
    return sorted(name for name in names - listed if name in live or name not in released)


def _names(text: str, path: Path) -> set[str]:
    return {str(entry.get("name")) for entry in load_yaml(text, path)[TOP]}


def _live(installation: Installation) -> dict[str, str]:
    """Image by name of what is live on this server."""
    states = (load_state(installation, name) for name in deployed_projects(installation))
    return {state.project: state.live.image for state in states if state.live and state.phase != "removing"}


def _was_removed(installation: Installation, project: str) -> bool:
    records = read_records(installation, project)
    return bool(records) and records[-1].outcome == "removed"


def _told_file(installation: Installation) -> Path:
    return installation.state / "told.json"


def _told(installation: Installation) -> dict[str, str]:
    """Image by name as main was last told."""
    path = _told_file(installation)
    if not path.is_file():
        return {}
    try:
        found: dict[str, str] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"cannot read {path}", str(error), "Remove it: main is then told everything again."
        ) from error
    return found


def _remember(installation: Installation, told: dict[str, str]) -> None:
    path = _told_file(installation)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)


class _Branch:
    """The list on the remote's main branch; read and written without a working tree."""

    def __init__(self, installation: Installation) -> None:
        self._root = installation.root
        file = installation.registry_file.relative_to(self._root)
        self._path = self._git("rev-parse", "--show-prefix", why="this is no clone of its repository").strip() + str(
            file
        )
        head = self._run("symbolic-ref", "--short", f"refs/remotes/{REMOTE}/HEAD")
        self._branch = head.stdout.strip().partition("/")[2] if head.returncode == 0 else "main"

    @property
    def name(self) -> str:
        """For messages, e.g. ``origin/main``."""
        return f"{REMOTE}/{self._branch}"

    @property
    def file(self) -> Path:
        """For messages: where the list is."""
        return Path(f"{self.name}:{self._path}")

    def fetch(self) -> tuple[str, str]:
        """The newest commit, and the list in it."""
        reference = f"refs/remotes/{self.name}"
        done = self._run("fetch", "--quiet", "--no-tags", REMOTE, f"+refs/heads/{self._branch}:{reference}")
        if done.returncode:
            raise RetryableError(
                f"cannot fetch {self.name}", _last(done), f"In {self._root}, make this work: git fetch {REMOTE}."
            )
        commit = self._git("rev-parse", reference, why="it has no commit").strip()
        return commit, self._git("show", f"{commit}:{self._path}", why=f"it has no {self._path}")

    def push(self, parent: str, text: str, lines: tuple[str, ...]) -> bool:
        """Commit the list upon `parent` and push it. Returns: false where another commit was faster."""
        message = lines[0] if len(lines) == 1 else "registry: " + ", ".join(line.partition(":")[0] for line in lines)
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            blob = self._git("hash-object", "-w", "--stdin", text=text).strip()
            self._git("read-tree", parent, **index)
            self._git("update-index", "--cacheinfo", f"100644,{blob},{self._path}", **index)
            tree = self._git("write-tree", **index).strip()
        body = ["-m", "\n".join(lines)] if len(lines) > 1 else []
        commit = self._git("commit-tree", tree, "-p", parent, "-m", message, *body).strip()
        done = self._run("push", "--quiet", REMOTE, f"{commit}:refs/heads/{self._branch}")
        if done.returncode == 0:
            return True
        if self.fetch()[0] != parent:
            return False
        raise ConfigError(
            f"cannot push the list to {self.name}",
            f"git does not take it: {_last(done)}",
            "Let this server's key push to that branch (docs/runbooks/runner.md); then: dml infra sync.",
        )

    def _git(self, *arguments: str, text: str | None = None, why: str = "", **variables: str) -> str:
        done = self._run(*arguments, text=text, **variables)
        if done.returncode:
            raise ConfigError(
                "cannot bring the list and its repository together",
                ": ".join(part for part in (why, _last(done)) if part),
                f"Make {self._root} a clone that may push, with an author for its commits (docs/runbooks/runner.md).",
            )
        return done.stdout

    def _run(self, *arguments: str, text: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **variables}
        try:
            return subprocess.run(
                ["git", *arguments],
                cwd=self._root,
                env=environment,
                input=text or "",
                capture_output=True,
                text=True,
                timeout=_GIT_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise ConfigError("cannot run git", "there is none here", "Install git.") from error
        except subprocess.TimeoutExpired as error:
            raise RetryableError(
                f"cannot run git {arguments[0]}", f"no end after {_GIT_TIMEOUT_S} s", "Look at the remote, then again."
            ) from error


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """What git said, on one line."""
    return "; ".join(line.strip() for line in done.stderr.strip().splitlines()[-4:]) or f"exit code {done.returncode}"
