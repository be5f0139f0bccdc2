"""One installation under test: its folder, its commands, its API as a person's browser reaches it. No test in here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import requests
from stack.engine import FOLDER, docker, free_port, inspect, sh, wait

PREFIX = "dmltest-"
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
EDGE = re.compile(r"^(DML_\w+)=(172\.31\.250\..*)$", re.MULTILINE)
COPIED = ("compose.yaml", ".env.example", "config", "registry")


@dataclass
class Server:
    """A copy of this repository, or of another release of it, with a state folder, ports and names of its own."""

    root: Path
    name: str
    images: dict[str, str]
    port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    subnet: int = field(default_factory=lambda: 16 + os.getpid() % 200)
    settings: dict[str, str] = field(default_factory=dict)
    source: Path = FOLDER

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.root / "state"

    @property
    def address(self) -> str:
        """What a person types."""
        return f"https://localhost:{self.port}"

    def install(self) -> None:
        """Copy the files and write `.env`, as a person would."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.copy_files()
        (self.root / "registry" / "code-locations.yaml").write_text("code_locations: []\n", encoding="utf-8")
        socket = os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or "/var/run/docker.sock"
        example = (self.source / ".env.example").read_text(encoding="utf-8")
        subnet = {name: value.replace("172.31.250.", f"172.31.{self.subnet}.") for name, value in EDGE.findall(example)}
        settings = {
            "DML_STACK": self.name,
            "DML_STATE": str(self.state),
            "DML_SITE": "localhost",
            "DML_BIND": "127.0.0.1",
            "DML_HTTP_PORT": str(self.http_port),
            "DML_HTTPS_PORT": str(self.port),
            "DML_DOCKER_SOCKET": socket,
            "DML_DOCKER_GID": str(os.stat(socket).st_gid),
            **subnet,
            **self.images,
            **self.settings,
        }
        lines = [f"{key}={value}\n" for key, value in settings.items()]
        (self.root / ".env").write_text("".join(lines), encoding="utf-8")

    def copy_files(self, *, but: tuple[str, ...] = ()) -> None:
        """Bring the release's files, as a checkout does."""
        for name in (name for name in COPIED if name not in but):
            source = self.source / name
            if source.is_dir():
                shutil.copytree(source, self.root / name, dirs_exist_ok=True)
            else:
                shutil.copy2(source, self.root / name)

    # ---- commands -----------------------------------------------------------------------------------------------
    def dml(self, *arguments: str, check: bool = True, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """Run `dml infra …` in the installation."""
        program = shutil.which("dml")
        command = [program, "infra"] if program else [sys.executable, "-m", "dml_infra"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DML_", "COMPOSE_"))}
        if self.source != FOLDER:  # that release's program
            command = [sys.executable, "-m", "dml_infra"]
            kept["PYTHONPATH"] = str(self.source / "src")
        # Lines stay whole, wherever the output goes.
        environment = kept | {"COLUMNS": "200", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
        return sh(*command, *arguments, check=check, timeout_s=timeout_s, cwd=self.root, env=environment)

    def register(self, project: str, image: str, *options: str) -> None:
        """Register a project and bring it live."""
        people = ["--owner", f"team:{project}", "--alerts", f"{project}@example.com"]
        self.dml("register", project, "--image", image, *people, *options)
        self.dml("deploy", project)

    # ---- people and API -----------------------------------------------------------------------------------------
    @property
    def admin(self) -> tuple[str, str]:
        """Name and password of the first administrator."""
        return "admin", (self.state / "secrets" / "admin_password").read_text(encoding="utf-8").strip()

    def ask(self, path: str, **options: Any) -> requests.Response:
        """GET, or POST where there is JSON, over TLS that is verified with the proxy's own authority."""
        authority = self.root / "authority.crt"
        if not authority.exists():
            source = "/data/caddy/pki/authorities/local/root.crt"
            authority.write_text(docker("exec", self.service("proxy"), "cat", source) + "\n", encoding="utf-8")
        call = requests.post if "json" in options else requests.get
        try:
            return call(self.address + path, verify=str(authority), timeout=30, **options)
        except requests.exceptions.SSLError:
            authority.unlink()  # the server was made anew, and its authority with it
            raise

    def query(self, text: str, *, user: tuple[str, str] | None = None, **variables: Any) -> dict[str, Any]:
        """Ask Dagster through the proxy, signed in."""
        body = {"query": text, "variables": variables}
        answer = self.ask("/graphql", json=body, auth=user or self.admin)
        if answer.status_code != 200:
            raise ConnectionError(f"{answer.status_code}: {answer.text[:300]}")
        content = answer.json()
        if content.get("errors"):
            raise ConnectionError(json.dumps(content["errors"])[:2000])
        data: dict[str, Any] = content["data"]
        return data

    def locations(self) -> dict[str, dict[str, Any]]:
        """What the webserver has loaded: error, image, and the state of each schedule and sensor."""
        text = """{workspaceOrError {... on Workspace {locationEntries {name loadStatus displayMetadata {key value}
          locationOrLoadError {__typename ... on PythonError {message}
            ... on RepositoryLocation {dagsterLibraryVersions {name} repositories {
              schedules {name scheduleState {status}} sensors {name sensorState {status}}}}}}}}}"""
        found = {}
        for entry in self.query(text)["workspaceOrError"]["locationEntries"]:
            loaded = entry["locationOrLoadError"] or {}
            states = {}
            for repository in loaded.get("repositories", []):
                states |= {s["name"]: s["scheduleState"]["status"] for s in repository["schedules"]}
                states |= {s["name"]: s["sensorState"]["status"] for s in repository["sensors"]}
            shown = {item["key"]: item["value"] for item in entry["displayMetadata"]}
            found[entry["name"]] = {
                "status": entry["loadStatus"],
                "error": loaded.get("message"),
                "image": shown.get("image"),
                "states": states,
            }
        return found

    def turn(self, project: str, name: str, *, on: bool) -> None:
        """Start or stop a schedule."""
        selector = {
            "repositoryLocationName": project,
            "repositoryName": "__repository__",
            "scheduleName": name,
        }
        if on:
            text = """mutation($s: ScheduleSelector!) {startSchedule(scheduleSelector: $s) {__typename
              ... on ScheduleStateResult {scheduleState {status}}}}"""
            answer = self.query(text, s=selector)["startSchedule"]
        else:
            text = """query($s: ScheduleSelector!) {scheduleOrError(scheduleSelector: $s) {
              ... on Schedule {scheduleState {id selectorId}}}}"""
            known = self.query(text, s=selector)["scheduleOrError"]["scheduleState"]
            text = """mutation($id: String!) {stopRunningSchedule(id: $id) {__typename
              ... on ScheduleStateResult {scheduleState {status}}}}"""
            answer = self.query(text, id=known["id"])["stopRunningSchedule"]
        assert answer["__typename"] == "ScheduleStateResult", answer

    def ticks(self, project: str, name: str, since: float, *, kind: str = "sensor") -> list[dict[str, Any]]:
        """Ticks after a moment, oldest first."""
        selector = {
            "repositoryLocationName": project,
            "repositoryName": "__repository__",
            f"{kind}Name": name,
        }
        Kind = kind.capitalize()
        text = f"""query($s: {Kind}Selector!, $after: Float) {{{kind}OrError({kind}Selector: $s) {{__typename
          ... on {Kind} {{{kind}State {{ticks(limit: 1000, afterTimestamp: $after) {{
            status timestamp endTimestamp runIds error {{message}}}}}}}}}}}}"""
        answer = self.query(text, s=selector, after=since)[f"{kind}OrError"]
        return sorted(answer[f"{kind}State"]["ticks"], key=lambda tick: float(tick["timestamp"]))

    # ---- runs ---------------------------------------------------------------------------------------------------
    def launch(
        self,
        project: str,
        job: str,
        *,
        config: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        user: tuple[str, str] | None = None,
    ) -> str:
        """Launch a job.

        Returns: the run's id.
        """
        text = """mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {__typename
          ... on LaunchRunSuccess {run {runId}} ... on PythonError {message} ... on UnauthorizedError {message}}}"""
        parameters = {
            "selector": {
                "repositoryLocationName": project,
                "repositoryName": "__repository__",
                "jobName": job,
            },
            "runConfigData": config or {},
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]},
        }
        answer = self.query(text, user=user, p=parameters)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise PermissionError(json.dumps(answer)[:1000])
        return str(answer["run"]["runId"])

    def batch(self, *, wait_s: float = 0, retries: int = 0) -> str:
        """Launch one batch of the project `orders`."""
        config = {"ops": {"orders__raw__till__orders": {"config": {"wait_s": wait_s}}}}
        return self.launch("orders", "intake", config=config, tags={"dagster/max_retries": str(retries)})

    def runs(self, *ids: str, since: float | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        """Runs by id, or all that were made after a moment, newest first."""
        text = """query($f: RunsFilter, $n: Int) {runsOrError(filter: $f, limit: $n) {... on Runs {results {
          runId status jobName creationTime startTime endTime tags {key value}}}}}"""
        chosen: dict[str, Any] = {"runIds": list(ids)} if ids else {}
        if since is not None:
            chosen["createdAfter"] = since
        found = self.query(text, f=chosen, n=limit)["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def status(self, run_id: str) -> str:
        """Where a run is."""
        return str(self.runs(run_id)[0]["status"])

    def wait_for_runs(self, *ids: str, seconds: float = 240) -> dict[str, str]:
        """Wait until runs have ended.

        Returns: status by id.
        """

        def ended() -> dict[str, str]:
            found = {run["runId"]: run["status"] for run in self.runs(*ids)}
            return found if len(found) == len(ids) and set(found.values()) <= ENDED else {}

        return wait(ended, seconds=seconds, what=f"the runs {', '.join(i[:8] for i in ids)} end", every_s=1)

    def reason(self, run_id: str) -> str:
        """What a failed run's log says of why."""
        text = """query($id: ID!) {runOrError(runId: $id) {... on Run {eventConnection(limit: 1000) {events {
          __typename ... on MessageEvent {message} ... on RunFailureEvent {error {message}}
          ... on ExecutionStepFailureEvent {error {message}}}}}}}"""
        events = self.query(text, id=run_id)["runOrError"]["eventConnection"]["events"]
        failures = [e for e in events if "Failure" in e["__typename"] or "Cancel" in e["__typename"]]
        return " | ".join(f"{e.get('message') or ''} {(e.get('error') or {}).get('message', '')}" for e in failures)

    # ---- containers ---------------------------------------------------------------------------------------------
    def service(self, name: str) -> str:
        """Id of a core service's container."""
        labels = (f"com.docker.compose.project={self.name}", f"com.docker.compose.service={name}")
        return docker("ps", "-aq", "--no-trunc", *(f"--filter=label={label}" for label in labels)).split()[0]

    def location(self, project: str) -> str:
        """Id of the container that serves a project."""
        found = self.location_ids(project)
        assert len(found) == 1, f"{project} has {len(found)} code servers"
        return found[0]

    def location_ids(self, project: str) -> list[str]:
        """Ids of all containers that serve a project."""
        filters = ("dml.role=code-location", f"dml.project={project}")
        own = docker("ps", "-q", "--no-trunc", *(f"--filter=label={label}" for label in filters)).split()
        return [found for found in own if inspect(found)["Name"].startswith(f"/{self.name}-")]

    def run_container(self, run_id: str) -> str:
        """Id of the container that a run goes in."""
        return wait(
            lambda: docker("ps", "-q", "--no-trunc", f"--filter=label=dagster/run_id={run_id}"),
            seconds=60,
            what=f"run {run_id[:8]} has a container",
        )

    def health(self, container: str) -> str:
        """healthy, unhealthy, starting; or the state of a container without a check."""
        state = inspect(container).get("State", {})
        return str(state.get("Health", {}).get("Status") or state.get("Status")) if state else "gone"

    def kill(self, container: str) -> None:
        """End a container's first process with SIGKILL, from outside of Docker: its restart policy applies."""
        process = str(inspect(container)["State"]["Pid"])
        try:
            os.kill(int(process), 9)
        except PermissionError:
            sh("sudo", "-n", "kill", "-9", process)

    def inside(self, project: str, code: str, *, memory: str = "1g", timeout_s: float = 300) -> str:
        """Run Python as the project would: its image, user, network, secrets and limits, in a container of its own."""
        found = inspect(self.location(project))
        network = f"{self.name}_project_{project}"
        mounts = [f"--volume={b}" for b in found["HostConfig"]["Binds"] or []]
        for mount in found["Mounts"]:
            if mount["Type"] == "bind" and not any(mount["Destination"] in m for m in mounts):
                mounts.append(f"--volume={mount['Source']}:{mount['Destination']}:ro")
        variables = [f"--env={e}" for e in found["Config"]["Env"]]
        hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--memory={memory}"]
        writable = ["--tmpfs=/tmp", "--tmpfs=/var/lib/dml:uid=10001,gid=10001"]
        base = ["run", "--rm", "--no-healthcheck", f"--network={network}", f"--label=dml.stack={self.name}"]
        image = found["Config"]["Image"]
        command = [*base, *hardened, *writable, *mounts, *variables, image, "python", "-W", "ignore", "-c", code]
        return docker(*command, timeout_s=timeout_s)

    def tables(self, project: str) -> dict[str, dict[str, Any]]:
        """Every table of a project, read in full: rows, a hash of their content, and the files that hold them.

        This is the lake's consistency check: metadata that is missing, or a file, fails it.
        """
        printed = self.inside(project, LAKE_CHECK.replace("PROJECT", project))
        found: dict[str, dict[str, Any]] = json.loads(printed.splitlines()[-1])
        return found

    # ---- the end ------------------------------------------------------------------------------------------------
    def destroy(self) -> None:
        """Remove everything that carries this server's name."""
        remove_stacks(self.name)
        shutil.rmtree(self.root, ignore_errors=True)


LAKE_CHECK = """
import json
from pathlib import Path
from dml_platform.core.settings import load_settings
from dml_platform.lake import Lake
root = Path('/opt') / ('project-sales' if 'PROJECT' == 'sales' else 'orders')
lake = Lake(load_settings(root), root)
found = {}
for ref in lake.tables('PROJECT'):
    pinned = lake.published(ref)
    if pinned is None:
        continue
    for _ in range(20):  # a schedule may publish between the look at the snapshot and that at the rows
        rows, content = lake.sql(f'select count(*), coalesce(bit_xor(hash(t)), 0) from {ref.dotted} as t').fetchone()
        before, pinned = pinned, lake.published(ref)
        if pinned.snapshot_id == before.snapshot_id:
            break
    files = [task.file for task in pinned.table.scan(snapshot_id=pinned.snapshot_id).plan_files()]
    assert rows == sum(f.record_count for f in files), (ref.dotted, rows)
    found[ref.dotted] = {'rows': rows, 'content': str(content), 'files': len(files)}
    if ref.dotted == 'orders.raw.till__orders':
        query = f'select batch_id, count(*), count(distinct order_id) from {ref.dotted} group by batch_id'
        found[ref.dotted]['batches'] = {b: [n, d] for b, n, d in lake.sql(query).fetchall()}
print(json.dumps(found))
"""


def remove_stacks(prefix: str) -> None:
    """Remove containers, networks and volumes whose name begins so."""
    listed = docker("ps", "-a", "--format", "{{.ID}} {{.Names}} {{.Labels}}", check=False).splitlines()
    own = [line.split()[0] for line in listed if line.split()[1].startswith(prefix) or f"dml.stack={prefix}" in line]
    if own:
        docker("rm", "--force", "--volumes", *own, check=False)
    for kind in ("network", "volume"):
        names = docker(kind, "ls", "--format", "{{.Name}}", check=False).split()
        if mine := [name for name in names if name.startswith(prefix)]:
            docker(kind, "rm", *mine, check=False)


def remove_leftovers() -> None:
    """Remove what test runs left whose process is gone (their names hold its number)."""
    named = docker("ps", "-a", "--format", "{{.Names}}", check=False).split()
    named += docker("volume", "ls", "--format", "{{.Name}}", check=False).split()
    named += docker("network", "ls", "--format", "{{.Name}}", check=False).split()
    for number in {found[1] for name in named if (found := re.match(rf"{PREFIX}(\d+)\b", name.replace("_", "-")))}:
        if not Path(f"/proc/{number}").exists():
            remove_stacks(f"{PREFIX}{number}")


def now() -> float:
    """This moment as Dagster counts it."""
    return time.time()


def clock(moment: float) -> str:
    """A moment for a message."""
    return datetime.fromtimestamp(moment, tz=timezone.utc).strftime("%H:%M:%S")
