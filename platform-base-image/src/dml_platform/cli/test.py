"""``dml test``: the checks of the tree, or of the project that one stands in, by nox."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dml_platform.core.errors import ConfigError
from dml_platform.core.project import workspace_root


def run_tests(arguments: list[str], start: Path | None = None) -> int:
    """Run nox's default sessions in this environment.

    Returns: nox's exit code.
    Raises:
        ConfigError: there is no noxfile, or nox is not installed.
    """
    here = (start or Path.cwd()).resolve()
    noxfile = _find_noxfile(here)
    command = [sys.executable, "-m", "nox", "-f", str(noxfile), "--no-venv", *arguments]
    done = subprocess.run(command, cwd=noxfile.parent, check=False)
    return done.returncode


def _find_noxfile(here: Path) -> Path:
    nearest = [folder / "noxfile.py" for folder in (here, *here.parents) if (folder / "noxfile.py").is_file()]
    if not nearest:
        root = workspace_root(here)
        raise ConfigError(
            "cannot run the tests", f"there is no noxfile.py in or above {root}", "Change into a project's folder."
        )
    return nearest[0]
