"""The README tells the truth about this folder."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


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
    assert set(re.findall(r"^\| `([a-z_]+)` \|", README, re.MULTILINE)) == sessions


def test_the_readme_shows_the_file_that_a_project_has() -> None:
    (shown,) = re.findall(r"```yaml\n# [^\n]*ci.yml of a project\n(.*?)```", README, re.DOTALL)
    assert shown == (ROOT / "examples/project/ci.yml").read_text()


def test_the_readme_names_every_workflow_and_every_setting_that_an_example_reads() -> None:
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        assert path.stem == "ci" or f"({path.relative_to(ROOT)})" in README
    texts = "".join(path.read_text() for path in (ROOT / "examples").rglob("*.yml"))
    for name in set(re.findall(r"(?:vars|secrets)\.([A-Z_]+)", texts)):
        assert f"`{name}`" in README, name
