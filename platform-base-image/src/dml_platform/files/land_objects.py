"""Land the objects of one raw table: each path and ETag once, fetched to a private folder and published in windows.

Knows no Dagster; which objects there are, and their content, is of ``objects``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dml_platform.core.errors import SourceError
from dml_platform.core.naming import TableRef
from dml_platform.files.config import FileTable
from dml_platform.files.discover import open_file, refuse_compression
from dml_platform.files.load import Load
from dml_platform.files.objects import FoundObject, LandingBucket
from dml_platform.files.publish import Landing, Progress, insist, known_columns, publish_files, remembered_files
from dml_platform.lake import Lake, Step
from dml_platform.lake.scratch import scratch_folder

_WINDOW_BYTES = 1 << 30  # of objects that are fetched and published together
_WINDOW_OBJECTS = 200


def land_objects(
    lake: Lake,
    ref: TableRef,
    source: FileTable,
    *,
    run_id: str,
    full_refresh: bool,
    may_be_empty: bool,
    say: Progress,
) -> Landing:
    """Land the objects that are not in the table yet, window by window; each is fetched to a private folder first."""
    with LandingBucket(lake.settings, ref) as bucket, scratch_folder(lake.settings) as folder:
        objects = bucket.find(source.path)
        if not objects and not may_be_empty:
            raise SourceError(
                f"cannot land {ref.dotted!r}",
                f"no object matches {source.path!r}",
                "Put the files there or correct 'path' in config/sources.yaml.",
            )
        for one in objects:
            refuse_compression(ref, one.uri, Path(one.uri).suffix, file_format=source.format)

        done: list[Landing] = []

        def attempt() -> Landing:
            while window := _land_window(lake, ref, source, bucket, objects, folder, run_id, full_refresh, not done):
                say(f"landed {window.files_landed} object(s), {window.rows:,} rows, in {ref.dotted}")
                done.append(window)
            return _sum_up(lake, ref, done, len(objects))

        return insist(attempt, ref, say)


def _land_window(
    lake: Lake,
    ref: TableRef,
    source: FileTable,
    bucket: LandingBucket,
    objects: Sequence[FoundObject],
    folder: Path,
    run_id: str,
    full_refresh: bool,
    is_first: bool,
) -> Landing | None:
    """Publish the next objects; None when all are in the table."""
    step = lake.step(run_id, f"land_{ref.name}")
    pinned = step.pin(ref)
    step.pin(ref.rejects)
    is_whole = source.mode == "table" or full_refresh
    known = {(file.name, file.etag) for file in remembered_files(lake, ref, latest_only=source.mode == "table")}
    if is_whole and (not is_first or (not full_refresh and known == {one.identity for one in objects})):
        return None
    columns = {} if full_refresh else known_columns(pinned)
    if is_whole and not objects:
        return _empty(lake, step, ref, source, run_id, known_columns(pinned)) if columns else None
    # A reader must not see a part of what replaces the table.
    new = list(objects) if is_whole else _next_window([one for one in objects if one.identity not in known])
    if not new:
        return None
    with ThreadPoolExecutor(1, thread_name_prefix="dml-hash") as hashers:
        files = []
        try:
            for number, one in enumerate(new):
                path = folder / f"{number}{one.suffix}"
                bucket.fetch(one, path)
                files.append(open_file(ref, path, root=folder, hashers=hashers, name=one.uri, etag=one.etag))
            return publish_files(lake, step, ref, source, files, columns, run_id=run_id, full_refresh=full_refresh)
        finally:
            hashers.shutdown(wait=True, cancel_futures=True)
            for path in folder.iterdir():
                path.unlink()


def _empty(lake: Lake, step: Step, ref: TableRef, source: FileTable, run_id: str, known: Mapping[str, str]) -> Landing:
    with contextlib.closing(lake.connect()) as connection:
        try:
            Load(step, connection, ref, source, run_id, known).write_nothing()
            snapshots = {staged.ref: staged.snapshot_id for staged in step.publish()}
        finally:
            step.abandon()
    return Landing(0, 0, 0, 0, snapshots[ref], 0.0)


def _next_window(new: Sequence[FoundObject]) -> list[FoundObject]:
    window: list[FoundObject] = []
    for one in new[:_WINDOW_OBJECTS]:
        if window and sum(o.size_bytes for o in window) + one.size_bytes > _WINDOW_BYTES:
            break
        window.append(one)
    return window


def _sum_up(lake: Lake, ref: TableRef, windows: Sequence[Landing], objects: int) -> Landing:
    published = lake.published(ref)
    landed = sum(window.files_landed for window in windows)
    return Landing(
        files_landed=landed,
        files_skipped=objects - landed,
        rows=sum(window.rows for window in windows),
        rejects=sum(window.rejects for window in windows),
        snapshot_id=published.snapshot_id if published else None,
        seconds=0.0,
        files=tuple(file for window in windows for file in window.files),
    )
