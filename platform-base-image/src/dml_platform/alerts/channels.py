"""Delivers one message to one channel, or says why not. Keeps nothing and never shows a secret."""

from __future__ import annotations

import http.client
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

from dml_platform import __version__
from dml_platform.alerts.config import Channel, EmailChannel, WebhookChannel, read_secret, recipients
from dml_platform.alerts.message import Message, plain_text, render
from dml_platform.core.errors import ConfigError, PermanentError, PlatformError, RetryableError

# The endpoint is fine and will never take this very message.
_REFUSES_MESSAGE = (400, 413, 415, 422)
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


class RefusedMessageError(PermanentError):
    """The receiver is there and does not take this message; another one it may take."""


class BusyReceiverError(RetryableError):
    """The receiver asks to wait; ``retry_after_s`` says how long, if it did."""

    retry_after_s: float | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without a body, and look delivered."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        return None


def deliver(name: str, channel: Channel, message: Message, *, owner: str | None) -> str | None:
    """Send a message.

    Returns: a remark, where only some of the recipients got it.
    Raises:
        RefusedMessageError: the receiver does not take this message.
        BusyReceiverError: it asks to wait.
        RetryableError: it cannot be reached or has a fault.
        ConfigError: the channel's secret is missing or wrong.
    """
    what = f"cannot send to channel {name!r}"
    try:
        if isinstance(channel, EmailChannel):
            return _send_mail(what, channel, message, owner)
        _post(what, channel, message)
        return None
    except PlatformError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            what, f"its certificate is not trusted ({error.verify_message})", "Add its authority's certificate."
        ) from None
    # Their text may hold an address, so only what kind of fault it was is told.
    except (OSError, http.client.HTTPException, smtplib.SMTPException) as error:
        raise RetryableError(what, f"{_place(channel)}: {_reason(error)}", "It is tried again by itself.") from None


def _post(what: str, channel: WebhookChannel, message: Message) -> None:
    address = read_secret(channel)
    assert address is not None
    request = urllib.request.Request(
        address,
        data=json.dumps(render(channel.kind, message)).encode(),
        headers={"Content-Type": "application/json", "User-Agent": f"dml-platform/{__version__}"},
        method="POST",
    )
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=channel.timeout_s) as response:
            response.read(1024)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode("utf-8", "replace").strip()
        raise _refusal(what, channel, error.code, _without(said, address), error.headers.get("Retry-After")) from None
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else OSError("no connection") from None
    except ValueError:  # not an address after all; its text may hold it
        raise ConfigError(what, "the webhook's address is not valid", "Correct the secret.") from None


def _refusal(what: str, channel: Channel, code: int, said: str, retry_after: str | None) -> PlatformError:
    why = f"{_place(channel)} answered {code}" + (f" ({said})" if said else "")
    if code in _REFUSES_MESSAGE:
        return RefusedMessageError(what, why, "Check the channel's kind.")
    if 300 <= code < 400 or code in (401, 403, 404, 405, 410):
        return ConfigError(what, why, "Correct the channel's secret; what waits is sent then.")
    busy = BusyReceiverError(what, why, "It is tried again by itself.")
    if retry_after and retry_after.isdigit():
        busy.retry_after_s = float(retry_after)
    return busy


def _send_mail(what: str, channel: EmailChannel, message: Message, owner: str | None) -> str | None:
    password = read_secret(channel)
    mail = EmailMessage()
    mail["Subject"] = " ".join(message.title.split())
    mail["From"] = channel.sender
    mail["To"] = ", ".join(recipients(channel, owner))
    mail["Date"] = format_datetime(datetime.fromisoformat(message.at))
    # Constant for a message, so that a mail program can drop the second of two deliveries.
    mail["Message-ID"] = f"<{message.id}.{message.project}@{channel.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(plain_text(message))
    context = ssl.create_default_context()
    if channel.ca_file:
        context.load_verify_locations(channel.ca_file)
    port = channel.port or _PORTS[channel.security]
    try:
        if channel.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(channel.host, port, timeout=channel.timeout_s, context=context)
        else:
            server = smtplib.SMTP(channel.host, port, timeout=channel.timeout_s)
        with server:
            if channel.security == "starttls":
                server.starttls(context=context)
            if channel.username is not None:
                server.login(channel.username, password or "")
            refused = server.send_message(mail)
    except smtplib.SMTPAuthenticationError:
        raise ConfigError(what, f"{channel.host} does not take the user name and password", "Correct them.") from None
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        code = getattr(error, "smtp_code", None) or max((c for c, _ in error.recipients.values()), default=500)  # type: ignore[union-attr]
        kind = RefusedMessageError if code >= 500 else RetryableError
        raise kind(what, f"{channel.host} refused the mail ({code})", "Check sender and recipients.") from None
    return f"{channel.host} does not take mail for {', '.join(sorted(refused))}" if refused else None


def _place(channel: Channel) -> str:
    """Where a channel leads, without what is secret about it."""
    if isinstance(channel, EmailChannel):
        return f"{channel.host}:{channel.port or _PORTS[channel.security]}"
    parts = urlsplit(read_secret(channel) or "")
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or type(error).__name__


def _without(text: str, secret: str) -> str:
    """A receiver may repeat what was sent to it."""
    path = urlsplit(secret).path.strip("/")
    for part in (secret, path, *(p for p in path.split("/") if len(p) >= 8), urlsplit(secret).query):
        if part:
            text = text.replace(part, "***")
    return " ".join(text.split())
