"""How old a source may be, as its YAML says, read from the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dml_platform.core.naming import TableRef

_HOURS = {"minute": 1 / 60, "hour": 1.0, "day": 24.0}


def source_limits(manifest: Path) -> Iterator[tuple[TableRef, str, float]]:
    """Each source that has a freshness: its table, the column with the time, and the hours after which it is late.

    That is ``warn_after``, or ``error_after`` where there is no other.
    """
    document: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    for source in document["sources"].values():
        freshness = source.get("freshness") or {}
        column = source.get("loaded_at_field")
        for name in ("warn_after", "error_after"):
            limit = freshness.get(name) or {}
            if column and limit.get("count") and limit.get("period"):
                ref = TableRef(source["database"], source["schema"], source["identifier"])
                yield ref, column, float(limit["count"]) * _HOURS[limit["period"]]
                break
