"""What can be said of the workflows without running them: their schema, and linters with nothing switched off."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
EXAMPLES = sorted((ROOT / "examples").glob("*/*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
REUSABLE = [path for path in WORKFLOWS if "workflow_call" in path.read_text()]


def check(*command: str) -> str:
    found = shutil.which(command[0], path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{command[0]} is not in this environment: install requirements/dev.txt")
    done = subprocess.run([found, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_zizmor_finds_nothing() -> None:
    check("zizmor", "--offline", "--quiet", "--persona=pedantic", ".github", *map(str, EXAMPLES))


def test_zizmors_auditor_names_only_the_two_jobs_that_have_to_run_on_the_server() -> None:
    """The README says why they are accepted."""
    command = ["zizmor", "--offline", "--quiet", "--persona=auditor", "--format=json", "--no-exit-codes", ".github"]
    found = [
        (finding["ident"], Path(place["symbolic"]["key"]["Local"]["verbatim_path"]).name)
        for finding in json.loads(check(*command, *map(str, EXAMPLES)))
        for place in finding["locations"]
    ]
    assert sorted(found) == [("self-hosted-runner", "deploy.yml"), ("self-hosted-runner", "nightly.yml")]


@pytest.mark.timeout(1200)  # Go builds it on first use
def test_actionlint_finds_nothing(actionlint: Path) -> None:
    check(str(actionlint), "-config-file", ".github/actionlint.yaml", *map(str, [*WORKFLOWS, *EXAMPLES]))


@pytest.mark.parametrize(
    ("schema", "files"), [("github-workflows", [*WORKFLOWS, *EXAMPLES]), ("github-actions", ACTIONS)]
)
def test_the_files_follow_githubs_schema(schema: str, files: list[Path]) -> None:
    check("check-jsonschema", f"--builtin-schema=vendor.{schema}", *map(str, files))


def test_nothing_is_switched_off_for_a_linter() -> None:
    marks = re.compile(r"zizmor: ?ignore|actionlint:|shellcheck disable|yamllint disable")
    for path in [*WORKFLOWS, *ACTIONS, *EXAMPLES]:
        assert not marks.search(path.read_text()), path
    assert not list(GITHUB.rglob("zizmor.y*ml"))


@pytest.mark.parametrize("path", [*REUSABLE, *EXAMPLES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_rights_are_given_by_job_and_said_why(path: Path) -> None:
    text = path.read_text()
    document = yaml.safe_load(text)
    assert document["permissions"] == {}
    assert "pull_request_target" not in text
    for name, job in document["jobs"].items():
        assert "permissions" in job, f"{name} says nothing of its rights"
        assert "uses" in job or "timeout-minutes" in job, f"{name} has no time limit"


@pytest.mark.parametrize("path", REUSABLE, ids=lambda path: path.stem)
def test_every_input_and_secret_is_typed_and_described(path: Path) -> None:
    call = yaml.safe_load(path.read_text())[True]["workflow_call"]
    for name, given in {**call.get("inputs", {}), **call.get("secrets", {})}.items():
        assert given.get("description"), f"{name} is not described"
    for name, given in call.get("inputs", {}).items():
        assert given.get("type"), f"{name} has no type"


def test_no_expression_reaches_a_shell() -> None:
    for path in [*WORKFLOWS, *ACTIONS]:
        document = yaml.safe_load(path.read_text())
        jobs = document.get("jobs", {"action": document.get("runs", {})})
        for job in jobs.values():
            for step in job.get("steps", []):
                assert "${{" not in step.get("run", ""), f"{path.name}: {step.get('name')}"


def test_all_of_one_action_are_of_one_commit() -> None:
    pins: dict[str, set[str]] = {}
    for path in [*WORKFLOWS, *ACTIONS, *EXAMPLES]:
        for name, commit in re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40} # v\S+)", path.read_text()):
            pins.setdefault(name, set()).add(commit)
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_pipe_fails_with_its_first_command(path: Path) -> None:
    """GitHub's own shell is bash without pipefail; the one that is asked for has it."""
    document = yaml.safe_load(path.read_text())
    if any("run" in step for job in document["jobs"].values() for step in job.get("steps", [])):
        assert document["defaults"] == {"run": {"shell": "bash"}}


def groups(*parts: dict[str, Any], caller: str) -> set[str]:
    """Concurrency groups of workflows and jobs, named as GitHub does where ``caller`` is the workflow that started."""
    known = {"github.workflow": caller, "github.ref": "refs/tags/v1", "github.repository": "acme/sales"}
    named = [part["concurrency"]["group"] for part in parts if "concurrency" in part]
    return {re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: known.get(found[1], found[1]), name) for name in named}


def test_no_workflow_waits_for_the_one_that_called_it() -> None:
    """GitHub ends both where they are in one group."""
    called = 0
    for path in [*EXAMPLES, GITHUB / "workflows/release-here.yml"]:
        document = yaml.safe_load(path.read_text())
        for job in document["jobs"].values():
            if found := re.search(r"/workflows/([\w-]+\.yml)", job.get("uses", "")):
                called += 1
                own = groups(document, job, caller=document["name"])
                callee = yaml.safe_load((GITHUB / "workflows" / found[1]).read_text())
                same = own & groups(callee, *callee["jobs"].values(), caller=document["name"])
                assert not same, f"{path.name} and {found[1]} are both in {same}"
    assert called


def test_a_deploy_that_waits_for_somebody_holds_no_build() -> None:
    """What holds the group of the builds ends with the build, and one that is pushed is not cancelled by the next."""
    document = yaml.safe_load((ROOT / "examples/project/image.yml").read_text())
    image, deploy = document["jobs"]["image"], document["jobs"]["deploy"]
    callee = yaml.safe_load((GITHUB / "workflows/deploy.yml").read_text())
    builds = groups(image, caller="image")
    assert builds
    assert not builds & groups(document, deploy, callee, *callee["jobs"].values(), caller="image")
    assert image["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"
    builder = yaml.safe_load((GITHUB / "workflows/image.yml").read_text())
    assert not any("environment" in job for job in builder["jobs"].values()), "somebody has to agree to a build"


@pytest.mark.parametrize("name", ["project-ci", "image"])
def test_the_check_that_protects_a_branch_knows_every_job(name: str) -> None:
    jobs = yaml.safe_load((GITHUB / f"workflows/{name}.yml").read_text())["jobs"]
    assert jobs["result"]["if"] == "always()"
    assert set(jobs) - {*jobs["result"]["needs"], "result"} <= {"comment"}, "nothing depends on what a comment says"
