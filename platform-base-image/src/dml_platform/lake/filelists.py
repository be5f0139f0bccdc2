"""The data files of snapshots that were looked up before, so that hundreds of manifests are not read for one model.

A snapshot's manifest list has a name of its own, and neither it nor what it names ever changes: so what it led to once
is what it leads to. What the file here holds counts only as it was written. Access is still decided by the store: the
table's metadata and the data files are read as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from dml_platform.core.marked import read_marked, write_marked

logger = logging.getLogger(__name__)

# The paths, and whether a file of them carries row deletes.
Files: TypeAlias = "tuple[list[str], bool]"
_FORM = b"files of snapshots, 1\n"

_active: FileLists | None = None


class FileLists:
    """What manifest lists led to; ``save`` keeps what was used since ``load``."""

    def __init__(self) -> None:
        self._known: dict[str, Files] = {}
        self._used: dict[str, Files] = {}

    @classmethod
    def load(cls, path: Path) -> FileLists:
        """What a file holds; nothing where it is not as it was written."""
        lists = cls()
        known = read_marked(path, _FORM) or {}
        lists._known = {name: (paths, has_deletes) for name, (paths, has_deletes) in known.items()}
        return lists

    def save(self, path: Path) -> None:
        """Keep what was used. Where nothing can be written, the next process looks it up again."""
        if self._used == self._known:
            return
        try:
            write_marked(path, self._used, _FORM)
        except OSError as error:
            logger.warning("which files the snapshots have could not be kept in %s: %s", path, error)

    def find(self, manifest_list: str, look_up: Callable[[], Files]) -> Files:
        """What a manifest list leads to."""
        found = self._used.get(manifest_list) or self._known.get(manifest_list) or look_up()
        self._used[manifest_list] = found
        return found


@contextmanager
def remembered(path: Path) -> Iterator[None]:
    """Take from a file what snapshots of this process lead to, and keep there what was looked up."""
    global _active
    if _active is not None:
        yield
        return
    _active = lists = FileLists.load(path)
    try:
        yield
    finally:
        _active = None
        lists.save(path)


def find_files(manifest_list: str, look_up: Callable[[], Files]) -> Files:
    """What a manifest list leads to: remembered, where somebody remembers, else looked up."""
    return _active.find(manifest_list, look_up) if _active is not None else look_up()
