"""Landing from the fake connector, in one call; a fake Airbyte, and what its S3 destination writes to."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from fake_destination import ACCESS_KEY, SECRET_KEY, Landing
from fake_server import CLIENT_ID, CLIENT_SECRET, FakeAirbyte, make_connection, serve
from fake_source import Land, fake_source, with_airbyte
from pydantic import SecretStr

from dml_platform.airbyte import StreamLanding, land_streams
from dml_platform.core.settings import AirbyteSettings, DuckDBSettings, LakeSettings, Settings
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


@pytest.fixture
def airbyte() -> Iterator[FakeAirbyte]:
    """A fake Airbyte with one connection of one stream; what breaks the API's description fails the test."""
    fake = FakeAirbyte(make_connection({"users": "incremental_append"}))
    with serve(fake):
        yield fake
    assert fake.violations == []


@pytest.fixture
def landing(object_store: str) -> Iterator[Landing]:
    """A prefix of its own in the landing bucket of a real S3 server."""
    store = boto3.client(
        "s3",
        endpoint_url=object_store,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    with contextlib.suppress(store.exceptions.BucketAlreadyOwnedByYou):
        store.create_bucket(Bucket="landing")
    yield Landing(store, object_store, f"t{uuid.uuid4().hex[:12]}")
    store.close()


@pytest.fixture
def api_settings(airbyte: FakeAirbyte, landing: Landing, tmp_path: Path) -> Settings:
    """Profile server with a catalogue of its own: the fake Airbyte, the landing bucket, and short waits."""
    home = tmp_path / "home"
    home.mkdir()
    return Settings(
        profile="server",
        home=home,
        duckdb=DuckDBSettings(memory_limit_mb=512, threads=2),
        lake=LakeSettings(
            s3_endpoint=landing.endpoint, s3_access_key_id=ACCESS_KEY, s3_secret_access_key=SecretStr(SECRET_KEY)
        ),
        airbyte=AirbyteSettings(
            server_url=airbyte.url,
            client_id=CLIENT_ID,
            client_secret=SecretStr(CLIENT_SECRET),
            poll_s=0.02,
            request_timeout_s=5,
            request_attempts=4,
            landing=f"s3://landing/{landing.prefix}",
        ),
    )


@pytest.fixture
def api_lake(api_settings: Settings) -> Iterator[Lake]:
    lake = Lake(api_settings)
    yield lake
    lake.catalog.close()
