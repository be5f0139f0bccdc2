"""Assets that return rows, and read them back as what they asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from lake_steps import rows

from dml_platform.core.errors import PublishConflictError
from dml_platform.core.naming import TableRef
from dml_platform.core.runrecord import read_records
from dml_platform.lake import Lake, Step
from dml_platform.lake.io_manager import LakeIOManager
from dml_platform.lake.resource import LakeResource

SCORES = TableRef("sales", "marts", "customer_scores")
KEY = dg.AssetKey(SCORES.asset_key)


@pytest.fixture
def root(local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose state is the test's lake."""
    monkeypatch.setenv("DML_HOME", str(local_lake.settings.home))
    folder = tmp_path / "project-sales"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[tool.dml]\nproject = "sales"\n')
    return folder


def materialize(root: Path, *assets: Any, **options: Any) -> dg.ExecuteInProcessResult:
    resources = {
        "io_manager": LakeIOManager(project_root=str(root)),
        "lake": LakeResource(project_root=str(root)),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(assets, resources=resources, instance=instance, **options)


def asset_of(value: Any, **metadata: Any) -> dg.AssetsDefinition:
    @dg.asset(key=KEY, metadata=metadata)
    def scores():  # type: ignore[no-untyped-def]
        return value() if callable(value) else value

    return scores


def failure_of(root: Path, *assets: Any, **options: Any) -> dg.Failure:
    with pytest.raises(dg.Failure) as caught:
        materialize(root, *assets, **options)
    return caught.value


@pytest.mark.parametrize(
    "value",
    [
        pa.table({"id": [1, 2], "name": ["a", None]}),
        lambda: pa.table({"id": [1, 2], "name": ["a", None]}).to_reader(),
        pd.DataFrame({"id": [1, 2], "name": ["a", None]}, index=[7, 8]),
        lambda: duckdb.sql("select * from (values (1::bigint, 'a'), (2, null)) t(id, name)"),
    ],
    ids=["table", "reader", "pandas", "duckdb"],
)
def test_every_kind_of_rows_is_stored(root: Path, local_lake: Lake, value: Any) -> None:
    result = materialize(root, asset_of(value))
    assert rows(local_lake, SCORES) == [(1, "a"), (2, None)]
    (event,) = result.asset_materializations_for_node("sales__marts__customer_scores")
    metadata = {name: entry.value for name, entry in event.metadata.items()}
    assert metadata["dagster/row_count"] == 2
    assert metadata["snapshot_id"] == str(local_lake.pin(SCORES).snapshot_id)
    assert metadata["seconds"] > 0
    assert [(c.name, c.type) for c in metadata["dagster/column_schema"].columns] == [
        ("id", "bigint"),
        ("name", "varchar"),
    ]
    (record,) = read_records(local_lake.settings)
    assert (record.status, record.rows) == ("success", {SCORES.dotted: 2})


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (pd.DataFrame, lambda v: v["id"].tolist()),
        (pa.Table, lambda v: v["id"].to_pylist()),
        (pa.RecordBatchReader, lambda v: v.read_all()["id"].to_pylist()),
        (duckdb.DuckDBPyRelation, lambda v: [row[0] for row in v.fetchall()]),
        (Any, lambda v: [row[0] for row in v.filter("id > 0").fetchall()]),
    ],
)
def test_input_comes_as_what_it_is_annotated_with(root: Path, kind: Any, check: Any) -> None:
    seen = []

    def read(scores):  # type: ignore[no-untyped-def]
        seen.append(check(scores))

    read.__annotations__ = {"scores": kind}
    reader = dg.asset(name="reader", ins={"scores": dg.AssetIn(key=KEY)})(read)
    materialize(root, asset_of(pa.table({"id": [1, 2]})), reader)
    assert [sorted(ids) for ids in seen] == [[1, 2]]


def test_write_mode_and_key_come_from_metadata(root: Path, local_lake: Lake) -> None:
    materialize(root, asset_of(pa.table({"id": [1, 2], "n": [1, 1]})))
    materialize(root, asset_of(pa.table({"id": [2, 3], "n": [2, 2]}), write_mode="merge", unique_key="id"))
    materialize(root, asset_of(pa.table({"id": [9], "n": [9]}), write_mode="append"))
    assert rows(local_lake, SCORES) == [(1, 1), (2, 2), (3, 2), (9, 9)]


