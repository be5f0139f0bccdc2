"""The transaction, and the snapshot that replaces files, as pyiceberg should make them."""

from __future__ import annotations

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update import TableUpdate
from pyiceberg.table.update.snapshot import _OverwriteFiles


class OnceAppliedTransaction(Transaction):
    """A transaction that applies its updates once, and not each time that the metadata is looked at.

    pyiceberg 0.12 copies all of a table's metadata, every snapshot of its history, some thirty times a commit.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._applied: tuple[tuple[TableUpdate, ...], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with the updates so far."""
        if self._applied is None or self._applied[0] is not self._updates:
            self._applied = (self._updates, super().table_metadata)
        return self._applied[1]


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
