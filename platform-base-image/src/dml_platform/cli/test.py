"""``dml test``: the checks of the tree, or of the project that one stands in, by nox."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dml_platform.core.errors import ConfigError


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
    """The nearest upward; from elsewhere, that of the tree whose environment this is."""
    for folder in (here, *here.parents, Path(sys.prefix).parent):
        if (folder / "noxfile.py").is_file():
            return folder / "noxfile.py"
    raise ConfigError(
        "cannot run the tests", f"there is no noxfile.py in or above {here}", "Change into a project's folder."
    )
