"""The run launcher: each run in a container of its own, with what the server has registered for its project.

Nothing that a code location says about containers counts; image, network, limits and secrets come from
`locations.json`, which a deploy writes. The engine is reached through the socket proxy, which knows run containers by
their name only and refuses to create any other kind: what is asked for here and what `config/socket-proxy` allows
change together.
Not here: when a run starts (Dagster's queue) and which location has which image (`deploy`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.utils
import requests
from dagster import DagsterRun, Field, StringSource
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import DOCKER_IMAGE_TAG
from dagster._serdes import ConfigurableClassData
from dagster_docker import DockerRunLauncher
from docker.types import LogConfig, Mount

from dml_infra.errors import ConfigError, PermanentError

CONTAINER_TAG = "docker/container_name"
UID = 10001
HOME = "/var/lib/dml"
SECRETS = "/run/secrets"
STOP_SECONDS = 60
_DIGEST = re.compile(r"(?P<repository>[^@\s]+)@sha256:[0-9a-f]{64}")
# Code that ran out of memory was killed by the kernel: 128 + SIGKILL, without the engine's word in some versions.
_KILLED = 137
_CONFLICT = 409


class LaunchRefusedError(PermanentError):
    """A run asks for what its project is not registered for."""


class ProjectRunLauncher(DockerRunLauncher):
    """Starts, watches and stops the container of a run.

    Args:
        workspace: folder of `locations.json`.
    """

    def __init__(self, workspace: str = "/etc/dml/workspace", inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data=inst_data)
        self._workspace = Path(workspace)
        self._stack = os.environ.get("DML_STACK", "dml")
        self._docker: docker.APIClient | None = None

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Its settings in dagster.yaml."""
        return {"workspace": Field(StringSource, is_required=False, default_value="/etc/dml/workspace")}

    @property
    def client(self) -> docker.APIClient:
        """The engine behind ``DOCKER_HOST``; threads share it. Calls name a container, as the proxy knows no id."""
        if self._docker is None:
            self._docker = docker.APIClient(
                **docker.utils.kwargs_from_env(), version="auto", timeout=STOP_SECONDS + 30, num_pools=20
            )
        return self._docker

    def container_name(self, run_id: str) -> str:
        """The name by which the socket proxy knows a run's container."""
        return f"{self._stack}-run-{run_id}"

    # ---- Start -------------------------------------------------------------------------------------------------------
    def _launch_container_with_command(self, run: DagsterRun, docker_image: str, command: Any) -> None:
        """Called by `DockerRunLauncher.launch_run` with the image that the run's code location had when it was made."""
        project = location_name(run)
        entry = self._location(project)
        check_image(project, entry, docker_image)
        name = self.container_name(run.run_id)
        settings = container_settings(
            self.client,
            stack=self._stack,
            project=project,
            entry=entry,
            image=docker_image,
            run_id=run.run_id,
            job=run.job_name,
        )
        try:
            is_running = self._create(name, command=list(command), **settings)
            self._instance.add_run_tags(run.run_id, {CONTAINER_TAG: name, DOCKER_IMAGE_TAG: docker_image})
            self._instance.report_engine_event(
                message=f"Starting container {name} with image {docker_image}", dagster_run=run, cls=self.__class__
            )
            if not is_running:
                self.client.start(name)
        except docker.errors.ImageNotFound as error:
            # Nothing is downloaded here: a deploy does that, and keeps what queued runs may still need.
            raise LaunchRefusedError(
                f"cannot start run {run.run_id} of {project!r}",
                f"the image {docker_image!r} is no longer on this server",
                "Launch the job again: it then takes the image that is deployed now.",
            ) from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout, docker.errors.APIError) as error:
            if isinstance(error, docker.errors.APIError) and not error.is_server_error():
                raise
            # The one kind of error after which the queue tries again; the engine or its proxy is just starting.
            raise DagsterUserCodeUnreachableError(f"cannot reach the engine to start run {run.run_id}") from error

    def _create(self, name: str, **settings: Any) -> bool:
        """Create the container, or replace what an earlier attempt left. Returns: does it run already?"""
        try:
            self.client.create_container(name=name, **settings)
        except docker.errors.APIError as error:
            if error.status_code != _CONFLICT:
                raise
            # The answer to an earlier start was lost: a second container would run everything twice.
            if self.client.inspect_container(name)["State"].get("Running"):
                return True
            self.client.remove_container(name, v=True)
            self.client.create_container(name=name, **settings)
        return False

    def _location(self, project: str) -> Mapping[str, Any]:
        path = self._workspace / "locations.json"
        what = f"cannot start a run of {project!r}"
        try:
            locations = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(what, f"{path} cannot be read: {error}", "Run 'dml infra up' again.") from error
        entry = locations.get(project)
        if entry is None:
            raise LaunchRefusedError(
                what, f"{path} has only {sorted(locations)}", f"Deploy it: dml infra deploy {project} --image …"
            )
        return dict(entry)

    # ---- Watch and stop ----------------------------------------------------------------------------------------------
    def _state(self, run: DagsterRun) -> Mapping[str, Any] | None:
        """What the engine says of a run's container; None where there is none."""
        try:
            return dict(self.client.inspect_container(self.container_name(run.run_id))["State"])
        except docker.errors.NotFound:
            return None

    def terminate(self, run_id: str) -> bool:
        """Ask a run's container to stop: Dagster cleans up and reports; what does not end in a minute is killed."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        state = self._state(run)
        if state is None or not state.get("Running"):
            self._instance.report_run_canceled(run, "The run had no container any more, so there was nothing to stop.")
            return True
        self.client.stop(self.container_name(run_id), timeout=STOP_SECONDS)
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Is the run's container alive? What it says when not is what a person reads in the run's log."""
        state = self._state(run)
        if state is None:
            return CheckRunHealthResult(
                WorkerStatus.NOT_FOUND, msg=f"The container {self.container_name(run.run_id)} is gone."
            )
        if state.get("Status") in ("running", "created", "paused", "restarting"):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, msg=describe_end(state))

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """How the container of a run that did not report its end is, and its last lines."""
        state = self._state(run)
        if state is None:
            return None
        end = describe_end(state)
        if not include_container_logs:
            return end
        lines = self.client.logs(self.container_name(run.run_id), tail=30, stdout=True, stderr=True)
        text = lines.decode("utf-8", "replace").strip()
        return f"{end}\nLast lines of the container:\n{text}" if text else end

    def remove_ended(self, *, keep_s: float, now_s: float) -> list[str]:
        """Remove run containers, with their scratch space, that ended more than `keep_s` ago. Returns: their names."""
        labels = ["dml.role=run", f"dml.stack={self._stack}"]
        removed = []
        for item in self.client.containers(all=True, filters={"label": labels}):
            name = item["Names"][0].lstrip("/")
            if item["State"] not in ("exited", "dead", "created"):
                continue
            state = self.client.inspect_container(name)["State"]
            if now_s - _ended_at(state, created_s=float(item["Created"])) > keep_s:
                self.client.remove_container(name, v=True)
                removed.append(name)
        return removed


