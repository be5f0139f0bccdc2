"""What has to be true of the host and of the installation's files before anything is changed.

Each check is a function from an installation to findings; it looks and changes nothing. ``preflight`` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from dml_infra.installation import Installation

State = Literal["ok", "warning", "failed", "not checked"]


@dataclass(frozen=True)
class Finding:
    """One line of the preflight.

    Args:
        state: ``failed`` forbids to go on.
        text: what was found, with values and units.
        fix: what to do about it; empty where nothing has to be done.
    """

    state: State
    text: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """As plain values."""
        return asdict(self)


Check = Callable[[Installation], Iterator[Finding]]


def ok(text: str) -> Finding:
    """All is well."""
    return Finding("ok", text)


def failed(text: str, fix: str) -> Finding:
    """Must be mended first."""
    return Finding("failed", text, fix)


def warning(text: str, fix: str) -> Finding:
    """Works now, but somebody should know."""
    return Finding("warning", text, fix)


def unchecked(why: str) -> Finding:
    """Could not be found out from here."""
    return Finding("not checked", why)
