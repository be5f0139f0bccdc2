"""Programs of Go that the tests run, built once; the standard library and pytest are all that this needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAMS = {
    "act": "github.com/nektos/act@v0.2.89",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
}


def program(name: str) -> Path:
    """Where a program of Go is, built on first use and kept for later runs."""
    package, _, version = PROGRAMS[name].partition("@")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dml" / "go"
    folder = cache / f"{name}-{version}"
    if not (folder / name).is_file():
        if not shutil.which("go"):
            pytest.skip(f"there is no Go here to build {name} with: install it (golang-go)")
        environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "-mod=mod", "GOCACHE": str(cache / "build")}
        # Debian's Go is older than act asks for: it then fetches a newer one, from where act itself comes from.
        environment["GOTOOLCHAIN"] = "auto"
        built = subprocess.run(
            ["go", "install", f"{package}@{version}"], env=environment, capture_output=True, text=True, check=False
        )
        shutil.rmtree(cache / "build", ignore_errors=True)
        if built.returncode:
            pytest.skip(f"Go cannot build {name} here: {built.stderr.strip().splitlines()[-1]}")
    return folder / name
