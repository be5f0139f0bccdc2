"""What may be a project's name, an image, a size, a variable: the rules of the registry's single values.

A function gives the value back, or raises ``ValueError`` with what is wrong and what to write instead.
"""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"[a-z][a-z0-9]{1,23}")
_REPOSITORY = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::\d+)?/)?[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
    r"(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
)
_IMAGE = re.compile(rf"(?P<repository>{_REPOSITORY})(?::(?P<tag>\w[\w.-]*))?(?:@(?P<digest>[^@]*))?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])i?b?", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_FILE = re.compile(r"[a-z][a-z0-9_]{1,60}")

# Roles, databases, services, networks and folders of the platform.
_PLATFORM = """
    admin airbyte backup backups catalog control core dagster daemon default dml edge exporter grafana
    init intermediate lake landing local main marts memory minio objectstore openmetadata ops platform portainer
    postgres prometheus proxy raw root run runs seeds server socket staging system temp template0 template1 test viewer
    webserver workspace""".split()  # noqa: SIM905 -- a list literal would be a page
# Words that SQL keeps for itself, in Postgres or in DuckDB, where the name is a role or a database.
_SQL = """all analyse analyze and any array as asc asymmetric authorization between binary both by case cast check
    collate collation column concurrently constraint create cross current database deferrable desc describe distinct do
    else end except exists false fetch for foreign freeze from full grant group having ilike in initially inner
    intersect into is isnull join lambda lateral leading left like limit natural not notnull null offset on only or
    order outer overlaps pivot placing primary public qualify references returning right schema select show similar some
    summarize
    symmetric table tablesample then to trailing true union unique unpivot user using variadic verbose when where window
    with""".split()  # noqa: SIM905 -- a list literal would be a page
RESERVED = frozenset(_PLATFORM) | frozenset(_SQL)

# Set by the platform in every project's containers.
PLATFORM_VARIABLES = frozenset(
    """
    AWS_DEFAULT_REGION AWS_EC2_METADATA_DISABLED AWS_SHARED_CREDENTIALS_FILE DAGSTER_CURRENT_IMAGE DAGSTER_HOME DML_HOME
    DML_IMAGE DML_LAKE__CATALOG_URI DML_LAKE__S3_CREDENTIALS_FILE DML_LAKE__S3_ENDPOINT DML_LAKE__WAREHOUSE DML_PROFILE
    PGCONNECT_TIMEOUT PGHOST PGPASSFILE PGUSER""".split()  # noqa: SIM905 -- a list literal would be a page
)
_SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|\bpwd\b|_pwd$|secret|token|credential|private_?key|api_?key|access_?key|auth_?key|_key$|^key$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@"  # a password in an address
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{30,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.|AGE-SECRET-KEY-|\bptr_[\w+/=]{20,}"
    r"|\b(password|passwd|pwd|secret|token)\s*=\s*\S",
    re.IGNORECASE,
)


def check_name(value: str) -> str:
    """A project's name: the same word is lake namespace, Postgres role, object-store user, DNS label, bucket folder."""
    if not _NAME.fullmatch(value):
        proposal = re.sub(r"[^a-z0-9]", "", value.lower()).lstrip("0123456789")[:24]
        hint = f", such as {proposal!r}" if _NAME.fullmatch(proposal) and proposal not in RESERVED else ""
        raise ValueError(
            f"{value!r} is not allowed; use 2 to 24 lower-case letters and digits beginning with a letter{hint}"
        )
    if value in RESERVED:
        raise ValueError(f"{value!r} is a word of the platform or of SQL; use another, such as '{value[:20]}data'")
    return value


def check_image(value: str) -> str:
    """``repository@sha256:…`` and nothing else: what a tag means can change, and nobody would see it."""
    match = _IMAGE.fullmatch(value)
    if not match:
        raise ValueError(f"{value!r} is not an image; write REPOSITORY@sha256:DIGEST")
    repository, tag, digest = match["repository"], match["tag"], match["digest"]
    if digest is None:
        named = f"tag {tag!r}" if tag else "no tag"
        raise ValueError(
            f"{value!r} has {named} and no digest; write {repository}@sha256:DIGEST "
            f"(after a push, `docker image inspect --format '{{{{.RepoDigests}}}}' {value}` shows it)"
        )
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"digest {digest!r} is not 'sha256:' and 64 hexadecimal digits; copy it again")
    if tag:
        raise ValueError(f"{value!r} has a tag beside its digest; write {repository}@{digest}")
    return value


def megabytes(value: str) -> int:
    """A size such as ``512m`` or ``2g`` in MiB."""
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a size; write it like '512m' or '2g'")
    return int(float(match[1]) * {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}[match[2].lower()])


def check_variable(name: str, value: Any) -> str:
    """What is wrong with a plain variable, or ``""``; a secret's value is never repeated."""
    if not _VARIABLE.fullmatch(name):
        return f"{name!r} is not a variable's name; use letters, digits and underscores"
    if name in PLATFORM_VARIABLES:
        return f"{name} is set by the platform; remove it"
    if not isinstance(value, str):
        return f"{name} is not text; write its value in quotes"
    file = f"put the value into a file listed under 'secrets:' and read /run/secrets/{name.lower()} instead"
    if _SECRET_NAME.search(name) and not (name.upper().endswith("_FILE") and value.startswith("/")):
        return f"{name} looks like a secret, and variables are shown by `docker inspect`; {file}"
    if _SECRET_VALUE.search(value):
        return f"the value of {name} looks like a secret, and variables are shown by `docker inspect`; {file}"
    return ""


def check_secret_name(value: str) -> str:
    """Name of a project's own secret file."""
    if not _SECRET_FILE.fullmatch(value) or value in ("pgpass", "aws_credentials"):
        raise ValueError(
            f"{value!r} is not a name for a secret; use lower-case letters, digits and underscores, not pgpass or "
            "aws_credentials, which are there always"
        )
    return value
