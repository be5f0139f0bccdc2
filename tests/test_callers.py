"""The files that call the reusable workflows are the examples of ci-templates, word for word: one test covers all."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "ci-templates" / "examples"
CALLERS = {
    "project-sales": "project",
    "project-template/template": "project",
    "platform-base-image": "library",
    "platform-infra": "library",
}


@pytest.mark.parametrize("folder", CALLERS)
def test_a_folders_callers_are_the_examples(folder: str) -> None:
    for example in sorted((EXAMPLES / CALLERS[folder]).glob("*.yml")):
        caller = ROOT / folder / ".github" / "workflows" / example.name
        assert caller.read_text() == example.read_text(), f"cp {example} {caller}"


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def test_what_has_no_wheel_is_released_by_the_same_workflow() -> None:
    """Everything that others name by a version has a tag that makes its release."""
    (example,) = jobs(EXAMPLES / "library" / "release.yml").values()
    for name in ("project-template/.github/workflows/release.yml", "ci-templates/.github/workflows/release-here.yml"):
        (own,) = jobs(ROOT / name).values()
        assert own == {key: value for key, value in example.items() if key != "with"}, name


def test_the_base_image_is_made_by_the_workflow_of_the_projects() -> None:
    own = jobs(ROOT / "platform-base-image/.github/workflows/image.yml")["image"]
    example = jobs(EXAMPLES / "project" / "image.yml")["image"]
    assert own["uses"] == example["uses"]
    assert own["permissions"] == example["permissions"]
    # Every session that the workflow calls is there.
    called = re.findall(r"nox --session (\w+)", (ROOT / "ci-templates/.github/workflows/image.yml").read_text())
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "platform-base-image/noxfile.py").read_text(), re.MULTILINE)
    assert {*called, "environment"} <= set(sessions)


def test_no_workflow_of_the_tree_has_what_zizmor_finds() -> None:
    program = shutil.which("zizmor", path=str(Path(sys.executable).parent)) or shutil.which("zizmor")
    if program is None:
        pytest.skip("zizmor is not in this environment: ./dml test installs it")
    folders = sorted(str(path.relative_to(ROOT)) for path in [ROOT / ".github", *ROOT.glob("*/.github")])
    command = [program, "--offline", "--quiet", "--persona=pedantic", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
