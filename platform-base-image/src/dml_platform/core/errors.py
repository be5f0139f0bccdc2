"""The platform's errors: one sentence on what failed, one on why, one on what to do next.

PlatformError
├── RetryableError          trying again can help
│   └── PublishConflictError
└── PermanentError          trying again without a change cannot help
    ├── ConfigError
    ├── SchemaMismatchError
    ├── SourceError
    │   └── TooManyRejectsError
    └── ChecksFailedError

What belongs here: the tree above. What does not: errors of one service that nobody catches by type.
"""

from __future__ import annotations

from typing import ClassVar


class PlatformError(Exception):
    """An error that a person can act on.

    Args:
        what: what was attempted, e.g. ``"cannot land 'sales.raw.shop__orders'"``.
        why: what was found instead.
        fix: what to do next, as an imperative.
    """

    exit_code: ClassVar[int] = 1
    allow_retries: ClassVar[bool] = False

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}: {self.why.rstrip('.')}.\n{self.fix}"


class RetryableError(PlatformError):
    """The same call may succeed later: a lost race, a busy server, a cut connection."""

    exit_code = 75  # EX_TEMPFAIL
    allow_retries = True


class PermanentError(PlatformError):
    """The same call fails again until somebody changes something."""


class ConfigError(PermanentError):
    """A setting, a file of the project or an argument is wrong or missing."""

    exit_code = 2


class SchemaMismatchError(PermanentError):
    """The rows do not fit the table and the table cannot be widened to take them."""


class SourceError(PermanentError):
    """A file or a connector did not deliver what it promised."""


class TooManyRejectsError(SourceError):
    """More rows failed to parse than the source's settings allow."""

    exit_code = 3


class ChecksFailedError(PermanentError):
    """A blocking check failed, so nothing of the step was published."""

    exit_code = 3


class PublishConflictError(RetryableError):
    """``main`` of a table moved while the step ran, so publishing would have lost rows."""
