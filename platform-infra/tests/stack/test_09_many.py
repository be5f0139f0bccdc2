"""Twenty code locations on one server: what each costs, and whether the budget check is right. Long."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from stack.engine import docker, inspect, wait
from stack.server import Server

COUNT = 20

pytestmark = [pytest.mark.timeout(3600), pytest.mark.long]


def connections(server: Server, *, users: str = "%") -> int:
    query = f"select count(*) from pg_stat_activity where backend_type = 'client backend' and usename like '{users}'"
    command = ("exec", "--user=postgres", server.service("postgres"), "psql", "-U", "postgres", "-Atc", query)
    return int(docker(*command).splitlines()[-1])


def memory_mb(container: str) -> float:
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).split("/")[0].strip()
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", used).groups()  # type: ignore[union-attr]
    return float(number) * {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[unit]


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [f"shop{number:02d}" for number in range(1, COUNT + 1)]


@pytest.fixture(scope="module")
def crowd(
    new_server: Callable[..., Server], orders: Callable[..., str], names: list[str], figures: dict[str, Any]
) -> Server:
    server = new_server()
    server.dml("up", timeout_s=600)
    figures["20 locations: Postgres connections before the first"] = connections(server)
    seconds = []
    for name in names:
        image = orders(1, repository=name)
        started = time.monotonic()
        server.register(name, image, "--memory", "512m", "--max-runs", "1")
        seconds.append(time.monotonic() - started)
        # A run a minute of each would be a measure of the runs: 20 starts of Python in a minute fill two cores.
        server.turn(name, "every_minute", on=False)
    figures["20 locations: register and deploy one, median s"] = round(statistics.median(seconds), 1)
    figures["20 locations: register and deploy the last, s"] = round(seconds[-1], 1)
    return server


def test_twenty_locations_are_loaded_and_tick(crowd: Server, names: list[str], figures: dict[str, Any]) -> None:
    found = crowd.locations()
    assert sorted(found) == names
    assert {name: location["error"] for name, location in found.items() if location["error"]} == {}
    since = time.time()
    wait(
        lambda: all(crowd.ticks(name, "pulse", since) for name in names),
        seconds=240,
        what="every location's sensor ticks",
        every_s=5,
    )
    figures["20 locations: a tick of every sensor after, s"] = round(time.time() - since, 1)
    used = [memory_mb(crowd.location(name)) for name in names]
    figures["20 locations: memory of one, median MB"] = round(statistics.median(used))
    figures["20 locations: memory of all, MB"] = round(sum(used))
    for service in ("webserver", "daemon", "postgres"):
        figures[f"20 locations: memory of {service}, MB"] = round(memory_mb(crowd.service(service)))
    figures["20 locations: Postgres connections, idle"] = connections(crowd)


def test_connections_stay_within_the_budget_while_all_run(
    crowd: Server, names: list[str], figures: dict[str, Any]
) -> None:
    step = {"config": {"wait_s": 30}}
    runs = [crowd.launch(name, "intake", config={"ops": {f"{name}__raw__till__orders": step}}) for name in names]
    most = 0
    limit = int(docker("exec", "--user=postgres", crowd.service("postgres"), "psql", "-U", "postgres", "-Atc",
                       "show max_connections").splitlines()[-1])  # fmt: skip
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        most = max(most, connections(crowd))
        if all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in crowd.runs(*runs)):
            break
        time.sleep(2)
    figures["20 locations: Postgres connections, most while runs go"] = f"{most} of {limit}"
    assert most < limit


def test_everything_starts_again_within_minutes(crowd: Server, names: list[str], figures: dict[str, Any]) -> None:
    started = time.monotonic()
    crowd.dml("down")
    assert not [c for c in docker("ps", "-q").split() if inspect(c)["Name"].startswith(f"/{crowd.name}-")]
    crowd.dml("up", timeout_s=1200)
    wait(
        lambda: (
            all(location["error"] is None for location in crowd.locations().values())
            and len(crowd.locations()) == COUNT
        ),
        seconds=600,
        what="every location is loaded",
        every_s=3,
    )
    figures["20 locations: down and up again, s"] = round(time.monotonic() - started, 1)


def test_a_location_over_the_budget_is_refused_in_words(crowd: Server, orders: Callable[..., str]) -> None:
    image, settings = orders(1, repository="greedy"), crowd.root / ".env"
    people = ["--owner", "team:greedy", "--alerts", "greedy@example.com"]
    # 56 for the core, 8 in reserve, 4 for each of 21 locations, 6 for each of 20 runs at once: 268.
    without = settings.read_text(encoding="utf-8")
    settings.write_text(f"{without}DML_POSTGRES_MAX_CONNECTIONS=267\n", encoding="utf-8")
    refused = crowd.dml("register", "greedy", "--image", image, *people, check=False)
    assert refused.returncode != 0
    assert re.search("connection", refused.stdout), refused.stdout
    settings.write_text(f"{without}DML_POSTGRES_MAX_CONNECTIONS=268\n", encoding="utf-8")
    crowd.dml("register", "greedy", "--image", image, *people)
    assert "greedy" not in crowd.locations()
