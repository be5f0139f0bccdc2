"""Sources that run the fake connector, and what readers see of what they sent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dml_platform.airbyte import AirbyteSource, StreamLanding, parse_source
from dml_platform.core.settings import AirbyteSettings, Settings
from dml_platform.lake import Lake

FAKE = Path(__file__).parent / "fake_connector.py"

Land = Callable[..., dict[str, StreamLanding]]


def fake_source(modes: dict[str, str] | None = None, *, share: float = 0.0, **config: Any) -> AirbyteSource:
    """A source that runs the fake; ``modes`` maps streams to sync modes, the rest is the fake's config."""
    modes = modes or {"users": "incremental"}
    document = {
        "kind": "airbyte",
        "connector": {"command": [sys.executable, str(FAKE)]},
        "config": {"streams": {name: {} for name in modes}, **config},
        "streams": {name: {"sync_mode": mode} for name, mode in modes.items()},
        "max_rejects_share": share,
    }
    return parse_source("fake", document)


def with_airbyte(settings: Settings, **options: Any) -> Settings:
    return settings.model_copy(update={"airbyte": AirbyteSettings(**options)})


def ids(lake: Lake, stream: str = "users") -> list[int]:
    """The ids that readers see, sorted."""
    rows = lake.sql(f"SELECT id FROM test.raw.fake__{stream} ORDER BY id").fetchall()
    return [row[0] for row in rows]
