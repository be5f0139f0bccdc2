"""The fake OpenMetadata as a process of its own: what it stands on is in the publisher's environment only."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from dml_platform.openmetadata.program import SOURCE

FAKE = Path(__file__).parents[2] / "openmetadata" / "tests"


class CatalogServer:
    """The process, and questions to it."""

    def __init__(self, python: str) -> None:
        code = (
            f"import sys; sys.path[:0] = [{str(FAKE)!r}, {str(SOURCE.parent)!r}]; import serve_fake; serve_fake.main()"
        )
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()

    def ask(self, question: str) -> list[str]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        found: list[str] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(timeout=60)
