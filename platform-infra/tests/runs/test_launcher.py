"""The run launcher against an engine that only records: what it asks for, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import docker.errors
import pytest
import requests

pytest.importorskip("dagster_docker", reason="Dagster is in the server's environment only")

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import WorkerStatus

from dml_infra import launcher as module
from dml_infra.errors import ConfigError, InfraError
from dml_infra.launcher import LaunchRefusedError, ProjectRunLauncher

RUN = "00000000-1111-2222-3333-444444444444"
NAME = f"dml-run-{RUN}"
IMAGE = "registry.example/sales@sha256:" + "a" * 64
ENTRY = {
    "image": IMAGE,
    "repository": "registry.example/sales",
    "network": "dml_project_sales",
    "memory": "1.5g",
    "cpus": 0.5,
    "env": {"PGUSER": "sales", "DML_IMAGE": "what is deployed by now"},
    "pgpass": "/srv/dml/secrets/projects/sales/pgpass",
    "aws_credentials": "/srv/dml/secrets/projects/sales/aws_credentials",
    "secrets": {"shop_token": "/srv/dml/secrets/projects/sales/shop_token"},
}


class Engine:
    """Records calls; ``state`` is the container's, ``errors`` are raised one by one."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.errors: dict[str, list[Exception]] = {}
        self.state: dict[str, Any] | None = {"Status": "running", "Running": True}
        self.listed: list[dict[str, Any]] = []
        self._plain = docker.APIClient(version="1.43")
        self.create_host_config = self._plain.create_host_config
        self.create_networking_config = self._plain.create_networking_config
        self.create_endpoint_config = self._plain.create_endpoint_config

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, {"args": args, **options}))
            if self.errors.get(name):
                raise self.errors[name].pop(0)
            if name == "inspect_container":
                if self.state is None:
                    raise docker.errors.NotFound("no such container")
                return {"State": self.state}
            return {"containers": self.listed, "logs": b"last words\n"}.get(name)

        return call

    def close(self) -> None:
        self._plain.close()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Instance:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.tags: dict[str, str] = {}
        self.run = make_run()

    def add_run_tags(self, run_id: str, tags: dict[str, str]) -> None:
        self.tags |= tags

    def report_engine_event(self, message: str, **_: Any) -> None:
        self.events.append(message)

    def report_run_canceling(self, run: Any) -> None:
        self.events.append("canceling")

    def report_run_canceled(self, run: Any, message: str) -> None:
        self.events.append(message)

    def get_run_by_id(self, run_id: str) -> Any:
        return self.run


def make_run(location: str | None = "sales") -> Any:
    origin = SimpleNamespace(
        repository_origin=SimpleNamespace(code_location_origin=SimpleNamespace(location_name=location))
    )
    return SimpleNamespace(
        run_id=RUN, job_name="daily", tags={}, is_finished=False, remote_job_origin=origin if location else None
    )


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


@pytest.fixture
def instance() -> Instance:
    return Instance()


@pytest.fixture
def launcher(tmp_path: Path, engine: Engine, instance: Instance, monkeypatch: pytest.MonkeyPatch) -> ProjectRunLauncher:
    monkeypatch.setenv("DML_STACK", "dml")
    (tmp_path / "locations.json").write_text(json.dumps({"sales": ENTRY}), encoding="utf-8")
    made = ProjectRunLauncher(workspace=str(tmp_path))
    monkeypatch.setattr(made, "_docker", engine)
    monkeypatch.setattr(ProjectRunLauncher, "_instance", instance, raising=False)
    return made


def api_error(status: int) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("refused", response=response)


def start(launcher: ProjectRunLauncher, run: Any = None, image: str = IMAGE) -> None:
    launcher._launch_container_with_command(run or make_run(), image, ["dagster", "api", "execute_run", "{}"])


def test_a_run_gets_the_network_limits_and_secrets_of_its_project(launcher: ProjectRunLauncher, engine: Engine) -> None:
    start(launcher)
    created = dict(engine.calls)["create_container"]
    assert engine.names == ["create_container", "start"]
    assert created["name"] == NAME
    assert created["image"] == IMAGE
    assert created["user"] == "10001:10001"
    host = created["host_config"]
    assert host["NetworkMode"] == "dml_project_sales"
    assert host["Memory"] == host["MemorySwap"] == int(1.5 * 1024**3)
    assert host["NanoCpus"] == 500_000_000
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    bound = {mount["Target"]: mount for mount in host["Mounts"] if mount["Type"] == "bind"}
    assert set(bound) == {"/run/secrets/pgpass", "/run/secrets/aws_credentials", "/run/secrets/shop_token"}
    assert all(mount["ReadOnly"] for mount in bound.values())


def test_a_run_is_stamped_with_its_own_image_and_not_the_deployed_one(
    launcher: ProjectRunLauncher, engine: Engine
) -> None:
    older = "registry.example/sales@sha256:" + "b" * 64
    start(launcher, image=older)
    environment = dict(engine.calls)["create_container"]["environment"]
    assert environment["DML_IMAGE"] == environment["DAGSTER_CURRENT_IMAGE"] == older
    assert environment["PGUSER"] == "sales"


