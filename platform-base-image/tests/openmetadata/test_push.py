"""What the platform does around the publisher: settings, the queue, the state. The publisher is a stand-in here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from dml_platform.core.document import Document, Run
from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.settings import OpenMetadataSettings, Settings
from dml_platform.openmetadata.push import KEPT_WAITING, describe, enqueue, push, push_after_run

TOKEN = "test-token-of-a-bot"  # pragma: allowlist secret
FAULT = {"what": "cannot push to OpenMetadata at x", "why": "it is away", "fix": "Wait.", "is_passing": True}


class Stand:
    """A program that keeps the requests it gets and answers as it is told."""

    def __init__(self, folder: Path) -> None:
        self.path, self._requests, self._answer = folder / "publisher", folder / "requests", folder / "answer"
        code = f"""#!{sys.executable}
import pathlib, sys
with open({str(self._requests)!r}, "a") as file:
    file.write(sys.stdin.read() + "\\n")
sys.stderr.write("a warning")
sys.stdout.write(pathlib.Path({str(self._answer)!r}).read_text())
"""
        self.path.write_text(code)
        self.path.chmod(0o755)
        self.answers(state={"generated_at": "x"}, changes=[])

    def answers(self, **answer: Any) -> None:
        self._answer.write_text(json.dumps(answer))

    def says(self, text: str) -> None:
        self._answer.write_text(text)

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._requests.read_text().splitlines()] if self._requests.exists() else []


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def settings_with(tmp_path: Path, stand: Stand, **values: Any) -> Settings:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    own = {"url": "https://catalog.test", "token_file": tmp_path / "token", "program": stand.path} | values
    return Settings(home=tmp_path / "home", profile="server", openmetadata=OpenMetadataSettings(**own))


def document(day: int = 1) -> Document:
    run = Run(run_id=f"r{day}", status="success", started_at=f"2026-11-{day:02d}T05:00:00+00:00", duration_s=1)
    return Document(project="shop", generated_at=f"2026-11-{day:02d}T05:00:09.000+00:00", runs=(run,))


def test_the_publisher_gets_the_document_the_token_of_the_file_and_the_last_state(tmp_path: Path, stand: Stand) -> None:
    settings = settings_with(tmp_path, stand, token=SecretStr("another"), service="lake")
    push(settings, document())
    push(settings, document(), dry_run=True)
    first, second = stand.requests
    assert (first["token"], first["service"], first["url"]) == (TOKEN, "lake", "https://catalog.test")
    assert [one["runs"][0]["run_id"] for one in first["documents"]] == ["r1"]
    assert (first["state"], second["state"], second["dry_run"]) == (None, {"generated_at": "x"}, True)


def test_a_dead_catalogue_fails_no_run_and_gets_all_of_them_later(tmp_path: Path, stand: Stand) -> None:
    settings = settings_with(tmp_path, stand)
    stand.answers(state={"generated_at": ""}, fault=FAULT)
    said = [push_after_run(settings, document(day), f"r{day}") for day in (1, 2)]
    assert said == [
        [f"OpenMetadata was not brought up to date: it is away. {what} for the next push."]
        for what in ("1 document waits", "2 documents wait")
    ]
    with pytest.raises(RetryableError, match="it is away"):
        push(settings, document(2))
    stand.answers(
        state={"generated_at": "x"}, changes=[{"action": "create", "kind": "table", "name": "t", "detail": ""}]
    )
    assert push(settings, document(3), dry_run=True).sent == 2
    outcome = push(settings, document(3))
    assert (outcome.sent, push(settings, document(3)).sent) == (2, 0)
    assert [one["runs"][0]["run_id"] for one in stand.requests[-2]["documents"]] == ["r1", "r2", "r3"]


def test_a_run_in_an_image_without_the_publisher_says_so_and_its_document_waits(
    tmp_path: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a run in a container installs nothing")

    monkeypatch.setattr("dml_platform.core.environments._install", refuse)
    cache = tmp_path / "opt" / "openmetadata"
    settings = settings_with(tmp_path, stand, program=None, cache_dir=cache)
    settings = settings.model_copy(update={"image": "registry.example.com/shop@sha256:0123"})
    start = "OpenMetadata was not brought up to date: the publisher is not in this image (nothing at "
    for number, waiting in ((1, "1 document waits"), (2, "2 documents wait")):
        [said] = push_after_run(settings, document(number), f"r{number}")
        assert said.startswith(start)
        assert said.endswith(f"{waiting} for the next push.")
    assert not cache.exists()
    with pytest.raises(ConfigError, match="--build-arg OPENMETADATA=yes"):
        push(settings, document())
    # The next image has it.
    later = settings.model_copy(update={"openmetadata": settings_with(tmp_path, stand).openmetadata})
    assert push_after_run(later, document(3), "r3") == ["OpenMetadata: nothing to do"]
    assert [one["runs"][0]["run_id"] for one in stand.requests[-1]["documents"]] == ["r1", "r2", "r3"]


def test_after_a_run_on_a_laptop_or_without_an_address_nothing_is_pushed(tmp_path: Path, stand: Stand) -> None:
    settings = settings_with(tmp_path, stand)
    assert push_after_run(settings.model_copy(update={"profile": "local"}), document(), "r1") == []
    assert push_after_run(settings_with(tmp_path, stand, url=None), document(), "r1") == []
    assert stand.requests == []


def test_the_queue_has_an_end(tmp_path: Path, stand: Stand) -> None:
    settings = settings_with(tmp_path, stand)
    assert [enqueue(settings, document(), f"{n:03}") for n in range(KEPT_WAITING + 2)][-1] == KEPT_WAITING


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"url": None}, "DML_OPENMETADATA__URL is not set"),
        ({"token_file": None}, "DML_OPENMETADATA__TOKEN_FILE is not set"),
        ({"token_file": Path("/nowhere/token")}, "the token cannot be read from /nowhere/token (No such file"),
        ({"program": Path("/nowhere/publisher")}, "/nowhere/publisher is no program"),
    ],
)
def test_a_missing_setting_is_named(tmp_path: Path, stand: Stand, values: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as raised:
        push(settings_with(tmp_path, stand, **values), document())
    assert raised.value.why.startswith(why)


def test_a_publisher_without_an_answer_is_reported_with_its_last_words(tmp_path: Path, stand: Stand) -> None:
    stand.says("Traceback")
    with pytest.raises(PermanentError, match="the publisher ended with 0: a warning"):
        push(settings_with(tmp_path, stand), document())


def test_what_another_push_does_not_mend_is_no_passing_fault(tmp_path: Path, stand: Stand) -> None:
    stand.answers(fault={**FAULT, "is_passing": False})
    with pytest.raises(PermanentError, match="it is away"):
        push(settings_with(tmp_path, stand), document())


def test_what_was_done_is_told_in_a_few_words() -> None:
    changes = [{"action": "create", "kind": "table", "name": name, "detail": ""} for name in ("a", "b")]
    changes.append({"action": "send", "kind": "results", "name": "c", "detail": "3"})
    changes.append({"action": "delete", "kind": "lineage", "name": "d", "detail": ""})
    assert describe(tuple(changes)) == "2 tables created, 3 test results sent, 1 lineage edge deleted"
    assert describe(()) == "nothing to do"
