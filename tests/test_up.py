"""`./dml up` as a person uses it: a real browser, a click on "Materialize all", the run's log; then nothing is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Error, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent
# The program itself, for workspaces that are not this tree.
DML = str(Path(sys.executable).parent / "dml")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / ".dml"


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("DML_")}
    return kept | {"DML_HOME": str(home)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} within {seconds} s"
        time.sleep(0.2)


def started_by_up(home: Path) -> list[psutil.Process]:
    """Every process that carries this test's state folder in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DML_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture(scope="module")
def address(home: Path, environment: dict[str, str]) -> Iterator[str]:
    port = free_port()
    command = [str(ROOT / "dml"), "up", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:  # the launcher says so first, where it brings .venv up to date
        seen.append(line)
        if line.startswith(f"ready http://127.0.0.1:{port}"):
            break
    else:
        pytest.fail("".join(seen))
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    wait(lambda: started_by_up(home) == [], seconds=20, what="Ctrl-C ends every process")


@pytest.fixture
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        shown = browser.new_page(viewport={"width": 1600, "height": 1000})
        shown.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield shown
        browser.close()


def show(page: Page, address: str, *expected: Locator) -> None:
    """Open a page until it shows what it should.

    Chromium drops requests whenever an interface comes or goes on its machine (ERR_NETWORK_CHANGED), and each container
    that starts beside the tests is one.
    """
    for last in (False, False, True):
        try:
            page.goto(address)
            for locator in expected:
                expect(locator).to_be_visible(timeout=60_000 if last else 30_000)
            return
        except (AssertionError, Error):
            if last:
                raise


def ask(address: str, query: str) -> Any:
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as response:
        return json.load(response)["data"]


def newest_run(address: str) -> dict[str, str]:
    runs = ask(address, "{runsOrError(limit: 1) {... on Runs {results {id status}}}}")["runsOrError"]["results"]
    return runs[0] if runs else {"id": "", "status": ""}


def test_everything_is_materialised_from_the_ui_and_seen_there(address: str, page: Page) -> None:
    loaded = page.get_by_text("Loaded", exact=True)
    show(page, f"{address}/locations", loaded, page.get_by_role("link", name="sales"))

    button = page.get_by_role("button", name=re.compile("Materialize all"))
    show(page, f"{address}/asset-groups", button)
    button.click()
    wait(lambda: newest_run(address)["status"] in ("SUCCESS", "FAILURE"), seconds=240, what="the run ends")
    run = newest_run(address)
    assert run["status"] == "SUCCESS"

    show(page, f"{address}/runs", page.get_by_text(run["id"][:8]))
    events = page.get_by_text(re.compile("success model fct_daily_revenue|RUN_SUCCESS")).first
    show(page, f"{address}/runs/{run['id']}", page.get_by_text("sales_dbt").first, events)

    marts = f"{address}/assets/sales/marts"
    show(page, f"{marts}/fct_daily_revenue?view=overview", page.get_by_text("snapshot_id").first)
    show(page, f"{marts}/fct_daily_revenue?view=events", page.get_by_text("preview").first)
    passed = page.get_by_text("Passed", exact=True).first
    show(page, f"{marts}/fct_purchases?view=checks", passed, page.get_by_text("failing_rows").first)
    lineage = f"{marts}/customer_forecast?view=lineage&lineageScope=upstream&lineageDepth=5"
    show(page, lineage, page.get_by_text("cdnow__purchases").first)


def test_metadata_of_the_run_has_rows_preview_and_plot(address: str) -> None:
    query = """{assetOrError(assetKey: {path: ["sales", "marts", "fct_daily_revenue"]}) {... on Asset {
      assetMaterializations(limit: 1) {metadataEntries {label ... on IntMetadataEntry {intValue}
        ... on MarkdownMetadataEntry {mdStr}}}}}}"""
    [event] = ask(address, query)["assetOrError"]["assetMaterializations"]
    entries = {entry["label"]: entry for entry in event["metadataEntries"]}
    assert entries["dagster/row_count"]["intValue"] == 546
    assert entries["preview"]["mdStr"].startswith("| revenue_date |")
    assert entries["plot"]["mdStr"].startswith("![plot](data:image/png;base64,")


def test_second_up_is_refused(address: str, environment: dict[str, str]) -> None:
    done = subprocess.run([str(ROOT / "dml"), "up"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot start: it is already running." in done.stderr


def test_down_stops_what_a_killed_supervisor_left(tmp_path: Path, environment: dict[str, str]) -> None:
    home = tmp_path / ".dml"
    mine = environment | {"DML_HOME": str(home)}
    dml = [str(ROOT / "dml")]
    up = [*dml, "up", "--detach", "--port", str(free_port())]
    subprocess.run(up, env=mine, check=True, stdout=subprocess.PIPE, timeout=240)
    state = json.loads((home / "up" / "state.json").read_text())
    assert [service["name"] for service in state] == ["supervisor", "sales", "webserver", "daemon"]
    os.kill(state[0]["pid"], signal.SIGKILL)

    subprocess.run([*dml, "down"], env=mine, check=True, stdout=subprocess.PIPE, timeout=60)

    wait(lambda: started_by_up(home) == [], seconds=20, what="nothing is left running")
    again = subprocess.run([*dml, "down"], env=mine, check=True, capture_output=True, text=True)
    assert again.stdout == "nothing was running\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with project-sales and two projects that `dml new` made beside it."""
    root = tmp_path / "workspace"
    (root / ".dml").mkdir(parents=True)
    made = shutil.ignore_patterns(".dml", ".nox", ".dvc-storage", "cache", "target", "logs", "__pycache__", ".*_cache")
    shutil.copytree(ROOT / "project-sales", root / "project-sales", ignore=made)
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("DML_", "GIT_"))}
    kept |= {"DML_TEMPLATE": str(ROOT / "project-template"), "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")}
    (tmp_path / "gitconfig").write_text("[user]\nname = Test\nemail = test@example.com\n")
    common = ["--defaults", "--no-run", "--no-notebooks", "--dvc-remote", "none"]
    for name in ("marketing", "logistics"):
        new = [DML, "new", name, "--owner", f"team:{name}", "--alerts", f"{name}@example.com", *common]
        done = subprocess.run(new, cwd=root, env=kept, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_new_projects_run_beside_sales(workspace: Path, environment: dict[str, str]) -> None:
    home = workspace / ".dml"
    mine = environment | {"DML_HOME": str(home)}
    port = free_port()
    up = [DML, "up", "--detach", "--port", str(port)]
    started = subprocess.run(up, cwd=workspace, env=mine, capture_output=True, text=True, timeout=400, check=False)
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        address = f"http://127.0.0.1:{port}"
        query = "{repositoriesOrError {... on RepositoryConnection {nodes {location {name} jobs {name}}}}}"
        nodes = ask(address, query)["repositoriesOrError"]["nodes"]
        assert {node["location"]["name"] for node in nodes} == {"logistics", "marketing", "sales"}
        assert all("daily" in {job["name"] for job in node["jobs"]} for node in nodes)

        # At the same time, from terminals: each in its own name of the one lake.
        runs = [
            subprocess.Popen(
                [DML, "run", "--project", name],
                cwd=workspace,
                env=mine,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for name in ("marketing", "logistics", "sales")
        ]
        printed = [run.communicate(timeout=400)[0].decode() for run in runs]
        assert [run.returncode for run in runs] == [0, 0, 0], "\n".join(printed)
        published = {"marketing.marts.fct_orders": "600", "logistics.marts.fct_orders": "600"}
        published["sales.marts.fct_purchases"] = "69659"
        for table, rows in published.items():
            asked = [DML, "sql", "--format", "csv", f"select count(*) from {table}"]
            done = subprocess.run(asked, cwd=workspace, env=mine, capture_output=True, text=True, check=True)
            assert done.stdout.splitlines()[-1] == rows
    finally:
        subprocess.run([DML, "down"], cwd=workspace, env=mine, check=True, stdout=subprocess.PIPE, timeout=60)
    wait(lambda: started_by_up(home) == [], seconds=20, what="nothing is left running")
