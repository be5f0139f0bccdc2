"""The server part's errors: one sentence on what failed, one on why, one on what to do next.

InfraError
├── RetryableError          trying again can help
└── PermanentError          trying again without a change cannot help
    ├── ConfigError         a setting, a file of the installation or an argument is wrong
    ├── CheckFailedError    a check before or after a change failed; nothing of it was kept
    └── EngineError         the Docker program failed or is not there

What belongs here: the tree above. What does not: errors of one module that nobody catches by type.
Exit codes are those of the command line that this plugs into: 1 failed, 2 wrong usage or configuration, 3 a check
failed, 75 worth trying again.
"""

from __future__ import annotations

from typing import ClassVar


class InfraError(Exception):
    """An error that a person can act on.

    Args:
        what: what was attempted, e.g. ``"cannot deploy 'sales'"``.
        why: what was found instead.
        fix: what to do next, as an imperative.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}: {self.why.rstrip('.')}.\n{self.fix}"


class RetryableError(InfraError):
    """The same call may succeed later: a busy server, a held lock, a cut connection."""

    exit_code = 75  # EX_TEMPFAIL


class PermanentError(InfraError):
    """The same call fails again until somebody changes something."""


class ConfigError(PermanentError):
    """A setting, a file of the installation or an argument is wrong or missing."""

    exit_code = 2


class CheckFailedError(PermanentError):
    """A check failed, so nothing of the step was kept."""

    exit_code = 3


class EngineError(PermanentError):
    """Docker failed, or is not there."""
