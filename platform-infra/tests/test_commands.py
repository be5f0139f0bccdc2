"""Pinning, status, readiness and the command line, with answers of the engine instead of an engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dml_infra import engine, pin, ready, status
from dml_infra.errors import EngineError, RetryableError
from dml_infra.installation import Installation, find_installation

ROOT = Path(__file__).parent.parent
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    (tmp_path / "registry").mkdir()
    (tmp_path / "compose.yaml").touch()
    (tmp_path / ".env.example").write_text("DML_STATE=/srv/x\nDML_A_IMAGE=reg.test/a:1\nDML_B_IMAGE=built:1\n")
    (tmp_path / ".env").write_text(f"# mine\nDML_A_IMAGE=reg.test/a:2@sha256:{'0' * 64}\nDML_STATE={tmp_path}/state\n")
    return find_installation(tmp_path)


def test_pin_writes_digests_and_leaves_the_rest_of_env_alone(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def docker(*args: str, **_: Any) -> str:
        asked.append(args[-1])
        return f"Name: x\nMediaType: y\nDigest:    {DIGEST}\n"

    monkeypatch.setattr(engine, "docker", docker)
    pins = pin.resolve(here)
    assert asked == ["reg.test/a:2"]  # the tag, not the digest of before; what is built here has no registry
    assert [found.variable for found in pin.write_pins(here, pins)] == ["DML_A_IMAGE"]
    assert here.env_file.read_text() == f"# mine\nDML_A_IMAGE=reg.test/a:2@{DIGEST}\nDML_STATE={here.state}\n"
    assert pin.write_pins(find_installation(here.root), pins) == []


def test_pin_without_a_registry_is_a_sentence_and_writes_nothing(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def docker(*_: str, **__: Any) -> str:
        raise EngineError("'docker buildx' failed", "dial tcp: lookup reg.test: no such host", "See.")

    monkeypatch.setattr(engine, "docker", docker)
    before = here.env_file.read_text()
    with pytest.raises(RetryableError, match=r"reg\.test/a:2: dial tcp.*\nRun it where the registries are reached"):
        pin.resolve(here)
    assert here.env_file.read_text() == before


def container(service: str, state: dict[str, Any], **more: Any) -> dict[str, Any]:
    running = {"Status": "running", "Running": True, "ExitCode": 0, "StartedAt": "2026-01-01T00:00:00.123456789Z"}
    labels = {"com.docker.compose.service": service, **more.pop("labels", {})}
    return {
        "Id": f"{service:0<64}",
        "Image": "sha256:1",
        "State": running | state,
        "Config": {"Labels": labels, "Image": f"reg.test/{service}:1"},
        "HostConfig": {"Memory": 2**30},
        **more,
    }


@pytest.fixture
def running(here: Installation, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Containers of a core with the services web, once and db; add to the list."""
    found: list[dict[str, Any]] = []
    wanted = {
        "web": {"image": "reg.test/web:1", "restart": "unless-stopped"},
        "once": {"image": "reg.test/once:1", "restart": "no"},
        "db": {"image": "reg.test/db:1", "restart": "unless-stopped"},
    }
    monkeypatch.setattr(engine, "containers", lambda *labels: found if "compose.project" in labels[0] else [])
    monkeypatch.setattr(engine, "docker", lambda *args, **_: "db0000000000 85MiB / 2GiB\n" if "stats" in args else "")
    monkeypatch.setattr(engine, "docker_text", lambda *_, **__: "starting\ncannot open file\n")
    monkeypatch.setattr(engine, "inspect", lambda *_: [{"Id": "sha256:1", "RepoDigests": [f"reg.test/x@{DIGEST}"]}])
    monkeypatch.setattr(engine, "compose", lambda *_, **__: json.dumps({"services": wanted}))
    here.registry_file.write_text("code_locations: []\n")
    return found


def test_status_tells_healthy_dead_missing_and_done_apart(
    here: Installation, running: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = {"Status": "exited", "Running": False, "ExitCode": 137, "OOMKilled": True}
    running.append(container("web", dead))
    running.append(container("once", {"Status": "exited", "Running": False}))
    running.append(container("db", {"Health": {"Status": "healthy"}}, RestartCount=2))
    rows = {row.name: row for row in status.read_status(here)}
    assert (rows["web"].health, rows["web"].error) == ("failed", "out of memory: cannot open file")
    assert rows["once"].health == "done"
    assert (rows["db"].health, rows["db"].memory_mb, rows["db"].memory_limit_mb) == ("healthy", 85, 2048)
    assert (rows["db"].digest, rows["db"].restarts) == ("ab" * 6, 2)
    assert not status.is_well(list(rows.values()))
    running.pop(0)
    assert next(row.health for row in status.read_status(here) if row.name == "web") == "missing"
    status.show_status(Console(quiet=True), list(rows.values()))


def test_not_ready_names_each_service_and_what_it_said_last(here: Installation, running: list[dict[str, Any]]) -> None:
    running.append(container("once", {"Status": "exited", "Running": False, "ExitCode": 1}))
    failed = {"Status": "unhealthy", "Log": [{"ExitCode": 1, "Output": "connection refused"}]}
    running.append(container("db", {"Health": failed}))
    assert ready.not_ready(here) == {
        "web": "has no container",
        "once": "exited, exit code 1: cannot open file",
        "db": "unhealthy: connection refused",
    }


def test_address_has_the_port_only_where_it_is_unusual(here: Installation) -> None:
    def address(**env: str) -> str:
        return Installation(here.root, env, here.state, "x").address

    assert address(DML_SITE="data.test") == "https://data.test/"
    assert address(DML_SITE="data.test", DML_HTTPS_PORT="8443") == "https://data.test:8443/"
    assert address(DML_SITE="http://data.test", DML_HTTP_PORT="80") == "http://data.test/"


def test_errors_are_a_sentence_with_the_right_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dml_infra", "--root", str(tmp_path), "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("cannot find the installation: ")
    assert "Traceback" not in done.stderr


def test_help_lists_the_commands_without_loading_what_they_need() -> None:
    code = "import sys; from dml_infra.cli import app; app(['--help'], standalone_mode=False);"
    code += "print(sorted({'requests', 'psycopg2', 'minio', 'pydantic', 'ruamel.yaml', 'dagster'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    for name in ("preflight", "up", "down", "status", "deploy", "rollback", "backup", "restore"):
        assert f"\n  {name} " in done.stdout


def test_every_setting_that_is_read_is_offered() -> None:
    offered = (ROOT / ".env.example").read_text() + (ROOT / "compose.yaml").read_text()
    names = set()
    for file in (ROOT / "src").rglob("*.py"):
        names |= set(
            re.findall(r"(?:env(?:\.get)?[\[(]|number\(|_setting\(.*?)\s*\"(DML_[A-Z0-9_]+)\"", file.read_text())
        )
    assert len(names) > 10
    assert sorted(name for name in names if name not in offered) == []
