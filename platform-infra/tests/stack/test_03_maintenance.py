"""Maintenance of the real project's tables: the weekly job, and what a workflow sees that may only read."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from stack.engine import inspect, sh
from stack.server import Server

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def lake(projects: Server) -> Server:
    """The server, where sales has tables."""
    if "sales" not in projects.locations():
        pytest.skip("there is no image project-sales; TEST_SALES_IMAGE names one")
    if "sales.marts.fct_daily_revenue" not in projects.tables("sales"):
        run_id = projects.launch("sales", "daily")
        assert projects.wait_for_runs(run_id, seconds=420) == {run_id: "SUCCESS"}, projects.reason(run_id)
    return projects


def test_the_weekly_job_ends_well_and_all_tables_can_be_read(lake: Server, figures: dict[str, Any]) -> None:
    assert lake.locations()["sales"]["states"]["maintain_schedule"] == "RUNNING", "on from the first deploy"
    started = time.monotonic()
    run_id = lake.launch("sales", "maintain")
    assert lake.wait_for_runs(run_id) == {run_id: "SUCCESS"}, lake.reason(run_id)
    figures["maintenance of sales as Dagster's job, s"] = round(time.monotonic() - started, 1)
    tables = lake.tables("sales")
    assert tables["sales.raw.cdnow__purchases"]["rows"] == 69_659
    assert tables["sales.marts.fct_daily_revenue"]["rows"] == 546


FORGE = """
from dml_platform.core.naming import TableRef
from dml_platform.lake import open_lake
lake = open_lake()
step = lake.step("forged", "land")
step.write_query(TableRef("sales", "marts", "fct_daily_revenue"), lake.connect(), "select 1 as revenue_cents")
step.publish()
"""


def run_with(given: dict[str, str], server: Server, *command: str) -> tuple[int, str]:
    """Run a command of the project on its network with what a workflow is given; exit code and output."""
    names = ("CATALOG_URI", "WAREHOUSE", "ENDPOINT", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
    ours = {f"DML_LAKE__{name if name in names[:2] else f'S3_{name}'}": given[f"LAKE_{name}"] for name in names}
    settings = {"DML_PROFILE": "server", "DML_LAKE__S3_REGION": "us-east-1", **ours}
    run = ["docker", "run", "--rm", "--read-only", "--tmpfs=/tmp", "--tmpfs=/var/lib/dml:uid=10001,gid=10001"]
    run += [f"--network={server.name}_project_sales", f"--label=dml.stack={server.name}", "--no-healthcheck"]
    run += [f"--env={name}={value}" for name, value in settings.items()]
    done = sh(*run, inspect(server.location("sales"))["Config"]["Image"], *command, check=False)
    return done.returncode, done.stdout


def test_a_workflow_sees_what_would_go_and_may_change_nothing(lake: Server, figures: dict[str, Any]) -> None:
    given = dict(re.findall(r"^(LAKE_\w+)=(\S+)$", lake.dml("reader", "sales").stdout, re.MULTILINE))
    # What session `maintenance` of the project's noxfile runs, every night.
    nightly = ("dml", "maintain", "--dry-run")
    started = time.monotonic()
    code, printed = run_with(given, lake, *nightly)
    figures["what maintenance of sales would remove, with a reader's role, s"] = round(time.monotonic() - started, 1)
    assert code == 0, printed
    assert "nothing was changed: --dry-run" in printed
    code, printed = run_with(given, lake, "python", "-W", "ignore", "-c", FORGE)
    assert code != 0
    assert "permission denied" in printed, printed
    assert given["LAKE_SECRET_ACCESS_KEY"] not in printed
    lake.dml("reader", "sales", "--end")
    code, printed = run_with(given, lake, *nightly)
    assert code != 0
    assert re.search("Access Key Id you provided does not exist|password authentication failed", printed), printed
