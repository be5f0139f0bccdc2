"""What the tests run: programs, a project that a variable names, small repositories."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import acting
import pytest
from programs import program
from projects import Project, prepare
from small import Runner


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
