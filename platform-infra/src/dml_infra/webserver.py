"""Dagster's webserver that follows its workspace file by itself: `python -m dml_infra.webserver …`, upstream's options.

Upstream reads the file again only when somebody with the right to reload asks, and a read-only webserver gives that
right to nobody: viewers would see the containers of before the last deploy.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver import cli

INTERVAL_S = 2.0
_log = logging.getLogger("dagster-webserver")


class FollowingContext(WorkspaceProcessContext):
    """The workspace of a webserver; it is read again when one of its files was replaced."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        self._ended = threading.Event()
        threading.Thread(target=self._follow, name="follow-workspace", daemon=True).start()
        return entered

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        super().__exit__(*error)

    def _follow(self) -> None:
        target = self.workspace_load_target
        files = [Path(path) for path in target.paths] if isinstance(target, WorkspaceFileTarget) else []
        seen = _versions(files)
        while not self._ended.wait(INTERVAL_S):
            found = _versions(files)
            if found == seen:
                continue
            try:
                self.refresh_workspace()
                seen = found
            except Exception:  # noqa: BLE001 -- a half-made file of somebody's editor, a server that is gone: try again
                _log.exception("cannot read the workspace again; trying once more in %s s", INTERVAL_S)


def _versions(files: list[Path]) -> list[tuple[int, int] | None]:
    found: list[tuple[int, int] | None] = []
    for file in files:
        try:
            status = os.stat(file)
            found.append((status.st_ino, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


def main() -> None:
    """Run upstream's program with the following workspace."""
    setattr(cli, "WorkspaceProcessContext", FollowingContext)  # noqa: B010 -- to replace a class is the point
    cli.main()


if __name__ == "__main__":
    main()
