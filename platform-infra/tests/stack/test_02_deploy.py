"""Releases: some in a row that nobody notices, and five that must not stay."""

from __future__ import annotations

import itertools
import json
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from stack.engine import inspect, wait
from stack.server import Server, clock

pytestmark = pytest.mark.timeout(1800)


class Work(threading.Thread):
    """Keeps one long run of `orders` going, whatever happens to its code location."""

    def __init__(self, server: Server, *, wait_s: float) -> None:
        super().__init__(daemon=True)
        self.server, self.wait_s = server, wait_s
        self.launched: list[str] = []
        self.refused: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.launched.append(self.server.batch(wait_s=self.wait_s))
            except Exception as error:  # noqa: BLE001 - told by the test that reads it
                self.refused.append(f"{clock(time.time())} {error}")
            self.over.wait(self.wait_s)

    def stop(self) -> list[str]:
        self.over.set()
        self.join(timeout=60)
        return self.launched


@pytest.fixture
def work(projects: Server) -> Iterator[Work]:
    thread = Work(projects, wait_s=15)
    thread.start()
    yield thread
    thread.stop()


def records(server: Server, project: str) -> list[dict[str, Any]]:
    lines = (server.state / "deploys.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for line in lines if (record := json.loads(line))["project"] == project]


def running_image(server: Server, project: str) -> str:
    return str(inspect(server.location(project))["Config"]["Image"])


# Ten take five minutes and are what docs/figures.md speaks of: session stack-long. In the usual run the machine may be
# busy with other tests, so that there only what is far too slow is a failure.
@pytest.mark.parametrize(
    ("count", "at_most_s"), [(3, 60), pytest.param(10, 40, marks=pytest.mark.long)], ids=["three", "ten"]
)
def test_deploys_in_a_row_are_noticed_by_nobody(
    projects: Server, work: Work, orders: Callable[..., str], figures: dict[str, Any], count: int, at_most_s: int
) -> None:
    projects.turn("orders", "nightly", on=True)
    projects.turn("orders", "every_minute", on=True)
    wait(lambda: projects.ticks("orders", "pulse", time.time() - 30), seconds=60, what="the sensor ticks")
    neighbour = projects.location("sales") if "sales" in projects.locations() else None
    states = projects.locations()["orders"]["states"]
    began, seconds, whole, switched = time.time(), [], [], []
    for number in range(2, 2 + count):
        started = time.monotonic()
        image = orders(number)
        built = figures["image orders: build, s"]
        done = projects.dml("deploy", "orders", "--image", image, timeout_s=180)
        # From the first byte of the push: what a project's workflow waits for after its tests.
        whole.append(time.monotonic() - started)
        seconds.append(whole[-1] - built)
        switched.append(time.time())
        assert projects.locations()["orders"]["error"] is None, done.stdout
        assert running_image(projects, "orders") == image
    runs = work.stop()
    figures[f"{count} deploys: push to live, median s"] = round(statistics.median(seconds), 1)
    figures[f"{count} deploys: push to live, slowest s"] = round(max(seconds), 1)
    figures[f"{count} deploys: code changed, built, pushed, live: median s"] = round(statistics.median(whole), 1)

    wait(
        lambda: projects.ticks("orders", "pulse", max(switched) + 5), seconds=60, what="the sensor ticks after the last"
    )
    ended = projects.wait_for_runs(*runs, seconds=300)
    ticks = projects.ticks("orders", "pulse", began)
    minutes = projects.ticks("orders", "every_minute", began, kind="schedule")
    moments = [float(tick["timestamp"]) for tick in ticks]
    gap = max(later - earlier for earlier, later in itertools.pairwise(moments))
    figures[f"{count} deploys: sensor ticks, failed"] = f"{len(ticks)}, {sum(t['status'] == 'FAILURE' for t in ticks)}"
    figures[f"{count} deploys: longest pause between ticks, s"] = round(gap, 1)
    figures[f"{count} deploys: runs going, lost"] = f"{len(runs)}, {sum(s != 'SUCCESS' for s in ended.values())}"

    assert work.refused == []
    assert [t["error"] for t in ticks + minutes if t["status"] == "FAILURE"] == []
    assert set(ended.values()) == {"SUCCESS"}, {i: projects.reason(i) for i, s in ended.items() if s != "SUCCESS"}
    assert projects.locations()["orders"]["states"] == states
    assert states["nightly"] == states["every_minute"] == states["pulse"] == "RUNNING"
    due = int((max(switched) - began) // 60)
    assert len(minutes) >= due, f"{len(minutes)} of {due} minutes were scheduled"
    scheduled = [run_id for tick in minutes for run_id in tick["runIds"]]
    assert set(projects.wait_for_runs(*scheduled).values()) == {"SUCCESS"}
    batches = projects.tables("orders")["orders.raw.till__orders"]["batches"]
    assert {batches[run_id][0] for run_id in [*runs, *scheduled]} == {100}
    assert neighbour in (None, projects.location("sales"))
    assert statistics.median(seconds) <= at_most_s
    assert statistics.median(whole) <= at_most_s + 20
    if count == 10:  # what comes after it in stack-long has servers of its own, and is measured too
        projects.turn("orders", "every_minute", on=False)


def test_a_run_keeps_the_image_that_it_was_launched_with(projects: Server, orders: Callable[..., str]) -> None:
    before = running_image(projects, "orders")
    run_id = projects.batch(wait_s=20)
    container = projects.run_container(run_id)
    projects.dml("deploy", "orders", "--image", orders("kept"))
    assert inspect(container)["Config"]["Image"] == before
    assert projects.wait_for_runs(run_id) == {run_id: "SUCCESS"}
    later = projects.batch(wait_s=5)
    assert inspect(projects.run_container(later))["Config"]["Image"] == running_image(projects, "orders") != before
    assert projects.wait_for_runs(later) == {later: "SUCCESS"}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("import-error", "a_module_that_nobody_installed"),
        ("crash-loop", "the disk of the till is on fire"),
        ("wrong-package", "returns"),
        ("missing-manifest", "manifest|dbt/target|Read-only|read-only"),
        ("lost-schedule", "every_minute"),
    ],
)
def test_a_bad_image_is_rolled_back_and_the_reason_shown(
    projects: Server, orders: Callable[..., str], figures: dict[str, Any], target: str, said: str
) -> None:
    bad = orders(f"bad-{target}", target=target)
    before, container = running_image(projects, "orders"), projects.location("orders")
    neighbour = projects.location("sales") if "sales" in projects.locations() else None
    states = projects.locations()["orders"]["states"]
    began, moment = time.time(), time.monotonic()
    refused = projects.dml("deploy", "orders", "--image", bad, check=False, timeout_s=180)
    seconds = time.monotonic() - moment
    figures[f"bad image ({target}): back after, s"] = round(seconds, 1)

    assert refused.returncode not in (0, 2), refused.stdout
    assert re.search(said, refused.stdout), refused.stdout
    assert projects.location("orders") == container, "the old container was touched"
    assert running_image(projects, "orders") == before
    location = projects.locations()["orders"]
    assert location["error"] is None
    assert location["states"] == states
    assert neighbour in (None, projects.location("sales"))
    record = records(projects, "orders")[-1]
    assert (record["outcome"], record["to"], record["from"]) == ("rolled back", bad, before), record
    assert record["error"], record
    wait(lambda: projects.ticks("orders", "pulse", time.time() - 8), seconds=60, what="the sensor still ticks")
    failed = [t["error"] for t in projects.ticks("orders", "pulse", began) if t["status"] == "FAILURE"]
    assert failed == []
    assert seconds <= 60


def test_rollback_brings_the_previous_image_back(projects: Server, orders: Callable[..., str]) -> None:
    before = running_image(projects, "orders")
    after = orders("newer")
    projects.dml("deploy", "orders", "--image", after)
    projects.dml("rollback", "orders")
    assert running_image(projects, "orders") == before
    record = records(projects, "orders")[-1]
    assert (record["what"], record["outcome"], record["to"]) == ("rollback", "live", before), record
    assert before in (projects.root / "registry" / "code-locations.yaml").read_text(encoding="utf-8")


def test_a_tag_is_refused_before_anything_changes(projects: Server) -> None:
    container = projects.location("orders")
    refused = projects.dml("deploy", "orders", "--image", "127.0.0.1:5000/orders:latest", check=False)
    assert refused.returncode != 0
    assert "digest" in refused.stdout, refused.stdout
    assert projects.location("orders") == container


def test_the_record_names_who_when_from_to_and_how_long(projects: Server) -> None:
    for record in records(projects, "orders"):
        assert record["who"], record
        assert record["when"], record
        assert record["seconds"] > 0, record
        assert "@sha256:" in record["to"], record
