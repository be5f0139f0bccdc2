"""Does an object store do what the platform asks of one: plain S3 calls against any endpoint, each with its outcome."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlparse

from dml_infra.secrets import S3Key

_PART = 5 * 1024 * 1024  # the least that S3 takes of a part that is not the last


@dataclass(frozen=True)
class Outcome:
    """A call, and what was wrong with it or ``""``. A store may lack what is not required: it is used where it is."""

    call: str
    problem: str
    required: bool = True


def check_calls(endpoint: str, key: S3Key, *, bucket: str, prefix: str = "conformance") -> list[Outcome]:
    """Try every call that the platform uses, below a prefix of its own, which is empty again afterwards."""
    from minio import Minio

    address = urlparse(endpoint)
    client = Minio(
        address.netloc, access_key=key.access_key, secret_key=key.secret_key, secure=address.scheme == "https"
    )
    return _Calls(client, bucket, f"{prefix}/{uuid.uuid4().hex}").run()


class _Calls:
    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix

    def run(self) -> list[Outcome]:
        calls: list[tuple[str, Callable[[], None], bool]] = [
            ("put, get, head", self.put_get, True),
            ("get of a range", self.get_range, True),
            ("overwrite", self.overwrite, True),
            ("multipart upload", self.multipart, True),
            ("multipart upload that is aborted leaves nothing", self.abort, True),
            ("list by prefix, in pages", self.list_pages, True),
            ("list of folders", self.list_folders, True),
            ("copy", self.copy, True),
            ("a name with blanks and non-ASCII letters", self.odd_name, True),
            ("get and head of what is not there", self.missing, True),
            ("delete, one and many, also of what is not there", self.delete, True),
            ("put only if it is not there (If-None-Match)", self.put_if_absent, False),
            ("put only if it is unchanged (If-Match)", self.put_if_unchanged, False),
        ]
        outcomes = [Outcome(name, self._problem(call), required) for name, call, required in calls]
        problem = self._problem(self.tidy_up)
        return outcomes + ([Outcome("leave nothing behind", problem)] if problem else [])

    def put_get(self) -> None:
        self._put("plain", b"first")
        stat = self.client.stat_object(bucket_name=self.bucket, object_name=self._name("plain"))
        _same("size", stat.size, 5)
        _same("content", self._get("plain"), b"first")

    def get_range(self) -> None:
        self._put("range", bytes(range(256)) * 1000)
        _same("range", self._get("range", offset=1000, length=300), (bytes(range(256)) * 1000)[1000:1300])

    def overwrite(self) -> None:
        self._put("plain", b"second")
        _same("content", self._get("plain"), b"second")

    def multipart(self) -> None:
        data = b"0123456789" * (_PART // 10 * 2 + 7)
        self.client.put_object(
            bucket_name=self.bucket,
            object_name=self._name("parts"),
            data=io.BytesIO(data),
            length=len(data),
            part_size=_PART,
        )
        _same("content", self._get("parts"), data)

    def abort(self) -> None:
        # The client offers parts only inside a whole upload (minio 7.2).
        name = self._name("aborted")
        upload = self.client._create_multipart_upload(self.bucket, name, {})
        self.client._upload_part(self.bucket, name, b"x" * _PART, None, upload, 1)
        self.client._abort_multipart_upload(self.bucket, name, upload)
        _same("names", self._list("aborted"), [])

    def list_pages(self) -> None:
        names = [f"many/{number:04d}" for number in range(12)]
        for name in names:
            self._put(name, b"")
        listed = self.client.list_objects(
            bucket_name=self.bucket, prefix=self._name("many/"), recursive=True, start_after=self._name(names[4])
        )
        _same("names", [o.object_name for o in listed], [self._name(n) for n in names[5:]])
        _same("names", self._list("many/"), names)

    def list_folders(self) -> None:
        listed = self.client.list_objects(bucket_name=self.bucket, prefix=self._name(""))
        folders = [o.object_name for o in listed if o.is_dir]
        _same("folders", folders, [self._name("many/")])

    def copy(self) -> None:
        from minio.commonconfig import CopySource

        self.client.copy_object(
            bucket_name=self.bucket,
            object_name=self._name("copied"),
            source=CopySource(bucket_name=self.bucket, object_name=self._name("plain")),
        )
        _same("content", self._get("copied"), b"second")

    def odd_name(self) -> None:
        self._put("day=2026-01-31/größe 1+2%.parquet", b"odd")
        _same("content", self._get("day=2026-01-31/größe 1+2%.parquet"), b"odd")
        _same("names", self._list("day=2026-01-31/"), ["day=2026-01-31/größe 1+2%.parquet"])

    def missing(self) -> None:
        absent = {"bucket_name": self.bucket, "object_name": self._name("absent")}
        for call in (self.client.get_object, self.client.stat_object):
            _same("answer", _refusal(partial(call, **absent)), "NoSuchKey")

    def delete(self) -> None:
        from minio.deleteobjects import DeleteObject

        for _ in range(2):
            self.client.remove_object(bucket_name=self.bucket, object_name=self._name("copied"))
        _same("names", self._list("copied"), [])
        names = [DeleteObject(self._name(name)) for name in self._list("many/")]
        _same("errors", list(self.client.remove_objects(bucket_name=self.bucket, delete_object_list=names)), [])
        _same("names", self._list("many/"), [])

    def put_if_absent(self) -> None:
        headers = {"If-None-Match": "*"}
        self._put_with("once", b"1", headers)
        _same("answer", _refusal(lambda: self._put_with("once", b"2", headers)), "PreconditionFailed")
        _same("content", self._get("once"), b"1")

    def put_if_unchanged(self) -> None:
        self._put("swung", b"1")
        etag = self.client.stat_object(bucket_name=self.bucket, object_name=self._name("swung")).etag
        self._put_with("swung", b"2", {"If-Match": f'"{etag}"'})
        code = _refusal(lambda: self._put_with("swung", b"3", {"If-Match": f'"{etag}"'}))
        _same("answer", code, "PreconditionFailed")

    def tidy_up(self) -> None:
        for name in self._list(""):
            self.client.remove_object(bucket_name=self.bucket, object_name=self._name(name))

    def _name(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def _put(self, name: str, data: bytes) -> None:
        self.client.put_object(
            bucket_name=self.bucket, object_name=self._name(name), data=io.BytesIO(data), length=len(data)
        )

    def _put_with(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        self.client._put_object(self.bucket, self._name(name), data, headers)

    def _get(self, name: str, **part: int) -> bytes:
        response = self.client.get_object(bucket_name=self.bucket, object_name=self._name(name), **part)
        try:
            content: bytes = response.read()
            return content
        finally:
            response.close()
            response.release_conn()

    def _list(self, name: str) -> list[str]:
        listed = self.client.list_objects(bucket_name=self.bucket, prefix=self._name(name), recursive=True)
        return [o.object_name.removeprefix(self._name("")) for o in listed]

    def _problem(self, call: Callable[[], None]) -> str:
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        try:
            call()
        except AssertionError as error:
            return str(error)
        except (MinioException, HTTPError) as error:
            return (str(error).splitlines() or [type(error).__name__])[0][:300]
        return ""


def _same(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: {str(found)[:80]!r} instead of {str(wanted)[:80]!r}")


def _refusal(call: Callable[[], Any]) -> str:
    from minio.error import S3Error

    try:
        call()
    except S3Error as error:
        return str(error.code)
    return "no refusal"
