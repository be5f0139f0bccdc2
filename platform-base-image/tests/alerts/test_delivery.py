"""Channels and the outbox against receivers that really listen, die, refuse and come back."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from receivers import mail_server, webhook

from dml_platform.alerts.channels import deliver
from dml_platform.alerts.config import load_alerts
from dml_platform.alerts.message import Message
from dml_platform.alerts.outbox import Outbox
from dml_platform.core.config import ProjectConfig
from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.settings import Settings
from dml_platform.core.storage import FolderStorage, open_storage

SECRET = "very-secret-token"  # pragma: allowlist secret
NOW = "2026-11-23T02:00:00+00:00"


def message(number: int = 0, **fields: Any) -> Message:
    values: dict[str, Any] = {
        "project": "shop",
        "topic": "failed_runs",
        "status": "problem",
        "title": f"shop: job daily failed {number}",
        "text": "Step shop_dbt failed: <b>no & why</b>",
        "at": f"2026-11-23T02:00:{number:02}+00:00",
        "owner": "sales@example.com",
        "url": "http://dagster.example.com/runs/1",
        "facts": {"run": "1234abcd"},
    }
    return Message(**values | fields)


def channels(monkeypatch: pytest.MonkeyPatch, url: str, *kinds: str, **more: Any) -> Any:
    monkeypatch.setenv("HOOK", url)
    named = {kind: {"kind": kind, "url": "${HOOK}", "timeout_s": 2, **more} for kind in kinds}
    alerts = load_alerts(ProjectConfig(owner="sales@example.com", alerts={"channels": named}))
    assert alerts is not None
    return alerts.channels


def mail_channel(port: int, **more: Any) -> Any:
    named = {"kind": "email", "host": "127.0.0.1", "port": port, "sender": "dml@example.com", **more}
    alerts = load_alerts(ProjectConfig(owner="sales@example.com", alerts={"channels": {"mail": named}}))
    assert alerts is not None
    return alerts.channels["mail"]


def test_each_kind_of_webhook_gets_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as hook:
        for name, channel in channels(monkeypatch, hook.url(), "slack", "teams", "webhook").items():
            deliver(name, channel, message(), owner=None)
    slack, teams, generic = hook.got
    assert [block["type"] for block in slack["blocks"]] == ["header", "section", "context", "actions"]
    assert slack["blocks"][1]["text"]["text"] == "Step shop_dbt failed: &lt;b&gt;no &amp; why&lt;/b&gt;"
    assert "sales@example.com" in slack["blocks"][2]["elements"][0]["text"]
    card = teams["attachments"][0]["content"]
    assert (card["type"], card["body"][0]["text"]) == ("AdaptiveCard", "shop: job daily failed 0")
    assert card["actions"][0]["url"] == "http://dagster.example.com/runs/1"
    assert {generic["project"], generic["topic"], generic["status"]} == {"shop", "failed_runs", "problem"}
    assert generic["id"] == message().id


# aiosmtpd's own use of what it deprecates.
@pytest.mark.filterwarnings("ignore:Session.login_data is deprecated")
def test_mail_goes_to_the_owner_over_tls_with_a_password_from_a_file(
    tmp_path: Path, certificate: tuple[Path, Any]
) -> None:
    authority, tls = certificate
    password = tmp_path / "password"
    password.write_text("s3cret-of-mail\n")
    with mail_server(user=("dml", "s3cret-of-mail"), tls=tls) as box:
        channel = mail_channel(
            box.port, username="dml", password_file=str(password), ca_file=str(authority), security="starttls"
        )
        deliver("mail", channel, message(), owner="sales@example.com")
        password.write_text("wrong")
        with pytest.raises(ConfigError, match="does not take the user name and password"):
            deliver("mail", channel, message(), owner="sales@example.com")
        untrusting = channel.model_copy(update={"ca_file": None})
        with pytest.raises(ConfigError, match="certificate is not trusted"):
            deliver("mail", untrusting, message(), owner="sales@example.com")
    [mail] = box.mails
    assert (mail["To"], mail["Subject"]) == ("sales@example.com", "shop: job daily failed 0")
    assert "Step shop_dbt failed" in mail.get_content()
    assert message().id in mail["Message-ID"]


def test_a_mailbox_that_is_gone_does_not_keep_the_others_from_their_mail() -> None:
    with mail_server(refuses=("gone@example.com",)) as box:
        channel = mail_channel(box.port, security="none", to=["gone@example.com", "here@example.com"])
        remark = deliver("mail", channel, message(), owner=None)
    assert len(box.mails) == 1
    assert remark == "127.0.0.1 does not take mail for gone@example.com"


@pytest.fixture(params=["local", "server"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "local":
        return FolderStorage(tmp_path / "alerts")
    settings: Settings = request.getfixturevalue("server_only")
    return open_storage(settings, "shop", "alerts")


def test_a_dead_endpoint_loses_nothing_and_all_comes_later_in_order(
    monkeypatch: pytest.MonkeyPatch, storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    found = channels(monkeypatch, f"http://127.0.0.1:{port}/{SECRET}", "webhook")
    outbox = Outbox(storage, found, owner=None)
    for number in (2, 0, 1):
        outbox.post(message(number))
    delivery = outbox.flush()["webhook"]
    assert (delivery.sent, delivery.waiting) == (0, 3)
    assert f"http://127.0.0.1:{port}" in (delivery.error or "")
    again = outbox.flush()["webhook"]
    assert (again.sent, again.waiting) == (0, 3), "in its pause it is left alone"
    assert outbox.state("webhook").failures == 1
    with webhook(port=port) as hook:
        # Another process, as after a restart.
        later = Outbox(storage, found, owner=None)
        assert later.flush(time.time() + 60)["webhook"].sent == 3
        assert later.flush(time.time() + 60)["webhook"].sent == 0
    assert [got["title"][-1] for got in hook.got] == ["0", "1", "2"]
    assert outbox.state("webhook").failures == 0
    assert SECRET not in caplog.text
    assert SECRET not in str(delivery)


def test_pauses_grow_and_a_busy_receiver_says_how_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with webhook(answers=[503, 500, 429], headers={"Retry-After": "7"}) as hook:
        outbox = Outbox(FolderStorage(tmp_path), channels(monkeypatch, hook.url(), "slack"), owner=None)
        outbox.post(message())
        pauses = []
        for _ in range(3):
            outbox.flush(float("inf"))
            pauses.append(outbox.state("slack").not_before - time.time())
        assert [round(p, -1) for p in pauses] == [10, 10, 10]
        hook.headers.clear()
        hook.answers += [503, 502]
        outbox.flush(float("inf"))
        outbox.flush(float("inf"))
        assert 400 < outbox.state("slack").not_before - time.time() < 500
        assert outbox.flush(float("inf"))["slack"].sent == 1
    assert len(hook.got) == 1


def test_one_channel_does_not_hold_up_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with webhook() as hook, mail_server() as box:
        found = channels(monkeypatch, "http://127.0.0.1:9/dead", "slack")
        outbox = Outbox(
            FolderStorage(tmp_path),
            {
                **found,
                "mail": mail_channel(box.port, security="none"),
                "late": channels(monkeypatch, hook.url(), "teams")["teams"].model_copy(
                    update={"send": ("late_sources",)}
                ),
            },
            owner="sales@example.com",
        )
        monkeypatch.setenv("HOOK", "http://127.0.0.1:9/dead")
        outbox.post(message())
        outcome = outbox.flush()
    assert (outcome["slack"].waiting, outcome["mail"].sent, outcome["late"].waiting) == (1, 1, 0)


def test_a_message_that_the_receiver_will_never_take_is_set_aside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with webhook(answers=[400, 400, 400], says=f"invalid_payload for /services/T000/B000/{SECRET}") as hook:
        outbox = Outbox(FolderStorage(tmp_path), channels(monkeypatch, hook.url(), "slack"), owner=None)
        outbox.post(message(0))
        outbox.post(message(1))
        error = outbox.flush(float("inf"))["slack"].error
        assert error is not None
        assert "invalid_payload" in error
        assert SECRET not in error
        outbox.flush(float("inf"))
        assert outbox.flush(float("inf"))["slack"].sent == 1
    assert (outbox.set_aside("slack"), outbox.waiting("slack")) == (1, [])
    assert SECRET not in "".join(p.read_text() for p in tmp_path.rglob("*.json"))


def test_a_redirect_is_a_wrong_address_and_no_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(answers=[302], headers={"Location": "/elsewhere"}) as hook:
        [channel] = channels(monkeypatch, hook.url(), "slack").values()
        with pytest.raises(ConfigError, match="answered 302"):
            deliver("slack", channel, message(), owner=None)


def test_a_receiver_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        [channel] = channels(
            monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}", "slack", timeout_s=0.3
        ).values()
        with pytest.raises(RetryableError, match="no answer in time") as caught:
            deliver("slack", channel, message(), owner=None)
    assert SECRET not in str(caught.value)
