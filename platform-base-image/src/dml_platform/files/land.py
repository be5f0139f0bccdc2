"""Land the files of one raw table: each file once, rows and rejects in one publish.

Knows no Dagster and works from a notebook.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

from dml_platform.core.errors import ConfigError, PlatformError, PublishConflictError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.files.config import PLATFORM_COLUMNS, FileTable
from dml_platform.files.csv_reader import plan_csv
from dml_platform.files.discover import SourceFile, find_files, hash_file
from dml_platform.files.jsonl_reader import plan_jsonl
from dml_platform.files.parquet_reader import plan_parquet
from dml_platform.files.reader import Batch
from dml_platform.files.rejects import REJECTS, check_share, count_rejects, create_rejects
from dml_platform.lake import Lake, PinnedTable, Step
from dml_platform.lake.engine import quote
from dml_platform.lake.schema import duckdb_type

FILES_PROPERTY = "files"
_ATTEMPTS = 3
_PLANS = {"csv": plan_csv, "jsonl": plan_jsonl, "parquet": plan_parquet}

# What DuckDB raises for what is in a file; its other errors are about the query, the memory or itself.
_ROW_ERRORS = (duckdb.DataError, duckdb.InvalidInputException, duckdb.IOException, duckdb.HTTPException)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LandedFile:
    """One file as the snapshot's summary remembers it; ``rejects`` is known to the run that landed it only."""

    name: str
    sha256: str
    rows: int
    rejects: int = 0


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
    progress: Progress | None = None,
) -> Landing:
    """Publish the rows of the files that are not in the table yet, with those that did not parse in ``<table>__rejects``.

    A file is known by its content's SHA-256, kept in the summary of the snapshot that has its rows: a run that dies
    at any point neither loses nor repeats a file, and nor do two runs at once.

    Args:
        root: the project's folder, which ``source.path`` is relative to.
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
    files = [hash_file(ref, path, root=folder, progress=say) for path in paths]
    for attempt in range(_ATTEMPTS):
        try:
            return _land(lake, ref, source, files, run_id=run_id, say=say, started=started)
        except PublishConflictError:
            if attempt == _ATTEMPTS - 1:
                raise
            say(f"another run landed {ref.dotted} meanwhile; starting again from what it published")
    raise AssertionError("unreachable")


def landed_hashes(lake: Lake, ref: TableRef, *, latest_only: bool = False) -> dict[str, LandedFile]:
    """The files in a table's published history by their hash, or only those of the newest full landing."""
    if lake.published(ref) is None:
        return {}
    found: dict[str, LandedFile] = {}
    for snapshot in lake.history(ref):
        for entry in json.loads(snapshot.summary.get(FILES_PROPERTY, "[]")):
            found.setdefault(entry["sha256"], LandedFile(entry["name"], entry["sha256"], entry["rows"]))
        if latest_only and snapshot.summary.get("landing") == "table":
            break
    return found


def _land(
    lake: Lake,
    ref: TableRef,
    source: FileTable,
    files: Sequence[SourceFile],
    *,
    run_id: str,
    say: Progress,
    started: float,
) -> Landing:
    step = lake.step(run_id, f"land_{ref.name}")
    pinned = step.pin(ref)
    step.pin(ref.rejects)
    new = _choose_new(files, landed_hashes(lake, ref, latest_only=source.mode == "table"), mode=source.mode)
    skipped = len(files) - len(new)
    published = pinned.snapshot_id if pinned else None
    if not new:
        return Landing(0, skipped, 0, 0, published, time.monotonic() - started)
    say(f"landing {len(new)} file(s), {sum(f.size_bytes for f in new) / 1e6:,.1f} MB, in {ref.dotted}")
    connection = lake.connect()
    try:
        with _GzipChecks(ref, new) as checks:
            landed = _Load(step, connection, ref, source, run_id, _known_columns(pinned)).write(new)
            checks.finish()
        for file in new:
            file.check_unchanged(ref)
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


def _choose_new(files: Sequence[SourceFile], known: Mapping[str, object], *, mode: str) -> list[SourceFile]:
    """The files to read: one of each new content; in mode ``table`` all of them, if the contents changed."""
    distinct = list({file.sha256: file for file in reversed(files)}.values())[::-1]
    if mode == "table":
        return distinct if {file.sha256 for file in distinct} != set(known) else []
    return [file for file in distinct if file.sha256 not in known]


def _known_columns(pinned: PinnedTable | None) -> dict[str, str]:
    if pinned is None or pinned.snapshot_id is None:
        return {}
    return {f.name: duckdb_type(f.field_type) for f in pinned.schema.fields if f.name not in PLATFORM_COLUMNS}


