"""What is rendered from the registry, read back: the stack of a project, the workspace, what a run gets."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest
import yaml

from dml_infra.installation import Installation
from dml_infra.registry import CodeLocation
from dml_infra.render import Routes, Server, plan_server, render_locations, render_stack, render_workspace, same_server

DIGEST = "sha256:0123456789abcdef" + "0" * 48


def location(**changes: Any) -> CodeLocation:
    values: dict[str, Any] = {
        "name": "sales", "image": f"registry.example.com/project-sales@{DIGEST}", "owner": "team:sales",
        "alerts": "#sales", "environment": {"SHOP": "eu", "PRICE": "5$"}, "secrets": ("shop_token",),
    }  # fmt: skip
    return CodeLocation(**{**values, **changes})


def stack_of(installation: Installation, *servers: Server) -> dict[str, Any]:
    return dict(yaml.safe_load(render_stack(installation, "sales", servers)))


def test_code_server_is_hardened_and_limited(installation: Installation) -> None:
    server = plan_server(installation, location())
    service = stack_of(installation, server)["services"]["code-0123456789ab"]
    assert service["container_name"] == server.host == "dml-sales-0123456789ab"
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] == service["memswap_limit"] == "512m"
    assert {"cpus", "pids_limit", "healthcheck", "logging", "restart"} <= set(service)
    assert not {"ports", "privileged", "network_mode"} & set(service)


def test_code_server_sees_its_own_secret_files_and_no_secret_in_its_environment(installation: Installation) -> None:
    service = stack_of(installation, plan_server(installation, location()))["services"]["code-0123456789ab"]
    folder = str(installation.secrets / "projects" / "sales")
    assert {(v["source"], v["target"], v["read_only"]) for v in service["volumes"]} == {
        (f"{folder}/{name}", f"/run/secrets/{name}", True) for name in ("pgpass", "aws_credentials", "shop_token")
    }
    environment = service["environment"]
    assert environment["DML_LAKE__CATALOG_URI"] == "postgresql+psycopg2://sales@postgres:5432/lake"
    assert environment["DAGSTER_CURRENT_IMAGE"] == f"registry.example.com/project-sales@{DIGEST}"
    assert environment["DML_REPORTS_URL"] == "https://localhost/reports/"
    assert (environment["PGUSER"], environment["SHOP"], environment["PRICE"]) == ("sales", "eu", "5$$")


def with_openmetadata(installation: Installation) -> Installation:
    return replace(installation, env={**installation.env, "DML_OPENMETADATA_URL": "https://catalog.example.com"})


def test_project_with_a_token_of_openmetadata_gets_its_address_and_the_token_as_a_file(
    installation: Installation,
) -> None:
    pushing = location(secrets=("openmetadata_token",))
    server = plan_server(with_openmetadata(installation), pushing)
    service = stack_of(installation, server)["services"]["code-0123456789ab"]
    assert service["environment"]["DML_OPENMETADATA__URL"] == "https://catalog.example.com"
    token_file = service["environment"]["DML_OPENMETADATA__TOKEN_FILE"]
    file = str(installation.secrets / "projects" / "sales" / "openmetadata_token")
    assert (file, token_file) in {(v["source"], v["target"]) for v in service["volumes"]}
    # A run's container has the same.
    assert server.location["env"]["DML_OPENMETADATA__TOKEN_FILE"] == token_file
    assert server.location["secrets"] == {"openmetadata_token": file}


@pytest.mark.parametrize(("has_address", "secrets"), [(False, ("openmetadata_token",)), (True, ("shop_token",))])
def test_without_an_address_or_a_token_nothing_of_openmetadata_reaches_a_project(
    installation: Installation, has_address: bool, secrets: tuple[str, ...]
) -> None:
    server = plan_server(with_openmetadata(installation) if has_address else installation, location(secrets=secrets))
    assert not [name for name in server.location["env"] if "OPENMETADATA" in name]


def test_a_projects_own_setting_of_openmetadata_counts(installation: Installation) -> None:
    own = {"DML_OPENMETADATA__URL": "https://other.example.com"}
    pushing = location(secrets=("openmetadata_token",), environment=own)
    environment = plan_server(with_openmetadata(installation), pushing).location["env"]
    assert environment["DML_OPENMETADATA__URL"] == "https://other.example.com"


def test_code_server_is_only_on_its_projects_network(installation: Installation) -> None:
    document = stack_of(installation, plan_server(installation, location()))
    assert document["networks"] == {"project": {"name": "dml_project_sales", "external": True}}
    service = document["services"]["code-0123456789ab"]
    assert service["networks"] == {"project": {"aliases": ["dml-sales-0123456789ab"]}}


def test_changed_settings_of_the_same_image_get_a_server_of_their_own(installation: Installation) -> None:
    old = plan_server(installation, location())
    again = plan_server(installation, location(), beside=[old])
    new = plan_server(installation, location(memory="1g"), beside=[old])
    assert (again.key, same_server(again, old)) == (old.key, True)
    assert new.key.startswith(old.key + "-")
    assert not same_server(new, old)
    assert set(stack_of(installation, old, new)["services"]) == {f"code-{old.key}", f"code-{new.key}"}


def test_server_survives_being_written_to_a_file(installation: Installation) -> None:
    server = plan_server(installation, location())
    read = Server.from_json(json.loads(json.dumps(server.to_json())))
    assert read == server
    assert render_stack(installation, "sales", [read]) == render_stack(installation, "sales", [server])


def test_workspace_names_the_container_under_the_projects_name(installation: Installation) -> None:
    routes = Routes(servers={"sales": plan_server(installation, location())})
    assert yaml.safe_load(render_workspace(routes)) == {
        "load_from": [
            {"grpc_server": {"host": "dml-sales-0123456789ab", "port": 4000, "location_name": "sales"}},
        ]
    }
    assert yaml.safe_load(render_workspace(Routes())) == {"load_from": []}


def test_run_gets_the_limits_network_and_files_of_its_project(installation: Installation) -> None:
    routes = Routes(
        servers={"sales": plan_server(installation, location(run_memory="4g", max_runs=3))},
        previous={"sales": ("registry.example.com/project-sales@sha256:old",)},
    )
    entry = json.loads(render_locations(routes))["sales"]
    assert (entry["memory"], entry["max_runs"], entry["network"]) == ("4g", 3, "dml_project_sales")
    assert entry["repository"] == "registry.example.com/project-sales"
    assert entry["pgpass"] == str(installation.secrets / "projects" / "sales" / "pgpass")
    assert entry["env"]["PRICE"] == "5$"
    assert entry["previous_images"] == ["registry.example.com/project-sales@sha256:old"]


@pytest.mark.skipif(not shutil.which("docker"), reason="there is no program 'docker' to ask")
def test_compose_accepts_the_stack(installation: Installation) -> None:
    text = render_stack(installation, "sales", [plan_server(installation, location())])
    command = ["docker", "compose", "--file", "-", "config", "--format", "json"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if "is not a docker command" in done.stderr:
        pytest.skip("docker has no compose here")
    assert done.returncode == 0, done.stderr
    # Read back by Compose: a dollar sign of a value is one.
    assert json.loads(done.stdout)["services"]["code-0123456789ab"]["environment"]["PRICE"] in ("5$", "5$$")
