"""Airbyte connectors as plain programs: install, run, and land what they send in the lake."""

from dml_platform.airbyte.client import Connector, open_connector
from dml_platform.airbyte.config import AirbyteSource, StreamConfig, parse_source
from dml_platform.airbyte.environment import ensure_connector
from dml_platform.airbyte.land import StreamLanding, land_streams

__all__ = [
    "AirbyteSource",
    "Connector",
    "StreamConfig",
    "StreamLanding",
    "ensure_connector",
    "land_streams",
    "open_connector",
    "parse_source",
]
