"""The shape of a source of kind ``airbyte`` in ``config/sources.yaml``, and its secrets.

Does not read files: the caller gives the parsed mapping.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dml_platform.core.errors import ConfigError

SyncMode = Literal["full_refresh", "incremental"]
ColumnType = Literal["BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "JSON"]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_KEY = re.compile(r"pass(word|wd)?|secret|token|credential|api_?key|private_?key|access_?key", re.IGNORECASE)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class PackageConnector(_Model):
    """A connector from the package index; ``program`` defaults to the package's name without ``airbyte-``."""

    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.!+_-]*$", description="exact version, e.g. 7.2.1")
    program: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    python: str | None = Field(default=None, description="Python of its environment; default: the platform's own")


class CommandConnector(_Model):
    """A connector that is there already: a program and its first arguments."""

    command: tuple[str, ...] = Field(min_length=1)


class StreamConfig(_Model):
    """How one stream is read. Cursor and key default to what the connector declares.

    ``columns`` and ``folder`` are for a connection of a self-hosted Airbyte, whose JSON lines do not tell types.
    """

    sync_mode: SyncMode
    cursor_field: tuple[str, ...] | None = None
    primary_key: tuple[tuple[str, ...], ...] | None = None
    columns: dict[str, ColumnType] | None = Field(
        default=None, min_length=1, description="name to type; default: the table's, else inferred"
    )
    folder: str | None = Field(
        default=None, pattern=r"^[^*?\[\]]+$", description="below the landing prefix; default: the stream's name"
    )


class AirbyteSource(_Model):
    """One source of kind ``airbyte``.

    ``connection_id`` names the connection of a self-hosted Airbyte that does the same in profile ``server``; its S3
    destination writes below ``landing``, by default ``<DML_AIRBYTE__LANDING>/<project>/<source>``.
    ``max_rejects_share`` is the share of a stream's records in one run that may fail to fit its schema.
    """

    kind: Literal["airbyte"] = "airbyte"
    connector: PackageConnector | CommandConnector
    connection_id: str | None = Field(default=None, min_length=1)
    landing: str | None = Field(default=None, pattern=r"^s3://[a-z0-9][a-z0-9.-]+/[^*?\[\]]*[^/*?\[\]]$")
    config: dict[str, Any] = Field(default_factory=dict)
    streams: dict[str, StreamConfig] = Field(min_length=1)
    max_rejects_share: float = Field(default=0.0, ge=0.0, le=1.0)


def parse_source(name: str, document: Mapping[str, Any]) -> AirbyteSource:
    """Read one source of ``sources.yaml``.

    Raises:
        ConfigError: a key is unknown, missing or wrong; the message names each, without values.
    """
    try:
        return AirbyteSource.model_validate(document)
    except ValidationError as error:
        problems = []
        for found in error.errors(include_input=False, include_url=False):
            # Of the two kinds of connector, complain about the one that was meant.
            where = ".".join(str(part) for part in found["loc"])
            meant = "CommandConnector" if "command" in (document.get("connector") or {}) else "PackageConnector"
            if ("CommandConnector" in where or "PackageConnector" in where) and meant not in where:
                continue
            problems.append(f"{where.replace(f'.{meant}', '')}: {found['msg']}")
        raise ConfigError(
            f"cannot read source {name!r}", "; ".join(problems), "Correct it in config/sources.yaml."
        ) from None


def resolve_config(name: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Put environment variables where the config says ``${NAME}``.

    Returns: the config for the connector, and the strings in it that must never be shown.
    Raises:
        ConfigError: a variable is not set.
    """
    secrets: set[str] = set()
    missing: set[str] = set()

    def value_of(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            missing.add(match[1])
            return ""
        secrets.add(value)
        return value

    def resolve(value: Any, *, is_secret: bool = False) -> Any:
        if isinstance(value, str):
            resolved = _VARIABLE.sub(value_of, value)
            if is_secret:
                secrets.add(resolved)
            return resolved
        if isinstance(value, Mapping):
            return {
                str(k): resolve(v, is_secret=is_secret or bool(_SECRET_KEY.search(str(k)))) for k, v in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [resolve(v, is_secret=is_secret) for v in value]
        return value

    resolved = resolve(config)
    if missing:
        names = ", ".join(sorted(missing))
        raise ConfigError(
            f"cannot configure source {name!r}",
            f"environment variable {names} is not set" if len(missing) == 1 else f"{names} are not set",
            "Set it; config/sources.yaml refers to it by name.",
        )
    # Shorter ones would blank out parts of ordinary words.
    return resolved, frozenset(s for s in secrets if len(s) >= 4)
