"""A server that is slow, busy, dead, of another generation, or does not like something."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Pusher
from fake_openmetadata import TOKEN, FakeOpenMetadata
from sample_project import sample, table_of

LATER = "2026-11-21T05:01:00.000+00:00"
SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize("fault", [500, 502, 503, 504, 408, "cut"])
def test_a_passing_fault_is_tried_again(fake: FakeOpenMetadata, push: Pusher, fault: Any) -> None:
    fake.faults = [fault, fault]
    done = push(sample())
    assert (done.fault, done.refused, fake.faults) == (None, [], [])
    assert len(fake.names("table")) == 4


def test_the_server_says_how_long_to_wait(
    fake: FakeOpenMetadata, push: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("dml_openmetadata.server.time.sleep", waited.append)
    fake.faults = [429, 503]
    assert push(sample()).fault is None
    assert waited[0] == 1.0
    assert waited[1] < 0.1


def test_a_push_gives_up_in_its_time(fake: FakeOpenMetadata, push: Pusher) -> None:
    fake.fault_when = lambda method, path: 503
    done = push(sample(), attempts=50, wait_s=1.0, timeout_s=0.2)
    assert done.fault
    assert len(fake.log) == 1


def test_a_dead_server_is_said_in_one_sentence(fake: FakeOpenMetadata) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = Pusher(url)(sample(), attempts=1)
    assert done.fault
    assert (done.fault["what"], done.fault["is_passing"]) == (f"cannot push to OpenMetadata at {url}", True)
    assert done.fault["why"] == "it cannot be reached ([Errno 111] Connection refused)"


@pytest.mark.parametrize(
    ("fault", "why"), [(403, "the token's bot may not do this (a planned 403)"), (302, "it redirects")]
)
def test_what_another_try_does_not_change_is_not_tried_again(
    fake: FakeOpenMetadata, push: Pusher, fault: int, why: str
) -> None:
    fake.faults = [fault]
    done = push(sample())
    assert done.fault
    assert (done.fault["why"], done.fault["is_passing"], len(fake.log)) == (why, False, 1)


def test_a_wrong_token_is_named_and_never_shown(fake: FakeOpenMetadata) -> None:
    done = Pusher(fake.url, "not-the-token")(sample())
    assert done.fault
    assert done.fault["why"] == "it does not accept the token (Token has expired or is not valid)"
    assert "DML_OPENMETADATA__TOKEN_FILE" in done.fault["fix"]
    assert "not-the-token" not in done.model_dump_json()


def test_a_server_of_another_generation_is_left_alone(fake: FakeOpenMetadata, push: Pusher) -> None:
    fake.version = "1.13.6"
    done = push(sample())
    assert done.fault
    assert done.fault["why"] == "it is version 1.13.6, and this publisher speaks 2.x"
    assert fake.writes() == []


def test_one_thing_that_is_refused_does_not_keep_the_others(fake: FakeOpenMetadata, push: Pusher) -> None:
    document = sample()
    table_of(document, "shop.raw.crm__orders")["columns"][0]["name"] = ""
    done = push(document)
    assert len(done.refused) == 2  # the table, and the test of it
    assert done.refused[0].startswith("table dml.shop.raw.crm__orders: its own model says of columns.0.name")
    assert "dml.shop.marts.fct_orders" in fake.names("table")
    done = push(sample(generated_at=LATER))
    assert (done.refused, len(fake.names("table"))) == ([], 4)


@pytest.mark.parametrize("served", [8, 18, 28])
def test_a_push_that_was_cut_off_is_completed_by_the_next(fake: FakeOpenMetadata, push: Pusher, served: int) -> None:
    fake.fault_when = lambda method, path: 503 if len(fake.writes()) > served else None
    assert push(sample(), attempts=1).fault
    fake.fault_when = None
    assert push(sample()).fault is None
    with FakeOpenMetadata().running() as whole:
        from conftest import populate

        populate(whole)
        Pusher(whole.url)(sample())
        for kind in fake.store.entities:
            assert fake.names(kind) == whole.names(kind)
        assert fake.edges() == whole.edges()
        assert {k: sorted(v) for k, v in fake.store.results.items()} == {
            k: sorted(v) for k, v in whole.store.results.items()
        }
    assert push(sample()).requests_that_write == 0


def test_an_older_document_does_not_undo_a_newer_one(fake: FakeOpenMetadata, push: Pusher) -> None:
    push(sample(generated_at=LATER))
    fake.log.clear()
    done = push(sample())
    assert fake.log == []
    assert done.notices[0].startswith(f"OpenMetadata has the document of {LATER}, which is newer than")


def test_documents_of_two_projects_are_refused(fake: FakeOpenMetadata, push: Pusher) -> None:
    done = push(sample(), sample(project="other"))
    assert done.fault
    assert "['other', 'shop']" in done.fault["why"]


def test_the_program_answers_with_json_only(fake: FakeOpenMetadata) -> None:
    request = {"documents": [sample()], "url": fake.url, "token": TOKEN, "dry_run": True}
    command = [sys.executable, "-W", "ignore", "-m", "dml_openmetadata"]
    done = subprocess.run(
        command, input=json.dumps(request), cwd=SOURCE, capture_output=True, text=True, timeout=240, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["server_version"] == "2.0.5"
    assert {change["action"] for change in answer["changes"]} == {"create", "send"}


def test_a_request_that_is_none_shows_no_token(fake: FakeOpenMetadata) -> None:
    request = {"documents": [], "url": fake.url, "token": TOKEN, "dry": True}
    command = [sys.executable, "-W", "ignore", "-m", "dml_openmetadata"]
    done = subprocess.run(
        command, input=json.dumps(request), cwd=SOURCE, capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "this is no request" in done.stderr
    assert TOKEN not in done.stderr
