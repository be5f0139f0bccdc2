"""The change log's section of a release: `python notes.py v1.2.3 dist/notes.md`, in a repository's folder.

Exit code 2, with a sentence that says what to do, where the tag, the version in pyproject.toml and the change log's
newest release do not agree.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


class ReleaseError(Exception):
    """The release cannot be made; the text says why and what to do."""


def read_notes(tag: str, pyproject: str, changelog: str) -> str:
    """The text below the version's heading.

    Raises:
        ReleaseError: tag, version and change log do not agree.
    """
    found = re.search(r"(?m)^\[project\][^\[]*?^version = \"([^\"]+)\"", pyproject)
    version = found.group(1) if found else None
    if tag != f"v{version}":
        raise ReleaseError(
            f"cannot release {tag!r}: pyproject.toml has version {version!r}.\n"
            f"Tag the commit that has the version, as v{version}, or correct the version and merge that first."
        )
    sections = re.split(r"(?m)^## +", changelog)[1:]
    released = [s for s in sections if not s.lower().startswith("unreleased")]
    heads = [re.split(r"[\s(]", s, maxsplit=1)[0].lstrip("v[").rstrip("]") for s in released]
    if not heads or heads[0] != version:
        newest = repr(heads[0]) if heads else "none"
        raise ReleaseError(
            f"cannot release {tag!r}: the newest release in CHANGELOG.md is {newest}.\n"
            f"Head what is new with '## {version}' and merge that first."
        )
    body = released[0].partition("\n")[2].strip()
    if not body:
        raise ReleaseError(
            f"cannot release {tag!r}: its section in CHANGELOG.md is empty.\n"
            "Write for users what is new, then tag again."
        )
    return body + "\n"


def main(tag: str, output: str) -> int:
    """Write the notes. Returns: the exit code."""
    try:
        notes = read_notes(tag, Path("pyproject.toml").read_text("utf-8"), Path("CHANGELOG.md").read_text("utf-8"))
    except (ReleaseError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(notes, encoding="utf-8")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python notes.py TAG FILE")
    sys.exit(main(*sys.argv[1:]))
