"""Files of snapshots that were looked up before: never another snapshot's, never from a file that is not whole."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_steps import REF, write

from dml_platform.lake import Lake
from dml_platform.lake.filelists import FileLists, remembered
from dml_platform.lake.read import PinnedTable


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The snapshots whose manifests are read."""
    found: list[int | None] = []
    plan = PinnedTable._plan

    def spy(pinned: PinnedTable) -> tuple[list[str], bool]:
        found.append(pinned.snapshot_id)
        return plan(pinned)

    monkeypatch.setattr(PinnedTable, "_plan", spy)
    return found


def test_manifests_are_read_once_and_anew_for_every_new_snapshot(
    lake: Lake, tmp_path: Path, planned: list[int | None]
) -> None:
    path = tmp_path / "new folder" / "files.json"
    write(lake, "select 1 as id")
    first = lake.pin(REF)
    found = first.files()
    for _ in range(2):
        with remembered(path):
            assert lake.pin(REF).files() == found
    assert planned == [first.snapshot_id] * 2, "the first is without a memory"
    write(lake, "select 2 as id")
    second = lake.pin(REF)
    with remembered(path):
        assert len(second.files()[0]) == 2
        assert first.files() == found
    assert planned[2:] == [second.snapshot_id]
    assert len(second.files()[0]) == 2
    assert planned[3:] == [second.snapshot_id], "remembered where nobody asked for it"


@pytest.mark.parametrize("fault", ["another file", "cut short", "no JSON", "empty", "a folder"])
def test_a_file_that_is_not_as_it_was_written_counts_for_nothing(
    lake: Lake, tmp_path: Path, planned: list[int | None], fault: str
) -> None:
    path = tmp_path / "files.json"
    write(lake, "select 1 as id")
    with remembered(path):
        found = lake.pin(REF).files()
    content = path.read_bytes()
    assert json.loads(content.partition(b"\n")[2])
    path.unlink()
    if fault == "a folder":
        path.mkdir()
    else:
        wrong = {"another file": content.replace(b".parquet", b".parquat"), "cut short": content[:-5]}
        path.write_bytes(wrong.get(fault, b"{" if fault == "no JSON" else b""))
    with remembered(path):
        assert lake.pin(REF).files() == found
    assert len(planned) == 2


def test_what_is_used_no_more_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "files.json"
    for name in ("old", "new"):
        lists = FileLists.load(path)
        assert lists.find(name, lambda: ([], False)) == ([], False)
        lists.save(path)
    assert json.loads(path.read_bytes().partition(b"\n")[2]) == {"new": [[], False]}


def test_what_a_change_of_the_columns_alone_brings_is_no_memory(lake: Lake, tmp_path: Path) -> None:
    write(lake, "select 1::bigint as id, 'ours' as name")
    table = lake.catalog.load_table(REF.identifier)
    path = f"{table.location()}/data/theirs.parquet"
    with table.io.new_output(path).create() as stream:
        pq.write_table(pa.table({"id": [2], "name": ["theirs"]}), stream)
    table.add_files([path])  # without field ids: matched by name, as long as the names are those
    with remembered(tmp_path / "files.json"):
        assert lake.pin(REF).select() is not None
    with table.update_schema() as change:
        change.rename_column("name", "label")
    with remembered(tmp_path / "files.json"):
        assert lake.pin(REF).select() is None
