"""What a project keeps that is no table: run records, files for a post-mortem, the catalogue document.

On a laptop a folder of the state folder; where the tables are in an object store, beside the project's own tables, as a
run's container takes its folders along when it ends. Knows no file's content.
"""

from __future__ import annotations

import mimetypes
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dml_platform.core.settings import Settings

_T = TypeVar("_T")
_ATTEMPTS = 4
# What another attempt does not change.
_REFUSED = ("ACCESS_DENIED", "ACCESS DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")


@dataclass(frozen=True)
class Entry:
    """A file or folder below a storage's root. ``modified_at`` is in seconds since 1970, None where nobody knows."""

    name: str
    is_folder: bool
    modified_at: float | None = None
    size_bytes: int | None = None


class Storage(ABC):
    """Files by their name below a root; a name has parts with slashes. A write is seen whole or not at all.

    Raises:
        OSError: the disk or the object store refused, also after some attempts.
    """

    @abstractmethod
    def address(self, name: str) -> str:
        """Where a file is, for people and for DuckDB."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> str:
        """Write a file, replacing it if it is there. Returns: its address."""

    @abstractmethod
    def upload(self, name: str, path: Path) -> str:
        """Write a file with the content of another. Returns: its address."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content; None when there is none."""

    @abstractmethod
    def list(self, folder: str = "", *, recursive: bool = False) -> list[Entry]:
        """What is in a folder, by name; nothing where there is no such folder."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""


class FolderStorage(Storage):
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def address(self, name: str) -> str:
        """The path."""
        return str(self.root / name)

    def write(self, name: str, content: bytes) -> str:
        """Write beside, then replace."""
        return self._put(name, lambda partial: partial.write_bytes(content))

    def upload(self, name: str, path: Path) -> str:
        """Copy beside, then replace; a file that is there already stays."""
        if path == self.root / name:
            return str(path)
        return self._put(name, lambda partial: shutil.copyfile(path, partial))

    def read(self, name: str) -> bytes | None:
        """The file."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, folder: str = "", *, recursive: bool = False) -> list[Entry]:
        """Look into the folder."""
        found = []
        for path in (self.root / folder).rglob("*") if recursive else (self.root / folder).glob("*"):
            try:
                known = path.stat()
            except FileNotFoundError:  # gone meanwhile
                continue
            name = path.relative_to(self.root).as_posix()
            found.append(Entry(name, path.is_dir(), known.st_mtime, known.st_size))
        return sorted(found, key=lambda entry: entry.name)

    def delete(self, name: str) -> None:
        """Unlink it."""
        (self.root / name).unlink(missing_ok=True)

    def _put(self, name: str, fill: Callable[[Path], Any]) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            fill(partial)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        return str(path)


class ObjectStorage(Storage):
    """A prefix of the object store. Its key is read anew for each call: it may be replaced while a process lives."""

    def __init__(self, settings: Settings, root: str) -> None:
        self._settings = settings
        self.root = root.removeprefix("s3://").rstrip("/")

    def address(self, name: str) -> str:
        """The ``s3://`` address."""
        return f"s3://{self.root}/{name}"

    def write(self, name: str, content: bytes) -> str:
        """One object."""

        def put() -> None:
            with self._open().open_output_stream(f"{self.root}/{name}", metadata=_metadata(name)) as stream:
                stream.write(content)

        _persist(put)
        return self.address(name)

    def upload(self, name: str, path: Path) -> str:
        """One object, in parts."""

        def put() -> None:
            place, known = f"{self.root}/{name}", _metadata(name)
            with path.open("rb") as source, self._open().open_output_stream(place, metadata=known) as stream:
                shutil.copyfileobj(source, stream, 1 << 23)

        _persist(put)
        return self.address(name)

    def read(self, name: str) -> bytes | None:
        """The object."""

        def get() -> bytes | None:
            try:
                with self._open().open_input_stream(f"{self.root}/{name}") as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return _persist(get)

    def list(self, folder: str = "", *, recursive: bool = False) -> list[Entry]:
        """List the prefix: a request for each thousand objects."""
        from pyarrow.fs import FileSelector, FileType

        place = f"{self.root}/{folder}".rstrip("/")
        chosen = FileSelector(place, allow_not_found=True, recursive=recursive)
        return sorted(
            (
                Entry(
                    info.path[len(self.root) + 1 :],
                    info.type == FileType.Directory,
                    info.mtime.timestamp() if info.mtime else None,
                    info.size,
                )
                for info in _persist(lambda: self._open().get_file_info(chosen))
            ),
            key=lambda entry: entry.name,
        )

    def delete(self, name: str) -> None:
        """Remove the object."""

        def remove() -> None:
            try:
                self._open().delete_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return

        _persist(remove)

    def _open(self) -> Any:
        from pyarrow.fs import S3FileSystem

        settings = self._settings
        key = settings.read_s3_key()
        return S3FileSystem(
            endpoint_override=settings.lake.s3_endpoint,
            region=settings.lake.s3_region,
            access_key=key.access_key_id if key else None,
            secret_key=key.secret_access_key.get_secret_value() if key else None,
            connect_timeout=10,
            request_timeout=60,
            allow_delayed_open=True,  # one request for a small object
        )


def open_storage(settings: Settings, project: str, area: str) -> Storage:
    """One area of what a project keeps, e.g. ``runs``: ``<home>/runs/<project>`` or ``<warehouse>/<project>/_runs``.

    A project's key for the object store may write below its own name only.
    """
    if settings.is_s3:
        return ObjectStorage(settings, f"{settings.warehouse}/{project}/_{area}")
    return FolderStorage(settings.home / area / project)


def page_address(settings: Settings, project: str, area: str, name: str) -> str:
    """Where people open a page of a project: below ``DML_REPORTS_URL``, where that is set, else where it lies."""
    if settings.reports_url:
        return f"{settings.reports_url.rstrip('/')}/{project}/{area}/{name}"
    return open_storage(settings, project, area).address(name)


def _metadata(name: str) -> dict[str, str] | None:
    """What a browser needs to show the object instead of saving it."""
    kind = mimetypes.guess_type(name)[0]
    return {"Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind} if kind else None


def _persist(call: Callable[[], _T]) -> _T:
    """Try some times, for three seconds and a half: object stores restart, and keys are replaced."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except OSError as error:
            if any(word in str(error).upper() for word in _REFUSED):
                raise
            time.sleep(0.5 * 2 ** (attempt - 1))
    return call()
