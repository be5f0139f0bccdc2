"""Which files there are and what is in them: globs, content hashes, whole gzip streams. Parses no rows."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from dml_platform.core.errors import SourceError
from dml_platform.core.naming import TableRef

_CHUNK = 1 << 20
_FORMATS_WITH_GZIP = ("csv", "jsonl")


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when it was hashed. ``name`` is relative to the project's folder."""

    path: Path
    name: str
    sha256: str
    size_bytes: int
    modified_ns: int

    @property
    def is_gzip(self) -> bool:
        """Whether DuckDB will unpack it."""
        return self.path.suffix == ".gz"

    def open(self) -> BinaryIO:
        """Open the content, unpacked."""
        return cast(BinaryIO, gzip.open(self.path, "rb")) if self.is_gzip else self.path.open("rb")

    def check_unchanged(self, ref: TableRef) -> None:
        """Refuse a file that somebody wrote to while it was read.

        Raises:
            SourceError: size or modification time differ from when it was hashed.
        """
        try:
            stat = self.path.stat()
        except OSError as error:
            raise SourceError(
                _cannot(ref, self.name),
                f"it went away while it was read ({error.strerror})",
                "Put it back, then rerun.",
            ) from error
        if (stat.st_size, stat.st_mtime_ns) != (self.size_bytes, self.modified_ns):
            raise SourceError(
                _cannot(ref, self.name),
                "it was written to while it was read",
                "Write it under another name and rename it when it is complete, then rerun.",
            )

    def check_gzip(self, ref: TableRef) -> None:
        """Unpack the whole file once, because DuckDB takes a cut or corrupt gzip file for a shorter one.

        Raises:
            SourceError: the stream is cut, or its checksum does not hold.
        """
        try:
            with self.open() as stream:
                while stream.read(_CHUNK):
                    pass
        except (EOFError, OSError, zlib.error) as error:
            raise SourceError(
                _cannot(ref, self.name), f"the gzip stream is damaged ({error})", "Fetch the file again."
            ) from error


def find_files(ref: TableRef, pattern: str, *, root: Path, file_format: str) -> list[Path]:
    """The files of a glob, sorted by name.

    Raises:
        SourceError: there are none, or one is compressed in a way that the format does not have.
    """
    paths = [root / name for name in sorted(glob.glob(pattern, root_dir=root, recursive=True))]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise SourceError(
            f"cannot land {ref.dotted!r}",
            f"no file matches {pattern!r} in {root}",
            "Put the files there or correct 'path' in config/sources.yaml.",
        )
    refused = {".zst", ".bz2", ".xz", ".zip"} | (set() if file_format in _FORMATS_WITH_GZIP else {".gz"})
    for path in paths:
        if path.suffix in refused:
            raise SourceError(
                _cannot(ref, path.name),
                f"a {file_format} file cannot be compressed as {path.suffix!r}",
                "Unpack it" + (" or use gzip." if file_format in _FORMATS_WITH_GZIP else "."),
            )
    return paths


def hash_file(ref: TableRef, path: Path, *, root: Path, progress: Callable[[str], None]) -> SourceFile:
    """Read a file's identity: SHA-256 of its bytes.

    Raises:
        SourceError: it cannot be read, or has no content.
    """
    name = _relative(path, root)
    try:
        stat = path.stat()
        if stat.st_size > 256 * _CHUNK:
            progress(f"hashing {name}, {stat.st_size / 1e6:,.0f} MB")
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise SourceError(
            _cannot(ref, name), f"it cannot be read ({error.strerror})", "Check its permissions."
        ) from error
    found = SourceFile(path, name, digest.hexdigest(), stat.st_size, stat.st_mtime_ns)
    if not stat.st_size or (found.is_gzip and _unpacks_to_nothing(found)):
        raise SourceError(
            _cannot(ref, name), "it is empty, without even a header", "Export it again, or delete it if that is right."
        )
    return found


def _unpacks_to_nothing(file: SourceFile) -> bool:
    try:
        with file.open() as stream:
            return not stream.read(1)
    except (EOFError, OSError, zlib.error):
        return False  # damaged: check_gzip says so


def _relative(path: Path, root: Path) -> str:
    relative = os.path.relpath(path, root)
    return str(path) if relative.startswith("..") else relative


def _cannot(ref: TableRef, name: str) -> str:
    return f"cannot land {name!r} in {ref.dotted!r}"
