"""Roll back: ``main`` of one table, or of all tables that a run published, goes to what was published before.

Nothing is written or deleted: the state that was left stays until its retention ends, so that the move can be undone.
What an ingest remembers is in the snapshots' summaries and therefore goes back with the rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot, ancestors_of
from pyiceberg.table.update import SetPropertiesUpdate, TableUpdate

from dml_platform.core.errors import ConfigError, PermanentError, PublishConflictError
from dml_platform.core.naming import TableRef
from dml_platform.core.runrecord import utc_now
from dml_platform.lake import catalog as catalogs
from dml_platform.lake.client import Lake
from dml_platform.lake.state import COMPACTED, SUMMARY_PREFIX, has_expired, summary_of
from dml_platform.lake.write import _main_of, _set_branch, _set_schema

PROPERTY = f"{SUMMARY_PREFIX}rollback"
# What tests found is a fact, whatever becomes of the rows; and runs that published nothing else write there too.
_FACTS = "elementary"


@dataclass(frozen=True)
class Move:
    """What happens to ``main`` of one table; a snapshot of None means: not published."""

    ref: TableRef
    snapshot_was: int | None
    snapshot_now: int | None
    rows_was: int
    rows_now: int
    run_was: str | None
    run_now: str | None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "ref": self.ref.dotted}


def plan_table(lake: Lake, ref: TableRef, *, to: str | None = None) -> list[Move]:
    """What moves when one table goes back; the rejects of the same landing go along.

    Args:
        to: a snapshot that was published, or the run that published it; default: what was there before the run that
            published last.
    Raises:
        ConfigError: there is no such table, state or run.
    """
    tables = catalogs.load_tables(lake.catalog, [ref, ref.rejects])
    table, rejects = tables[ref], tables[ref.rejects]
    what = f"cannot roll back {ref.dotted!r}"
    if table is None or not (table.snapshots() and table.metadata.snapshot_log):
        raise ConfigError(what, "it was never published", "'dml tables' lists what there is.")
    head = _head(table)
    if to is None:
        if head is None:
            raise ConfigError(
                what, "it is not published now", f"Name the state: --to SNAPSHOT; there are {_known(table)}."
            )
        target = _before(ref, table, head)
    else:
        target = _find(ref, table, to)
    moves = [_move(ref, table, target)]
    if rejects is not None and rejects.metadata.snapshot_log:
        moves.append(_move(ref.rejects, rejects, _rejects_of(rejects, target)))
    return _changed(moves, what)


def plan_run(lake: Lake, project: str, run_id: str, *, to: str | None = None) -> list[Move]:
    """What moves when all tables that a run published go back, or with ``to`` to what that run published.

    Raises:
        ConfigError: the run published nothing that is still known.
        PermanentError: another run published one of the tables since.
    """
    what = f"cannot roll back run {run_id!r}"
    tables = catalogs.load_tables(lake.catalog, [ref for ref in lake.tables(project) if ref.layer != _FACTS])
    found = {r: t for r, t in tables.items() if t is not None and _of_run(t, run_id)}
    if not found:
        raise ConfigError(
            what,
            f"no table of project {project!r} has a state that it published",
            "'dml history' lists the runs; what a table's retention has ended for cannot come back.",
        )
    moves, later = [], []
    for ref, table in sorted(found.items()):
        head = _head(table)
        target = _find(ref, table, to) if to is not None else None
        if head is not None and _run(head) == run_id:
            moves.append(_move(ref, table, target or _before(ref, table, head)))
        elif to is not None and (head is None or _is_ancestor(table, _uncompacted(table, head), target)):
            moves.append(_move(ref, table, target))
        elif head is not None and (
            to is not None or any(_run(s) == run_id for s in ancestors_of(head, table.metadata))
        ):
            later.append(f"{ref.dotted} (run {_run(head)})")
    if later:
        raise PermanentError(
            what,
            f"others published since: {', '.join(later)}",
            "Roll their runs back first, newest first; or go back table by table with --to.",
        )
    return _changed(moves, what)


def move_main(lake: Lake, moves: Sequence[Move], *, by: str, why: str, roll_back_id: str) -> None:
    """Move ``main`` of all tables in one catalogue transaction; who did it and why is in the tables' properties.

    Raises:
        PublishConflictError: ``main`` of a table is not what the plan was made from; nothing was changed.
    """
    note = {"id": roll_back_id, "by": by, "why": why, "at": utc_now()}

    def commit() -> None:
        tables = catalogs.load_tables(lake.catalog, [move.ref for move in moves])
        if all(_main_of(tables[move.ref]) == move.snapshot_now for move in moves):
            return  # an attempt went through and its answer was lost
        catalogs.commit_together(lake.catalog, [_commit_of(move, tables[move.ref], note) for move in moves])

    refs = [move.ref for move in moves]
    names = ", ".join(ref.dotted for ref in refs)
    catalogs.with_retries(
        lake.catalog, refs, commit, attempts=lake.settings.lake.commit_retries, what=f"cannot roll back {names}"
    )


def _commit_of(move: Move, table: Table | None, note: dict[str, str]) -> catalogs.TableCommit:
    if table is None or _main_of(table) != move.snapshot_was:
        raise PublishConflictError(
            f"cannot roll back {move.ref.dotted!r}",
            "somebody published it after this roll-back was planned",
            "Look again at what would change, then run it again.",
        )
    moved = {**note, "from": move.snapshot_was, "to": move.snapshot_now}
    updates: list[TableUpdate] = [SetPropertiesUpdate(updates={PROPERTY: json.dumps(moved)})]
    if move.snapshot_now is None:
        updates.append(catalogs.drop_ref(MAIN_BRANCH))
        return catalogs.TableCommit(table, tuple(updates))
    snapshot = table.snapshot_by_id(move.snapshot_now)
    if snapshot is None:
        raise PublishConflictError(
            f"cannot roll back {move.ref.dotted!r}",
            f"its snapshot {move.snapshot_now} expired after this roll-back was planned",
            "Look again at what would change, then run it again.",
        )
    if snapshot.schema_id is not None and snapshot.schema_id != table.schema().schema_id:
        updates.append(_set_schema(snapshot.schema_id))
    updates.append(_set_branch(MAIN_BRANCH, move.snapshot_now))
    return catalogs.TableCommit(table, tuple(updates))


def _changed(moves: Sequence[Move], what: str) -> list[Move]:
    changed = [move for move in moves if move.snapshot_was != move.snapshot_now]
    if not changed:
        raise ConfigError(what, "what is published is that state already", "'dml history TABLE' lists the others.")
    return changed


def _move(ref: TableRef, table: Table, target: Snapshot | None) -> Move:
    head = _head(table)
    return Move(
        ref=ref,
        snapshot_was=head.snapshot_id if head else None,
        snapshot_now=target.snapshot_id if target else None,
        rows_was=_rows(head),
        rows_now=_rows(target),
        run_was=_run(head) if head else None,
        run_now=_run(target) if target else None,
    )


def _before(ref: TableRef, table: Table, head: Snapshot) -> Snapshot | None:
    """The newest ancestor that another run wrote; None where the run was the first."""
    last = head
    for snapshot in ancestors_of(head, table.metadata):
        if snapshot.snapshot_id != head.snapshot_id and (_run(snapshot) is None or _run(snapshot) != _run(head)):
            return snapshot
        last = snapshot
    if has_expired(table, last):
        raise ConfigError(
            f"cannot roll back {ref.dotted!r}",
            f"what was published before run {_run(head)!r} is past its retention and gone",
            "Correct the cause and run again; 'maintenance: keep_days' in config/project.yaml keeps states for longer.",
        )
    return None


def _find(ref: TableRef, table: Table, to: str) -> Snapshot:
    """A published state by its id or its run."""
    published = _published(table)
    for snapshot in published:
        if str(snapshot.snapshot_id) == to:
            return snapshot
    for snapshot in published:
        if _run(snapshot) == to:
            return snapshot
    raise ConfigError(
        f"cannot roll back {ref.dotted!r} to {to!r}",
        "it is neither a snapshot that was published and is kept, nor a run that published one",
        f"Choose from {_known(table)}.",
    )


def _rejects_of(rejects: Table, target: Snapshot | None) -> Snapshot | None:
    """The rejects that belong to a state: those of the same run, or else those from before it."""
    if target is None:
        return None
    published = _published(rejects)
    same = [s for s in published if _run(s) is not None and _run(s) == _run(target)]
    before = [s for s in published if s.timestamp_ms < target.timestamp_ms]
    return next(iter(same or before), None)


def _published(table: Table) -> list[Snapshot]:
    """Every state that ``main`` had and that is kept, newest first; also those that were rolled back."""
    logged = {entry.snapshot_id for entry in table.metadata.snapshot_log}
    found = [snapshot for snapshot in table.snapshots() if snapshot.snapshot_id in logged]
    return sorted(found, key=lambda snapshot: snapshot.sequence_number or 0, reverse=True)


def _of_run(table: Table, run_id: str) -> list[Snapshot]:
    return [snapshot for snapshot in _published(table) if _run(snapshot) == run_id]


def _is_ancestor(table: Table, head: Snapshot, target: Snapshot | None) -> bool:
    return target is not None and any(s.snapshot_id == head.snapshot_id for s in ancestors_of(target, table.metadata))


def _uncompacted(table: Table, snapshot: Snapshot) -> Snapshot:
    """The state as its run left it, before maintenance put the same rows in other files."""
    while COMPACTED in summary_of(snapshot):
        before = table.snapshot_by_id(snapshot.parent_snapshot_id) if snapshot.parent_snapshot_id else None
        if before is None:
            break
        snapshot = before
    return snapshot


def _head(table: Table) -> Snapshot | None:
    snapshot_id = _main_of(table)
    return table.snapshot_by_id(snapshot_id) if snapshot_id is not None else None


def _known(table: Table) -> str:
    return ", ".join(f"{s.snapshot_id} (run {_run(s)})" for s in _published(table)[:8])


def _run(snapshot: Snapshot | None) -> str | None:
    return summary_of(snapshot).get("run_id") if snapshot else None


def _rows(snapshot: Snapshot | None) -> int:
    properties = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    return int(properties.get("total-records", 0))
