#!/usr/bin/env python3
"""Makes the five repositories out of this tree, each with the history of its folder.

    tree/split.py DESTINATION [FOLDER ...] [--ref main]

A commit of the tree becomes a commit of each repository whose folder it changes, with its author, dates and message;
a tag `FOLDER/v1.2.3` becomes `v1.2.3`. The same commits always come out with the same ids, so a second split, made when
the tree has moved on, can be pushed onto what was published of the first. Uncommitted changes stay behind.

Belongs here: cutting history. Needs git and Python's standard library only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["platform-base-image", "project-sales", "platform-infra", "project-template", "ci-templates"]


class SplitError(Exception):
    """What is wrong, and what to do."""


def git(source: Path, *arguments: str) -> str:
    """What a git command prints.

    Raises: SplitError: it failed.
    """
    command = ["git", "-C", str(source), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SplitError(f"cannot split: {' '.join(command)} says: {done.stderr.strip()}")
    return done.stdout


def check(source: Path, destination: Path, folders: list[str], ref: str) -> None:
    """Find everything that would stop a split, before anything is written.

    Raises: SplitError: names each.
    """
    if git(source, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise SplitError("cannot split: this clone is shallow. Fetch its history: git fetch --unshallow")
    git(source, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    listed = git(source, "ls-tree", "-d", "--name-only", ref).splitlines()
    faults = [f"there is no folder {folder!r} in {ref}" for folder in folders if folder not in listed]
    faults += [f"{destination / folder} is there already" for folder in folders if (destination / folder).exists()]
    if faults:
        raise SplitError(f"cannot split: {'; '.join(faults)}. Name another destination or other folders.")


def split(source: Path, destination: Path, folder: str, ref: str = "main") -> Path:
    """Write one folder's history into a repository of its own, with its files checked out.

    Returns: the repository.
    """
    repository = destination / folder
    git(source, "init", "--quiet", "--initial-branch=main", str(repository))
    commit = git(source, "rev-parse", f"{ref}^{{commit}}").strip()
    tags = git(source, "tag", "--list", f"{folder}/*", "--merged", commit).split()
    with tempfile.TemporaryDirectory() as scratch:
        # Git exports what has a name. The tree itself gets no new one, so this borrows its objects.
        git(source, "clone", "--quiet", "--bare", "--shared", str(source), scratch)
        git(Path(scratch), "update-ref", "refs/split/main", commit)
        names = ["refs/split/main", *(f"refs/tags/{tag}" for tag in tags)]
        pump(Path(scratch), repository, folder, names)
    git(repository, "reset", "--quiet", "--hard", "main")
    return repository


def pump(source: Path, repository: Path, folder: str, names: list[str]) -> None:
    """Let git write the history of a folder and, moved up, read it into another repository."""
    options = ["--tag-of-filtered-object=rewrite", "--signed-tags=strip", "--reencode=no"]
    # git fast-export forgets the "--" (seen in 2.39): only a path that cannot be a name is taken for a path.
    exported = ["git", "-C", str(source), "fast-export", *options, *names, "--", f":(top,literal){folder}"]
    imported = ["git", "-C", str(repository), "fast-import", "--quiet"]
    with (
        subprocess.Popen(exported, stdout=subprocess.PIPE) as export,
        subprocess.Popen(imported, stdin=subprocess.PIPE) as import_,
    ):
        assert export.stdout
        assert import_.stdin
        for part in moved_up(export.stdout, folder):
            import_.stdin.write(part)
        import_.stdin.close()
    if export.returncode or import_.returncode:
        raise SplitError(f"cannot split {folder}: git ended before its history did (see above)")


def moved_up(stream: IO[bytes], folder: str) -> Iterator[bytes]:
    """The stream of `git fast-export` for one folder, with the folder's name taken from all paths and tags."""
    prefix = folder.encode() + b"/"
    while line := stream.readline():
        if line.startswith(b"data "):  # its bytes may look like anything
            yield line + stream.read(int(line[5:]))
        elif line.startswith((b"M ", b"D ")):
            # "M 100644 :7 path" or "D path"; a path with odd letters is in quotes
            fields = line.split(b" ", 3 if line.startswith(b"M") else 1)
            quote = b'"' if fields[-1].startswith(b'"') else b""
            yield b" ".join([*fields[:-1], quote + fields[-1].removeprefix(quote).removeprefix(prefix)])
        elif line.startswith(b"tag "):
            yield line.replace(b"tag " + prefix, b"tag ", 1)
        elif line.startswith((b"commit ", b"reset ")):
            line = line.replace(b" refs/split/main", b" refs/heads/main")
            yield line.replace(b" refs/tags/" + prefix, b" refs/tags/", 1)
        else:
            yield line


def main(arguments: list[str] | None = None) -> int:
    """Split as the command line says; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("destination", type=Path, help="folder for the repositories; made when it is not there")
    parser.add_argument("folders", nargs="*", help=f"default: {', '.join(FOLDERS)}")
    parser.add_argument("--ref", default="main", help="branch, tag or commit to split (default: main)")
    parser.add_argument("--source", type=Path, default=ROOT, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    folders = asked.folders or FOLDERS
    try:
        check(asked.source, asked.destination.resolve(), folders, asked.ref)
        for folder in folders:
            made = split(asked.source, asked.destination.resolve(), folder, asked.ref)
            count = git(made, "rev-list", "--count", "main").strip()
            print(f"{made}: {count} commits", flush=True)
    except SplitError as error:
        print(error, file=sys.stderr)
        return 1
    print("Publish each: git -C FOLDER push ADDRESS main --tags")
    return 0


if __name__ == "__main__":
    sys.exit(main())