def location_name(run: DagsterRun) -> str:
    """Name of the code location that a run belongs to, as the workspace file has it."""
    origin = run.remote_job_origin
    if origin is None:
        raise LaunchRefusedError(
            f"cannot start run {run.run_id}",
            "it belongs to no code location of this server",
            "Launch the job in the UI, or by a schedule or sensor.",
        )
    return str(origin.repository_origin.code_location_origin.location_name)


def check_image(project: str, entry: Mapping[str, Any], image: str) -> None:
    """Refuse an image that is not a digest of the project's registered repository."""
    match = _DIGEST.fullmatch(image)
    if match and match["repository"] == entry["repository"]:
        return
    raise LaunchRefusedError(
        f"cannot start a run of {project!r}",
        f"its code location names the image {image!r}, not a digest of {entry['repository']!r}",
        f"Deploy it by digest: dml infra deploy {project} --image {entry['repository']}@sha256:…",
    )


def container_settings(
    client: docker.APIClient, *, stack: str, project: str, entry: Mapping[str, Any], image: str, run_id: str, job: str
) -> dict[str, Any]:
    """Everything about a run's container besides name and command, as `docker.APIClient.create_container` wants it."""
    memory_bytes = size_bytes(entry["memory"])
    files = {"pgpass": entry["pgpass"], "aws_credentials": entry["aws_credentials"], **entry.get("secrets", {})}
    secrets = [
        Mount(target=f"{SECRETS}/{name}", source=source, type="bind", read_only=True)
        for name, source in sorted(files.items())
    ]
    # The stubs take the one dict for another.
    endpoints: Any = {entry["network"]: client.create_endpoint_config()}
    host = client.create_host_config(
        network_mode=entry["network"],
        mem_limit=memory_bytes,
        # No swap: a run that needs more than its limit ends with a reason instead of slowing down everyone.
        memswap_limit=memory_bytes,
        nano_cpus=int(float(entry["cpus"]) * 1e9),
        pids_limit=1024,
        read_only=True,
        init=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        # Memory, which counts towards the limit: small. A run's database and connectors go to the volume, on disk.
        tmpfs={"/tmp": "size=256m,mode=1777"},
        mounts=[Mount(target=HOME, source=None, type="volume"), *secrets],
        log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
    )
    return {
        "image": image,
        "user": f"{UID}:{UID}",
        # What the run really has, not what is deployed by now: it is stamped on every snapshot.
        "environment": {
            **entry["env"],
            "DML_IMAGE": image,
            "DAGSTER_CURRENT_IMAGE": image,
            "DAGSTER_RUN_JOB_NAME": job,
        },
        "labels": {
            "dml.stack": stack,
            "dml.project": project,
            "dml.role": "run",
            "dml.image": image,
            "dagster/run_id": run_id,
            "dagster/job_name": job,
        },
        # The image's check is of a code server; in a run it would import Dagster every few seconds and find nothing.
        "healthcheck": {"test": ["NONE"]},
        "host_config": host,
        "networking_config": client.create_networking_config(endpoints),
    }


def size_bytes(text: str | int) -> int:
    """``"512m"`` as bytes."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not match:
        raise ConfigError(f"cannot read the size {text!r}", "it is not like 512m or 2g", "Correct the registry.")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def describe_end(state: Mapping[str, Any]) -> str:
    """How a container ended, in words."""
    code = state.get("ExitCode")
    if state.get("OOMKilled"):
        return f"The run's container needed more memory than its limit and was killed (exit code {code})."
    if code == _KILLED:
        return "The run's container was killed (exit code 137), by a person or for want of memory."
    error = f": {state['Error']}" if state.get("Error") else ""
    return f"The run's container is {state.get('Status', 'in an unknown state')} with exit code {code}{error}."


def _ended_at(state: Mapping[str, Any], *, created_s: float) -> float:
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", state.get("FinishedAt") or "")
    if not match or match[1].startswith("0001"):
        return created_s  # never started
    return datetime.fromisoformat(match[1]).replace(tzinfo=timezone.utc).timestamp()
