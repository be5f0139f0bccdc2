"""What ingests remember: kept in the summaries of snapshots, and carried in a table property when those expire.

State rides with the data, so it belongs to a snapshot: the property is named after the oldest snapshot that is left of
a history, and holds what those before it remembered. A table that is rolled back to it has exactly that state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot, ancestors_of

SUMMARY_PREFIX = "dml."
CARRIED_PREFIX = f"{SUMMARY_PREFIX}carried."

# Of file landings: the files as a JSON list, and whether they were added to the table or replaced what was there.
FILES = "files"
LANDING = "landing"
REPLACING_LANDINGS = ("table", "full_refresh")
# Of Airbyte's connectors: the state after the rows, how the stream was read, and that the rows before were replaced.
AIRBYTE_STATE = "airbyte_state"
AIRBYTE_MODE = "airbyte_sync_mode"
AIRBYTE_ANEW = "airbyte_anew"
# Of maintenance: the snapshot has the rows of the one before it, in other files.
COMPACTED = "compacted"


def summary_of(snapshot: Snapshot) -> dict[str, str]:
    """The properties that the platform gave a snapshot, without their prefix."""
    properties = snapshot.summary.additional_properties if snapshot.summary else {}
    return {key[len(SUMMARY_PREFIX) :]: value for key, value in properties.items() if key.startswith(SUMMARY_PREFIX)}


def summaries(metadata: TableMetadata, snapshot_id: int | None) -> Iterator[dict[str, str]]:
    """The summaries of a snapshot and of all before it, newest first, also of those that expired."""
    snapshot = metadata.snapshot_by_id(snapshot_id) if snapshot_id is not None else None
    oldest = None
    for oldest in ancestors_of(snapshot, metadata) if snapshot else ():
        yield summary_of(oldest)
    if oldest is not None:
        yield from json.loads(metadata.properties.get(f"{CARRIED_PREFIX}{oldest.snapshot_id}", "[]"))


def ends_airbyte(summary: Mapping[str, str]) -> bool:
    """Whether a snapshot says all that there is to know of a stream's state: an older one does not go with its rows."""
    return AIRBYTE_STATE in summary or AIRBYTE_ANEW in summary or summary.get(AIRBYTE_MODE) == "full_refresh"


def has_expired(table: Table, oldest: Snapshot) -> bool:
    """Whether there were snapshots before the oldest one that is left of a history."""
    return f"{CARRIED_PREFIX}{oldest.snapshot_id}" in table.metadata.properties


def carry(older: Iterable[Mapping[str, str]]) -> str:
    """What a snapshot's property has to hold of the summaries before it, newest first: no more than is looked up."""
    kept: list[dict[str, Any]] = []
    files: list[Any] = []
    knows_files = knows_airbyte = False
    for summary in older:
        if not knows_airbyte and ends_airbyte(summary):
            kept.append({key: summary[key] for key in (AIRBYTE_STATE, AIRBYTE_MODE, AIRBYTE_ANEW) if key in summary})
            knows_airbyte = True
        if not knows_files and FILES in summary:
            files += json.loads(summary[FILES])
            if knows_files := summary.get(LANDING) in REPLACING_LANDINGS:
                kept.append({FILES: json.dumps(files), LANDING: summary[LANDING]})
        if knows_files and knows_airbyte:
            break
    if files and not knows_files:
        kept.append({FILES: json.dumps(files), LANDING: "append"})
    return json.dumps(kept, separators=(",", ":"))
