"""What of a backup needs no server: where it is kept, what it says of itself, whose key opens it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from dml_infra.backup import files, new_identity, open_target
from dml_infra.backup.iceberg import TablePointer, table_files
from dml_infra.backup.manifest import Manifest, Part, list_backups, read_manifest, write_manifest
from dml_infra.backup.objects import split_location, stored_name
from dml_infra.backup.postgres import _unescape
from dml_infra.backup.server import output_of, run
from dml_infra.backup.target import FolderTarget, HashingReader
from dml_infra.errors import CheckFailedError, ConfigError, EngineError, InfraError, PermanentError

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # pragma: allowlist secret


def manifest(backup_id: str) -> Manifest:
    parts = [Part("a", 0, EMPTY)]
    return Manifest(backup_id, "dml", {}, {}, "", "", "", "", parts, 0, 0, 0, 0, {"tables": {}})


def test_a_folder_has_whole_streams_only(tmp_path: Path) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(3)
            if not data:
                raise EngineError("cannot dump", "connection lost", "Again.")
            return data

    target = FolderTarget(tmp_path / "far" / "backups")
    with pytest.raises(EngineError):
        target.put("a/b", Cut(b"abcdef"))
    assert target.names("") == {}
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    target.put("a/b", io.BytesIO(b"abc"))
    assert target.names("a") == {"a/b": 3}
    with target.open("a/b") as stream:
        assert stream.read() == b"abc"
    target.delete("a/b")
    target.delete("a/b")
    assert target.names("") == {}
    with pytest.raises(PermanentError, match=r"cannot read a/b of .*backups"):
        target.open("a/b").__enter__()


def test_a_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    FolderTarget(tmp_path / "far" / "backups").put("a/b", io.BytesIO(b"abc"))
    assert {p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")} == {0o700, 0o600}


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match=r"cannot write .*file/a"):
        FolderTarget(tmp_path / "file").put("a", io.BytesIO(b""))


def test_a_reader_keeps_size_and_hash() -> None:
    reader = HashingReader(io.BytesIO(b"abc" * 10_000_000))
    assert len(reader.read(5)) == 5
    assert len(reader.read()) == 30_000_000 - 5
    assert reader.size == 30_000_000
    assert HashingReader(io.BytesIO()).sha256 == EMPTY


@pytest.mark.parametrize(
    ("address", "endpoint", "credentials", "words"),
    [
        ("s3://b/p", None, "[default]\naws_access_key_id=a\naws_secret_access_key=b", "needs the service's endpoint"),
        ("s3://b/p", "minio:9000", "[default]\naws_access_key_id=a\naws_secret_access_key=b", "is no address"),
        ("s3://b/p", "http://127.0.0.1:9", "[other]", "cannot read the key"),
    ],
)
def test_an_s3_address_needs_its_parts(
    tmp_path: Path, address: str, endpoint: str | None, credentials: str, words: str
) -> None:
    (tmp_path / "c").write_text(credentials, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        open_target(address, endpoint=endpoint, credentials_file=tmp_path / "c")


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    target = FolderTarget(tmp_path)
    for backup_id in ("20260102T000000Z", "20260101T000000Z"):
        write_manifest(target, manifest(backup_id))
    assert list_backups(target, "dml") == ["20260101T000000Z", "20260102T000000Z"]
    assert list_backups(target, "other") == []
    assert read_manifest(target, "dml", "20260101T000000Z") == manifest("20260101T000000Z")
    file = tmp_path / "dml/backups/20260101T000000Z/manifest.json"
    file.write_text(file.read_text().replace(EMPTY, "0" * 64))
    with pytest.raises(CheckFailedError, match="is not as it was written"):
        read_manifest(target, "dml", "20260101T000000Z")
    file.write_text('{"format": 2, "backup": {}}')
    with pytest.raises(CheckFailedError, match="its format is 2, this version reads 1"):
        read_manifest(target, "dml", "20260101T000000Z")


def test_a_key_pair_opens_what_was_encrypted_to_it(tmp_path: Path) -> None:
    import pyrage

    public = new_identity(tmp_path / "id")
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o600
    data = pyrage.encrypt(b"abc", [files.parse_recipient(public)])
    assert files.decrypt(data, files.read_identity(tmp_path / "id"), "x") == b"abc"
    with pytest.raises(ConfigError, match="cannot make a key"):
        new_identity(tmp_path / "id")


def test_what_is_no_key_is_told_without_showing_it(tmp_path: Path) -> None:
    new_identity(tmp_path / "id")
    secret = (tmp_path / "id").read_text().splitlines()[1]
    with pytest.raises(ConfigError, match="is no age public key") as caught:
        files.parse_recipient(secret)
    assert secret not in str(caught.value)
    for text in ("", "AGE-SECRET-KEY-1XYZ", f"{secret}\n{secret}"):
        (tmp_path / "wrong").write_text(text)
        with pytest.raises(ConfigError, match="does not hold one private key") as caught:
            files.read_identity(tmp_path / "wrong")
        assert secret not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_packed_file_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(CheckFailedError, match="it has a file named"):
        files._read(buffer.getvalue())


def test_a_link_in_a_packed_folder_is_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("a")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(CheckFailedError, match="it has a file named 'a'"):
        files._read(buffer.getvalue())


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("s3://lake/sales/marts/t/x.parquet", ("lake", "sales/marts/t/x.parquet")),
        ("s3://lake/a%20b/c#d?e=f", ("lake", "a%20b/c#d?e=f")),
        ("file:///tmp/x", ("", "file:///tmp/x")),
    ],
)
def test_an_address_is_bucket_and_key(location: str, address: tuple[str, str]) -> None:
    assert split_location(location) == address


def test_versions_of_an_object_are_kept_apart() -> None:
    names = {
        stored_name("dml", *rest)
        for rest in (("b", "k", "e", 1), ("b", "k", "e", 2), ("b", "k", "f", 1), ("b", "l", "e", 1), ("c", "k", "e", 1))
    }
    assert len(names) == 5


@pytest.mark.parametrize(
    ("raw", "value"), [(r"\N", None), (r"a\tb\nc\\d", "a\tb\nc\\d"), ("", ""), (r"\\N", r"\N"), ("ü", "ü")]
)
def test_values_of_a_dump_are_read_as_postgres_wrote_them(raw: str, value: str | None) -> None:
    assert _unescape(raw) == value


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\x1f\x8b broken", b'{"format-version": 2, "snapshots": [{"manifest-list": "s3://gone"}]}'],
)
def test_metadata_that_cannot_be_read_are_named(content: bytes) -> None:
    def read(location: str) -> bytes:
        if location != "s3://lake/m.json":
            raise FileNotFoundError(location)
        return content

    found = table_files(TablePointer("sales.marts", "t", "s3://lake/m.json"), read, {})
    assert len(found.unreadable) == 1


def test_a_manifest_of_any_damage_is_named_and_never_stops_a_backup(tmp_path: Path) -> None:
    import fastavro

    field = {
        "type": "record",
        "name": "r",
        "fields": [{"name": "status", "type": "int"}, {"name": "p", "type": "string"}],
    }
    whole = io.BytesIO()
    fastavro.writer(whole, field, [{"status": 2, "p": "x" * 50} for _ in range(20)], codec="deflate")
    listed = b'{"format-version": 1, "snapshots": [{"manifests": ["s3://lake/m.avro"]}]}'
    damaged = 0
    for position in range(len(whole.getvalue())):
        data = bytearray(whole.getvalue())
        data[position] ^= 0xFF
        found = table_files(
            TablePointer("sales.marts", "t", "s3://lake/m.json"),
            lambda location, data=bytes(data): listed if location.endswith("json") else data,
            {},
        )
        damaged += bool(found.unreadable)
    assert damaged > 20


def test_a_program_that_fails_after_its_output_is_noticed() -> None:
    with (
        pytest.raises(InfraError, match=r"cannot dump: connection lost"),
        output_of(["sh", "-c", "echo abc; echo connection lost >&2; exit 3"], "cannot dump") as stream,
    ):
        assert stream.read() == b"abc\n"


def test_a_program_may_end_before_it_has_read_everything() -> None:
    assert run(["head", "-c", "3"], "cannot read", stdin=io.BytesIO(b"abc" * 1_000_000)) == b"abc"


def test_a_source_that_fails_ends_the_program() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise PermanentError("cannot read x", "disk error", "Again.")

    with pytest.raises(PermanentError, match="disk error"):
        run(["cat"], "cannot load", stdin=Broken())
