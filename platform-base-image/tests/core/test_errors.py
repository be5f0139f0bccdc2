from __future__ import annotations

import pickle

from dml_platform.core.errors import (
    ChecksFailedError,
    ConfigError,
    PermanentError,
    PlatformError,
    PublishConflictError,
    RetryableError,
    TooManyRejectsError,
)


def test_message_is_what_why_and_fix() -> None:
    error = ConfigError("cannot x", "y is missing.", "Set y.")
    assert str(error) == "cannot x: y is missing.\nSet y."
    assert (error.what, error.why, error.fix) == ("cannot x", "y is missing.", "Set y.")


def test_class_says_whether_a_retry_helps_and_how_a_program_ends() -> None:
    assert issubclass(PublishConflictError, RetryableError)
    assert PublishConflictError.allow_retries
    assert not PermanentError.allow_retries
    assert (RetryableError.exit_code, ConfigError.exit_code, PlatformError.exit_code) == (75, 2, 1)
    assert ChecksFailedError.exit_code == TooManyRejectsError.exit_code == 3


def test_errors_cross_process_borders() -> None:
    error = pickle.loads(pickle.dumps(PublishConflictError("a", "b", "c")))
    assert isinstance(error, PublishConflictError)
    assert str(error) == "a: b.\nc"
