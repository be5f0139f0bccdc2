"""The sensor as Dagster's daemon runs it, below a real `dml up`, with real receivers; one is dead at first."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from dbt_shop import FILES
from receivers import mail_server, webhook

from dml_platform.core.naming import TableRef
from dml_platform.core.settings import load_settings
from dml_platform.lake import Lake

CONFIG = """
owner: shop@example.com
alerts:
  tick_seconds: 5
  look_every_minutes: 0.1
  schedule_grace_minutes: 0.02
  channels:
    chat: {kind: webhook, url: "${SHOP_HOOK}"}
    pager: {kind: webhook, url: "${SHOP_PAGER}"}
    mail: {kind: email, host: 127.0.0.1, port: %d, security: none, sender: dml@example.com}
"""
DEFINITIONS = """
from pathlib import Path
import dagster as dg
from dml_platform.core.errors import PermanentError
from dml_platform.definitions import build_definitions
from dml_platform.lake.reporting import failures

ROOT = Path(__file__).parent.parent

@dg.asset(key=["shop", "marts", "totals"])
def totals() -> None:
    with failures():
        if (ROOT / "fault").exists():
            raise PermanentError("cannot make 'shop.marts.totals'", "somebody broke it", "Mend it.")

daily = dg.define_asset_job("daily", selection=[totals])

@dg.schedule(job=daily, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def each_minute(context):
    raise ValueError("the calendar is gone")

defs = build_definitions(ROOT, assets=[totals], jobs=[daily], schedules=[each_minute])
"""
SOURCES = """
version: 2
sources:
  - name: raw
    database: shop
    schema: raw
    tables:
      - name: web__orders
        loaded_at_field: _loaded_at
        config: {freshness: {warn_after: {count: 2, period: day}}}
"""
LAUNCH = """
mutation($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, runConfigData: {}}) { __typename ... on PythonError { message } }
}
"""


def make_project(folder: Path, mail_port: int) -> Path:
    """A project with a job that fails while a file is there, a schedule that cannot be evaluated and a late source."""
    root = folder / "project-shop"
    kept = ("pyproject.toml", "dbt/dbt_project.yml", "dbt/profiles.yml", "dbt/models/staging/stg_orders.sql")
    files = {name: FILES[name] for name in kept} | {
        "config/project.yaml": CONFIG % mail_port,
        "project_shop/__init__.py": "",
        "project_shop/definitions.py": DEFINITIONS,
        "dbt/models/schema.yml": SOURCES,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (folder / ".dml").mkdir()
    lake = Lake(load_settings(root), root)
    step = lake.step("old", "land")
    at = datetime.now(timezone.utc) - timedelta(days=3, hours=1)
    query = f"SELECT 1 AS order_id, TIMESTAMPTZ '{at.isoformat()}' AS _loaded_at"
    step.write_query(TableRef("shop", "raw", "web__orders"), lake.connect(), query)
    step.publish()
    return root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(root: Path, port: int, **environment: str) -> Iterator[None]:
    """`dml up --detach`, and `dml down` in the end."""

    def dml(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "dml_platform.cli", *arguments],
            cwd=root,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    dml("up", "--detach", "--port", str(port))
    try:
        yield
    finally:
        dml("down")


def launch_daily(port: int) -> None:
    selector = {"repositoryLocationName": "shop", "repositoryName": "__repository__", "jobName": "daily"}
    body = json.dumps({"query": LAUNCH, "variables": {"selector": selector}}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"


def wait_for(found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return result


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_the_owner_hears_of_each_fault_once_and_of_its_end_and_a_dead_channel_loses_nothing(tmp_path: Path) -> None:
    pager_port, port = free_port(), free_port()
    with webhook() as hook, mail_server() as box:
        root = make_project(tmp_path, box.port)

        def told(text: str) -> list[dict[str, Any]]:
            return [message for message in hook.got if text in message["title"]]

        secrets = {"SHOP_HOOK": hook.url(), "SHOP_PAGER": f"http://127.0.0.1:{pager_port}/pager"}
        with running(root, port, **secrets):
            [late] = wait_for(lambda: told("a source is late"), "the late source")
            assert "shop.raw.web__orders: its newest row is 3 days old, more than 2 days." in late["text"]
            (root / "fault").touch()
            launch_daily(port)
            [failed] = wait_for(lambda: told("job daily failed"), "the failed run")
            assert (
                "Step shop__marts__totals failed: cannot make 'shop.marts.totals': somebody broke it" in failed["text"]
            )
            with webhook(port=pager_port) as pager:
                (root / "fault").unlink()
                launch_daily(port)
                wait_for(lambda: told("well again: step shop__marts__totals"), "the recovery")
                [missed] = wait_for(lambda: told("a schedule did not run"), "the schedule")
                assert "Schedule each_minute was due at" in missed["text"]
                assert "its evaluation failed (" in missed["text"]
                # What it missed while it was dead, then the rest, in the order in which it was told.
                wait_for(lambda: len(pager.got) >= len(hook.got) == 4, "the pager")
                assert [message["id"] for message in pager.got] == [message["id"] for message in hook.got]
        assert {message["owner"] for message in hook.got} == {"shop@example.com"}
        assert [mail["Subject"] for mail in box.mails] == [message["title"] for message in hook.got]
        assert {mail["To"] for mail in box.mails} == {"shop@example.com"}
