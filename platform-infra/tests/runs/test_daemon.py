"""What the daemon does besides Dagster's own: reads a changed workspace at once, limits each project's runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("dagster", reason="Dagster is in the server's environment only")

import dagster._daemon.controller as controller
from dagster._core.instance.config import ConcurrencyConfig
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig

from dml_infra import daemon

GENERIC = {"key": daemon.LOCATION_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": 4}
EXCLUSIVE = {"key": "dml/exclusive", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}


def config() -> ConcurrencyConfig:
    made = ConcurrencyConfig.from_concurrency_settings({}, RunQueueConfig(20, [GENERIC, EXCLUSIVE]))
    assert made.run_queue_config
    return made


def limits(path: Path) -> list[Any]:
    run_queue = daemon.with_limits(config(), path).run_queue_config
    assert run_queue
    return list(run_queue.tag_concurrency_limits)


def test_the_registrys_limit_takes_the_place_of_the_common_one(tmp_path: Path) -> None:
    path = tmp_path / "locations.json"
    path.write_text(json.dumps({"sales": {"max_runs": 6}, "orders": {"max_runs": 1}, "plain": {}}), encoding="utf-8")
    assert limits(path) == [
        EXCLUSIVE,
        {"key": daemon.LOCATION_TAG, "value": "orders", "limit": 1},
        {"key": daemon.LOCATION_TAG, "value": "plain", "limit": 4},
        {"key": daemon.LOCATION_TAG, "value": "sales", "limit": 6},
    ]


@pytest.mark.parametrize("content", [None, "{"])
def test_without_a_readable_list_the_common_limit_stays(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "locations.json"
    if content:
        path.write_text(content, encoding="utf-8")
    assert limits(path) == [GENERIC, EXCLUSIVE]


class Daemon:
    """As much of Dagster's controller as the check of the workspace needs."""

    def __init__(self) -> None:
        self.refreshed = 0
        self.error: str | None = None
        self.broken = False
        self._grpc_server_registry = None
        self._logger = SimpleNamespace(exception=lambda text: None)
        self._workspace_process_context = self

    def refresh_workspace(self) -> None:
        if self.broken:
            raise OSError("the location does not answer")
        self.refreshed += 1

    def create_request_context(self) -> Any:
        return SimpleNamespace(get_code_location_entries=lambda: {"sales": SimpleNamespace(load_error=self.error)})

    def check(self, last_s: float) -> float:
        return controller.DagsterDaemonController.check_workspace_freshness(self, last_s)  # type: ignore[arg-type]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace.yaml"
    path.write_text("load_from: []\n", encoding="utf-8")
    return path


@pytest.fixture
def watched(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    plain = controller.DagsterDaemonController.check_workspace_freshness
    monkeypatch.setattr(controller.DagsterDaemonController, "check_workspace_freshness", plain)
    daemon.watch_workspace(workspace)
    return Daemon()


def swap(workspace: Path, text: str) -> None:
    fresh = workspace.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, workspace)


def test_an_unchanged_workspace_is_read_once_a_minute(watched: Daemon) -> None:
    now_s = time.time()
    assert watched.check(now_s - 30) == now_s - 30
    assert watched.refreshed == 0
    assert watched.check(now_s - 61) >= now_s
    assert watched.refreshed == 1


def test_a_changed_workspace_is_read_at_the_next_look(watched: Daemon, workspace: Path) -> None:
    swap(workspace, "load_from: []\n# changed\n")
    assert watched.check(time.time() - 1) >= time.time() - 5
    watched.check(time.time())
    assert watched.refreshed == 1


def test_a_change_that_could_not_be_read_is_tried_again(watched: Daemon, workspace: Path) -> None:
    swap(workspace, "load_from: []\n# changed\n")
    watched.broken = True
    last_s = time.time() - 5
    assert watched.check(last_s) == last_s
    watched.broken = False
    watched.check(time.time() - 1)
    assert watched.refreshed == 1


def test_a_workspace_that_cannot_be_read_for_long_ends_the_daemon(watched: Daemon, workspace: Path) -> None:
    swap(workspace, "load_from: []\n# changed\n")
    watched.broken = True
    with pytest.raises(OSError, match="does not answer"):
        watched.check(time.time() - 1000)


def test_a_location_that_failed_to_load_is_tried_again_soon(watched: Daemon) -> None:
    watched.error = "ImportError"
    watched.check(time.time() - 5)
    assert watched.refreshed == 0
    watched.check(time.time() - 11)
    assert watched.refreshed == 1
