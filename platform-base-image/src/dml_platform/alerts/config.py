"""What a project says about alerts in ``config/project.yaml``, and where its secrets come from.

Delivers nothing. Addresses of webhooks are secrets: whoever has one can write to the channel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dml_platform.core.config import ProjectConfig
from dml_platform.core.errors import ConfigError

Topic = Literal["failed_runs", "failed_checks", "late_sources", "missed_schedules"]
TOPICS: tuple[Topic, ...] = ("failed_runs", "failed_checks", "late_sources", "missed_schedules")

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ADDRESS = re.compile(r"[^@\s,<>]+@[^@\s,<>]+")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class WebhookChannel(_Model):
    """A chat or a program that takes messages by HTTP POST.

    ``url`` is a secret, so it is given as ``${VARIABLE}``, or in a file that is read anew for each message.
    """

    kind: Literal["slack", "teams", "webhook"]
    url: str | None = None
    url_file: Path | None = None
    send: tuple[Topic, ...] = TOPICS
    timeout_s: float = Field(default=10.0, gt=0, le=120)

    @model_validator(mode="after")
    def _require_one_url(self) -> WebhookChannel:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("give either 'url' or 'url_file'")
        if self.url is not None and not _VARIABLE.fullmatch(self.url):
            raise ValueError("'url' is a secret: write '${NAME}' of an environment variable, or use 'url_file'")
        return self


class EmailChannel(_Model):
    """An SMTP server. Without ``to`` mail goes to the project's owner."""

    kind: Literal["email"]
    host: str
    port: int | None = Field(default=None, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Path | None = Field(default=None, description="certificates to trust beside the system's")
    sender: str
    to: tuple[str, ...] = ()
    username: str | None = None
    password: str | None = None
    password_file: Path | None = None
    send: tuple[Topic, ...] = TOPICS
    timeout_s: float = Field(default=20.0, gt=0, le=120)

    @model_validator(mode="after")
    def _require_sense(self) -> EmailChannel:
        if wrong := [address for address in (*self.to, self.sender) if not _ADDRESS.fullmatch(address)]:
            raise ValueError(f"no e-mail address: {', '.join(map(repr, wrong))}")
        if self.password is not None and self.password_file is not None:
            raise ValueError("give either 'password' or 'password_file'")
        if self.password is not None and not _VARIABLE.fullmatch(self.password):
            raise ValueError("'password' is a secret: write '${NAME}' of an environment variable, or 'password_file'")
        has_password = self.password is not None or self.password_file is not None
        if has_password != (self.username is not None):
            raise ValueError("'username' and a password belong together")
        if has_password and self.security == "none" and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("a password does not go over a connection without encryption")
        return self


Channel = Annotated[WebhookChannel | EmailChannel, Field(discriminator="kind")]


class AlertsConfig(_Model):
    """The section ``alerts`` of ``config/project.yaml``."""

    channels: dict[str, Channel] = Field(min_length=1)
    repeat_after_hours: float = Field(
        default=24.0, gt=0, description="a fault that goes on is told again after so long; not before"
    )
    schedule_grace_minutes: float = Field(default=15.0, gt=0, description="how late a schedule may run")
    tick_seconds: int = Field(default=30, ge=5, description="between two looks at finished runs and what waits")
    look_every_minutes: float = Field(default=5.0, gt=0, description="between two looks at sources and schedules")

    @model_validator(mode="after")
    def _check_names(self) -> AlertsConfig:
        if wrong := [name for name in self.channels if not re.fullmatch("[a-z][a-z0-9_-]*", name)]:
            raise ValueError(f"a channel is named in lower case letters, digits, - and _, not {wrong[0]!r}")
        return self


def load_alerts(config: ProjectConfig) -> AlertsConfig | None:
    """The project's alerts; None when it has none.

    Raises:
        ConfigError: a key is unknown, missing or wrong; the message names each, without values.
    """
    if config.alerts is None:
        return None
    try:
        found = AlertsConfig.model_validate(config.alerts)
    except ValidationError as error:
        problems = (
            f"alerts.{'.'.join(str(part) for part in found['loc'])}: {found['msg'].removeprefix('Value error, ')}"
            for found in error.errors(include_input=False, include_url=False)
        )
        raise ConfigError("cannot read alerts in config/project.yaml", "; ".join(problems), "Correct it.") from None
    for name, channel in found.channels.items():
        if isinstance(channel, EmailChannel) and not recipients(channel, config.owner):
            raise ConfigError(
                "cannot read alerts in config/project.yaml",
                f"alerts.channels.{name} has no 'to', and the project's owner is no e-mail address",
                "Add 'to: [name@example.com]', or make 'owner' an address.",
            )
    return found


def recipients(channel: EmailChannel, owner: str | None) -> tuple[str, ...]:
    """Who gets a channel's mail."""
    if channel.to:
        return channel.to
    return (owner,) if owner and _ADDRESS.fullmatch(owner) else ()


def missing_secrets(channels: Mapping[str, Channel]) -> dict[str, str]:
    """Channels that cannot work in this environment, and what each lacks."""
    lacking = {}
    for name, channel in channels.items():
        try:
            read_secret(channel)
        except ConfigError as error:
            lacking[name] = error.why
    return lacking


def read_secret(channel: Channel) -> str | None:
    """A webhook's address or a mail server's password, read anew: it may be replaced while a process lives.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read.
    """
    if isinstance(channel, WebhookChannel):
        text = _read("the webhook's address", channel.url, channel.url_file)
        assert text is not None
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("cannot use the webhook", "its address is no http(s) URL", "Correct the secret.")
        return text
    return _read("the mail server's password", channel.password, channel.password_file)


def _read(what: str, reference: str | None, path: Path | None) -> str | None:
    if reference is not None:
        match = _VARIABLE.fullmatch(reference)
        assert match
        value = os.environ.get(match[1], "").strip()
        if not value:
            raise ConfigError(f"cannot read {what}", f"environment variable {match[1]} is not set", "Set it.")
        return value
    if path is not None:
        try:
            value = path.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"cannot read {what}", f"{path}: {why}", "Put the secret there.") from None
        if not value:
            raise ConfigError(f"cannot read {what}", f"{path} is empty", "Put the secret there.")
        return value
    return None


def usable_channels(alerts: AlertsConfig, *, is_server: bool) -> dict[str, Any]:
    """The channels that this environment has secrets for; on a server every channel must have its own.

    Raises:
        ConfigError: on a server a secret is missing.
    """
    lacking = missing_secrets(alerts.channels)
    if lacking and is_server:
        raise ConfigError(
            "cannot set up alerts",
            "; ".join(f"channel {name!r}: {why}" for name, why in lacking.items()),
            "Set it, or take the channel out of config/project.yaml.",
        )
    return {name: channel for name, channel in alerts.channels.items() if name not in lacking}
