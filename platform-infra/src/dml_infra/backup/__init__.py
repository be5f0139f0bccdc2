"""Backup and restore of a whole installation: databases, objects, registry and secrets, taken while runs go on."""

from dml_infra.backup.create import backup, prune, verify
from dml_infra.backup.files import new_identity
from dml_infra.backup.manifest import Manifest, list_backups
from dml_infra.backup.restore import Restored, restore
from dml_infra.backup.target import Target, open_target

__all__ = [
    "Manifest",
    "Restored",
    "Target",
    "backup",
    "list_backups",
    "new_identity",
    "open_target",
    "prune",
    "restore",
    "verify",
]
