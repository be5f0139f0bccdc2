from __future__ import annotations

from typing import Any

import pytest

from dml_platform.alerts.config import load_alerts, read_secret, usable_channels
from dml_platform.core.config import ProjectConfig
from dml_platform.core.errors import ConfigError

SLACK = {"kind": "slack", "url": "${SALES_SLACK_URL}"}
MAIL = {"kind": "email", "host": "mail.example.com", "sender": "dml@example.com"}


def load(channels: dict[str, Any], owner: str | None = "sales@example.com", **more: Any) -> Any:
    return load_alerts(ProjectConfig(owner=owner, alerts={"channels": channels, **more}))


def test_a_project_without_the_section_has_no_alerts() -> None:
    assert load_alerts(ProjectConfig()) is None


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ({"chat": {**SLACK, "url": "https://hooks.example.com/T0/secret"}}, "is a secret: write"),
        ({"chat": {"kind": "slack"}}, "either 'url' or 'url_file'"),
        ({"chat": {**SLACK, "colour": "red"}}, "alerts.channels.chat.slack.colour: Extra inputs"),
        ({"chat": {**SLACK, "send": ["everything"]}}, "alerts.channels.chat.slack.send.0"),
        ({"chat": {"kind": "pigeon"}}, "alerts.channels.chat: Input tag 'pigeon'"),
        ({"Chat": SLACK}, "lower case letters"),
        ({"mail": {**MAIL, "to": ["nobody"]}}, "no e-mail address: 'nobody'"),
        ({"mail": {**MAIL, "username": "dml"}}, "belong together"),
        ({"mail": {**MAIL, "username": "dml", "password": "hunter2"}}, "is a secret"),  # pragma: allowlist secret
        (
            {"mail": {**MAIL, "username": "dml", "password": "${P}", "security": "none"}},
            "without encryption",
        ),
        ({}, "alerts.channels"),
    ],
)
def test_what_is_wrong_is_named_without_secrets(channels: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(channels)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "T0/secret" not in str(caught.value)


def test_mail_wants_a_recipient() -> None:
    assert load({"mail": MAIL}) is not None
    with pytest.raises(ConfigError, match="the project's owner is no e-mail address"):
        load({"mail": MAIL}, owner="team:sales")


def test_a_channel_without_its_secret_is_absent_on_a_laptop_and_refused_on_a_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    alerts = load({"chat": SLACK, "ops": {"kind": "teams", "url_file": str(tmp_path / "url")}})
    assert usable_channels(alerts, is_server=False) == {}
    with pytest.raises(ConfigError, match="channel 'chat': environment variable SALES_SLACK_URL is not set"):
        usable_channels(alerts, is_server=True)
    monkeypatch.setenv("SALES_SLACK_URL", "https://hooks.example.com/x")
    (tmp_path / "url").write_text("https://teams.example.com/y\n")
    assert sorted(usable_channels(alerts, is_server=True)) == ["chat", "ops"]
    (tmp_path / "url").write_text("https://teams.example.com/z\n")
    assert read_secret(alerts.channels["ops"]) == "https://teams.example.com/z"


def test_an_address_that_is_none_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALES_SLACK_URL", "hooks.example.com/very-secret")
    with pytest.raises(ConfigError) as caught:
        read_secret(load({"chat": SLACK}).channels["chat"])
    assert "no http(s) URL" in str(caught.value)
    assert "very-secret" not in str(caught.value)