@dataclass
class _Load:
    """Writes the batches of one attempt to the step's branches."""

    step: Step
    connection: DuckDBPyConnection
    ref: TableRef
    source: FileTable
    run_id: str
    known: Mapping[str, str]

    def write(self, files: Sequence[SourceFile]) -> list[LandedFile]:
        """Stage the rows of all files, then their rejects."""
        _check_types(self.connection, self.source)
        create_rejects(self.connection)
        row = self.connection.execute("SELECT now()::VARCHAR").fetchone()
        assert row is not None
        stamps = f"TIMESTAMPTZ {quote(row[0])} AS _loaded_at, {quote(self.run_id)} AS _run_id"
        landed: list[LandedFile] = []
        try:
            batches = _PLANS[self.source.format](self.connection, self.ref, self.source, files, self.known)
            while batches:
                batch = batches.pop(0)
                try:
                    landed += self._write_batch(batch, stamps, is_first=not landed)
                except _ROW_ERRORS:
                    if batch.recover is None:
                        raise
                    batches = batch.recover(self.connection) + batches
        except _ROW_ERRORS as error:
            raise _as_source_error(self.ref, files, error) from error
        if count_rejects(self.connection):
            self.step.write_query(
                self.ref.rejects,
                self.connection,
                f"SELECT source_file AS _source_file, * EXCLUDE (source_file), {stamps} FROM {REJECTS}",
            )
        return landed

    def _write_batch(self, batch: Batch, stamps: str, *, is_first: bool) -> list[LandedFile]:
        landed: list[LandedFile] = []

        def summarize(written: Sequence[str]) -> dict[str, str]:
            if batch.collect:
                batch.collect(self.connection)
            found = self._count_rows(written)
            rows = {file.name: found.pop(file.name, 0) for file in batch.files}
            if found:
                raise AssertionError(f"rows of files that were not read: {sorted(found)}")
            check_share(
                self.connection,
                self.ref,
                rows,
                max_share=self.source.max_rejects_share,
                report=self.step.settings.home
                / "runs"
                / self.ref.project
                / self.run_id
                / f"{self.ref.name}__rejects.csv",
            )
            rejects = count_rejects(self.connection)
            landed.extend(LandedFile(f.name, f.sha256, rows[f.name], rejects.get(f.name, 0)) for f in batch.files)
            entries = [{"name": f.name, "sha256": f.sha256, "rows": f.rows} for f in landed]
            return {FILES_PROPERTY: json.dumps(entries), "landing": "table" if replaces else "append"}

        replaces = self.source.mode == "table" and is_first
        names = "".join(
            f"WHEN {quote(str(file.path))} THEN {quote(file.name)} "
            for file in batch.files
            if file.name != str(file.path)
        )
        name = f"CASE filename {names}ELSE filename END" if names else "filename"
        if len(batch.files) == 1:
            name = quote(batch.files[0].name)
        self.step.write_query(
            self.ref,
            self.connection,
            f"SELECT * EXCLUDE (filename), {name} AS _source_file, {stamps} FROM ({batch.select})",
            mode="table" if replaces else "append",
            summary=summarize,
        )
        return landed

    def _count_rows(self, written: Sequence[str]) -> dict[str, int]:
        if not written:
            return {}
        paths = ", ".join(map(quote, written))
        rows = self.connection.execute(
            f"SELECT _source_file, count(*) FROM read_parquet([{paths}]) GROUP BY ALL"
        ).fetchall()
        return dict(rows)


def _check_types(connection: DuckDBPyConnection, source: FileTable) -> None:
    for name, kind in (source.columns or {}).items():
        try:
            connection.execute(f"SELECT CAST(NULL AS {kind})")
        except duckdb.Error as error:
            raise ConfigError(
                f"cannot read column {name!r} of {source.path!r}",
                f"{kind!r} is not a type of DuckDB",
                "Correct it in config/sources.yaml, e.g. BIGINT, DOUBLE, DECIMAL(10,2), DATE, TIMESTAMP, VARCHAR.",
            ) from error


class _GzipChecks:
    """Checks gzip streams in a thread while DuckDB reads the same files."""

    def __init__(self, ref: TableRef, files: Sequence[SourceFile]) -> None:
        self._ref = ref
        self._files = [file for file in files if file.is_gzip]
        self._error: PlatformError | None = None
        self._thread = threading.Thread(target=self._check, name="dml-gzip-check", daemon=True)

    def _check(self) -> None:
        try:
            for file in self._files:
                file.check_gzip(self._ref)
        except PlatformError as error:
            self._error = error

    def __enter__(self) -> _GzipChecks:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        # A damaged stream explains whatever DuckDB made of it better than the error that it led to.
        if isinstance(value, Exception):
            self._thread.join()
            if self._error:
                raise self._error from value

    def finish(self) -> None:
        """Wait for the checks.

        Raises:
            SourceError: a stream is damaged.
        """
        self._thread.join()
        if self._error:
            raise self._error


def _as_source_error(ref: TableRef, files: Sequence[SourceFile], error: duckdb.Error) -> SourceError:
    """DuckDB's refusal of a whole file as a sentence; what it says about its own options is left out."""
    text = " ".join(line.strip() for line in str(error).split("Possible fixes:")[0].splitlines() if line.strip())
    text = text.rsplit("Invalid Input Error: ", 1)[-1].removeprefix("IO Error: ")
    named = [file.name for file in files if str(file.path) in str(error)]
    name = (named or [file.name for file in files])[0] if len(named or files) == 1 else f"{len(files)} files"
    fix = "Check the file with the program that wrote it, and export it again."
    if "state machine" in text:
        text = "its line ends are mixed (LF and CRLF), or a quote is not closed or escaped"
        fix = "Write the file with one kind of line end, or set csv.strict: false to read it as well as possible."
    return SourceError(f"cannot land {name!r} in {ref.dotted!r}", text[:400], fix)
