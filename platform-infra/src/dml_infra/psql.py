"""SQL as Postgres' superuser, through `psql` inside the server's own container: no port, no password, no file.

The image lets whoever is inside the container in without a password, and whoever can enter it has the host anyway.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable

from dml_infra import engine
from dml_infra.errors import RetryableError
from dml_infra.installation import Installation

# Runs a script in a database and gives what it printed; raises at the first error.
Psql = Callable[[str, str], str]
ARGUMENTS = ("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-f", "-")
# Two commands at once would meet as "tuple concurrently updated": one waits for the other.
_QUEUE = "SELECT FROM pg_advisory_lock(4711);\n"


def container_psql(installation: Installation) -> Psql:
    """SQL in the installation's running Postgres.

    Raises:
        RetryableError: it does not run.
    """
    filters = [f"label=com.docker.compose.project={installation.stack}", "label=com.docker.compose.service=postgres"]
    names = engine.docker("ps", "--format", "{{.Names}}", *(f"--filter={f}" for f in filters)).split()
    if not names:
        raise RetryableError("cannot reach Postgres", "its container does not run", "Run: dml infra up.")

    def run(script: str, database: str) -> str:
        return engine.docker("exec", "-i", names[0], *ARGUMENTS, "-d", database, stdin=_QUEUE + script)

    return run


def quote(text: str) -> str:
    """Quote a string literal."""
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def scram_verifier(password: str) -> str:
    """What Postgres keeps of a password, so that the password itself is in no statement and no log (RFC 5803)."""
    rounds, salt = 4096, os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_, stored_, server_ = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${rounds}:{salt_}${stored_}:{server_}"
