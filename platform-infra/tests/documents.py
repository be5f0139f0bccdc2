"""What README and runbooks tell people to type: blocks of commands, and how each is tested. No test in here.

A block of commands begins with one of these lines:

- ```` ```sh ````: `tests/stack/test_09_runbooks.py` runs it in the document's order, on a server of its own.
- ```` ```sh set ````: example values of variables that a person fills in; that test gives its own.
- ```` ```sh not-run=REASON ````: cannot run there. REASON is a key of :data:`NOT_RUN`; the commands are still parsed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RUNBOOKS = ROOT / "docs" / "runbooks"
DOCUMENTS = [README, *sorted(RUNBOOKS.glob("*.md"))]
NOT_RUN = {
    "build": "the stack tests build the images with these options, and with the certificates of the machine that tests",
    "checks": "the workflow of this repository runs exactly this",
    "cron": "would write into the crontab of the machine that tests; the command in it is run in the same runbook",
    "fetch": "needs a published release; tests run the files that are here",
    "online": "asks the images' public registries; tests/test_commands.py runs it with a registry's answers",
    "outside": "needs a service of the company; tests/test_portainer.py runs it with a stand-in of Portainer",
    "review": "is a pull request in the company's own repository",
    "runner": "needs an organisation on GitHub; ci-templates runs the job that deploys by act, with stand-ins",
    "s3": "needs an S3 service outside; tests/services/test_backup.py does it with a second object store",
}
_FENCE = re.compile(r"^```(\w*)(?:[ \t]+([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Commands of a document. ``how`` is empty, ``set`` or ``not-run=…``."""

    document: Path
    heading: str
    how: str
    text: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.document.name}, {self.heading!r}"

    @property
    def variables(self) -> list[str]:
        """Names that it assigns at the beginning of a line."""
        return re.findall(r"^([A-Z_]+)=", self.text, re.MULTILINE)


def prose(document: Path) -> str:
    """A document without its blocks."""
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def languages(document: Path) -> list[tuple[str, str, str]]:
    """Language, the rest of the line, and text of each block."""
    return [(m[1], (m[2] or "").strip(), m[3]) for m in _FENCE.finditer(document.read_text(encoding="utf-8"))]


def blocks(document: Path) -> list[Block]:
    """The blocks of commands, in order."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match[1] != "sh":
            continue
        outside = _FENCE.sub(lambda m: "\n" * m[0].count("\n"), text[: match.start()])
        heading = _HEADING.findall(outside)[-1]
        found.append(Block(document, heading, (match[2] or "").strip(), match[3]))
    return found
