"""The machine's own faults as sentences: a full disk, a folder that cannot be written, a damaged database."""

from __future__ import annotations

import errno
import sqlite3

from dml_platform.core.errors import PermanentError, PlatformError, RetryableError
from dml_platform.core.project import state_home

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


def explain(error: BaseException) -> PlatformError | None:
    """The sentence for an error or for what caused it, below what libraries wrap around it; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PlatformError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _DISK:
            fix = f"Check free space and permissions there; the platform keeps its state in {state_home()}."
            return PermanentError("cannot go on", str(cause), fix)
        if isinstance(cause, sqlite3.DatabaseError):
            if "locked" in str(cause):
                return RetryableError("cannot go on", str(cause), "Another command uses it: run it again.")
            fix = f"Check free space and permissions of {state_home()}, and that the databases there are whole."
            return PermanentError("cannot go on", str(cause), fix)
        cause = cause.__cause__
    return None
