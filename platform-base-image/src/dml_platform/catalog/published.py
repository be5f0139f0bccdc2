"""What the lake says of a project's tables: columns, snapshots with the run and commit of each, sizes, freshness."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from itertools import islice

from dml_platform.catalog.draft import Draft
from dml_platform.core.document import TablePoint, Test, TestResult
from dml_platform.lake import PinnedTable, SnapshotInfo, published_states
from dml_platform.lake.schema import duckdb_type

MAX_POINTS = 60


def add_published(draft: Draft, tables: Mapping[str, PinnedTable]) -> None:
    """Add what is published of each table."""
    for name, pinned in tables.items():
        table = draft.table(name)
        assert table is not None
        known = table.columns
        # In the order that readers see; documented columns that are gone come last.
        table.columns = {}
        for field in pinned.schema.fields:
            table.columns[field.name] = {**known.pop(field.name, {}), "name": field.name}
            table.columns[field.name]["type"] = duckdb_type(field.field_type)
        table.columns |= known
        states = list(islice(published_states(pinned), MAX_POINTS))
        newest = states[0]
        snapshot = pinned.table.snapshot_by_id(newest.snapshot_id)
        properties = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
        size = properties.get("total-files-size")
        at = _iso(newest.committed_at)
        table.values |= {
            "snapshot_id": newest.snapshot_id,
            "published_at": at,
            "row_count": newest.rows_total,
            "size_bytes": int(size) if size is not None else None,
            "run_id": newest.summary.get("run_id"),
            "git_commit": newest.summary.get("git_commit"),
            "fresh_as_of": at if table.kind == "raw" else None,
            "history": tuple(_point(state) for state in states),
        }
        table.fill(owner=draft.owner)


def add_profiles(draft: Draft, profiles: Mapping[str, Mapping[str, Mapping[str, object]]]) -> None:
    """Add the columns' figures."""
    for name, columns in profiles.items():
        for column, profile in columns.items():
            if column in draft.tables[name].columns:
                draft.tables[name].columns[column]["profile"] = dict(profile)


def check_freshness(draft: Draft, loaded_at: Mapping[str, str], *, run_id: str, now: datetime) -> None:
    """Say which tables are late: the newest value of the freshness column is older than allowed.

    Args:
        loaded_at: the freshness column by table.
    """
    for name, column in sorted(loaded_at.items()):
        table = draft.tables[name]
        limit = table.values["max_age_hours"]
        newest = table.columns.get(column, {}).get("profile", {}).get("max")
        moment = _moment(newest)
        if moment is not None:
            table.values["fresh_as_of"] = _iso(moment)
        age = now - moment if moment is not None else None
        is_late = age is None or age > timedelta(hours=limit)
        message = None
        if age is None:
            message = f"nothing is published that says in {column} when it was loaded"
        elif is_late:
            message = f"the newest {column} is {_hours(age)} old; {_hours(timedelta(hours=limit))} are allowed"
        if message:
            draft.notices.append(f"{name} is late: {message}.")
        draft.tests[f"freshness.{name}"] = Test(
            id=f"freshness.{name}",
            name=f"freshness_{name.rpartition('.')[2]}",
            kind="freshness",
            table=name,
            column=column,
            description=f"The newest {column} is at most {_hours(timedelta(hours=limit))} old.",
            severity="warn",
            results=(TestResult(run_id=run_id, at=_iso(now), status="warn" if is_late else "pass", message=message),),
        )


def _point(state: SnapshotInfo) -> TablePoint:
    return TablePoint(
        snapshot_id=state.snapshot_id,
        published_at=_iso(state.committed_at),
        row_count=state.rows_total,
        run_id=state.summary.get("run_id"),
        git_commit=state.summary.get("git_commit"),
    )


def _moment(text: str | None) -> datetime | None:
    """DuckDB's text of a date or time; one without a zone is in UTC."""
    if not text:
        return None
    if len(text) > 10 and text[-3] in "+-":
        text = f"{text}:00"
    # Python 3.10 takes three or six digits only.
    text = re.sub(r"\.(\d+)", lambda found: f".{found.group(1):0<6}"[:7], text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _iso(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")


def _hours(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} hours"