@pytest.mark.parametrize(
    "image",
    [
        "registry.example/sales:latest",
        "registry.example/other@sha256:" + "a" * 64,
        "registry.example/sales@sha256:abc",
        "registry.example/sales/../other@sha256:" + "a" * 64,
    ],
)
def test_an_image_that_is_not_a_digest_of_the_projects_repository_is_refused(
    launcher: ProjectRunLauncher, engine: Engine, image: str
) -> None:
    with pytest.raises(LaunchRefusedError, match=r"not a digest of 'registry\.example/sales'"):
        start(launcher, image=image)
    assert engine.calls == []


def test_a_run_of_a_location_that_is_not_deployed_is_refused(launcher: ProjectRunLauncher) -> None:
    with pytest.raises(LaunchRefusedError, match="dml infra deploy other"):
        start(launcher, make_run("other"))


def test_a_run_without_a_location_is_refused(launcher: ProjectRunLauncher) -> None:
    with pytest.raises(LaunchRefusedError, match="no code location"):
        start(launcher, make_run(None))


def test_an_unreadable_list_of_locations_names_the_file(launcher: ProjectRunLauncher, tmp_path: Path) -> None:
    (tmp_path / "locations.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"locations\.json cannot be read"):
        start(launcher)


def test_a_missing_image_is_not_downloaded(launcher: ProjectRunLauncher, engine: Engine) -> None:
    engine.errors["create_container"] = [docker.errors.ImageNotFound("no such image")]
    with pytest.raises(LaunchRefusedError, match="no longer on this server"):
        start(launcher)


@pytest.mark.parametrize(
    "error", [requests.exceptions.ConnectionError(), requests.exceptions.ReadTimeout(), api_error(503)]
)
def test_an_engine_that_does_not_answer_sends_the_run_back_to_the_queue(
    launcher: ProjectRunLauncher, engine: Engine, error: Exception
) -> None:
    engine.errors["create_container"] = [error]
    with pytest.raises(DagsterUserCodeUnreachableError, match="cannot reach the engine"):
        start(launcher)


def test_a_refusal_of_the_engine_is_not_tried_again(launcher: ProjectRunLauncher, engine: Engine) -> None:
    engine.errors["create_container"] = [api_error(403)]
    with pytest.raises(docker.errors.APIError):
        start(launcher)


def test_what_an_earlier_attempt_left_is_replaced(launcher: ProjectRunLauncher, engine: Engine) -> None:
    engine.errors["create_container"] = [api_error(409)]
    engine.state = {"Status": "created", "Running": False}
    start(launcher)
    assert engine.names == ["create_container", "inspect_container", "remove_container", "create_container", "start"]


def test_a_run_whose_start_was_not_acknowledged_is_not_started_twice(
    launcher: ProjectRunLauncher, engine: Engine
) -> None:
    engine.errors["create_container"] = [api_error(409)]
    start(launcher)
    assert engine.names == ["create_container", "inspect_container"]


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        ({"Status": "running", "Running": True}, WorkerStatus.RUNNING, None),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, WorkerStatus.FAILED, "more memory than its limit"),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": False}, WorkerStatus.FAILED, "was killed"),
        ({"Status": "exited", "ExitCode": 1}, WorkerStatus.FAILED, "exit code 1"),
        (None, WorkerStatus.NOT_FOUND, "is gone"),
    ],
)
def test_the_end_of_a_container_is_told_in_words(
    launcher: ProjectRunLauncher, engine: Engine, state: Any, status: WorkerStatus, words: str | None
) -> None:
    engine.state = state
    health = launcher.check_run_worker_health(make_run())
    assert health.status is status
    assert words is None or words in (health.msg or "")


def test_the_last_lines_of_a_container_are_shown(launcher: ProjectRunLauncher) -> None:
    assert "last words" in (launcher.get_run_worker_debug_info(make_run()) or "")


def test_terminating_stops_the_container(launcher: ProjectRunLauncher, engine: Engine, instance: Instance) -> None:
    assert launcher.terminate(RUN)
    assert engine.names == ["inspect_container", "stop"]
    assert instance.events == ["canceling"]


def test_terminating_a_run_without_a_container_ends_it(
    launcher: ProjectRunLauncher, engine: Engine, instance: Instance
) -> None:
    engine.state = None
    assert launcher.terminate(RUN)
    assert "no container any more" in instance.events[-1]


def test_only_containers_that_ended_long_ago_are_removed(launcher: ProjectRunLauncher, engine: Engine) -> None:
    engine.listed = [
        {"Names": [f"/{NAME}"], "State": "exited", "Created": 0},
        {"Names": ["/dml-run-running"], "State": "running", "Created": 0},
    ]
    engine.state = {"FinishedAt": "2026-01-01T00:00:00.123456789Z"}
    assert launcher.remove_ended(keep_s=3600, now_s=1767225600 + 60) == []
    assert launcher.remove_ended(keep_s=3600, now_s=1767225600 + 3601) == [NAME]


@pytest.mark.parametrize(("text", "size"), [("512m", 512 * 2**20), ("1.5g", 3 * 2**29), ("2GiB", 2**31), (1024, 1024)])
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert module.size_bytes(text) == size


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(InfraError, match="much"):
        module.size_bytes("much")
