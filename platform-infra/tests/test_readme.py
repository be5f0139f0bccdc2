"""The README tells the truth about this folder."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_of_the_readme_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_readme_lists_the_sessions_that_nox_has() -> None:
    spec = importlib.util.spec_from_file_location("this_noxfile", ROOT / "noxfile.py")
    assert spec
    assert spec.loader
    noxfile = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(noxfile)
    sessions = {
        value.name or name for name, value in vars(noxfile).items() if type(value).__module__ == "nox._decorators"
    }
    assert set(re.findall(r"^\| `([\w-]+)` \|", README, re.MULTILINE)) == sessions
