"""Where the exporter's numbers come from: Dagster's tables, its API, and `locations.json`. No metric is named here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import requests

# Dagster's own tag of a run, and its older one as `repository@location`.
_TAG = "(select {} from run_tags t where t.run_id = r.run_id and key = '{}' limit 1)"
_LOCATION = (
    f"coalesce({_TAG.format('value', 'dagster/code_location')}, "
    + _TAG.format("split_part(value, '@', 2)", ".dagster/repository")
    + ", '')"
)
# Dagster's columns are in UTC without saying so.
_AGE = "extract(epoch from now() at time zone 'utc' - {})::float8"
_FINAL = ("SUCCESS", "FAILURE", "CANCELED")
# A run's end is stamped before it is committed: what ended this short ago is counted next time.
_SETTLE_S = 5.0
# A tick that did not end for so long never will.
_LOST_TICK_S = 3600.0
_LOCATIONS = """{ workspaceOrError { __typename ... on Workspace { locationEntries {
  name loadStatus updatedTimestamp displayMetadata { key value }
  locationOrLoadError { __typename ... on PythonError { message } } } } ... on PythonError { message } } }"""


class SourceError(Exception):
    """A source did not answer as expected."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended; times in seconds since the epoch, ``started_at`` is None when it never began."""

    location: str
    status: str
    started_at: float | None
    ended_at: float


@dataclass(frozen=True)
class Instigator:
    """A schedule or sensor (``kind``) that Dagster has a state of."""

    location: str
    name: str
    kind: str


@dataclass(frozen=True)
class Tick(Instigator):
    """One evaluation that ended."""

    status: str


@dataclass(frozen=True)
class LoadedLocation:
    """A code location as the webserver knows it; ``error`` is empty when it is loaded."""

    name: str
    error: str
    image: str
    updated_at: float


