"""Which branches and snapshots of a table end, as updates of its metadata. Touches no file and commits nothing.

A snapshot's age counts from when it stopped being published, not from when it was written: what a reader may have
pinned yesterday can be a year old.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot, ancestors_of
from pyiceberg.table.update import (
    RemovePropertiesUpdate,
    RemoveSnapshotsUpdate,
    SetPropertiesUpdate,
    TableUpdate,
)

from dml_platform.core.config import MaintenanceConfig
from dml_platform.lake.catalog import drop_ref
from dml_platform.lake.state import CARRIED_PREFIX, COMPACTED, carry, summaries, summary_of

RUN_BRANCH = "run_"


@dataclass(frozen=True)
class Expiry:
    """What ends: branches by name, snapshots by id, and the updates that do it in one commit."""

    branches: tuple[str, ...] = ()
    snapshots: frozenset[int] = frozenset()
    updates: tuple[TableUpdate, ...] = ()


def plan_expiry(
    metadata: TableMetadata,
    policy: MaintenanceConfig,
    *,
    now: datetime,
    pins: Iterable[int] = (),
    living: Collection[str] = (),
) -> Expiry:
    """Choose what ends. What the head of any branch or tag that stays needs is kept.

    Args:
        pins: snapshots that run records name, so that their runs can be made again.
        living: runs that are known to be alive; their branches stay however old they are.
    """
    branches = tuple(sorted(_dead_branches(metadata, policy, now, living)))
    kept = _kept(metadata, policy, now, pins, branches)
    gone = frozenset(snapshot.snapshot_id for snapshot in metadata.snapshots) - kept
    updates: list[TableUpdate] = [drop_ref(name) for name in branches]
    if gone:
        # First what is remembered, then what it was read from; all of it is one commit.
        carried = {
            f"{CARRIED_PREFIX}{snapshot.snapshot_id}": carry(summaries(metadata, snapshot.parent_snapshot_id))
            for snapshot in metadata.snapshots
            if snapshot.snapshot_id in kept and snapshot.parent_snapshot_id in gone
        }
        if carried:
            updates.append(SetPropertiesUpdate(updates=carried))
        names = {f"{CARRIED_PREFIX}{snapshot_id}" for snapshot_id in gone}
        if outdated := sorted(names & metadata.properties.keys()):
            updates.append(RemovePropertiesUpdate(removals=outdated))
        updates.append(RemoveSnapshotsUpdate(snapshot_ids=sorted(gone)))  # type: ignore[call-arg]
    return Expiry(branches, gone, tuple(updates))


def is_run_branch(name: str, head: Snapshot | None) -> bool:
    """Whether a step wrote a branch: its head says so. Somebody else's may have such a name."""
    wrote = summary_of(head) if head else {}
    return name == f"{RUN_BRANCH}{wrote.get('run_id')}_{wrote.get('step')}"


def _dead_branches(
    metadata: TableMetadata, policy: MaintenanceConfig, now: datetime, living: Collection[str]
) -> Iterable[str]:
    """Branches of runs to which nothing was written for long."""
    limit = _ms(now - timedelta(days=policy.branch_days))
    for name, ref in metadata.refs.items():
        head = metadata.snapshot_by_id(ref.snapshot_id)
        is_living = any(name.startswith(f"{RUN_BRANCH}{run_id}_") for run_id in living)
        if is_run_branch(name, head) and not is_living and head is not None and head.timestamp_ms < limit:
            yield name


def _kept(
    metadata: TableMetadata,
    policy: MaintenanceConfig,
    now: datetime,
    pins: Iterable[int],
    dead: Collection[str],
) -> frozenset[int]:
    limit = _ms(now - timedelta(days=policy.keep_days))
    heads = {ref.snapshot_id for name, ref in metadata.refs.items() if name not in dead}
    kept = {metadata.current_snapshot_id or 0}
    # Young ones, whatever they belong to: a run may be about to make its branch, or to be rolled forward.
    kept |= {snapshot.snapshot_id for snapshot in metadata.snapshots if snapshot.timestamp_ms >= limit}
    log = metadata.snapshot_log
    ends = [entry.timestamp_ms for entry in log[1:]]
    kept |= {entry.snapshot_id for entry, end in zip(log, [*ends, _ms(now)], strict=False) if end >= limit}
    kept |= _newest_states(metadata, policy.keep_snapshots)
    for pinned in pins:
        kept |= _with_state_before(metadata, pinned)
    main = metadata.refs.get(MAIN_BRANCH)
    history = [s.snapshot_id for s in ancestors_of(metadata.snapshot_by_id(main.snapshot_id), metadata)] if main else []
    # The published history has no gaps: what is between two that stay does too, but for what a tag holds.
    oldest = max((place for place, snapshot_id in enumerate(history) if snapshot_id in kept), default=-1)
    kept |= set(history[: oldest + 1])
    return frozenset((kept | heads) & {snapshot.snapshot_id for snapshot in metadata.snapshots})


def _newest_states(metadata: TableMetadata, count: int) -> set[int]:
    """The last published states. One whose files maintenance made one takes the place of the one before it."""
    found: list[int] = []
    replaced: set[int | None] = set()
    for snapshot_id in dict.fromkeys(entry.snapshot_id for entry in reversed(metadata.snapshot_log)):
        snapshot = metadata.snapshot_by_id(snapshot_id)
        if snapshot and COMPACTED in summary_of(snapshot):
            replaced.add(snapshot.parent_snapshot_id)
        if snapshot_id not in replaced:
            found.append(snapshot_id)
    return set(found[:count])


def _with_state_before(metadata: TableMetadata, snapshot_id: int) -> set[int]:
    """A snapshot and those before it up to another run's, from which its run can be made again."""
    found: set[int] = set()
    snapshot = metadata.snapshot_by_id(snapshot_id)
    run = summary_of(snapshot).get("run_id") if snapshot else None
    for one in ancestors_of(snapshot, metadata) if snapshot else ():
        found.add(one.snapshot_id)
        if summary_of(one).get("run_id") != run:
            break
    return found


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
