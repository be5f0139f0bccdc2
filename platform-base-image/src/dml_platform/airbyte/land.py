"""Lands what a connector sends: one table a stream, each state in the same snapshot as the rows before it.

The calling thread sorts the output into files; a worker thread parses and commits them meanwhile. A crash at any point
loses no row and doubles none: the next run starts from the state that was published with the last rows.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dml_platform.airbyte.catalog import StreamPlan, configured_catalog, plan_streams
from dml_platform.airbyte.client import Connector, open_connector
from dml_platform.airbyte.commit import Committer
from dml_platform.airbyte.config import AirbyteSource
from dml_platform.airbyte.environment import Progress
from dml_platform.airbyte.protocol import state_document
from dml_platform.airbyte.segments import Sorter, StreamBuffer, make_buffers
from dml_platform.core.errors import ConfigError, PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake
from dml_platform.lake.datafiles import storage_errors
from dml_platform.lake.scratch import scratch_folder

logger = logging.getLogger(__name__)

_CHECKPOINT_S = 300.0  # a slow connector's rows are published at least this often
_PROGRESS_S = 2.0


@dataclass(frozen=True)
class StreamLanding:
    """What one run landed of one stream.

    ``snapshot_id`` is what is published now; ``state`` is where the next run begins.
    """

    stream: str
    ref: TableRef
    rows: int
    rejects: int
    snapshot_id: int | None
    state: Mapping[str, Any] | None
    seconds: float


def land_streams(
    lake: Lake,
    project: str,
    source_name: str,
    source: AirbyteSource,
    *,
    run_id: str,
    streams: Sequence[str] | None = None,
    full_refresh: bool = False,
    progress: Progress | None = None,
) -> list[StreamLanding]:
    """Run a source's connector as a program and land its streams as ``<project>.raw.<source>__<stream>``.

    An incremental stream is appended to, window by window, each published with its state; a full-refresh stream is
    replaced at the end, in one publish. Beside the stream's columns a table has ``_emitted_at``, ``_loaded_at``,
    ``_run_id`` and, once a record had fields that the schema does not declare, ``_extra`` with these as JSON.

    Args:
        streams: some of the source's streams; default: all.
        full_refresh: forget the stored states, replace rows and columns, whatever they were.
        progress: told what happens, at most every two seconds.
    Returns: one entry a stream, in the order of the config.
    Raises:
        RetryableError: a time limit was passed, the index cannot be reached, or another run landed the same stream;
            the next run continues from what is published.
        SourceError: the connector failed; its incremental rows up to the last state are published.
        TooManyRejectsError: more records than allowed do not fit their schema.
        SchemaMismatchError: the source's columns changed in a way that the table cannot take.
        ConfigError: the source's config does not fit the connector.
    """
    started = time.monotonic()
    settings = lake.settings
    chosen = _choose(source_name, source, streams)
    connector = open_connector(source_name, source, settings, progress=progress)
    if progress:
        progress(f"asking {source_name} for its streams")
    plans = plan_streams(project, source_name, connector.discover(), chosen)
    committer = Committer(
        lake,
        source_name,
        plans,
        run_id=run_id,
        max_rejects_share=source.max_rejects_share,
        full_refresh=full_refresh,
    )
    with contextlib.closing(committer), scratch_folder(settings) as folder:
        try:
            with storage_errors(f"cannot land source {source_name!r}"):
                _Landing(connector, plans, committer, folder, settings, progress).run()
        except BaseException:
            _abandon(committer)
            raise
        seconds = time.monotonic() - started
        return [StreamLanding(plan.name, *committer.result(plan.name), seconds=seconds) for plan in plans]


def _choose(source_name: str, source: AirbyteSource, streams: Sequence[str] | None) -> dict[str, Any]:
    if streams is None:
        return dict(source.streams)
    if unknown := sorted(set(streams) - set(source.streams)):
        raise ConfigError(
            f"cannot land source {source_name!r}",
            f"its config has no stream {', '.join(map(repr, unknown))}",
            f"Choose from {', '.join(source.streams)}.",
        )
    return {name: options for name, options in source.streams.items() if name in streams}


class _Landing:
    """One read of one connector."""

    def __init__(
        self,
        connector: Connector,
        plans: Sequence[StreamPlan],
        committer: Committer,
        folder: Path,
        settings: Settings,
        progress: Progress | None,
    ) -> None:
        self._connector = connector
        self._plans = plans
        self._committer = committer
        self._window = settings.airbyte.window_mb << 20
        self._progress = progress
        self._buffers = make_buffers(folder, [p.name for p in plans])
        self._incremental = [self._buffers[p.name] for p in plans if p.sync_mode == "incremental"]
        self._full = [self._buffers[p.name] for p in plans if p.sync_mode == "full_refresh"]
        self._worker = _Worker()
        self._listener = connector.listener("read")
        self._last_checkpoint = self._last_progress = time.monotonic()

    def run(self) -> None:
        """Read to the end; raises what the connector or the lake had to say."""
        try:
            stored = self._committer.stored_states()
            state = state_document(_agreeing(self._connector.name, stored))
            for buffer in self._incremental:
                buffer.state = stored.get(buffer.name)
            self._read(state or None)
            self._finish()
        finally:
            self._worker.stop()
            for buffer in self._buffers.values():
                buffer.close()

    def _read(self, state: Any | None) -> None:
        stateful = frozenset(b.name for b in self._incremental)
        sorter = Sorter(self._buffers, stateful=stateful, listener=self._listener)
        blocks = self._connector.read(configured_catalog(self._plans), state, listener=self._listener)
        try:
            with contextlib.closing(blocks):
                for block in blocks:
                    sorter.sort(block)
                    self._hand_over()
        except PlatformError:
            self._salvage()
            raise

    def _hand_over(self) -> None:
        """Give the worker what is complete."""
        self._worker.check()
        now = time.monotonic()
        is_full = any(b.size >= self._window for b in self._incremental)
        is_late = now - self._last_checkpoint >= _CHECKPOINT_S
        if is_full or is_late or sum(b.marked_size for b in self._incremental) >= self._window:
            self._commit_marked()
            self._last_checkpoint = now
        for buffer in self._incremental:
            if buffer.size >= self._window:
                buffer.rotate()
        for buffer in self._full:
            if buffer.size >= self._window:
                self._stage(buffer)
        if self._progress and now - self._last_progress >= _PROGRESS_S:
            self._last_progress = now
            self._progress(", ".join(f"{b.name}: {b.records:,} records" for b in self._buffers.values() if b.records))

    def _stage(self, buffer: StreamBuffer) -> None:
        segments = buffer.cut(at_mark=False).segments
        self._worker.do(lambda: self._committer.stage(buffer.name, segments, None))

    def _commit_marked(self) -> None:
        cuts = {b.name: b.cut(at_mark=True) for b in self._incremental if b.is_marked}
        if cuts:
            self._worker.do(lambda: self._committer.commit(cuts))

    def _finish(self) -> None:
        """The connector did its work: commit the rest, then let the full refreshes become visible."""
        if self._progress:
            self._progress(f"publishing {sum(b.records for b in self._buffers.values()):,} records")
        cuts = {b.name: b.cut(at_mark=False) for b in self._incremental}
        self._worker.do(lambda: self._committer.commit(cuts, at_end=True))
        if self._full:
            for buffer in self._full:
                self._stage(buffer)
            self._worker.do(self._committer.finish_full_refresh)
        self._worker.finish()

    def _salvage(self) -> None:
        """The connector failed: what its states cover is kept, so that the next run need not read it again."""
        if self._worker.failed:
            return
        try:
            self._commit_marked()
            self._worker.finish()
        except PlatformError as second:
            logger.warning("what was read before the failure could not be kept: %s", second)


class _Worker:
    """Does one piece of work after the other in a thread of its own, with at most one waiting."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="airbyte-commit", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        return self._error is not None

    def do(self, work: Callable[[], None]) -> None:
        """Hand over work; waits while another piece is waiting. Raises what earlier work raised."""
        self.check()
        self._queue.put(work)
        self.check()

    def finish(self) -> None:
        """Wait until all is done. Raises what it raised."""
        self.stop()
        self.check()

    def stop(self) -> None:
        """End the thread after the piece that it is at."""
        if not self._stopped:
            self._stopped = True
            self._queue.put(None)
        self._thread.join()

    def check(self) -> None:
        """Raise what earlier work raised."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._error is None:
                try:
                    work()
                except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                    self._error = error


def _agreeing(source: str, stored: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The stored states, if the connector can be given all of them.

    Raises:
        ConfigError: a state for all streams is older for some of them.
    """
    states = list(stored.values())
    shared = [s for s in states if s["type"] != "STREAM"]
    if shared and any(s != shared[0] for s in states):
        raise ConfigError(
            f"cannot read source {source!r}",
            f"its connector keeps one state for all streams, but {', '.join(sorted(stored))} were landed up to "
            "different ones",
            "Land them once with a full refresh, and together from then on.",
        )
    return states


def _abandon(committer: Committer) -> None:
    try:
        committer.abandon()
    except Exception as error:  # noqa: BLE001 - the first error is the one to tell; the branch is dropped by the next run
        logger.warning("the branch of the failed landing is still there: %s", error)
