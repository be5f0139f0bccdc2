"""The files that call the reusable workflows are the examples of ci-templates, word for word: one test covers all."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_no_workflow_of_the_tree_has_what_zizmor_finds() -> None:
    program = shutil.which("zizmor", path=str(Path(sys.executable).parent)) or shutil.which("zizmor")
    if program is None:
        pytest.skip("zizmor is not in this environment: ./dml test installs it")
    folders = sorted(str(path.relative_to(ROOT)) for path in [ROOT / ".github", *ROOT.glob("*/.github")])
    command = [program, "--offline", "--quiet", "--persona=pedantic", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
