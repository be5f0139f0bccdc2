"""Commits cuts of streams to the lake: rows and the state after them in one snapshot.

Runs in the landing's worker thread; owns the DuckDB connection and the steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dml_platform.airbyte.catalog import StreamPlan
from dml_platform.airbyte.parse import ParsedSegment, parse_segment
from dml_platform.airbyte.segments import Cut, Segment
from dml_platform.core.errors import PublishConflictError, TooManyRejectsError
from dml_platform.core.naming import TableRef
from dml_platform.core.runrecord import utc_now
from dml_platform.lake import Lake, PinnedTable, Step
from dml_platform.lake.engine import constant, quote, quote_name
from dml_platform.lake.state import AIRBYTE_ANEW, AIRBYTE_MODE, AIRBYTE_STATE, ends_airbyte, summaries


@dataclass
class _Stream:
    """What is known of one stream's table while it is landed."""

    plan: StreamPlan
    step: Step
    published: int | None
    columns: frozenset[str]
    stored: Mapping[str, Any] | None
    begins_anew: bool
    rows: int = 0
    rejects: int = 0


class Committer:
    """Writes the streams of one run.

    Args:
        source: the source's name.
        full_refresh: forget the stored states and replace rows and columns.
    """

    def __init__(
        self,
        lake: Lake,
        source: str,
        plans: Sequence[StreamPlan],
        *,
        run_id: str,
        max_rejects_share: float,
        full_refresh: bool = False,
    ) -> None:
        self._lake = lake
        self._source = source
        self._run_id = run_id
        self._share = max_rejects_share
        self._full_refresh = full_refresh
        self._connection = lake.connect()
        # Windows of an incremental stream are published one by one; a full refresh becomes visible at its end only.
        self._windows = lake.step(run_id, f"land_{source}")
        self._whole = lake.step(run_id, f"land_{source}_full")
        # As of one moment: never the state of one stream from before and that of another from after a publish.
        pinned = self._windows.pin_all([p.ref for p in plans if p.sync_mode == "incremental"])
        pinned |= self._whole.pin_all([p.ref for p in plans if p.sync_mode == "full_refresh"])
        self._streams = {plan.name: self._begin(plan, pinned[plan.ref]) for plan in plans}
        # Readers keep the rows that are replaced until the new ones are complete.
        self._holds = any(
            s.begins_anew and s.published is not None and s.step is self._windows for s in self._streams.values()
        )

    def stored_states(self) -> dict[str, Mapping[str, Any]]:
        """The state that each incremental stream was published with, by stream."""
        return {name: s.stored for name, s in self._streams.items() if s.stored is not None}

    def stage(self, name: str, segments: Sequence[Segment], state: Mapping[str, Any] | None) -> None:
        """Write segments to the stream's branch; the last snapshot carries the state.

        Raises:
            TooManyRejectsError: more records than allowed do not fit.
            SchemaMismatchError: the table cannot take the stream's columns.
        """
        stream = self._streams[name]
        for number, segment in enumerate(segments, 1):
            parsed = parse_segment(self._connection, stream.plan, segment, what=self._what(stream))
            try:
                self._check_rejects(stream, parsed)
                self._write(stream, parsed, state if number == len(segments) else None)
            finally:
                parsed.drop(self._connection)
            segment.path.unlink()

    def commit(self, cuts: Mapping[str, Cut], *, at_end: bool = False) -> None:
        """Publish cuts of incremental streams together, each with its state.

        While a published table is read anew, nothing is published before the end.

        Args:
            at_end: the connector did its work, so that a stream without rows gets its (empty) table.
        """
        for name, cut in cuts.items():
            stream = self._streams[name]
            if cut.segments:
                self.stage(name, cut.segments, cut.state)
            elif (cut.state is not None and cut.state != stream.stored) or (
                at_end and (stream.published is None or stream.begins_anew)
            ):
                self._write_nothing(stream, cut.state)
        if self._holds and not at_end:
            return
        self._publish(self._windows)
        for name, cut in cuts.items():
            if cut.state is not None:
                self._streams[name].stored = cut.state

    def finish_full_refresh(self) -> None:
        """Replace the tables of the full-refresh streams by what was staged, all at once."""
        for stream in self._streams.values():
            if stream.step is self._whole and stream.plan.ref not in stream.step.staged:
                self._write_nothing(stream, None)
        self._publish(self._whole)

    def abandon(self) -> None:
        """Drop what was staged and not published."""
        self._windows.abandon()
        self._whole.abandon()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def result(self, name: str) -> tuple[TableRef, int, int, int | None, Mapping[str, Any] | None]:
        """Table, rows, rejects, published snapshot and state of one stream."""
        s = self._streams[name]
        return s.plan.ref, s.rows, s.rejects, s.published, s.stored

    def _begin(self, plan: StreamPlan, pinned: PinnedTable | None) -> _Stream:
        is_incremental = plan.sync_mode == "incremental"
        step = self._windows if is_incremental else self._whole
        published = pinned.snapshot_id if pinned else None
        stored = None
        if is_incremental and pinned is not None and published is not None and not self._full_refresh:
            stored = stored_state(pinned)
        columns = frozenset(f.name for f in pinned.schema.fields) if pinned and published is not None else frozenset()
        # Without a state the connector sends everything: rows that are there already would double.
        return _Stream(plan, step, published, columns, stored, begins_anew=stored is None)

    def _what(self, stream: _Stream) -> str:
        return f"cannot land {stream.plan.ref.dotted!r}"

    def _check_rejects(self, stream: _Stream, parsed: ParsedSegment) -> None:
        stream.rows += parsed.rows
        stream.rejects += parsed.rejects
        if stream.rejects > self._share * (stream.rows + stream.rejects):
            first = parsed.first_reject
            example = f"; record {first.record_number}, column {first.column_name!r}: {first.reason}" if first else ""
            raise TooManyRejectsError(
                self._what(stream),
                f"{stream.rejects} of {stream.rows + stream.rejects} records do not fit the stream's schema, "
                f"allowed are {self._share:.2%}{example}",
                "Correct them at the source, or raise max_rejects_share to keep them in the rejects table.",
            )

    def _write(self, stream: _Stream, parsed: ParsedSegment, state: Mapping[str, Any] | None) -> None:
        keep_extra = parsed.has_extra or ("_extra" in stream.columns and not self._replaces_columns(stream))
        excluded = "" if keep_extra else " EXCLUDE (_extra)"
        self._write_query(stream, f"SELECT *{excluded}, {self._stamp()} FROM {parsed.table}", state)
        if keep_extra:
            stream.columns |= {"_extra"}
        if parsed.rejects_table:
            stream.step.write_query(
                stream.plan.ref.rejects,
                self._connection,
                f"SELECT * EXCLUDE (_emitted_at), _emitted_at, {self._stamp()} FROM {parsed.rejects_table}",
                mode="append",
                summary={"source": self._source},
            )

    def _write_nothing(self, stream: _Stream, state: Mapping[str, Any] | None) -> None:
        """An empty commit: it makes the table, empties it, or carries a state that moved without rows."""
        columns = [
            f"CAST(NULL AS {'VARCHAR' if k == 'JSON' else k}) AS {quote_name(n)}" for n, k in stream.plan.columns
        ]
        if "_extra" in stream.columns and not self._replaces_columns(stream):
            columns.append("CAST(NULL AS VARCHAR) AS _extra")
        columns.append("CAST(NULL AS TIMESTAMPTZ) AS _emitted_at")
        self._write_query(stream, f"SELECT {', '.join(columns)}, {self._stamp()} WHERE false", state)

    def _write_query(self, stream: _Stream, sql: str, state: Mapping[str, Any] | None) -> None:
        summary = {"source": self._source, AIRBYTE_MODE: stream.plan.sync_mode}
        if state is not None:
            summary[AIRBYTE_STATE] = json.dumps(state, separators=(",", ":"))
        if stream.begins_anew:
            summary[AIRBYTE_ANEW] = "true"
        stream.step.write_query(
            stream.plan.ref,
            self._connection,
            sql,
            mode="table" if stream.begins_anew else "append",
            summary=summary,
            full_refresh=self._replaces_columns(stream),
        )
        stream.begins_anew = False

    def _replaces_columns(self, stream: _Stream) -> bool:
        return self._full_refresh and stream.begins_anew

    def _stamp(self) -> str:
        return f"TIMESTAMPTZ {quote(utc_now())} AS _loaded_at, {constant(self._run_id)} AS _run_id"

    def _publish(self, step: Step) -> None:
        published = {staged.ref: staged.snapshot_id for staged in step.publish()}
        for stream in self._streams.values():
            if stream.step is not step:
                continue
            stream.published = published.get(stream.plan.ref, stream.published)
            # Fixes the base of the next window, and sees a run that landed the same stream meanwhile.
            pinned = step.pin(stream.plan.ref)
            if pinned is not None and pinned.snapshot_id != stream.published:
                raise PublishConflictError(
                    self._what(stream),
                    "another run landed the same stream at the same time",
                    "Run it again: it continues from the state that is stored now.",
                )


def stored_state(pinned: PinnedTable) -> dict[str, Any] | None:
    """The state that a pinned table was last published with; None when it has none, or its rows were replaced since."""
    newest = next(filter(ends_airbyte, summaries(pinned.table.metadata, pinned.snapshot_id)), {})
    return json.loads(newest[AIRBYTE_STATE]) if AIRBYTE_STATE in newest else None
