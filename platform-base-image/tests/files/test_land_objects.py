"""Files in the landing bucket: known by path and ETag, landed once, read as they were when they were listed."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from pydantic import SecretStr

from dml_platform.core.errors import ConfigError, PermanentError, RetryableError, SourceError, TooManyRejectsError
from dml_platform.core.naming import TableRef
from dml_platform.core.settings import DuckDBSettings, LakeSettings, Settings
from dml_platform.files import land_objects as objects_of
from dml_platform.files.config import FileTable
from dml_platform.files.land import Landing, land_files
from dml_platform.files.objects import LandingBucket, _translate
from dml_platform.lake import Lake

REF = TableRef("test", "raw", "shop__orders")
ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-4711"  # pragma: allowlist secret
Land = Callable[..., Landing]


class Bucket:
    """A prefix of its own in a bucket of a real S3 server."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.prefix = f"test/{uuid.uuid4().hex[:12]}"

    @property
    def uri(self) -> str:
        return f"s3://landing/{self.prefix}"

    def put(self, name: str, text: str) -> None:
        self.client.put_object(Bucket="landing", Key=f"{self.prefix}/{name}", Body=text.encode())

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket="landing", Key=f"{self.prefix}/{name}")


@pytest.fixture
def bucket(object_store: str) -> Iterator[Bucket]:
    client = boto3.client(
        "s3",
        endpoint_url=object_store,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket="landing")
    yield Bucket(client)
    client.close()


@pytest.fixture
def object_lake(object_store: str, tmp_path: Path) -> Iterator[Lake]:
    """A lake in a folder, whose landing bucket is in the object store."""
    home = tmp_path / "home"
    home.mkdir()
    place = LakeSettings(
        s3_endpoint=object_store, s3_access_key_id=ACCESS_KEY, s3_secret_access_key=SecretStr(SECRET_KEY)
    )
    lake = Lake(Settings(home=home, duckdb=DuckDBSettings(memory_limit_mb=512, threads=2), lake=place))
    yield lake
    lake.catalog.close()


@pytest.fixture
def land(object_lake: Lake, bucket: Bucket, tmp_path: Path) -> Land:
    runs = iter(range(1, 100))

    def call(
        path: str = "**/*.csv", *, full_refresh: bool = False, may_be_empty: bool = False, **options: Any
    ) -> Landing:
        table = FileTable(path=f"{bucket.uri}/{path}", format=options.pop("format", "csv"), **options)
        run = {"run_id": f"run{next(runs)}", "full_refresh": full_refresh, "may_be_empty": may_be_empty}
        return land_files(object_lake, REF, table, root=tmp_path, **run)

    return call


def ids(lake: Lake) -> list[int]:
    return [row[0] for row in lake.sql(f"SELECT id FROM {REF.dotted} ORDER BY id").fetchall()]


def test_objects_land_once(bucket: Bucket, land: Land, object_lake: Lake) -> None:
    bucket.put("a.csv", "id\n1\n")
    bucket.put("2026/01/b.csv", "id\n2\n")
    bucket.put("2026/01/b.txt", "id\n99\n")
    first = land()
    assert (first.files_landed, first.rows) == (2, 2)
    sources = object_lake.sql(f"SELECT _source_file FROM {REF.dotted} ORDER BY id").fetchall()
    assert sources == [(f"{bucket.uri}/a.csv",), (f"{bucket.uri}/2026/01/b.csv",)]
    again = land()
    assert (again.files_landed, again.files_skipped, again.snapshot_id) == (0, 2, first.snapshot_id)
    bucket.put("c.csv", "id\n3\n")
    bucket.put("a.csv", "id\n4\n")  # written anew: another ETag
    assert land().files_landed == 2
    assert ids(object_lake) == [1, 2, 3, 4]


def test_many_objects_are_published_window_by_window(
    bucket: Bucket, land: Land, object_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_of, "_WINDOW_BYTES", 10)
    for number in range(5):
        bucket.put(f"{number}.csv", f"id\n{number}\n")
    assert land().rows == 5
    assert ids(object_lake) == [0, 1, 2, 3, 4]
    assert len(list(object_lake.history(REF))) == 3, "two objects of five bytes a window"


