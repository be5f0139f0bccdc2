"""Every combination of answers, rendered once."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest

TEMPLATE = Path(__file__).parents[1]
NAME = "marketing"
SOURCES = [
    list(chosen) for n in (1, 2, 3) for chosen in itertools.combinations(["files", "connector", "connection"], n)
]
CONNECTION = "18dccc91-0ab1-4f72-9ed7-0b8fc27c5826"

Answers = dict[str, Any]
Rendered = Callable[[Answers], Path]


def make_answers(sources: list[str], sample_model: bool, notebooks: bool, dvc_remote: str) -> Answers:
    answers: Answers = {"name": NAME, "owner": "team:marketing", "alerts": "marketing-data@example.com"}
    answers |= {"sources": sources, "sample_model": sample_model, "notebooks": notebooks, "dvc_remote": dvc_remote}
    if "connection" in sources:
        answers["connection_id"] = CONNECTION
    if dvc_remote == "s3":
        answers["dvc_url"] = "s3://dvc/marketing"
    return answers


# What work here leaves behind.
MADE = shutil.ignore_patterns(".git", ".nox", ".venv", "__pycache__", ".*_cache")
COMBINATIONS = [
    make_answers(*chosen)
    for chosen in itertools.product(SOURCES, (True, False), (True, False), ("none", "local", "s3"))
]


def describe(answers: Answers) -> str:
    words = [*answers["sources"], answers["dvc_remote"]]
    return "-".join(words + [name for name in ("sample_model", "notebooks") if answers[name]])


def render(folder: Path, answers: Answers, template: Path = TEMPLATE) -> Path:
    """Render as `copier copy --defaults` does."""
    copier.run_copy(str(template), str(folder), data=answers, defaults=True, quiet=True)
    return folder


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Gives the folder of a combination, rendered when it is first asked for. Tests only read it."""
    home = tmp_path_factory.mktemp("rendered")
    # As it lies here: of a repository copier would take the newest tag, and remember where that is on this machine.
    template = tmp_path_factory.mktemp("template") / TEMPLATE.name
    shutil.copytree(TEMPLATE, template, ignore=MADE)

    def find(answers: Answers) -> Path:
        folder = home / describe(answers)
        return folder if folder.exists() else render(folder, answers, template)

    return find


@pytest.fixture(autouse=True, scope="session")
def identity() -> None:
    """Somebody for git, whatever this machine's configuration says."""
    values = {"user.name": "Test", "user.email": "test@example.com", "init.defaultBranch": "main"}
    os.environ["GIT_CONFIG_COUNT"] = str(len(values))
    for number, (name, value) in enumerate(values.items()):
        os.environ[f"GIT_CONFIG_KEY_{number}"], os.environ[f"GIT_CONFIG_VALUE_{number}"] = name, value
