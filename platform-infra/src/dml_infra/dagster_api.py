"""Dagster's GraphQL API as far as this package needs it, with types; how a request gets there is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dml_infra.errors import InfraError, RetryableError

Execute = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]

_ERROR = "... on PythonError { message className stack causes { message className stack } }"
_ENTRY = f"""
  name loadStatus updatedTimestamp displayMetadata {{ key value }}
  locationOrLoadError {{
    __typename
    ... on RepositoryLocation {{ repositories {{ name
      schedules {{ name defaultStatus scheduleState {{ id selectorId status }} }}
      sensors {{ name defaultStatus sensorState {{ id selectorId status }} }} }} }}
    {_ERROR}
  }}"""
RELOAD = f"mutation {{ reloadWorkspace {{ __typename ... on UnauthorizedError {{ message }} {_ERROR} }} }}"
WORKSPACE = (
    f"""{{ workspaceOrError {{ __typename ... on Workspace {{ locationEntries {{ {_ENTRY} }} }} {_ERROR} }} }}"""
)
LOCATION = f"""query Location($name: String!) {{ workspaceLocationEntryOrError(name: $name) {{
  __typename ... on WorkspaceLocationEntry {{ {_ENTRY} }} {_ERROR} }} }}"""
TICKS = f"""query Ticks($selector: InstigationSelector!, $limit: Int) {{
  instigationStateOrError(instigationSelector: $selector) {{
  __typename ... on InstigationState {{ status ticks(limit: $limit) {{
    tickId status timestamp endTimestamp runIds skipReason error {{ message stack }} }} }} {_ERROR} }} }}"""
RUNS = f"""query Runs($filter: RunsFilter, $limit: Int) {{ runsOrError(filter: $filter, limit: $limit) {{
  __typename ... on Runs {{ results {{ runId jobName status startTime endTime tags {{ key value }}
    repositoryOrigin {{ repositoryLocationName }} }} }}
  ... on InvalidPipelineRunsFilterError {{ message }} {_ERROR} }} }}"""
LAUNCH = f"""mutation Launch($params: ExecutionParams!) {{ launchRun(executionParams: $params) {{
  __typename ... on LaunchRunSuccess {{ run {{ runId }} }} ... on RunConfigValidationInvalid {{ errors {{ message }} }}
  ... on PipelineNotFoundError {{ message }} ... on UnauthorizedError {{ message }} {_ERROR} }} }}"""
START = {
    "schedule": f"""mutation Start($s: ScheduleSelector!) {{ startSchedule(scheduleSelector: $s) {{
      __typename ... on ScheduleNotFoundError {{ message }} ... on UnauthorizedError {{ message }} {_ERROR} }} }}""",
    "sensor": f"""mutation Start($s: SensorSelector!) {{ startSensor(sensorSelector: $s) {{
      __typename ... on SensorNotFoundError {{ message }} ... on UnauthorizedError {{ message }} {_ERROR} }} }}""",
}
STOP = {
    "schedule": f"""mutation Stop($id: String!) {{ stopRunningSchedule(id: $id) {{
      __typename ... on ScheduleNotFoundError {{ message }} ... on UnauthorizedError {{ message }} {_ERROR} }} }}""",
    "sensor": f"""mutation Stop($id: String!) {{ stopSensor(id: $id) {{
      __typename ... on UnauthorizedError {{ message }} {_ERROR} }} }}""",
}


@dataclass(frozen=True)
class Instigator:
    """A schedule or sensor. ``status`` is RUNNING or STOPPED, and so is the code's default."""

    kind: str
    repository: str
    name: str
    status: str
    default_status: str
    id: str

    @property
    def key(self) -> str:
        """What stays the same over deploys."""
        return f"{self.repository}/{self.name}"


@dataclass(frozen=True)
class Location:
    """A code location as Dagster sees it. ``loaded`` and no ``error``, or the error's text as the UI shows it."""

    name: str
    loaded: bool
    loading: bool
    error: str
    image: str | None
    host: str | None
    updated_at: float
    instigators: tuple[Instigator, ...]

    def keys(self, kind: str) -> tuple[str, ...]:
        """Schedules or sensors, as ``repository/name``."""
        return tuple(sorted(i.key for i in self.instigators if i.kind == kind))


@dataclass(frozen=True)
class Tick:
    """One evaluation of a schedule or sensor. ``status``: STARTED, SKIPPED, SUCCESS, FAILURE."""

    status: str
    timestamp: float
    ended_at: float | None
    run_ids: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class Run:
    """A run. ``location`` is the project."""

    run_id: str
    job: str
    status: str
    location: str | None
    tags: Mapping[str, str]


