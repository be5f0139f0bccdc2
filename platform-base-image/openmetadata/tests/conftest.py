"""A fake OpenMetadata for each test, and how a test pushes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

with warnings.catch_warnings():  # what OpenMetadata's modules warn of when they are imported
    warnings.simplefilter("ignore")
    import metadata.ingestion.ometa.ometa_api  # noqa: F401

from fake_openmetadata import TOKEN, FakeOpenMetadata

from dml_openmetadata.__main__ import Answer, Request, answer


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower() in ("http_proxy", "all_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def fake() -> Iterator[FakeOpenMetadata]:
    """A server with one user and one team."""
    with FakeOpenMetadata().running() as server:
        populate(server)
        yield server


def populate(server: FakeOpenMetadata) -> None:
    """Who may own something."""
    server.person("PUT", "/users", {"name": "shop-data", "email": "shop-data@example.com"})
    server.person("PUT", "/users", {"name": "anna", "email": "anna@example.com"})
    server.person("PUT", "/teams", {"name": "Warehouse", "teamType": "Group"})
    server.log.clear()


class Pusher:
    """Pushes documents one after the other, as ``dml catalog push`` does: with the state of the last time."""

    def __init__(self, url: str, token: str = TOKEN) -> None:
        self.url, self.token = url, token
        self.state: dict[str, Any] | None = None

    def __call__(self, *documents: dict[str, Any], **options: Any) -> Answer:
        request = {"attempts": 3, "wait_s": 0.01, "request_timeout_s": 5.0, **options}
        request |= {"documents": documents, "state": self.state, "url": self.url, "token": self.token}
        done = answer(Request.model_validate_json(json.dumps(request)))
        if done.state is not None and not options.get("dry_run"):
            self.state = json.loads(done.state.model_dump_json())
        return done


@pytest.fixture
def push(fake: FakeOpenMetadata) -> Pusher:
    """Pushes to the fake server."""
    return Pusher(fake.url)
