#!/usr/bin/env python3
"""Types the pages that need no server into a copy of the tree with a project of its own, and compares what came out.

    tree/guides.py [--write] [--keep FOLDER] [PAGE ...]

What a block means is in tree/tutorial.py. Besides, `RUN` is the id of the run or check that a block printed last.
tests/test_guides.py does this for every page of :data:`PAGES`; `--write` writes down what really came out.
"""

from __future__ import annotations

import argparse
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import tutorial

ROOT = Path(__file__).resolve().parent.parent
PROJECT, STATE = "project-marketing", ".dml"
# Page or pages, and the folder of the tree in which they are typed.
PAGES = {
    "README.md": ".",
    "docs/polyrepo.md": ".",
    "docs/how-to/*.md": PROJECT,
    "platform-base-image/docs/*.md": PROJECT,
}
# Why a block is not typed by this or by tree/tutorial.py.
NOT_RUN = {
    "checks": "is the set-up and the checks of that repository, which its own workflow runs",
    "clone": "the clone is made from this tree instead",
    "docker": "needs a Docker engine: tests/test_images.py and the sessions `image` and `stack` build and run images",
    "elementary": "needs Elementary's dbt package, from the hub or a mirror; platform-base-image tests it",
    "hooks": "writes into the repository's hooks; tests/test_hooks.py runs them",
    "interactive": "goes on until somebody stops it: tests/test_up.py starts it, uses it in a browser and stops it",
    "launcher": "installs for minutes; tests/test_launcher.py runs the launcher",
    "openmetadata": "needs an OpenMetadata: the session `publisher` of platform-base-image has a stand-in of its API",
    "project-sales": "is about that project: its own tests run its pipeline and its stages",
    "push": "pushes to the company's git server, or names a commit that is on it",
    "readme": "stands in README.md as well, and what is said there of it holds here",
    "released": "needs a released template: project-template/tests/test_update.py makes releases and updates to them",
    "rendered": "asks; tests/test_guides.py and project-template/tests make such projects without being asked",
    "slow": "installs or tests a repository for minutes: the sessions `alone` and `integration-long` do it",
    "team": "needs a registry and a server: the server's tests take such projects through the same commands",
    "tested": "tests/test_docs.py types it",
    "tree": "is what CI runs",
    "two-clones": "is for repositories that were split, side by side; tests/test_split.py splits them",
}
# The run or check that an output names: where a check says how to look and where a run ends; in a table's history.
_ENDED = re.compile(r"(?:--run |· run )((?:ci)?[0-9a-f]{8,})\b")
_PUBLISHED = re.compile(r"^\d{12,}  .*  ([0-9a-f]{8})  [0-9a-f]{12}(?:-dirty)?$", re.MULTILINE)


class Guest(tutorial.Reader):
    """Somebody who types pages in a copy of the tree, in which `dml new` made a project."""

    def __init__(self, place: Path, receiver: str) -> None:
        """Copy the tree into an empty folder and make the project; ``receiver`` takes what alerts send."""
        self.clone = self.here = place / "dml"
        self.project, self.aside = self.clone / PROJECT, place / PROJECT
        self.env = tutorial.environment()
        programs = str(Path(sys.executable).parent)
        self.env |= {"PATH": f"{programs}{os.pathsep}{self.env['PATH']}", "MARKETING_CHAT_URL": receiver}
        _copy_tree(self.clone)
        # tests/test_launcher.py tests the launcher; here it would install everything once more.
        (self.clone / "dml").write_text(f'#!/bin/sh\nexec "{programs}/dml" "$@"\n', encoding="utf-8")
        self._git(self.clone, "init", "--quiet", "--initial-branch=main")
        self._git(self.clone, "add", "--all")
        self._git(self.clone, "commit", "--quiet", "--message=feat: the tree")
        new = "./dml new marketing --owner team:marketing --alerts marketing@example.com --defaults"
        made = self.type(new)
        if made.code:
            raise RuntimeError(f"{new!r} ended with {made.code}:\n{made.output}")
        self.first = self._git(self.project, "rev-parse", "HEAD")
        self.lake = place / "lake-as-made"
        shutil.copytree(self.project / STATE, self.lake)

    def type(self, commands: str) -> tutorial.Outcome:
        """Run a block; remember which run or check it was."""
        outcome = super().type(commands)
        # A history has the newest at the top.
        named = _ENDED.findall(outcome.output) or _PUBLISHED.findall(outcome.output)[:1]
        if named:
            self.env["RUN"] = named[-1]
        return outcome

    def open(self, page: str) -> None:
        """Begin a page: in its folder, with the project and its lake as they were made, so that pages need no order."""
        if self.aside.exists():
            self.aside.rename(self.project)
        for command in (["switch", "--quiet", "--force", "main"], ["reset", "--quiet", "--hard", self.first]):
            self._git(self.project, *command)
        self._git(self.project, "clean", "--quiet", "--force", "-d")
        shutil.rmtree(self.project / STATE)
        shutil.copytree(self.lake, self.project / STATE)
        self.here = self.clone / folder_of(page)
        if self.here == self.clone:
            # Who types these has made no project yet, and commands that take the only one find sales.
            self.project.rename(self.aside)

    def _git(self, folder: Path, *arguments: str) -> str:
        command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", *arguments]
        done = subprocess.run(command, cwd=folder, env=self.env, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()


class Receiver:
    """A chat that takes every message, while it is entered."""

    def __enter__(self) -> str:
        """Its address."""

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the output is compared."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


def _copy_tree(target: Path) -> None:
    """What a commit made now would hold; in an exported tree without git, everything but what tools make."""
    made = {".dml", ".git", ".nox", ".venv", "__pycache__", "dist", "logs", "target"}
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0")
        names = [name for name in listed if name and (ROOT / name).is_file()]
    else:
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        names = [str(path) for path in paths if not made & set(path.parts)]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def has_commands(text: str) -> bool:
    """Whether a page has a block that is typed."""
    blocks = (match for match in tutorial.FENCE.finditer(text) if match[1] == "sh")
    return any("not-run=" not in (match[2] or "") for match in blocks)


def pages() -> list[str]:
    """The pages that are typed, by their path in the tree."""
    found = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    return [path.relative_to(ROOT).as_posix() for path in found if has_commands(path.read_text(encoding="utf-8"))]


def folder_of(page: str) -> str:
    """Where somebody types a page."""
    return next(folder for pattern, folder in PAGES.items() if Path(page).match(pattern))


def main(arguments: list[str] | None = None) -> int:
    """Type pages; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", nargs="*", help="path in the tree; default: all")
    parser.add_argument("--write", action="store_true", help="write what came out into the pages")
    parser.add_argument("--keep", type=Path, help="work in this empty folder and leave it")
    asked = parser.parse_args(arguments)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, Receiver() as receiver:
        guest = Guest(asked.keep or Path(scratch), receiver)
        for page in asked.page or pages():
            guest.open(page)
            text, found = tutorial.follow((ROOT / page).read_text(encoding="utf-8"), guest)
            if asked.write:
                (ROOT / page).write_text(text, encoding="utf-8")
                found = [fault for fault in found if "ended with" in fault]
            faults += [f"{page}: {fault}" for fault in found]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
