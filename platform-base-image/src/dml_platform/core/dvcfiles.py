"""What DVC has written down in a project's own files, read without DVC: part of every run record.

What does not belong here: anything that calls DVC; the package ``dvc`` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PIPELINE, LOCK = "dvc.yaml", "dvc.lock"
_NOT_SEARCHED = frozenset({"target", "node_modules", "__pycache__"})


def uses_dvc(root: Path) -> bool:
    """Whether DVC was set up in a folder."""
    return (root / ".dvc" / "config").is_file()


def read_hashes(root: Path) -> dict[str, str]:
    """Every file that DVC tracks below ``root`` or that a stage read, by its path, with the hash that DVC keeps.

    A file that is damaged counts as none: it must not stop a run, and ``dml dvc check`` names it.
    """
    if not uses_dvc(root):
        return {}
    found: dict[str, str] = {}
    for path in _tracking_files(root):
        folder = path.parent.relative_to(root)
        for entry in _entries(path):
            if isinstance(entry, dict) and (value := entry.get("md5") or entry.get("etag")) and "path" in entry:
                found[os.path.normpath(folder / str(entry["path"]))] = str(value)
    return dict(sorted(found.items()))


def _tracking_files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".") and name not in _NOT_SEARCHED]
        yield from (Path(folder, name) for name in files if name == LOCK or name.endswith(".dvc"))


def _entries(path: Path) -> list[Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if path.name != LOCK:
            return list(content["outs"])
        stages = (content.get("stages") or {}).values()
        return [entry for stage in stages for kind in ("deps", "outs") for entry in stage.get(kind) or []]
    except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return []
