"""`dml report` and the asset that publishes the page."""

from __future__ import annotations

import json
import sys
import webbrowser
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console
from sample_extremes import EVIL, empty_document
from sample_report import sales_document

from dml_platform.cli import report as reports
from dml_platform.core.document import Document
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.settings import Settings
from dml_platform.report.publish import publish_report


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the browser was told to show."""
    (tmp_path / ".dml").mkdir()
    monkeypatch.chdir(tmp_path)
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", found.append)
    return found


def write(document: Document, path: Path) -> Path:
    path.write_text(document.model_dump_json())
    return path


def call(document: Path, output: Path | None = None, open_page: bool | None = None) -> None:
    reports.report(Console(width=200), None, output=output, document_file=document, open_page=open_page)


def test_report_writes_the_page_into_the_state_folder_and_prints_where(
    opened: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(write(sales_document(), tmp_path / "sales.json"))
    page = tmp_path / ".dml" / "report" / "sales.html"
    assert page.read_text().startswith("<!doctype html>")
    output = capsys.readouterr().out
    assert output.startswith(f"{page}\n")
    assert "not known: Elementary's dbt package is not installed here" in output
    assert opened == []  # no terminal, no screen
    assert [each.name for each in page.parent.iterdir()] == ["sales.html"]


def test_report_opens_the_page_when_told(opened: list[str], tmp_path: Path) -> None:
    output = tmp_path / "some folder" / "page.html"
    call(write(empty_document(), tmp_path / "d.json"), output, open_page=True)
    assert opened == [output.as_uri()]


def test_screen_is_a_terminal_with_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert not reports.has_screen()
    monkeypatch.setenv("DISPLAY", ":0")
    assert reports.has_screen()


def test_name_of_the_project_cannot_lead_out_of_the_folder(opened: list[str], tmp_path: Path) -> None:
    evil = empty_document().model_copy(update={"project": "../../" + EVIL})
    call(write(evil, tmp_path / "d.json"))
    assert len(list((tmp_path / ".dml" / "report").iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("{", "Invalid JSON"),
        (json.dumps({"version": 2, "project": "x", "generated_at": "y"}), "version: Input should be 1"),
        (json.dumps({"project": "x"}), "generated_at: Field required"),
    ],
)
def test_document_that_cannot_be_read_is_refused_in_words(
    opened: list[str], tmp_path: Path, content: str | None, why: str
) -> None:
    path = tmp_path / "d.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=why):
        call(path)


def test_page_that_cannot_be_written_leaves_nothing(opened: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PermanentError, match="cannot write the report to"):
        call(write(empty_document(), tmp_path / "d.json"), tmp_path / "file" / "page.html")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".dml", "d.json", "file"]


def test_page_is_published_where_the_profile_keeps_things(settings: Settings, request: Any) -> None:
    address = publish_report(settings, sales_document())
    again = publish_report(settings, sales_document())
    assert again == address
    if not settings.is_s3:
        assert address == str(settings.home / "report" / "sales" / "index.html")
        assert Path(address).read_text().startswith("<!doctype html>")
        return
    assert address == f"{settings.warehouse}/sales/_report/index.html"
    key = settings.read_s3_key()
    assert key
    client = boto3.client(
        "s3",
        endpoint_url=settings.lake.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key.get_secret_value(),
    )
    bucket, _, name = address.removeprefix("s3://").partition("/")
    found = client.get_object(Bucket=bucket, Key=name)
    assert found["ContentType"] == "text/html; charset=utf-8"  # a browser shows it
    assert found["Body"].read().startswith(b"<!doctype html>")
    client.close()