class DagsterApi:
    """Typed requests.

    Args:
        execute: sends a query with variables and gives the ``data`` of the reply.
    """

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def reload_workspace(self) -> None:
        """Make the webserver read its workspace file again and load every location of it."""
        self._ask(RELOAD, {}, "reloadWorkspace", "cannot reload the workspace")

    def locations(self) -> dict[str, Location]:
        """Every code location by name."""
        answer = self._ask(WORKSPACE, {}, "workspaceOrError", "cannot read the workspace")
        return {entry["name"]: _location(entry) for entry in answer["locationEntries"]}

    def location(self, name: str) -> Location | None:
        """One code location, or none where the workspace does not have it."""
        answer = self._execute(LOCATION, {"name": name})["workspaceLocationEntryOrError"]
        if answer is None:
            return None
        _raise_for(answer, f"cannot read code location {name!r}", {"WorkspaceLocationEntry"})
        return _location(answer)

    def start(self, project: str, instigator: Instigator) -> None:
        """Switch a schedule or sensor on."""
        field = f"{instigator.kind}Name"
        selector = {
            "repositoryLocationName": project,
            "repositoryName": instigator.repository,
            field: instigator.name,
        }
        reply = f"start{instigator.kind.capitalize()}"
        self._ask(START[instigator.kind], {"s": selector}, reply, f"cannot start {instigator.key}")

    def stop(self, instigator: Instigator) -> None:
        """Switch a schedule or sensor off."""
        reply = {"schedule": "stopRunningSchedule", "sensor": "stopSensor"}[instigator.kind]
        self._ask(STOP[instigator.kind], {"id": instigator.id}, reply, f"cannot stop {instigator.key}")

    def ticks(self, project: str, instigator: Instigator, *, limit: int = 100) -> list[Tick]:
        """The last evaluations, newest first."""
        selector = {
            "repositoryLocationName": project,
            "repositoryName": instigator.repository,
            "name": instigator.name,
        }
        what = f"cannot read the ticks of {instigator.key}"
        answer = self._ask(TICKS, {"selector": selector, "limit": limit}, "instigationStateOrError", what)
        return [
            Tick(
                t["status"],
                t["timestamp"],
                t["endTimestamp"],
                tuple(t["runIds"]),
                (t["error"] or {}).get("message", ""),
            )
            for t in answer["ticks"]
        ]

    def launch(
        self,
        project: str,
        job: str,
        *,
        repository: str = "__repository__",
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Start a job. Returns: the run's id."""
        params = {
            "selector": {"repositoryLocationName": project, "repositoryName": repository, "jobName": job},
            "runConfigData": dict(config or {}),
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]},
        }
        answer = self._ask(LAUNCH, {"params": params}, "launchRun", f"cannot launch {job!r} of {project!r}")
        return str(answer["run"]["runId"])

    def runs(self, *, statuses: Sequence[str] = (), run_ids: Sequence[str] = (), limit: int | None = None) -> list[Run]:
        """Runs, newest first."""
        chosen: dict[str, Any] = {}
        if statuses:
            chosen["statuses"] = list(statuses)
        if run_ids:
            chosen["runIds"] = list(run_ids)
        answer = self._ask(RUNS, {"filter": chosen, "limit": limit}, "runsOrError", "cannot read the runs")
        return [
            Run(
                r["runId"],
                r["jobName"],
                r["status"],
                (r["repositoryOrigin"] or {}).get("repositoryLocationName"),
                {t["key"]: t["value"] for t in r["tags"]},
            )
            for r in answer["results"]
        ]

    def _ask(self, query: str, variables: Mapping[str, Any], field: str, what: str) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._execute(query, variables)[field]
        good = {
            "Workspace", "InstigationState", "Runs", "LaunchRunSuccess", "ScheduleStateResult", "Sensor",
            "StopSensorMutationResult",
        }  # fmt: skip
        _raise_for(answer, what, good)
        return answer


def error_text(error: Mapping[str, Any]) -> str:
    """A PythonError as Dagster's UI shows it: message, stack, then the same of every cause."""
    parts = []
    for link in (error, *(error.get("causes") or ())):
        stack = "".join(link.get("stack") or ())
        parts.append(str(link["message"]).rstrip() + (f"\n\nStack Trace:\n{stack}" if stack else ""))
    return "\nThe above exception was caused by the following exception:\n".join(parts)


def _location(entry: Mapping[str, Any]) -> Location:
    metadata = {item["key"]: item["value"] for item in entry["displayMetadata"]}
    content = entry["locationOrLoadError"] or {}
    is_location = content.get("__typename") == "RepositoryLocation"
    instigators = [
        Instigator(kind, r["name"], i["name"], i[f"{kind}State"]["status"], i["defaultStatus"], i[f"{kind}State"]["id"])
        for r in (content["repositories"] if is_location else ())
        for kind in ("schedule", "sensor")
        for i in r[f"{kind}s"]
    ]
    loading = entry["loadStatus"] == "LOADING"
    return Location(
        name=entry["name"],
        loaded=is_location and not loading,
        loading=loading,
        error="" if is_location or not content else error_text(content),
        image=metadata.get("image"),
        host=metadata.get("host"),
        updated_at=entry["updatedTimestamp"],
        instigators=tuple(instigators),
    )


def _raise_for(answer: Mapping[str, Any], what: str, good: set[str]) -> None:
    kind = answer["__typename"]
    if kind in good:
        return
    if kind == "PythonError":
        raise RetryableError(what, f"Dagster says: {error_text(answer)}", "Look at the webserver's log.")
    errors = answer.get("errors") or [answer]
    message = "; ".join(str(e.get("message", kind)) for e in errors)
    raise InfraError(what, f"Dagster answers {kind}: {message}", "Correct what it names.")
