"""Which files there are and what is in them: globs, content hashes, whole gzip streams. Parses no rows."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from dml_platform.core.errors import PlatformError, SourceError
from dml_platform.core.naming import TableRef

_CHUNK = 1 << 20
_FORMATS_WITH_GZIP = ("csv", "jsonl", "airbyte")


class LineCounter:
    """Counts the lines of a byte stream, blank ones too, and notes whether a double quote occurs.

    Runs beside every landing, so it only does what costs next to nothing.
    """

    def __init__(self) -> None:
        self._ends = 0
        self._last = b"\n"
        self.has_quote = False

    def update(self, chunk: bytes) -> None:
        """Count one more piece of the stream."""
        self._ends += chunk.count(b"\n")
        self.has_quote = self.has_quote or b'"' in chunk
        self._last = chunk[-1:]

    @property
    def lines(self) -> int:
        """Lines so far, the last one also without a line end."""
        return self._ends + (self._last != b"\n")


@dataclass(frozen=True)
class SourceFile:
    """A file as it was found. ``name`` is relative to the project's folder; ``content`` comes from another thread.

    A copy of an object has the object's address as its name, and its ``etag``.
    """

    path: Path
    name: str
    size_bytes: int
    modified_ns: int
    content: Future[tuple[str, LineCounter]]
    etag: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes; waits until it is known.

        Raises:
            SourceError: the file could not be read.
        """
        return self.content.result()[0]

    @property
    def lines(self) -> LineCounter:
        """The lines of the file's bytes; waits until they are counted."""
        return self.content.result()[1]

    @property
    def is_gzip(self) -> bool:
        """Whether DuckDB will unpack it."""
        return self.path.suffix == ".gz"

    def open(self) -> BinaryIO:
        """Open the content, unpacked."""
        return cast(BinaryIO, gzip.open(self.path, "rb")) if self.is_gzip else self.path.open("rb")

    def count_blank_lines(self) -> int:
        """Count the lines without any character."""
        with self.open() as stream:
            return sum(not line.strip(b"\r\n") for line in stream)

    def check_unchanged(self, ref: TableRef) -> None:
        """Refuse a file that somebody wrote to while it was read.

        Raises:
            SourceError: size or modification time differ from when it was found.
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

    def check_gzip(self, ref: TableRef) -> LineCounter:
        """Unpack the whole file once, because DuckDB takes a cut or corrupt gzip file for a shorter one.

        Returns: the unpacked lines.
        Raises:
            SourceError: the stream is cut, or its checksum does not hold.
        """
        lines = LineCounter()
        try:
            with self.open() as stream:
                while chunk := stream.read(_CHUNK):
                    lines.update(chunk)
            return lines
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
    for path in paths:
        refuse_compression(ref, path.name, path.suffix, file_format=file_format)
    return paths


def refuse_compression(ref: TableRef, name: str, suffix: str, *, file_format: str) -> None:
    """Refuse a file that cannot be unpacked here.

    Raises:
        SourceError: it is compressed in a way that the format does not have.
    """
    has_gzip = file_format in _FORMATS_WITH_GZIP
    if suffix in {".zst", ".bz2", ".xz", ".zip"} | (set() if has_gzip else {".gz"}):
        raise SourceError(
            _cannot(ref, name),
            f"a {file_format} file cannot be compressed as {suffix!r}",
            "Unpack it" + (" or use gzip." if has_gzip else "."),
        )


def open_file(
    ref: TableRef, path: Path, *, root: Path, hashers: Executor, name: str | None = None, etag: str = ""
) -> SourceFile:
    """Look at a file and begin to hash it.

    Args:
        name: what the file is known as; default: its path relative to the root.
    Raises:
        SourceError: it cannot be read, or has no content.
    """
    name = name or _relative(path, root)
    try:
        stat = path.stat()
        is_empty = not stat.st_size or (path.suffix == ".gz" and _unpacks_to_nothing(path))
    except OSError as error:
        raise _unreadable(ref, name, error) from error
    if is_empty:
        raise SourceError(
            _cannot(ref, name), "it is empty, without even a header", "Export it again, or delete it if that is right."
        )
    return SourceFile(path, name, stat.st_size, stat.st_mtime_ns, hashers.submit(_read, ref, path, name), etag)


def _read(ref: TableRef, path: Path, name: str) -> tuple[str, LineCounter]:
    digest, lines = hashlib.sha256(), LineCounter()
    try:
        with path.open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                lines.update(chunk)
    except OSError as error:
        raise _unreadable(ref, name, error) from error
    return digest.hexdigest(), lines


def _unreadable(ref: TableRef, name: str, error: OSError) -> SourceError:
    return SourceError(_cannot(ref, name), f"it cannot be read ({error.strerror})", "Check its permissions.")


def _unpacks_to_nothing(path: Path) -> bool:
    try:
        with gzip.open(path, "rb") as stream:
            return not stream.read(1)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return False  # damaged: check_gzip says so


def _relative(path: Path, root: Path) -> str:
    relative = os.path.relpath(path, root)
    return str(path) if relative.startswith("..") else relative


def _cannot(ref: TableRef, name: str) -> str:
    return f"cannot land {name!r} in {ref.dotted!r}"


class GzipChecks:
    """Checks gzip streams in a thread while DuckDB reads the same files."""

    def __init__(self, ref: TableRef, files: Sequence[SourceFile]) -> None:
        self._ref = ref
        self._files = [file for file in files if file.is_gzip]
        self._error: PlatformError | None = None
        self._lines: dict[SourceFile, LineCounter] = {}
        self._thread = threading.Thread(target=self._check, name="dml-gzip-check", daemon=True)

    def _check(self) -> None:
        try:
            for file in self._files:
                self._lines[file] = file.check_gzip(self._ref)
        except PlatformError as error:
            self._error = error

    def __enter__(self) -> GzipChecks:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        # A damaged stream explains whatever DuckDB made of it better than the error that it led to.
        if isinstance(value, Exception):
            self._thread.join()
            if self._error:
                raise self._error from value

    def finish(self) -> dict[SourceFile, LineCounter]:
        """Wait for the checks.

        Returns: the unpacked lines of each gzip file.
        Raises:
            SourceError: a stream is damaged.
        """
        self._thread.join()
        if self._error:
            raise self._error
        return self._lines
