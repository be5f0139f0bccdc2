"""The secret files of an installation: which there are, who reads each, and making those that are missing.

Files only: what a service has to be told of a new value is in ``rotation``, people's sign-ins in ``proxy_users``.
"""

from __future__ import annotations

from collections.abc import Iterable

from dml_infra.installation import Installation


def ensure_secrets(installation: Installation, projects: Iterable[str] = ()) -> list[str]:
    """Make every secret file that is missing, for the core and for each project; never change one that is there.

    Returns: names of the files that were made, relative to the folder of secrets, e.g. ``projects/sales/pgpass``.
    """
    raise NotImplementedError
