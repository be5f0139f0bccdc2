"""The commands as a person types them, where no server is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dml_infra.cli import app
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation
from dml_infra.records import Record, add_record

IMAGE = "registry.example.com/project-sales@sha256:" + "a" * 64


@pytest.fixture
def root(installation: Installation) -> Path:
    (installation.root / "compose.yaml").write_text("services: {}\n")
    (installation.root / ".env.example").write_text(f"DML_STATE={installation.state}\nDML_STACK=dml\n")
    return installation.root


def run(root: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["--root", str(root), *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_register_needs_no_server_and_shows_what_a_pull_request_contains(root: Path) -> None:
    code, output = run(
        root, "register", "sales", "--image", IMAGE, "--owner", "team:sales", "--alerts", "s@example.com",
        "--env", "SHOP=eu", "--env", "RATE=1=2", "--schedule", "daily", "--run-memory", "4g",
    )  # fmt: skip
    assert code == 0
    assert f"+    image: {IMAGE}" in output
    assert "+      RATE: 1=2" in output
    assert "dml infra deploy sales" in output
    assert "run_memory: 4g" in (root / "registry" / "code-locations.yaml").read_text()


def test_register_refuses_a_wrong_entry_and_changes_nothing(root: Path) -> None:
    before = (root / "registry" / "code-locations.yaml").read_text()
    with pytest.raises(ConfigError, match="has tag 'latest' and no digest"):
        run(root, "register", "sales", "--image", "a.b/c:latest", "--owner", "x@y.z", "--alerts", "x@y.z")
    assert (root / "registry" / "code-locations.yaml").read_text() == before


@pytest.mark.parametrize("arguments", [[], ["sales", "--all"], ["--all", "--image", IMAGE]])
def test_deploy_wants_a_project_or_all(root: Path, arguments: list[str]) -> None:
    code, output = run(root, "deploy", *arguments)
    assert code == 2
    assert "or --all" in output


def test_deploy_of_an_unknown_project_names_those_there_are(root: Path) -> None:
    with pytest.raises(ConfigError, match="cannot find project 'sale'") as raised:
        run(root, "deploy", "sale")
    assert "dml infra register sale" in raised.value.fix


def test_deploys_shows_who_when_what_and_how_it_ended(root: Path, installation: Installation) -> None:
    add_record(installation, Record("deploy", "ada", "sales", None, IMAGE, 12.3, "live"))
    add_record(installation, Record("deploy", "bob", "sales", IMAGE, IMAGE, 9.9, "rolled back", "crashed\nmore"))
    code, output = run(root, "deploys")
    assert code == 0
    assert [word in output for word in ("ada", "aaaaaaaaaaaa", "12.3", "live", "bob", "rolled back: crashed")] == [
        True
    ] * 6
    code, output = run(root, "deploys", "sales", "--json", "--lines", "1")
    assert [record["error"] for record in json.loads(output)] == ["crashed\nmore"]


def test_remove_asks_for_the_name(root: Path) -> None:
    done = CliRunner().invoke(app, ["--root", str(root), "remove", "sales"], input="no\n")
    assert done.exit_code == 1
    assert "Nothing was changed." in done.output
