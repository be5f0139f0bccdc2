"""The snapshot that replaces files, as pyiceberg should make it."""

from __future__ import annotations

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Transaction
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _OverwriteFiles


class ReplaceFiles(_OverwriteFiles):
    """An overwrite that leaves dead manifests behind.

    pyiceberg 0.12 carries along every manifest in which nothing is deleted now, also those in which nothing is alive:
    a table that is replaced daily gets slower to read and to replace each day. Java's writer drops them too.
    """

    def __init__(self, transaction: Transaction, *, branch: str, properties: dict[str, str]) -> None:
        super().__init__(
            operation=Operation.OVERWRITE,
            transaction=transaction,
            io=transaction._table.io,
            branch=branch,
            snapshot_properties=properties,
        )

    def _existing_manifests(self) -> list[ManifestFile]:
        return [m for m in super()._existing_manifests() if m.has_added_files() or m.has_existing_files()]
