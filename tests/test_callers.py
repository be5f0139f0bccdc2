"""Who calls the reusable workflows has the examples of ci-templates, word for word; linters read all workflows."""

import re
import runpy
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
GITHUB = sorted(
    str(path.relative_to(ROOT))
    for pattern in (".github", "*/.github", "*/template/.github")
    for path in ROOT.glob(pattern)
)
WORKFLOWS = [
    str(path.relative_to(ROOT)) for folder in GITHUB for path in sorted((ROOT / folder / "workflows").iterdir())
]


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
        assert own == {key: value for key, value in example.items() if key not in ("with", "secrets")}, name


def test_the_base_image_is_made_by_the_workflow_of_the_projects() -> None:
    own = jobs(ROOT / "platform-base-image/.github/workflows/image.yml")["image"]
    example = jobs(EXAMPLES / "project" / "image.yml")["image"]
    assert own["uses"] == example["uses"]
    assert own["permissions"] == example["permissions"]
    # Every session that the workflow calls is there.
    called = re.findall(r"nox --session (\w+)", (ROOT / "ci-templates/.github/workflows/image.yml").read_text())
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "platform-base-image/noxfile.py").read_text(), re.MULTILINE)
    assert {*called, "environment"} <= set(sessions)


def check(name: str, *command: str) -> str:
    """What a linter of the environment prints, which has to find nothing."""
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not in this environment: ./dml test installs it")
    done = subprocess.run([program, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_looked_at_are_all_workflows_of_the_tree(listed: list[str]) -> None:
    assert sorted(name for name in listed if "/.github/workflows/" in f"/{name}") == sorted(WORKFLOWS)
    assert set(CALLERS) | {".", "project-template", "ci-templates"} == {f.rpartition("/")[0] or "." for f in GITHUB}
    # As the template has them, so has a project that is rendered: nothing in them is an answer.
    assert not [name for name in WORKFLOWS if name.endswith(".jinja")]


def test_nothing_is_switched_off_for_a_linter(listed: list[str]) -> None:
    marks = re.compile(r"zizmor: ?ignore|actionlint:|shellcheck disable|yamllint disable")
    assert [name for name in WORKFLOWS if marks.search((ROOT / name).read_text())] == []
    assert [name for name in listed if re.search(r"(^|/)\.?zizmor\.ya?ml$", name)] == []


def test_no_workflow_of_the_tree_has_what_zizmor_finds() -> None:
    check("zizmor", "--offline", "--quiet", "--persona=pedantic", *GITHUB)


@pytest.mark.timeout(1200)  # Go builds it on first use
def test_no_workflow_of_the_tree_has_what_actionlint_finds() -> None:
    program = runpy.run_path(str(ROOT / "ci-templates/tests/programs.py"))["program"]("actionlint")
    check(str(program), "-config-file", "ci-templates/.github/actionlint.yaml", *WORKFLOWS)


def test_every_workflow_of_the_tree_follows_githubs_schema() -> None:
    check("check-jsonschema", "--builtin-schema=vendor.github-workflows", *WORKFLOWS)
