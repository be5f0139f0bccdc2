"""One attempt to write files to a step's branches: batches, row counts, rejects. Publishes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
from duckdb import DuckDBPyConnection

from dml_platform.core.errors import ConfigError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.core.runrecord import run_files
from dml_platform.files.airbyte_reader import plan_airbyte
from dml_platform.files.config import FileTable
from dml_platform.files.csv_reader import plan_csv
from dml_platform.files.discover import SourceFile
from dml_platform.files.jsonl_reader import plan_jsonl
from dml_platform.files.parquet_reader import plan_parquet
from dml_platform.files.reader import Batch
from dml_platform.files.rejects import REJECTS, check_share, count_rejects, create_rejects
from dml_platform.lake import Step
from dml_platform.lake.engine import constant, quote, quote_name
from dml_platform.lake.state import FILES, LANDING

_PLANS = {"csv": plan_csv, "jsonl": plan_jsonl, "parquet": plan_parquet, "airbyte": plan_airbyte}
# What DuckDB raises for what is in a file; its other errors are about the query, the memory or itself.
_ROW_ERRORS = (duckdb.DataError, duckdb.InvalidInputException, duckdb.IOException, duckdb.HTTPException)


@dataclass(frozen=True)
class LandedFile:
    """One file as the snapshot's summary remembers it; ``rejects`` is known to the run that landed it only.

    ``etag`` is that of an object, which is known by its name and this.
    """

    name: str
    sha256: str
    size_bytes: int
    rows: int
    rejects: int = 0
    etag: str = ""

    def remember(self) -> dict[str, str | int]:
        """What the summary keeps."""
        kept: dict[str, str | int] = {
            "name": self.name,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "rows": self.rows,
        }
        return {**kept, "etag": self.etag} if self.etag else kept


@dataclass
class Load:
    """Writes the batches of one attempt to the step's branches.

    ``known`` are the table's columns and their types; ``full_refresh`` replaces rows, rejects and columns.
    """

    step: Step
    connection: DuckDBPyConnection
    ref: TableRef
    source: FileTable
    run_id: str
    known: Mapping[str, str]
    full_refresh: bool = False

    def write(self, files: Sequence[SourceFile]) -> list[LandedFile]:
        """Stage the rows of all files, then their rejects."""
        _check_types(self.connection, self.source)
        create_rejects(self.connection)
        row = self.connection.execute("SELECT now()::VARCHAR").fetchone()
        assert row is not None
        stamps = f"TIMESTAMPTZ {quote(row[0])} AS _loaded_at, {constant(self.run_id)} AS _run_id"
        landed: list[LandedFile] = []
        recovered: list[Batch] = []
        try:
            batches = _PLANS[self.source.format](self.connection, self.ref, self.source, files, self.known)
            while batches:
                batch = batches.pop(0)
                try:
                    landed += self._write_batch(batch, stamps, is_first=not landed)
                except _ROW_ERRORS:
                    if batch.recover is None:
                        raise
                    recovered += (found := batch.recover(self.connection))
                    batches = found + batches
                else:
                    _discard([batch])
        except _ROW_ERRORS as error:
            raise _as_source_error(self.ref, files, error) from error
        finally:
            _discard(recovered)
        if count_rejects(self.connection) or (self.full_refresh and self._has_rejects()):
            self.step.write_query(
                self.ref.rejects,
                self.connection,
                f"SELECT source_file AS _source_file, * EXCLUDE (source_file), {stamps} FROM {REJECTS}",
                full_refresh=self.full_refresh,
            )
        return landed

    def write_nothing(self) -> None:
        """Empty the table: there are no files any more."""
        columns = ", ".join(f"CAST(NULL AS {kind}) AS {quote_name(name)}" for name, kind in self.known.items())
        stamps = "NULL::VARCHAR AS _source_file, NULL::TIMESTAMPTZ AS _loaded_at, NULL::VARCHAR AS _run_id"
        self.step.write_query(
            self.ref,
            self.connection,
            f"SELECT {columns}, {stamps} WHERE false",
            mode="table",
            summary={FILES: "[]", LANDING: "table"},
        )

    def _has_rejects(self) -> bool:
        pinned = self.step.pin(self.ref.rejects)
        return pinned is not None and pinned.snapshot_id is not None

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
                report=run_files(self.step.settings, self.ref.project, self.run_id).address(
                    f"{self.ref.name}__rejects.csv"
                ),
            )
            rejects = count_rejects(self.connection)
            landed.extend(
                LandedFile(f.name, f.sha256, f.size_bytes, rows[f.name], rejects.get(f.name, 0), f.etag)
                for f in batch.files
            )
            return {FILES: json.dumps([f.remember() for f in landed]), LANDING: landing}

        replaces_columns = self.full_refresh and is_first
        replaces_rows = replaces_columns or (self.source.mode == "table" and is_first)
        landing = "full_refresh" if replaces_columns else "table" if replaces_rows else "append"
        names = "".join(
            f"WHEN {quote(str(file.path))} THEN {quote(file.name)} "
            for file in batch.files
            if file.name != str(file.path)
        )
        name = f"CASE filename {names}ELSE filename END" if names else "filename"
        if len(batch.files) == 1:
            name = constant(batch.files[0].name)
        self.step.write_query(
            self.ref,
            self.connection,
            f"SELECT * EXCLUDE (filename), {name} AS _source_file, {stamps} FROM ({batch.select})",
            mode="table" if replaces_rows else "append",
            summary=summarize,
            full_refresh=replaces_columns,
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


def _discard(batches: Sequence[Batch]) -> None:
    for batch in batches:
        if batch.discard:
            batch.discard()


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
