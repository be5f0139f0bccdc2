"""Project stacks by `docker compose` on this host; each text is kept under the state folder's `stacks/`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from dml_infra import engine
from dml_infra.drivers import StackStatus
from dml_infra.installation import Installation

APPLY_TIMEOUT_S = 180


class ComposeDriver:
    """Runs `docker compose up` for a text."""

    name = "compose"

    def __init__(self, installation: Installation) -> None:
        self._folder = installation.state / "stacks"

    def apply(self, stack: str, compose_text: str, env: Mapping[str, str]) -> None:
        """See :class:`StackDriver`. Images must be there already: this never pulls."""
        file = self._file(stack)
        file.parent.mkdir(parents=True, exist_ok=True)
        # The new text replaces the old one only when the engine has taken it.
        draft = file.with_suffix(".next.yaml")
        draft.write_text(compose_text, encoding="utf-8")
        self._compose(stack, draft, "up", "--detach", "--remove-orphans", "--pull=never", "--no-build", env=env)
        os.replace(draft, file)

    def remove(self, stack: str) -> None:
        """See :class:`StackDriver`."""
        for name in self._containers(stack):
            engine.docker("rm", "--force", name)
        shutil.rmtree(self._file(stack).parent, ignore_errors=True)

    def status(self, stack: str) -> StackStatus:
        """See :class:`StackDriver`."""
        services = {
            details["Config"]["Labels"].get("com.docker.compose.service", "?"): details["State"]["Status"]
            for details in engine.containers(f"com.docker.compose.project={stack}")
        }
        exists = self._file(stack).is_file() or bool(services)
        return StackStatus(exists=exists, active=bool(services), services=services)

    def _compose(self, stack: str, file: Path, *args: str, env: Mapping[str, str]) -> None:
        base = ["compose", "--project-name", stack, "--file", str(file), "--project-directory", str(file.parent)]
        engine.docker(*base, *args, timeout_s=APPLY_TIMEOUT_S, env=dict(env))

    def _containers(self, stack: str) -> list[str]:
        return engine.docker("ps", "-aq", f"--filter=label=com.docker.compose.project={stack}").split()

    def _file(self, stack: str) -> Path:
        return self._folder / stack / "compose.yaml"
