"""What we made and last sent, kept between pushes: so that we delete only our own, and know what people changed."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel


class Known(BaseModel):
    """An entity that we made: ``sent`` are hashes of texts and lists of names, by field."""

    id: str
    sent: dict[str, Any] = {}


class State(BaseModel):
    """All that we remember of one project on one server."""

    version: int = 1
    url: str = ""
    service: str = ""
    generated_at: str = ""
    entities: dict[str, Known] = {}
    edges: list[str] = []
    results: dict[str, str] = {}
    profiles: dict[str, str] = {}
    runs: list[str] = []

    def fits(self, url: str, service: str) -> bool:
        """Whether this is about that server and service."""
        return (self.url, self.service) == (url, service)


def digest(text: str) -> str:
    """What stands for a text that we sent."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]