class Database:
    """Dagster's tables. Remembers what it has given, so that every run and tick is given once.

    Args:
        address: libpq's connection string; user and password are in PGUSER and PGPASSFILE.
    """

    def __init__(self, address: str = "host=postgres dbname=dagster") -> None:
        self._address = address
        self._ended_until: float | None = None
        self._ticks_from: int | None = None
        self._counted: set[int] = set()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A read-only transaction.

        Raises:
            SourceError: Postgres is not reached, too slow, or the tables are not those of this Dagster.
        """
        options = "-c default_transaction_read_only=on -c statement_timeout=8000"
        try:
            connection = psycopg2.connect(
                self._address, connect_timeout=5, options=options, application_name="dml-exporter"
            )
        except psycopg2.Error as error:
            raise SourceError(str(error).strip().splitlines()[0]) from error
        try:
            with connection, connection.cursor() as cursor:
                yield Session(self, cursor)
        except psycopg2.Error as error:
            raise SourceError(str(error).strip().splitlines()[0]) from error
        finally:
            connection.close()


class Session:
    """The queries of one scrape."""

    def __init__(self, database: Database, cursor: psycopg2.extensions.cursor) -> None:
        self._database, self._cursor = database, cursor

    def active_runs(self) -> tuple[dict[tuple[str, str], int], float]:
        """Number by location and status, and for how many seconds the oldest queued run has waited."""
        rows = self._ask(
            f"select {_LOCATION}, status, count(*), {_AGE.format('min(create_timestamp)')} "
            "from runs r where status not in %s group by 1, 2",
            (_FINAL,),
        )
        oldest = max((float(age) for _, status, _, age in rows if status == "QUEUED"), default=0.0)
        return {(location, status): count for location, status, count, _ in rows}, oldest

    def finished_runs(self) -> list[FinishedRun]:
        """Those that ended since the last call; none at the first one."""
        ((now,),) = self._ask("select extract(epoch from now())::float8", ())
        until, since = now - _SETTLE_S, self._database._ended_until
        self._database._ended_until = until
        if since is None:
            return []
        rows = self._ask(
            f"select {_LOCATION}, status, start_time, end_time from runs r "
            "where status in %s and end_time > %s and end_time <= %s",
            (_FINAL, since, until),
        )
        return [FinishedRun(*row) for row in rows]

    def instigators(self) -> list[Instigator]:
        """Schedules and sensors that have a state."""
        rows = self._ask("select instigator_body, instigator_type from instigators", ())
        return [Instigator(*_origin(body), kind) for body, kind in rows]

    def finished_ticks(self) -> list[Tick]:
        """Those that ended since the last call; none at the first one."""
        memory = self._database
        if memory._ticks_from is None:
            ((highest,),) = self._ask("select coalesce(max(id), 0) from job_ticks", ())
            memory._ticks_from = highest + 1
            return []
        rows = self._ask(
            f"select t.id, t.status, t.type, t.tick_body, i.instigator_body, {_AGE.format('t.timestamp')} "
            "from job_ticks t left join instigators i on i.selector_id = t.selector_id where t.id >= %s order by t.id",
            (memory._ticks_from,),
        )
        ticks = []
        waiting = [number for number, status, _, _, _, age_s in rows if status == "STARTED" and age_s < _LOST_TICK_S]
        for number, status, kind, body, instigator, _ in rows:
            if status == "STARTED" or number in memory._counted:
                continue
            memory._counted.add(number)
            location, name = _origin(instigator)
            ticks.append(Tick(location, name or json.loads(body).get("instigator_name", ""), kind, status))
        # What is still going on is looked at again, with everything after it.
        highest = rows[-1][0] if rows else memory._ticks_from - 1
        memory._ticks_from = min(waiting, default=highest + 1)
        memory._counted = {number for number in memory._counted if number >= memory._ticks_from}
        return ticks

    def heartbeat_ages(self) -> dict[str, float]:
        """Seconds since each daemon's last sign of life."""
        return dict(self._ask(f"select daemon_type, {_AGE.format('timestamp')} from daemon_heartbeats", ()))

    def connections(self) -> tuple[dict[str, int], dict[str, int], int]:
        """Open connections by role, the limits of roles that have one, and what the server allows."""
        used = dict(
            self._ask("select usename, count(*) from pg_stat_activity where usename is not null group by 1", ())
        )
        limits = dict(
            self._ask("select rolname, rolconnlimit from pg_roles where rolcanlogin and rolconnlimit >= 0", ())
        )
        ((allowed,),) = self._ask("select setting::int from pg_settings where name = 'max_connections'", ())
        return {role: used.get(role, 0) for role in {*used, *limits}}, limits, allowed

    def _ask(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        self._cursor.execute(query, values)
        return self._cursor.fetchall()


class DagsterWeb:
    """Dagster's API.

    Args:
        url: of a webserver; the read-only one is enough.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        # The webserver is beside this container; a proxy of the environment is for the world outside.
        self._session.trust_env = False

    def locations(self) -> list[LoadedLocation]:
        """Every code location.

        Raises:
            SourceError: no answer, or none that can be read.
        """
        try:
            answer = self._session.post(f"{self._url}/graphql", json={"query": _LOCATIONS}, timeout=8)
            answer.raise_for_status()
            found = answer.json()["data"]["workspaceOrError"]
            entries = found["locationEntries"]
        except (requests.RequestException, KeyError, ValueError, TypeError) as error:
            raise SourceError(f"{type(error).__name__}: {error}") from error
        return [_location(entry) for entry in entries]


def registered_images(workspace: Path) -> dict[str, str]:
    """Image by project, as the last deploy left it."""
    try:
        content = json.loads((workspace / "locations.json").read_text(encoding="utf-8"))
        return {name: str(entry["image"]) for name, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _location(entry: dict[str, Any]) -> LoadedLocation:
    result = entry["locationOrLoadError"] or {}
    metadata = {item["key"]: item["value"] for item in entry["displayMetadata"]}
    error = "" if entry["loadStatus"] == "LOADED" else "loading"
    if result.get("__typename") == "PythonError":
        error = result.get("message") or "error"
    return LoadedLocation(entry["name"], error, metadata.get("image", ""), float(entry["updatedTimestamp"]))


def _origin(body: str | None) -> tuple[str, str]:
    """Code location and name of a stored schedule or sensor."""
    if not body:
        return "", ""
    origin = json.loads(body).get("origin") or {}
    repository = origin.get("repository_origin") or origin.get("external_repository_origin") or {}
    code = repository.get("code_location_origin") or repository.get("repository_location_origin") or {}
    name = origin.get("instigator_name") or origin.get("job_name") or ""
    return str(code.get("location_name") or ""), str(name)
