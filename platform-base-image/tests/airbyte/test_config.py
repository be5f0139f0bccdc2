"""Sources as projects write them."""

from __future__ import annotations

from typing import Any

import pytest

from dml_platform.airbyte.config import parse_source, resolve_config
from dml_platform.core.errors import ConfigError

PACKAGE = {"package": "airbyte-source-faker", "version": "7.2.1"}
STREAMS = {"users": {"sync_mode": "incremental"}}


def test_a_source_is_read() -> None:
    source = parse_source(
        "shop",
        {"kind": "airbyte", "connector": PACKAGE, "connection_id": None, "config": {"count": 1}, "streams": STREAMS},
    )
    assert source.streams["users"].sync_mode == "incremental"
    assert source.max_rejects_share == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stream": {}}, "stream: Extra inputs are not permitted"),
        ({"streams": {"users": {"sync_mode": "sometimes"}}}, "streams.users.sync_mode: Input should be"),
        ({"streams": {}}, "streams: Dictionary should have at least 1 item"),
        ({"connector": {"package": "airbyte-source-faker"}}, "connector.version: Field required"),
        ({"connector": {**PACKAGE, "version": ">=7"}}, "connector.version: String should match"),
        ({"connector": {**PACKAGE, "package": "--index-url=x"}}, "connector.package: String should match"),
        ({"connector": {"command": []}}, "connector.command: Tuple should have at least 1 item"),
        ({"max_rejects_share": 2}, "max_rejects_share: Input should be less than or equal to 1"),
    ],
)
def test_a_wrong_key_is_named_without_its_neighbours(change: dict[str, Any], message: str) -> None:
    document = {
        "connector": PACKAGE,
        "config": {"password": "hunter22"},  # pragma: allowlist secret
        "streams": STREAMS,
        **change,
    }
    with pytest.raises(ConfigError, match=message) as caught:
        parse_source("shop", document)
    assert "hunter22" not in str(caught.value)
    assert "CommandConnector" not in str(caught.value)


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "hunter22")
    config, secrets = resolve_config(
        "shop",
        {"url": "pg://me:${SHOP_PASSWORD}@db", "auth": {"client_secret": "abcdef"}, "parts": ["${SHOP_PASSWORD}"]},
    )
    assert config == {
        "url": "pg://me:hunter22@db",  # pragma: allowlist secret
        "auth": {"client_secret": "abcdef"},
        "parts": ["hunter22"],
    }
    assert secrets == {"hunter22", "abcdef"}
