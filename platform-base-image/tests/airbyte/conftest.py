"""Landing from the fake connector, in one call."""

from __future__ import annotations

from typing import Any

import pytest
from fake_source import Land, fake_source, with_airbyte

from dml_platform.airbyte import StreamLanding, land_streams
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake


@pytest.fixture
def small_lake(local: Settings) -> Lake:
    """A local lake that commits a window each MB."""
    return Lake(with_airbyte(local, window_mb=1, timeout_s=60, idle_timeout_s=60))


@pytest.fixture
def land(small_lake: Lake) -> Land:
    """Land from the fake, each call a run of its own; ``full_refresh`` is the landing's, other options the fake's."""
    runs = iter(range(1, 100))

    def call(
        modes: dict[str, str] | None = None, *, full_refresh: bool = False, **config: Any
    ) -> dict[str, StreamLanding]:
        source = fake_source(modes, **config)
        landed = land_streams(small_lake, "test", "fake", source, run_id=f"run{next(runs)}", full_refresh=full_refresh)
        return {landing.stream: landing for landing in landed}

    return call
