"""Connectors that fail, lie, hang; landings that are killed: a clear sentence, nothing lost, nothing doubled."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fake_source import FAKE, Land, fake_source, ids, with_airbyte

from dml_platform.airbyte import land_streams, open_connector
from dml_platform.core.errors import ConfigError, PermanentError, PublishConflictError, RetryableError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake

USERS = TableRef("test", "raw", "fake__users")


def wait_until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("error", SourceError, "the connector says: the database said no"),
        ("config_error", SourceError, r"the connector says: wrong password .*\nCorrect the source's config"),
        ("transient_error", RetryableError, "the connector says: too many requests"),
        ("exit", SourceError, "ended with exit code 1; its last words: reading with password"),
        ("killed", SourceError, "was killed by signal 9"),
        ("broken", SourceError, "record 55 of the stream is broken JSON"),
        ("broken_state", SourceError, "a line of broken JSON"),
        ("stranger", SourceError, "a record of stream 'nobody', which was not asked for"),
    ],
)
def test_a_failing_connector_ends_in_its_own_sentence_and_its_states_are_kept(
    behaviour: str, kind: type[Exception], message: str, land: Land, small_lake: Lake
) -> None:
    with pytest.raises(kind, match=message):
        land(behaviour=behaviour, at=55)

    # A broken record is only found when the rows are parsed, so the rows before it come again.
    kept = 0 if behaviour == "broken" else 50
    published = small_lake.published(USERS)
    assert (published.rows if published else 0) == kept
    assert land()["users"].rows == 100 - kept
    assert ids(small_lake) == list(range(1, 101))


def test_a_failed_full_refresh_keeps_the_old_rows(land: Land, small_lake: Lake) -> None:
    modes = {"users": "full_refresh"}
    land(modes)
    with pytest.raises(SourceError, match="exit code 1"):
        land(modes, behaviour="exit", at=8000, streams={"users": {"rows": 9000}}, padding=300)
    assert ids(small_lake) == list(range(1, 101))


def test_a_failed_re_read_of_an_incremental_stream_keeps_the_old_rows(land: Land, small_lake: Lake) -> None:
    land()
    with pytest.raises(SourceError, match="exit code 1"):
        land(behaviour="exit", at=8000, streams={"users": {"rows": 9000}}, padding=300, full_refresh=True)
    assert ids(small_lake) == list(range(1, 101))
    assert land(streams={"users": {"rows": 9000}}, full_refresh=True)["users"].rows == 9000
    assert ids(small_lake) == list(range(1, 9001))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.integration
def test_a_full_disk_is_said_to_be_full(small_disk: Path, small_lake: Lake, land: Land) -> None:
    land()
    options = small_lake.settings.duckdb.model_copy(update={"temp_dir": small_disk})
    lake = Lake(with_airbyte(small_lake.settings.model_copy(update={"duckdb": options}), window_mb=128))
    source = fake_source(streams={"users": {"rows": 20_000}}, padding=300, state_every=10**9)
    with pytest.raises(PermanentError, match="No space left on device"):
        land_streams(lake, "test", "fake", source, run_id="full")
    assert ids(small_lake) == list(range(1, 101))
    assert [p.name for p in small_disk.iterdir() if p.name.startswith("airbyte")] == []
    assert land(streams={"users": {"rows": 200}})["users"].rows == 100


def test_a_stream_that_was_not_completed_fails(land: Land) -> None:
    with pytest.raises(SourceError, match="did not complete users"):
        land(behaviour="incomplete", at=55)


def test_garbage_is_said_to_be_garbage(land: Land, small_lake: Lake, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 'hello world'\n")
    program.chmod(0o755)
    source = fake_source().model_copy(update={"connector": fake_source().connector.__class__(command=(str(program),))})
    with pytest.raises(SourceError, match=r"printed no Airbyte message \(first line 'hello world'\)"):
        land_streams(small_lake, "test", "fake", source, run_id="r1")


def test_text_between_messages_is_logged(land: Land, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dml_platform.airbyte.fake")
    assert land(behaviour="text", at=5)["users"].rows == 100
    assert "Downloading 12%... done" in caplog.messages


def test_secrets_are_in_no_log_and_no_message(
    small_lake: Lake, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SHOP_PASSWORD", "s3cr3t-value")
    source = fake_source(password="${SHOP_PASSWORD}", behaviour="config_error", at=5)
    with pytest.raises(SourceError) as caught:
        land_streams(small_lake, "test", "fake", source, run_id="r1")
    assert "wrong password ***" in str(caught.value)
    assert "reading with password ***" in caplog.text
    assert "s3cr3t" not in caplog.text + repr(caught.value)


def test_a_missing_secret_is_named(small_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    with pytest.raises(ConfigError, match="variable SHOP_PASSWORD is not set"):
        open_connector("fake", fake_source(password="${SHOP_PASSWORD}"), small_lake.settings)


def test_check_tells_the_connectors_reason(small_lake: Lake) -> None:
    open_connector("fake", fake_source(), small_lake.settings).check()
    refusing = open_connector("fake", fake_source(refuse=True, password="hunter22"), small_lake.settings)
    with pytest.raises(SourceError, match=r"the connector says: no \*\*\*"):
        refusing.check()


def test_discover_tells_the_connectors_reason(land: Land) -> None:
    with pytest.raises(SourceError, match="cannot discover source 'fake': the connector says: no permission"):
        land(behaviour="no_discover")


@pytest.mark.parametrize("limit", ["timeout_s", "idle_timeout_s"])
def test_a_hanging_connector_is_stopped_with_its_children_and_its_states_are_kept(
    limit: str, local: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    monkeypatch.setenv("FAKE_CHILD", str(child))
    lake = Lake(with_airbyte(local, **{"timeout_s": 30, "idle_timeout_s": 30, limit: 3}))
    source = fake_source(behaviour="hang_with_child", at=55)
    with pytest.raises(RetryableError, match=f"(?s)stopped because it .*DML_AIRBYTE__{limit.upper()}") as caught:
        land_streams(lake, "test", "fake", source, run_id="r1")
    assert caught.value.allow_retries
    wait_until(lambda: not psutil.pid_exists(int(child.read_text())))
    assert ids(lake) == list(range(1, 51))
    assert land_streams(lake, "test", "fake", fake_source(), run_id="r2")[0].rows == 50


@pytest.mark.integration
@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
def test_kill_9_while_landing_loses_and_doubles_nothing(
    mode: str, land: Land, small_lake: Lake, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    rows = 12_000
    program = tmp_path / "landing.py"
    program.write_text(
        f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from pathlib import Path
from fake_source import fake_source, with_airbyte
from dml_platform.airbyte import land_streams
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake
settings = with_airbyte(Settings(home=Path({str(small_lake.settings.home)!r})), window_mb=1)
source = fake_source({{"users": {mode!r}}}, streams={{"users": {{"rows": {rows}}}}}, padding=300, state_every=500,
                     gate={str(gate)!r}, at=9_000)
land_streams(Lake(settings), "test", "fake", source, run_id="killed")
"""
    )
    if mode == "full_refresh":
        land({"users": mode})
    process = subprocess.Popen([sys.executable, str(program)])

    def has_begun() -> bool:
        assert process.poll() is None
        table = small_lake.catalog.load_table(USERS.identifier) if USERS in small_lake.tables() else None
        if table is None:
            return False
        published = small_lake.published(USERS)
        return (
            any(name.startswith("run_killed") for name in table.refs())
            if mode == "full_refresh"
            else published is not None and published.rows > 0
        )

    wait_until(has_begun)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    gate.touch()
    seen = ids(small_lake)
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == 100 if mode == "full_refresh" else 0 < len(seen) < rows

    landed = land({"users": mode}, streams={"users": {"rows": rows}})["users"]

    assert ids(small_lake) == list(range(1, rows + 1))
    assert landed.rows == (rows if mode == "full_refresh" else rows - len(seen))
    left = [p.name for p in small_lake.settings.temp_dir.iterdir() if p.name.startswith("airbyte")]
    assert left == []


def test_two_landings_of_one_stream_at_once_double_nothing(small_lake: Lake, land: Land, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    caught: list[BaseException] = []

    def slow() -> None:
        source = fake_source(gate=str(gate), at=90)
        try:
            land_streams(Lake(small_lake.settings), "test", "fake", source, run_id="slow")
        except PublishConflictError as error:
            caught.append(error)

    thread = threading.Thread(target=slow)
    land(streams={"users": {"rows": 10}})
    thread.start()
    wait_until(_is_reading)
    land(streams={"users": {"rows": 50}})
    gate.touch()
    thread.join(60)
    assert len(caught) == 1
    assert land()["users"].rows == 50
    assert ids(small_lake) == list(range(1, 101))


def _is_reading() -> bool:
    """Whether a fake that this process started reads."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if str(FAKE) in child.cmdline() and "read" in child.cmdline():
                return True
    return False
