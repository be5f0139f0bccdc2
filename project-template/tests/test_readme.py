"""The README tells the truth about this folder."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from conftest import COMBINATIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
QUESTIONS = yaml.safe_load((ROOT / "copier.yml").read_text())


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https:)([^)#]+)\)", README))
def test_every_link_of_the_readme_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_readme_lists_the_sessions_that_nox_has() -> None:
    spec = importlib.util.spec_from_file_location("this_noxfile", ROOT / "noxfile.py")
    assert spec
    assert spec.loader
    noxfile = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(noxfile)
    sessions = {name for name, value in vars(noxfile).items() if type(value).__module__ == "nox._decorators"}
    assert set(re.findall(r"^\| `(\w+)` \|", README.partition("## Checks")[2], re.MULTILINE)) == sessions


def test_the_readme_lists_the_questions_that_are_asked() -> None:
    asked = {name for name, question in QUESTIONS.items() if name[0] != "_" and question.get("when") is not False}
    rows = re.findall(r"^\| (`.+?`) \|", README.partition("## What it asks")[2].partition("\n## ")[0], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == asked


def test_the_readme_counts_the_combinations() -> None:
    assert f"all {len(COMBINATIONS)} combinations" in README
