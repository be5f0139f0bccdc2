"""What a server's run leaves: its report in the object store with a link to open, and its document in OpenMetadata."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
import pytest
from catalog_server import CatalogServer
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dbt_shop import land_orders, project

from dml_platform.core.project import Project
from dml_platform.core.settings import Settings, load_settings
from dml_platform.core.storage import Storage, open_storage
from dml_platform.definitions import build_definitions
from dml_platform.lake import Lake
from dml_platform.openmetadata.program import ensure_publisher

__all__ = ["project"]

TOKEN = "test-token-of-a-bot"  # pragma: allowlist secret
REPORTS = "https://data.example.com/reports/"
ADDRESS = "https://data.example.com/reports/shop/report/index.html"

server_only = pytest.mark.parametrize("settings", ["server"], indirect=True)


@pytest.fixture
def shop(project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The small project with the variables that a run's container has."""
    lake, key = settings.lake, settings.read_s3_key()
    assert lake.catalog_uri
    assert key
    given = {
        "PROFILE": "server",
        "HOME": str(settings.home),
        "LAKE__CATALOG_URI": lake.catalog_uri.get_secret_value(),
        "LAKE__WAREHOUSE": settings.warehouse,
        "LAKE__S3_ENDPOINT": str(lake.s3_endpoint),
        "LAKE__S3_ACCESS_KEY_ID": key.access_key_id,
        "LAKE__S3_SECRET_ACCESS_KEY": key.secret_access_key.get_secret_value(),
    }
    for name, value in given.items():
        monkeypatch.setenv(f"DML_{name}", value)
    monkeypatch.chdir(project.root)
    with closing(Lake(settings, project.root).catalog):
        land_orders(Lake(settings, project.root), "values (1, 500, 'de'), (2, 700, 'fr')", run_id="land1")
        yield project


def run(shop: Project) -> tuple[list[str], dict[str, str]]:
    """Run the project's job as a run's container does. Returns: what its log says at the end, and its links."""
    jobs = [dg.define_asset_job("daily", selection=dg.AssetSelection.all())]
    job = build_definitions(shop.root, jobs=jobs).resolve_job_def("daily")
    with dg.DagsterInstance.ephemeral() as instance:
        started = instance.create_run_for_job(job)
        assert execute_run(InMemoryJob(job), started, instance).success
        entries = instance.all_logs(started.run_id)
    links = {
        name: str(value.value)
        for entry in entries
        if entry.dagster_event and entry.dagster_event.is_engine_event
        for name, value in entry.dagster_event.engine_event_data.metadata.items()
        if isinstance(value, dg.UrlMetadataValue)
    }
    return [entry.user_message for entry in entries if entry.dagster_event is None], links


def kept(shop: Project, area: str) -> Storage:
    return open_storage(load_settings(shop.root), "shop", area)


def waiting(shop: Project) -> int:
    return len(kept(shop, "openmetadata").list("waiting"))


@contextmanager
def dead_address() -> Iterator[str]:
    """Of a port that nobody answers at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@server_only
def test_a_servers_run_publishes_its_report_and_links_the_address_that_people_open(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DML_REPORTS_URL", REPORTS)
    said, links = run(shop)
    assert links == {"report": ADDRESS}
    page = kept(shop, "report").read("index.html")
    assert page is not None
    assert b"shop.marts.fct_orders" in page
    assert not [text for text in said if "OpenMetadata" in text]


@server_only
def test_without_an_address_the_run_says_where_the_report_lies_and_makes_no_dead_link(shop: Project) -> None:
    said, links = run(shop)
    assert links == {}
    assert f"Report: {load_settings(shop.root).warehouse}/shop/_report/index.html" in said


def test_a_server_whose_tables_are_in_a_folder_publishes_its_report_too(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    given = {"PROFILE": "server", "HOME": str(home), "LAKE__WAREHOUSE": str(tmp_path / "tables")}
    given["LAKE__CATALOG_URI"] = f"sqlite:///{tmp_path}/catalog.db"
    for name, value in given.items():
        monkeypatch.setenv(f"DML_{name}", value)
    monkeypatch.chdir(project.root)
    lake = Lake(load_settings(project.root), project.root)
    with closing(lake.catalog):
        land_orders(lake, "values (1, 500, 'de')", run_id="land1")
    said, _ = run(project)
    assert f"Report: {home}/report/shop/index.html" in said
    assert (home / "report" / "shop" / "index.html").read_text().startswith("<!doctype html>")


@server_only
@pytest.mark.integration
@pytest.mark.timeout(900)
def test_openmetadata_gets_a_servers_run_and_what_waited_while_it_was_dead(
    shop: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("DML_OPENMETADATA__TOKEN_FILE", str(tmp_path / "token"))
    publisher = ensure_publisher(Settings(home=Path("unused")))
    with dead_address() as address:
        monkeypatch.setenv("DML_OPENMETADATA__URL", address)
        said, _ = run(shop)
    [told] = [text for text in said if "OpenMetadata" in text]
    assert told.startswith("OpenMetadata was not brought up to date: ")
    assert told.endswith("1 document waits for the next push.")
    assert waiting(shop) == 1

    server = CatalogServer(publisher[0])
    try:
        monkeypatch.setenv("DML_OPENMETADATA__URL", server.url)
        said, _ = run(shop)
        [told] = [text for text in said if "OpenMetadata" in text]
        assert "tables created" in told
        assert waiting(shop) == 0
        assert "dml.shop.marts.fct_orders" in server.ask("names table")
        assert "dml.shop.raw.web__orders -> dml.shop.staging.stg_orders" in server.ask("edges")
        # Nothing but the run itself is new.
        said, _ = run(shop)
        [told] = [text for text in said if "OpenMetadata" in text]
        assert "created" not in told
    finally:
        assert server.close() == 0, "a request was of a wrong shape"
