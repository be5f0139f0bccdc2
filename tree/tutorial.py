#!/usr/bin/env python3
"""Types docs/tutorial.md into a fresh clone and compares, or writes down, what came out.

    tree/tutorial.py [--write] [--keep FOLDER]

A block of the page is one of these:

- ```` ```sh ````: typed in order, in one folder; with `exit=3` it has to end so. `not-run=REASON` is only shown, and
  so is `set`: values of variables that each reader has of their own.
- ```` ```text ````: what the block before printed. Numbers, ids and times may differ from run to run, words may not.
- ```` ```sql title="path" ```` (or another language): a file that the reader writes.

tree/guides.py does the same for the other pages.

Needs git, a package index, and what `./dml demo` needs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What uv says while it installs: it depends on what it had before.
INSTALLER = re.compile(
    r"^(?: [+~-] \S+==\S+|Using|Resolved|Prepared|Installed|Uninstalled|Bytecode|Download|dml: fetching|installing )"
    r"[^\n]*\n",
    re.MULTILINE,
)
IDENTITY = {"NAME": "Ada", "EMAIL": "ada@example.com"}


def environment() -> dict[str, str]:
    """This process's, without settings of the platform, with somebody's name for git."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DML_") or name == "DML_PYTHON"}
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in IDENTITY.items()}
    return {**kept, **who, "COLUMNS": "110", "NO_COLOR": "1", "UV_LINK_MODE": "copy"}


@dataclass
class Outcome:
    """How a block ended, and what it printed."""

    code: int
    output: str


class Reader:
    """Somebody who types the page, with a clone whose origin is a repository beside it."""

    def __init__(self, place: Path) -> None:
        """Make origin and clone in an empty folder."""
        origin, self.clone = place / "origin.git", place / "dml"
        self.here = self.clone
        self.env = environment()
        subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, origin], check=True)
        subprocess.run(["git", "-C", origin, "update-ref", "refs/heads/main", "HEAD"], check=True)
        subprocess.run(["git", "clone", "--quiet", "--branch=main", origin, self.clone], check=True)

    def type(self, commands: str) -> Outcome:
        """Run a block as a shell would, stopping at the first command that fails."""
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.here,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, self.tidy(done.stdout))

    def write(self, name: str, text: str) -> None:
        """Make a file of the clone."""
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def tidy(self, output: str) -> str:
        """Without this machine's paths and times, colours, the list of packages and trailing blanks."""
        output = re.sub(r"\x1b\[[0-9;]*m", "", output.replace(str(self.clone), "~/dml"))
        output = re.sub(r"\b\d+(?:\.\d+)? s\b", "… s", output)
        output = INSTALLER.sub("", output)
        return "".join(f"{line.rstrip()}\n" for line in output.strip("\n").splitlines())


def words(text: str) -> list[str]:
    """What may not differ from run to run: the words of each line that has some, without numbers, ids and times."""
    bare = re.sub(r"\b(?:ci|rb)?[0-9a-f]{6,}\b|\d+", "", text)
    return sorted({" ".join(re.findall(r"[A-Za-z_]{3,}", line)) for line in bare.splitlines()} - {""})


def follow(page: str, reader: Reader) -> tuple[str, list[str]]:
    """Type all blocks.

    Returns: the page with what really came out, and what was not as the page says.
    """
    faults: list[str] = []
    last: Outcome | None = None

    def block(match: re.Match[str]) -> str:
        nonlocal last
        language, info, text = match[1], match[2] or "", match[3]
        if title := re.search(r'title="([^"]+)"', info):
            reader.write(title[1], text)
        elif language == "sh" and ("not-run=" in info or info == "set"):
            last = None
        elif language == "sh":
            expected = int((re.search(r"exit=(\d+)", info) or [0, 0])[1])
            print(f"$ {text.strip()}", flush=True)
            last = reader.type(text)
            print(last.output, flush=True)
            if last.code != expected:
                faults.append(f"{text.strip()!r} ended with {last.code} and not {expected}:\n{last.output}")
        elif language == "text" and last:
            missing = sorted(set(words(text)) ^ set(words(last.output)))
            if missing:
                faults.append(f"not the same on the page and in the output: {missing}")
            return f"```text\n{last.output}```"
        return match[0]

    return FENCE.sub(block, page), faults


def main(arguments: list[str] | None = None) -> int:
    """Follow the page; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write what came out into the page")
    parser.add_argument("--keep", type=Path, help="work in this empty folder and leave it")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        place = asked.keep or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        page, faults = follow(PAGE.read_text(encoding="utf-8"), Reader(place))
    if asked.write:
        PAGE.write_text(page, encoding="utf-8")
        faults = [fault for fault in faults if "ended with" in fault]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
