"""Where backups are kept: a folder or an S3 address, written and read as streams.

A name that is there is whole: a folder gets a finished file by a rename, S3 an object when its upload has ended.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol, cast
from urllib.parse import urlsplit

from minio import Minio
from minio.error import S3Error
from urllib3.exceptions import HTTPError

from dml_infra.errors import ConfigError, PermanentError, RetryableError

CHUNK = 1 << 20
# S3 wants streams of unknown length in parts; 10,000 of these are 160 GB.
PART = 16 << 20


class HashingReader:
    """Passes a stream on and keeps its size and SHA-256."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        data: bytes = self._stream.read(CHUNK if size is None or size < 0 else size) or b""
        if size is None or size < 0:
            pieces = [data]
            while pieces[-1]:
                pieces.append(self._stream.read(CHUNK) or b"")
            data = b"".join(pieces)
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> str:
        """Of what was read so far."""
        return self._hash.hexdigest()


class Target(Protocol):
    """A place for named byte streams."""

    address: str

    def put(self, name: str, stream: Any) -> None:
        """Store a stream; the name is there only when all of it is."""
        ...

    def open(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Read a stream."""
        ...

    def names(self, prefix: str) -> dict[str, int]:
        """Sizes of what is there, by name."""
        ...

    def delete(self, name: str) -> None:
        """Remove it; nothing when it is not there."""
        ...


class FolderTarget:
    """A folder; only its owner can read it."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)
        self._folder = folder

    def put(self, name: str, stream: Any) -> None:
        """See :class:`Target`."""
        path = self._folder / name
        try:
            _make_private(path.parent)
            draft = path.with_name(f".{path.name}.{os.getpid()}.part")
            try:
                with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    shutil.copyfileobj(stream, file, CHUNK)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(draft, path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise PermanentError(
                f"cannot write {path}", str(error), "Make room, or give another --to that can be written."
            ) from error

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """See :class:`Target`."""
        try:
            file = (self._folder / name).open("rb")
        except OSError as error:
            raise _gone(self.address, name, error) from error
        with file:
            yield file

    def names(self, prefix: str) -> dict[str, int]:
        """See :class:`Target`."""
        found = {}
        for folder, _, files in os.walk(self._folder / prefix):
            for file in files:
                if not file.endswith(".part"):
                    path = Path(folder, file)
                    found[path.relative_to(self._folder).as_posix()] = path.stat().st_size
        return found

    def delete(self, name: str) -> None:
        """See :class:`Target`."""
        path = self._folder / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()


class S3Target:
    """A prefix of a bucket that exists."""

    def __init__(self, client: Minio, bucket: str, prefix: str) -> None:
        self.address = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def put(self, name: str, stream: Any) -> None:
        """See :class:`Target`."""
        with _s3_errors(f"cannot write {self.address}/{name}"):
            self._client.put_object(
                self._bucket, self._prefix + name, stream, -1, part_size=PART, num_parallel_uploads=1
            )

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """See :class:`Target`."""
        with _s3_errors(f"cannot read {self.address}/{name}"):
            try:
                answer = self._client.get_object(self._bucket, self._prefix + name)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    raise _gone(self.address, name, error) from error
                raise
            try:
                yield cast(IO[bytes], answer)
            finally:
                answer.close()
                answer.release_conn()

    def names(self, prefix: str) -> dict[str, int]:
        """See :class:`Target`."""
        with _s3_errors(f"cannot list {self.address}"):
            found = self._client.list_objects(self._bucket, f"{self._prefix}{prefix}", recursive=True)
            return {str(o.object_name).removeprefix(self._prefix): int(o.size or 0) for o in found}

    def delete(self, name: str) -> None:
        """See :class:`Target`."""
        with _s3_errors(f"cannot remove {self.address}/{name}"):
            self._client.remove_object(self._bucket, self._prefix + name)


def open_target(address: str, *, endpoint: str | None = None, credentials_file: Path | None = None) -> Target:
    """A place for backups by its address.

    Args:
        address: a folder, or ``s3://bucket/prefix``.
        endpoint: of the S3 service, e.g. ``https://s3.eu-central-1.amazonaws.com``.
        credentials_file: an AWS-style file with the key to use (its profile ``default``).

    Raises:
        ConfigError: something of it is missing, or the bucket is not reached.
    """
    if not address.startswith("s3://"):
        return FolderTarget(Path(address).expanduser().absolute())
    what = f"cannot use {address}"
    if not endpoint or not credentials_file:
        raise ConfigError(what, "it needs the service's endpoint and a file with a key", "Give both.")
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ConfigError(what, f"endpoint {endpoint!r} is no address", "Write it as https://host[:port].")
    key, secret = _read_credentials(credentials_file)
    client = Minio(parts.netloc, key, secret, secure=parts.scheme == "https", region="us-east-1")
    with _s3_errors(what):
        # A key may be allowed to list a prefix and nothing more, so this is asked instead of the bucket itself.
        next(iter(client.list_objects(bucket, prefix=prefix)), None)
    return S3Target(client, bucket, prefix)


def _make_private(folder: Path) -> None:
    """Make a folder and those above it that are not there, for the owner only."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)


def _read_credentials(file: Path) -> tuple[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
        section = parser["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError) as error:
        raise ConfigError(
            "cannot read the key of the backups' object store",
            f"{file}: {type(error).__name__}",
            "Write an AWS credentials file with a profile 'default' there.",
        ) from error


@contextlib.contextmanager
def _s3_errors(what: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        raise PermanentError(
            what, f"{error.code}: {error.message}", "Check bucket, key and rights of the backups' object store."
        ) from error
    except (HTTPError, OSError) as error:
        raise RetryableError(
            what, str(error), "Check that the object store is reached, then run this again."
        ) from error


def _gone(address: str, name: str, error: Exception) -> PermanentError:
    return PermanentError(f"cannot read {name} of {address}", str(error), "Use another backup: this one is damaged.")
