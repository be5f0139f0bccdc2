"""What a person is told, and how each kind of channel writes it.

Sends nothing. A message is kept as JSON while it waits, so its shape only ever grows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

_MAX_TEXT = 2500  # of a chat's message; Slack refuses a block with more than 3,000 characters
_DELAYED_S = 900.0


@dataclass(frozen=True)
class Message:
    """One message. ``topic`` is what a channel may choose by; ``at`` is ISO 8601 in UTC; ``facts`` are short lines."""

    project: str
    topic: str
    status: str  # "problem", "recovered" or "test"
    title: str
    text: str
    at: str
    owner: str | None = None
    url: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same for the same message: receivers can tell a repeated delivery by it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """For the outbox."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, content: bytes) -> Message:
        """Read what ``to_json`` wrote; keys of another version are passed over."""
        known = cls.__dataclass_fields__
        return cls(**{key: value for key, value in json.loads(content).items() if key in known})


def render(kind: str, message: Message) -> dict[str, Any]:
    """The body of a webhook of that kind."""
    return _RENDERERS[kind](message)


def _slack(message: Message) -> dict[str, Any]:
    facts = [f"*{_escape(name)}:* {_escape(value)}" for name, value in _facts(message).items()]
    body = _escape(_shorten(message.text))
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": message.title[:150]}},
        {"type": "section", "text": {"type": "mrkdwn", "text": body or "-"}},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": "\n".join(facts)[:_MAX_TEXT]}]},
    ]
    if message.url:
        button = {"type": "button", "text": {"type": "plain_text", "text": "Open in Dagster"}, "url": message.url}
        blocks.append({"type": "actions", "elements": [button]})
    return {"text": _escape(message.title), "blocks": blocks}


def _teams(message: Message) -> dict[str, Any]:
    """An adaptive card, which Teams' workflows take since the old connectors are gone."""
    colour = {"problem": "attention", "recovered": "good"}.get(message.status, "default")
    body: list[dict[str, Any]] = [
        {
            "type": "TextBlock",
            "text": message.title,
            "weight": "bolder",
            "size": "medium",
            "wrap": True,
            "color": colour,
        },
        {"type": "TextBlock", "text": _shorten(message.text).replace("\n", "\n\n"), "wrap": True},
        {"type": "FactSet", "facts": [{"title": name, "value": value} for name, value in _facts(message).items()]},
    ]
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    if message.url:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open in Dagster", "url": message.url}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _webhook(message: Message) -> dict[str, Any]:
    return {"version": 1, "id": message.id, **asdict(message)}


_RENDERERS: dict[str, Callable[[Message], dict[str, Any]]] = {"slack": _slack, "teams": _teams, "webhook": _webhook}


def plain_text(message: Message) -> str:
    """The body of a mail."""
    lines = [message.text, "", *(f"{name}: {value}" for name, value in _facts(message).items())]
    return "\n".join([*lines, *(["", message.url] if message.url else [])]) + "\n"


def _facts(message: Message) -> dict[str, str]:
    at = datetime.fromisoformat(message.at)
    facts = {"project": message.project}
    if message.owner:
        facts["owner"] = message.owner
    facts["at"] = f"{at:%Y-%m-%d %H:%M} UTC"
    if (datetime.now(timezone.utc) - at).total_seconds() > _DELAYED_S:
        facts["note"] = "delivered late: the channel did not answer before"
    return {**facts, **message.facts}


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _escape(text: str) -> str:
    """Slack's three special characters, so that no text of an error becomes a mention or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