def test_mode_table_replaces_when_something_changed(bucket: Bucket, land: Land, object_lake: Lake) -> None:
    bucket.put("a.csv", "id\n1\n")
    bucket.put("b.csv", "id\n2\n")
    first = land(mode="table")
    assert land(mode="table").snapshot_id == first.snapshot_id
    bucket.delete("a.csv")
    assert land(mode="table").rows == 1
    assert ids(object_lake) == [2]
    bucket.delete("b.csv")
    with pytest.raises(SourceError, match="no object matches"):
        land(mode="table")
    emptied = land(mode="table", may_be_empty=True)
    assert ids(object_lake) == []
    assert land(mode="table", may_be_empty=True).snapshot_id == emptied.snapshot_id


def test_a_full_refresh_replaces_rows_and_columns(bucket: Bucket, land: Land, object_lake: Lake) -> None:
    bucket.put("a.csv", "id\n1\n")
    land()
    bucket.delete("a.csv")
    bucket.put("b.csv", "id,name\n7,x\n")
    assert land(full_refresh=True).rows == 1
    assert object_lake.sql(f"SELECT id, name FROM {REF.dotted}").fetchall() == [(7, "x")]


def test_a_reject_names_object_and_line(bucket: Bucket, land: Land, object_lake: Lake) -> None:
    bucket.put("a.csv", "id\n1\nx\n")
    options: dict[str, Any] = {"columns": {"id": "BIGINT"}}
    with pytest.raises(TooManyRejectsError, match=f"cannot land '{bucket.uri}/a.csv'"):
        land(**options)
    assert land(max_rejects_share=0.5, **options).rejects == 1
    found = object_lake.sql(f"SELECT _source_file, line_number FROM {REF.rejects.dotted}").fetchall()
    assert found == [(f"{bucket.uri}/a.csv", 3)]


def test_an_object_that_is_replaced_between_list_and_fetch_is_not_read(
    bucket: Bucket, object_lake: Lake, tmp_path: Path
) -> None:
    bucket.put("a.csv", "id\n1\n")
    with LandingBucket(object_lake.settings, REF) as opened:
        (found,) = opened.find(f"{bucket.uri}/*.csv")
        bucket.put("a.csv", "id\n2\n")
        with pytest.raises(RetryableError, match="replaced or removed since it was listed"):
            opened.fetch(found, tmp_path / "copy")
        bucket.delete("a.csv")
        with pytest.raises(RetryableError, match="replaced or removed since it was listed"):
            opened.fetch(found, tmp_path / "copy")


def test_no_bucket_no_server_and_no_object_are_told_apart(
    bucket: Bucket, land: Land, object_lake: Lake, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=f"no object matches '{bucket.uri}/none/"):
        land("none/*.csv")
    table = FileTable(path="s3://no-such-bucket/*.csv", format="csv")
    with pytest.raises(ConfigError, match="there is no such bucket"):
        land_files(object_lake, REF, table, root=tmp_path, run_id="r")
    nowhere = object_lake.settings.lake.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    away = Lake(object_lake.settings.model_copy(update={"lake": nowhere}))
    with pytest.raises(RetryableError, match="the object store does not answer") as caught:
        land_files(away, REF, table, root=tmp_path, run_id="r")
    away.catalog.close()
    assert SECRET_KEY not in str(caught.value)


def test_what_the_key_may_not_read_is_said(object_lake: Lake) -> None:
    with LandingBucket(object_lake.settings, REF) as opened:
        error = opened._explain("cannot list s3://landing/other/", {"Code": "AccessDenied"})
    assert isinstance(error, PermanentError)
    assert "s3://landing/test/" in error.fix


@pytest.mark.parametrize("path", ["https://example.com/a.csv", "s3://", "s3://landing", "gs://landing/a.csv"])
def test_other_addresses_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="only files of a folder and s3://bucket/glob"):
        FileTable(path=path, format="csv")


@pytest.mark.parametrize(
    ("glob", "fits", "does_not"),
    [
        ("a/*.csv", ["a/b.csv", "a/.csv"], ["a/b/c.csv", "a/b.csvx", "xa/b.csv"]),
        ("a/**/*.csv", ["a/b.csv", "a/b/c/d.csv"], ["b.csv"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("a/?[0-9][!x].csv", ["a/b1y.csv"], ["a/b1x.csv", "a/bb1y.csv", "a//1y.csv"]),
        ("a+b.csv", ["a+b.csv"], ["aab.csv"]),
    ],
)
def test_globs_of_objects(glob: str, fits: list[str], does_not: list[str]) -> None:
    import re

    assert [name for name in fits + does_not if re.fullmatch(_translate(glob), name)] == fits
