"""Programs and projects that the tests run: Go builds act and actionlint once, a variable names the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import acting
import pytest
from projects import Project, prepare
from small import Runner

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


@pytest.fixture(scope="session")
def actionlint() -> Path:
    return program("actionlint")


@pytest.fixture(scope="session")
def act() -> Path:
    return program("act")


@pytest.fixture(scope="session")
def project_folder() -> Path:
    """The project that the workflows are tried on."""
    source = os.environ.get("TEST_PROJECT")
    if not source:
        pytest.skip("no project to run the workflows on: set TEST_PROJECT to the folder of one")
    if not (Path(sys.executable).parent / "dml").exists():
        pytest.skip("dml-platform is not in this environment: install it beside requirements/dev.txt")
    return Path(source)


@pytest.fixture(scope="session")
def project(project_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project's repository with its published state and its files pushed, as it is before a pull request."""
    return prepare(project_folder, tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository as act sees it, with the set-up action's stand-in."""
    return acting.templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def runner(act: Path, own: Path, tmp_path: Path) -> Runner:
    return Runner(act, own, tmp_path)
