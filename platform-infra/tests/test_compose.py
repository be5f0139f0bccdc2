"""compose.yaml and .env.example against each other and against the rules that every service keeps to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dml_infra.networks import CORE_ON_PROJECT_NETWORKS
from dml_infra.render import render_aliases

FOLDER = Path(__file__).parents[1]
TEXT = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
EXAMPLE = (FOLDER / ".env.example").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
SETTINGS = dict(re.findall(r"^#? ?(DML_[A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE))
ONE_SHOT = {"init", "volumes", "openmetadata-migrate"}
# Who has more than the rule allows, with the reason in compose.yaml.
ROOT = {"volumes", "portainer"}
WRITABLE = {"openmetadata-search", "openmetadata-migrate", "openmetadata"}
SOCKET = {"socket-proxy", "portainer"}
NO_CLIENT = {"portainer", "oauth2-proxy"}


def test_every_setting_is_offered_and_every_offer_is_read() -> None:
    # DML_SUM_… are checksums that `dml infra` computes.
    read = set(re.findall(r"\$\{(DML_(?!SUM_)[A-Z0-9_]+)", TEXT))
    assert read - set(SETTINGS) == set()
    code = "\n".join(path.read_text(encoding="utf-8") for path in (FOLDER / "src").rglob("*.py"))
    assert [name for name in sorted(set(SETTINGS) - read) if f'"{name}"' not in code] == []


def test_defaults_in_compose_are_those_of_the_example() -> None:
    given = re.findall(r"\$\{(DML_[A-Z0-9_]+):-([^}]*)\}", TEXT)
    differ = {name: (value, SETTINGS[name]) for name, value in given if value and not _offered_only(name)}
    assert {name: pair for name, pair in differ.items() if pair[0] != pair[1]} == {}


def _offered_only(name: str) -> bool:
    return bool(re.search(rf"^# {name}=", EXAMPLE, re.MULTILINE))


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.endswith("_IMAGE")])
def test_an_image_is_an_exact_version(name: str) -> None:
    tag = SETTINGS[name].rpartition(":")[2]
    assert re.search(r"\d+\.\d+|\d{4}-\d\d-\d\d", tag), SETTINGS[name]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_keeps_to_the_rules(name: str) -> None:
    service = SERVICES[name]
    assert "mem_limit" in service
    assert "cpus" in service
    assert "pids_limit" in service
    assert "restart" in service
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["read_only"] is (name not in WRITABLE)
    assert service["image"].startswith("${DML_")
    assert "privileged" not in service
    if name not in ONE_SHOT:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"].get("disable", False) is (name in NO_CLIENT)
    # The image of OpenMetadata names its own user.
    if name not in ROOT and not name.startswith("openmetadata"):
        assert re.match(r"[1-9]\d*:", service["user"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_dependency_has_a_condition(name: str) -> None:
    for other, options in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert options["condition"] in ("service_healthy", "service_completed_successfully")


def test_only_the_proxy_publishes_ports() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]


def test_only_the_filter_and_portainer_have_the_socket() -> None:
    having = {name for name, service in SERVICES.items() if "docker.sock" in str(service.get("volumes"))}
    assert having == SOCKET


def test_only_what_starts_and_stops_runs_reaches_the_filter() -> None:
    having = {name for name, service in SERVICES.items() if "socket" in service.get("networks", [])}
    assert having == {"socket-proxy", "daemon", "webserver"}
    assert SERVICES["webserver"]["environment"]["DOCKER_HOST"].endswith(":2376")


def test_no_secret_is_in_an_environment() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|_PASS\b|KEY", key):
                assert key.endswith("FILE"), f"{name}: {key}={value}"


def test_dagsters_services_find_what_holds_data_by_the_cores_own_network() -> None:
    """Else a connection of theirs goes by some project's network, and with it."""
    for name in CORE_ON_PROJECT_NETWORKS:
        if SERVICES[name]["image"].startswith("${DML_DAGSTER_IMAGE"):
            assert SERVICES[name]["environment"]["HOSTALIASES"] == "/etc/dml/workspace/hosts"
            assert "control" in SERVICES[name]["networks"]
    assert render_aliases("dml_control").splitlines() == [
        "postgres postgres.dml_control",
        "object-store object-store.dml_control",
    ]


def test_dagsters_instance_names_no_secret_and_nothing_that_runs_lack() -> None:
    text = (FOLDER / "config/dagster/dagster.yaml").read_text(encoding="utf-8")
    instance = yaml.safe_load(text)
    assert "env:" not in text
    address, _, options = instance["storage"]["postgres"]["postgres_url"].partition("?")
    assert address == "postgresql://postgres:5432/dagster"
    # What ends a connection whose network is gone; the stack's tests take one away.
    assert {"connect_timeout", "keepalives_idle", "tcp_user_timeout"} <= {
        o.partition("=")[0] for o in options.split("&")
    }
    assert instance["run_monitoring"]["max_resume_run_attempts"] == 0
    assert instance["telemetry"]["enabled"] is False


def test_dagster_accepts_its_instance_file(tmp_path: Path) -> None:
    pytest.importorskip("dagster_aws", reason="Dagster's store of compute logs is in the server's image only")
    from dagster._core.instance.config import dagster_instance_config
    from dagster._core.instance.ref import InstanceRef

    (tmp_path / "dagster.yaml").write_bytes((FOLDER / "config/dagster/dagster.yaml").read_bytes())
    dagster_instance_config(str(tmp_path))
    ref = InstanceRef.from_dir(str(tmp_path))
    assert ref.run_launcher_data is not None
    assert (ref.run_launcher_data.module_name, ref.run_launcher_data.class_name) == (
        "dml_infra.launcher",
        "ProjectRunLauncher",
    )
