"""JSON files that count only as they were written: what is remembered beside the lake may be missing, never wrong.

A file's first line is a digest of what follows and of ``form``, which names the code that wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def read_marked(path: Path, form: bytes) -> Any:
    """What a file holds; None where there is none, or it is of another form, or not as it was written."""
    try:
        mark, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return json.loads(content) if mark == _mark_of(content, form) else None


def write_marked(path: Path, value: Any, form: bytes) -> None:
    """Write a file whole, or not at all.

    Raises: OSError: it cannot be written.
    """
    content = json.dumps(value, separators=(",", ":")).encode()
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside.write_bytes(_mark_of(content, form) + b"\n" + content)
    beside.replace(path)


def _mark_of(content: bytes, form: bytes) -> bytes:
    return hashlib.sha256(form + content).hexdigest().encode()