def test_asset_that_returns_nothing_wrote_its_table_itself(root: Path, local_lake: Lake) -> None:
    @dg.asset(key=KEY)
    def scores(lake: LakeResource) -> None:
        step = lake.lake.step("r1", "own")
        step.write_query(SCORES, lake.lake.connect(), "select 1 as id")
        step.publish()

    materialize(root, scores)
    assert rows(local_lake, SCORES) == [(1,)]


def test_failures_are_sentences_and_say_whether_a_retry_helps(root: Path, local_lake: Lake) -> None:
    failure = failure_of(root, asset_of({"id": 1}))
    assert failure.description == (
        "cannot store 'sales.marts.customer_scores': the asset returned dict.\n"
        "Return a pandas frame, an Arrow table or reader, or a DuckDB relation."
    )
    assert not failure.allow_retries
    failure = failure_of(root, asset_of(pa.table({"id": [1]}), write_mode="overwrite"))
    assert "its metadata has write_mode 'overwrite'.\nUse one of: table, append, merge." in str(failure.description)
    failure = failure_of(root, asset_of(pa.table({"id": [1, 1]}), write_mode="merge", unique_key="id"))
    assert "1 values occur more than once in its key (id)" in str(failure.description)
    (record,) = read_records(local_lake.settings)
    assert record.status == "failed"

    @dg.asset(ins={"scores": dg.AssetIn(key=KEY)})
    def reader(scores: int) -> None: ...

    materialize(root, asset_of(pa.table({"id": [1]})))
    failure = failure_of(root, asset_of(pa.table({"id": [1]})), reader, selection=[reader])
    assert "the parameter is annotated with <class 'int'>" in str(failure.description)


def test_a_write_or_publish_that_fails_leaves_no_branch(
    root: Path, local_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize(root, asset_of(pa.table({"id": [1]})))

    def publish(_step: Step) -> None:
        raise PublishConflictError("cannot publish", "another run published", "Run the step again.")

    monkeypatch.setattr(Step, "publish", publish)
    assert "another run published" in str(failure_of(root, asset_of(pa.table({"id": [2]}))).description)
    assert set(local_lake.catalog.load_table(SCORES.identifier).refs()) == {"main"}
    assert rows(local_lake, SCORES) == [(1,)]


def test_key_that_is_no_table_is_refused(root: Path) -> None:
    @dg.asset
    def loose() -> pa.Table:
        return pa.table({"id": [1]})

    assert "cannot read table name 'loose': it has 1 parts" in str(failure_of(root, loose).description)


def test_partition_does_not_replace_the_whole_table(root: Path) -> None:
    @dg.asset(key=KEY, partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
    def scores() -> pa.Table:
        return pa.table({"id": [1]})

    failure = failure_of(root, scores, partition_key="a")
    assert "write_mode 'table' replaces the rows of all partitions" in str(failure.description)


def test_resources_open_nothing_before_a_step_runs(tmp_path: Path) -> None:
    definitions = dg.Definitions(
        assets=[asset_of(1)],
        resources={
            "io_manager": LakeIOManager(project_root=str(tmp_path / "nowhere")),
            "lake": LakeResource(project_root=str(tmp_path / "nowhere")),
        },
    )
    dg.Definitions.validate_loadable(definitions)
    assert list(tmp_path.iterdir()) == []


def test_snapshots_carry_the_commit_of_the_projects_folder(
    root: Path, local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.chdir(tmp_path)
    materialize(root, asset_of(pa.table({"id": [1]})))
    assert next(local_lake.history(SCORES)).summary["git_commit"] == commit
    assert LakeResource(project_root=str(root)).lake.root == root


def test_the_record_says_which_snapshots_a_step_was_given(root: Path, local_lake: Lake) -> None:
    materialize(root, asset_of(pa.table({"id": [1]})))
    given = local_lake.pin(SCORES).snapshot_id

    @dg.asset(key=dg.AssetKey(["sales", "marts", "sums"]), ins={"scores": dg.AssetIn(key=KEY)})
    def sums(scores: pd.DataFrame) -> pd.DataFrame:
        return scores.agg({"id": ["sum"]})

    materialize(root, sums, asset_of(pa.table({"id": [2]})), selection=[sums])
    record = next(r for r in read_records(local_lake.settings, "sales") if r.step == "sums")
    assert record.inputs == {SCORES.dotted: given}
