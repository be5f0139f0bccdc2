"""Land the files of one raw table: each file once, rows and rejects in one publish.

Knows no Dagster and works from a notebook.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dml_platform.core.naming import TableRef
from dml_platform.files.config import FileTable
from dml_platform.files.discover import (
    SourceFile,
    find_files,
    open_file,
)
from dml_platform.files.land_objects import land_objects
from dml_platform.files.load import LandedFile
from dml_platform.files.objects import SCHEME
from dml_platform.files.publish import Landing, Progress, insist, known_columns, publish_files, remembered_files
from dml_platform.lake import Lake


def land_files(
    lake: Lake,
    ref: TableRef,
    source: FileTable,
    *,
    root: Path | str,
    run_id: str,
    full_refresh: bool = False,
    may_be_empty: bool = False,
    progress: Progress | None = None,
) -> Landing:
    """Publish the rows of the files that are not in the table yet, and their rejects in ``<table>__rejects``.

    A file is known by its content's SHA-256, an object (``s3://``) by its path and ETag, kept in the summary of the
    snapshot that has its rows: a run that dies at any point neither loses nor repeats a file, and nor do two runs at
    once. Many new objects are published in windows of a gigabyte.

    Args:
        root: the project's folder, which ``source.path`` is relative to.
        full_refresh: land all files of the glob again; they replace rows and columns, whatever they were.
        may_be_empty: objects only: none at all is no error, and in mode ``table`` empties the table.
        progress: called with a sentence now and then.
    Raises:
        SourceError: no file matches, or one is empty, damaged or changing.
        TooManyRejectsError: more of a file's rows than allowed did not parse; nothing was published.
        SchemaMismatchError: the files' columns are not the declared ones, or the table cannot take them.
        PublishConflictError: other runs kept publishing to the table.
    """
    started = time.monotonic()
    say = progress or (lambda _: None)
    if source.path.startswith(SCHEME):
        options: dict[str, Any] = {"run_id": run_id, "full_refresh": full_refresh, "may_be_empty": may_be_empty}
        return replace(land_objects(lake, ref, source, say=say, **options), seconds=time.monotonic() - started)
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
            return insist(attempt, ref, say)
        finally:
            hashers.shutdown(wait=False, cancel_futures=True)


def landed_files(lake: Lake, ref: TableRef, *, latest_only: bool = False) -> dict[str, LandedFile]:
    """The files in a table's published history by their hash, or only those of the newest full landing."""
    found: dict[str, LandedFile] = {}
    for file in remembered_files(lake, ref, latest_only=latest_only):
        found.setdefault(file.sha256, file)
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
    columns = {} if full_refresh else known_columns(pinned)
    landing = publish_files(lake, step, ref, source, new, columns, run_id=run_id, full_refresh=full_refresh)
    return replace(landing, files_skipped=skipped, seconds=time.monotonic() - started)


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
