"""What landing files and landing objects share: what a table's history remembers, and one publish of new files.

Knows neither where the files came from nor how to choose them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dml_platform.core.errors import PublishConflictError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.files.config import PLATFORM_COLUMNS, FileTable
from dml_platform.files.discover import GzipChecks, LineCounter, SourceFile
from dml_platform.files.load import LandedFile, Load
from dml_platform.lake import Lake, PinnedTable, Step
from dml_platform.lake.schema import duckdb_type
from dml_platform.lake.state import FILES, LANDING, summaries

_RETRIES = 2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Landing:
    """What a call of :func:`land_files` did.

    ``files_skipped`` counts files whose content was there already; ``snapshot_id`` is what is published now, also
    when nothing was new.
    """

    files_landed: int
    files_skipped: int
    rows: int
    rejects: int
    snapshot_id: int | None
    seconds: float
    files: tuple[LandedFile, ...] = ()


def remembered_files(lake: Lake, ref: TableRef, *, latest_only: bool) -> Iterator[LandedFile]:
    """What the summaries of the published history say, newest first."""
    pinned = lake.published(ref)
    for summary in summaries(pinned.table.metadata, pinned.snapshot_id) if pinned else ():
        for entry in json.loads(summary.get(FILES, "[]")):
            yield LandedFile(**entry)
        landing = summary.get(LANDING)
        if landing == "full_refresh" or (latest_only and landing == "table"):
            return  # what came before is not in the table any more


def insist(attempt: Callable[[], Landing], ref: TableRef, say: Progress) -> Landing:
    """Try again when another run published to the table meanwhile."""
    for _ in range(_RETRIES):
        try:
            return attempt()
        except PublishConflictError:
            say(f"another run landed {ref.dotted} meanwhile; starting again from what it published")
    return attempt()


def publish_files(
    lake: Lake,
    step: Step,
    ref: TableRef,
    source: FileTable,
    new: Sequence[SourceFile],
    columns: Mapping[str, str],
    *,
    run_id: str,
    full_refresh: bool,
) -> Landing:
    """Write the files' rows to the step's branches and publish them."""
    connection = lake.connect()
    try:
        with GzipChecks(ref, new) as checks:
            landed = Load(step, connection, ref, source, run_id, columns, full_refresh=full_refresh).write(new)
            unpacked = checks.finish()
        for file in new:
            file.check_unchanged(ref)
        if source.format == "csv":
            _check_counts(ref, source, new, landed, {file.name: unpacked.get(file) or file.lines for file in new})
        snapshots = {staged.ref: staged.snapshot_id for staged in step.publish()}
    finally:
        step.abandon()
        connection.close()
    return Landing(
        files_landed=len(new),
        files_skipped=0,
        rows=sum(file.rows for file in landed),
        rejects=sum(file.rejects for file in landed),
        snapshot_id=snapshots[ref],
        seconds=0.0,
        files=tuple(landed),
    )


def _check_counts(
    ref: TableRef,
    source: FileTable,
    files: Sequence[SourceFile],
    landed: Sequence[LandedFile],
    lines: Mapping[str, LineCounter],
) -> None:
    """Every line of data landed or was rejected; nothing is believed of a reader that lost some.

    Line ends inside quotes make fewer records than lines, so there only a file of which nothing was read is caught; and
    a blank line is a row where there is one column.
    """
    if source.csv.encoding == "utf-16":
        return
    by_name = {file.name: file for file in files}
    for file in landed:
        counter, read = lines[file.name], file.rows + file.rejects
        expected = counter.lines - source.csv.header
        # One line, but rows: its lines end in CR alone.
        if read == expected or (read and (counter.has_quote or counter.lines == 1)):
            continue
        blank = by_name[file.name].count_blank_lines()
        if not expected - blank <= read <= expected:
            raise SourceError(
                f"cannot land {file.name!r} in {ref.dotted!r}",
                f"it has {expected - blank:,} lines of data, but {read:,} were read",
                "Check its line ends and csv options; if they are right, report this with the file.",
            )


def known_columns(pinned: PinnedTable | None) -> dict[str, str]:
    """The columns of a published table that came from its files."""
    if pinned is None or pinned.snapshot_id is None:
        return {}
    return {f.name: duckdb_type(f.field_type) for f in pinned.schema.fields if f.name not in PLATFORM_COLUMNS}
