"""The project's own pipeline, run once for all tests that look at what it published."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
DML = [sys.executable, "-m", "dml_platform.cli"]
Dml = Callable[..., "subprocess.CompletedProcess[str]"]


def clean_environment(home: Path) -> dict[str, str]:
    """This process's environment with no setting but the state folder."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("DML_")}
    return kept | {"DML_HOME": str(home)}


@pytest.fixture(scope="session")
def dml() -> Dml:
    """Runs the command line on a state folder, as a person would in the project's folder."""

    def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*DML, *arguments],
            cwd=PROJECT,
            env=clean_environment(home) | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def published_lake(dml: Dml, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder whose lake the whole pipeline has published. Tests only read it."""
    home = tmp_path_factory.mktemp("published lake") / ".dml"
    done = dml(home, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    return home
