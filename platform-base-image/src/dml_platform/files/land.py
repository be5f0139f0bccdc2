"""Land the files of one raw table: each file once, rows and rejects in one publish.

Knows no Dagster and works from a notebook.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dml_platform.core.errors import PublishConflictError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.files.config import PLATFORM_COLUMNS, FileTable
from dml_platform.files.discover import GzipChecks, LineCounter, SourceFile, find_files, open_file
from dml_platform.files.load import FILES_PROPERTY, LandedFile, Load
from dml_platform.lake import Lake, PinnedTable
from dml_platform.lake.schema import duckdb_type

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


def land_files(
    lake: Lake,
    ref: TableRef,
    source: FileTable,
    *,
    root: Path | str,
    run_id: str,
    full_refresh: bool = False,
    progress: Progress | None = None,
) -> Landing:
    """Publish the rows of the files that are not in the table yet, and their rejects in ``<table>__rejects``.

    A file is known by its content's SHA-256, kept in the summary of the snapshot that has its rows: a run that dies
    at any point neither loses nor repeats a file, and nor do two runs at once.

    Args:
        root: the project's folder, which ``source.path`` is relative to.
        full_refresh: land all files of the glob again; they replace rows and columns, whatever they were.
        progress: called with a sentence now and then.
    Raises:
        SourceError: no file matches, or one is empty, damaged or changing.
        TooManyRejectsError: more of a file's rows than allowed did not parse; nothing was published.
        SchemaMismatchError: the files' columns are not the declared ones, or the table cannot take them.
        PublishConflictError: other runs kept publishing to the table.
    """
    started = time.monotonic()
    say = progress or (lambda _: None)
    folder = Path(root).resolve()
    paths = find_files(ref, source.path, root=folder, file_format=source.format)
    with ThreadPoolExecutor(1, thread_name_prefix="dml-hash") as hashers:
        files = [open_file(ref, path, root=folder, hashers=hashers) for path in paths]
        attempt = partial(
            _land,
            lake,
            ref,
            source,
            files,
            run_id=run_id,
            full_refresh=full_refresh,
            say=say,
            started=started,
        )
        try:
            for _ in range(_RETRIES):
                try:
                    return attempt()
                except PublishConflictError:
                    say(f"another run landed {ref.dotted} meanwhile; starting again from what it published")
            return attempt()
        finally:
            hashers.shutdown(wait=False, cancel_futures=True)


def landed_files(lake: Lake, ref: TableRef, *, latest_only: bool = False) -> dict[str, LandedFile]:
    """The files in a table's published history by their hash, or only those of the newest full landing."""
    if lake.published(ref) is None:
        return {}
    found: dict[str, LandedFile] = {}
    for snapshot in lake.history(ref):
        for entry in json.loads(snapshot.summary.get(FILES_PROPERTY, "[]")):
            found.setdefault(entry["sha256"], LandedFile(**entry))
        landing = snapshot.summary.get("landing")
        if landing == "full_refresh" or (latest_only and landing == "table"):
            break  # what came before is not in the table any more
    return found


def _land(
    lake: Lake,
    ref: TableRef,
    source: FileTable,
    files: Sequence[SourceFile],
    *,
    run_id: str,
    full_refresh: bool,
    say: Progress,
    started: float,
) -> Landing:
    step = lake.step(run_id, f"land_{ref.name}")
    pinned = step.pin(ref)
    step.pin(ref.rejects)
    known = {} if full_refresh else landed_files(lake, ref, latest_only=source.mode == "table")
    new = _choose_new(files, known, mode=source.mode)
    skipped = len(files) - len(new)
    published = pinned.snapshot_id if pinned else None
    if not new:
        return Landing(0, skipped, 0, 0, published, time.monotonic() - started)
    say(f"landing {len(new)} file(s), {sum(f.size_bytes for f in new) / 1e6:,.1f} MB, in {ref.dotted}")
    connection = lake.connect()
    try:
        with GzipChecks(ref, new) as checks:
            columns = {} if full_refresh else _known_columns(pinned)
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
        files_skipped=skipped,
        rows=sum(file.rows for file in landed),
        rejects=sum(file.rejects for file in landed),
        snapshot_id=snapshots[ref],
        seconds=time.monotonic() - started,
        files=tuple(landed),
    )


def _choose_new(files: Sequence[SourceFile], known: Mapping[str, LandedFile], *, mode: str) -> list[SourceFile]:
    """The files to read: one of each new content; in mode ``table`` all of them, if the contents changed."""
    sizes = Counter([file.size_bytes for file in files] + [landed.size_bytes for landed in known.values()])
    seen: set[str] = set() if mode == "table" else set(known)
    new = []
    for file in files:
        # Nothing else has this size, so it is new for certain and can be read while it is hashed.
        if mode == "append" and sizes[file.size_bytes] == 1:
            new.append(file)
        elif file.sha256 not in seen:
            seen.add(file.sha256)
            new.append(file)
    return [] if mode == "table" and seen == set(known) else new


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


def _known_columns(pinned: PinnedTable | None) -> dict[str, str]:
    if pinned is None or pinned.snapshot_id is None:
        return {}
    return {f.name: duckdb_type(f.field_type) for f in pinned.schema.fields if f.name not in PLATFORM_COLUMNS}
