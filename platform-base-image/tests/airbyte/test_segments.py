"""Output is sorted into files without parsing, whatever way a connector writes its messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dml_platform.airbyte.protocol import Listener, make_mask, read_state, state_document
from dml_platform.airbyte.segments import Sorter, StreamBuffer, make_buffers
from dml_platform.core.errors import SourceError


@pytest.fixture
def buffers(tmp_path: Path) -> Any:
    made = make_buffers(tmp_path, ["a", "ab"])
    yield made
    for buffer in made.values():
        buffer.close()


@pytest.fixture
def sorter(buffers: dict[str, StreamBuffer]) -> Sorter:
    return Sorter(buffers, stateful=frozenset(buffers), listener=Listener("cannot read", "s", make_mask([])))


def record(stream: str, number: int, **more: Any) -> bytes:
    content = {"stream": stream, "data": {"id": number}, "emitted_at": 1, **more}
    return json.dumps({"type": "RECORD", "record": content}, separators=(",", ":")).encode() + b"\n"


def state(stream: str, value: Any) -> bytes:
    content = {"stream_descriptor": {"name": stream}, "stream_state": {"at": value}}
    return json.dumps({"type": "STATE", "state": {"type": "STREAM", "stream": content}}).encode() + b"\n"


def handed_over(buffer: StreamBuffer, *, at_mark: bool = False) -> list[int]:
    cut = buffer.cut(at_mark=at_mark)
    lines = [line for segment in cut.segments for line in segment.path.read_bytes().splitlines()]
    assert len(lines) == sum(segment.records for segment in cut.segments)
    return [json.loads(line)["record"]["data"]["id"] for line in lines]


def test_each_stream_gets_its_lines_in_order(sorter: Sorter, buffers: dict[str, StreamBuffer]) -> None:
    lines = [record("ab" if n % 7 in (1, 2) else "a", n) for n in range(1000)]
    sorter.sort(b"".join(lines))
    assert handed_over(buffers["ab"]) == [n for n in range(1000) if n % 7 in (1, 2)]
    assert handed_over(buffers["a"]) == [n for n in range(1000) if n % 7 not in (1, 2)]


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"RECORD","record":{"namespace":null,"stream":"a","data":{"id":1},"emitted_at":1}}\n',
        b'{"type":"RECORD","record":{"namespace":"public","stream":"a","data":{"id":1},"emitted_at":1}}\n',
        b'{ "type" : "RECORD", "record": {"stream" : "a", "data": {"id": 1}, "emitted_at": 1}}\n',
        b'{"record":{"data":{"id":1},"stream":"a","emitted_at":1},"type":"RECORD"}\n',
        b'{"type":"RECORD","record":{"data":{"id":1,"stream":"b"},"emitted_at":1,"stream":"a"}}\n',
        b'{"type":"RECORD","record":{"stream":"\\u0061","data":{"id":1},"emitted_at":1}}\r\n',
    ],
)
def test_any_spelling_of_a_record_is_understood(line: bytes, sorter: Sorter, buffers: dict[str, StreamBuffer]) -> None:
    sorter.sort(record("a", 0) + line + record("a", 2))
    assert handed_over(buffers["a"]) == [0, 1, 2]


def test_a_state_covers_the_records_before_it_and_the_rest_waits(
    sorter: Sorter, buffers: dict[str, StreamBuffer]
) -> None:
    buffer = buffers["a"]
    sorter.sort(record("a", 1) + record("a", 2) + state("a", 2) + record("ab", 9) + record("a", 3))
    assert buffer.is_marked
    assert not buffers["ab"].is_marked
    assert handed_over(buffer, at_mark=True) == [1, 2]
    assert buffer.state is not None
    assert buffer.state["stream"]["stream_state"] == {"at": 2}
    sorter.sort(record("a", 4))
    cut = buffer.cut(at_mark=False)
    assert [(s.records, s.first_record) for s in cut.segments] == [(2, 3)]
    assert cut.segments[0].path.read_bytes() == record("a", 3) + record("a", 4)


def test_segments_without_a_state_wait_for_it(sorter: Sorter, buffers: dict[str, StreamBuffer]) -> None:
    sorter.sort(record("a", 1))
    buffers["a"].rotate()
    sorter.sort(record("a", 2) + state("a", 2) + record("a", 3))
    assert handed_over(buffers["a"], at_mark=True) == [1, 2]
    assert handed_over(buffers["a"]) == [3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"type":"STATE","state":{"type":"SIDEWAYS"}}\n', "STATE message that the protocol does not know"),
        (b'{"type":"RECORD","record":{"data":{}}}\n', "RECORD message without a stream"),
        (b'{"type":"RECORD","record":{"str\n', "line of broken JSON"),
        (record("nobody", 1), "stream 'nobody', which was not asked for"),
    ],
)
def test_what_could_be_a_lost_record_is_an_error(line: bytes, message: str, sorter: Sorter) -> None:
    with pytest.raises(SourceError, match=message):
        sorter.sort(record("a", 1) + line)


def test_states_go_back_as_they_came() -> None:
    legacy = read_state({"data": {"x": 1}})
    assert legacy == (None, {"type": "LEGACY", "data": {"x": 1}})
    assert state_document([legacy[1], legacy[1]]) == {"x": 1}
    shared = {"type": "GLOBAL", "global": {"shared_state": {}, "stream_states": []}}
    assert state_document([shared, dict(shared)]) == [shared]
    stream = {"type": "STREAM", "stream": {"stream_descriptor": {"name": "a"}, "stream_state": None}}
    assert read_state({**stream, "sourceStats": {"recordCount": 3}}) == ("a", stream)
    assert state_document([stream]) == [stream]
    assert state_document([]) == []
