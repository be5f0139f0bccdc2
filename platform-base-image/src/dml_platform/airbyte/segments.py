"""Sorts a connector's output into files, one stream each, without parsing the records.

A record line is recognised by how it begins. Lines in a row that begin alike are written as they are, found by one
search; only what is no record is looked at line by line.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dml_platform.airbyte.protocol import Listener, parse_message, read_state
from dml_platform.core.errors import SourceError

# `"type"` first, as connectors' libraries write it; any other order is parsed.
_RECORD = re.compile(
    rb'\{\s*"type"\s*:\s*"RECORD"\s*,\s*"record"\s*:\s*\{\s*'
    rb'(?:"namespace"\s*:\s*(?:null|"[^"\\]*")\s*,\s*)?"stream"\s*:\s*"([^"\\]*)"'
)


@dataclass(frozen=True)
class Segment:
    """A file of record lines. ``first_record`` counts a stream's records in one run from 1;
    no line is longer than ``longest_block`` bytes."""

    path: Path
    records: int
    first_record: int
    longest_block: int


@dataclass(frozen=True)
class Cut:
    """Segments that belong in one commit, and the stream's state after them."""

    segments: tuple[Segment, ...]
    state: Mapping[str, Any] | None


@dataclass
class StreamBuffer:
    """One stream's records that were not handed over yet.

    ``mark`` is where the last state came, in bytes and records of the open file.
    """

    name: str
    folder: Path
    state: Mapping[str, Any] | None = None
    records: int = 0
    size: int = 0
    _number: int = 0
    _open_records: int = 0
    _longest: int = 0
    _mark: tuple[int, int] | None = None
    _closed: list[Segment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._file = self._path.open("wb", buffering=0)

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._number}.jsonl"

    @property
    def marked_size(self) -> int:
        """Bytes that a state covers."""
        return self._mark[0] if self._mark else 0

    @property
    def is_marked(self) -> bool:
        """Whether a state came since the last cut."""
        return self._mark is not None

    def write(self, block: memoryview, records: int) -> None:
        """Take whole record lines."""
        rest = block
        while rest:
            rest = rest[self._file.write(rest) :]
        self.size += len(block)
        self.records += records
        self._open_records += records
        self._longest = max(self._longest, len(block))

    def mark(self, state: Mapping[str, Any]) -> None:
        """A state came: it covers all records so far."""
        self.state = state
        self._mark = (self.size, self._open_records)

    def rotate(self) -> None:
        """Close the open file; its records wait for a state."""
        self._close(self.size, self._open_records)

    def cut(self, *, at_mark: bool) -> Cut:
        """Hand over everything, or everything up to the last state; what came after stays."""
        size, records = self._mark if at_mark and self._mark else (self.size, self._open_records)
        self._close(size, records)
        cut = Cut(tuple(self._closed), self.state)
        self._closed = []
        self._mark = None
        return cut

    def close(self) -> None:
        """Give back the file descriptor."""
        self._file.close()

    def _close(self, size: int, records: int) -> None:
        """Close the open file at this point and begin the next one with what came after."""
        old, left, left_records = self._path, self.size - size, self._open_records - records
        first = self.records - self._open_records + 1
        self._file.close()
        self._number += 1
        self._file = self._path.open("wb", buffering=0)
        if left:
            with old.open("r+b") as source:
                source.seek(size)
                shutil.copyfileobj(source, self._file, 1 << 20)
                source.truncate(size)
        if records:
            self._closed.append(Segment(old, records, first, self._longest))
        else:
            old.unlink()
        self.size, self._open_records, self._mark = left, left_records, None


class Sorter:
    """Routes blocks of lines to the streams' buffers and everything else to the listener.

    Args:
        buffers: by stream name; a record of another stream is an error.
        stateful: names of the streams whose states count; a state for all goes to each of them.
    """

    def __init__(
        self,
        buffers: Mapping[str, StreamBuffer],
        *,
        stateful: frozenset[str],
        listener: Listener,
    ) -> None:
        self._buffers = buffers
        self._stateful = stateful
        self._listener = listener
        self._run_ends: dict[bytes, re.Pattern[bytes]] = {}

    def sort(self, block: bytes) -> None:
        """Take a block of whole lines.

        Raises:
            SourceError: a record or state line is broken, or belongs to a stream that was not asked for.
        """
        position, view = 0, memoryview(block)
        while position < len(block):
            if begin := _RECORD.match(block, position):
                found = self._run_end(begin[0]).search(block, position)
                end = found.end() if found else len(block)
                self._buffer(begin[1]).write(view[position:end], block.count(b"\n", position, end))
            else:
                end = (block.find(b"\n", position) + 1) or len(block)
                self._sort_line(block[position:end])
            position = end

    def _run_end(self, begin: bytes) -> re.Pattern[bytes]:
        """What finds the end of the last line that begins like this one."""
        if begin not in self._run_ends:
            self._run_ends[begin] = re.compile(rb"\n(?!" + re.escape(begin) + rb")")
        return self._run_ends[begin]

    def _sort_line(self, line: bytes) -> None:
        message = parse_message(line)
        if message is None:
            self._hear_other(line)
        elif message["type"] == "RECORD":
            record = message.get("record")
            name = record.get("stream") if isinstance(record, dict) else None
            if not isinstance(name, str):
                raise self._broken("a RECORD message without a stream", line)
            self._buffer(name.encode()).write(memoryview(line.strip() + b"\n"), 1)
        elif message["type"] == "STATE":
            self._listener.understood += 1
            self._take_state(message.get("state"), line)
        else:
            self._listener.hear(message)

    def _hear_other(self, line: bytes) -> None:
        begins = line.lstrip()[:64].replace(b" ", b"")
        if begins.startswith((b'{"type":"RECORD"', b'{"type":"STATE"', b'{"record":', b'{"state":')):
            raise self._broken("a line of broken JSON", line)
        self._listener.hear_garbage(line)

    def _take_state(self, content: Any, line: bytes) -> None:
        parsed = read_state(content)
        if parsed is None:
            raise self._broken("a STATE message that the protocol does not know", line)
        name, state = parsed
        for target in self._stateful if name is None else self._stateful & {name}:
            self._buffers[target].mark(state)

    def _buffer(self, name: bytes) -> StreamBuffer:
        buffer = self._buffers.get(name.decode("utf-8", "replace"))
        if buffer is None:
            raise SourceError(
                self._listener.what,
                f"the connector sent a record of stream {name.decode('utf-8', 'replace')!r}, which was not asked for",
                "Add the stream in config/sources.yaml, or try another version of the connector.",
            )
        self._listener.understood += 1
        return buffer

    def _broken(self, found: str, line: bytes) -> SourceError:
        shown = self._listener.mask(line.decode("utf-8", "replace").strip())[:80]
        return SourceError(
            self._listener.what,
            f"the connector printed {found}: {shown!r}",
            "Run it again; if it stays, try another version of the connector.",
        )


def make_buffers(folder: Path, names: list[str]) -> dict[str, StreamBuffer]:
    """One buffer for each stream, in a folder of its own."""
    buffers = {}
    for number, name in enumerate(names):
        (folder / str(number)).mkdir()
        buffers[name] = StreamBuffer(name, folder / str(number))
    return buffers
