"""The workflows on a real project, run by act: a good pull request passes, a bad one is stopped where it should be."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import acting
import projects
import pytest
import yaml
from acting import Outcome
from projects import Project

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

Run = Callable[..., Outcome]


@pytest.fixture
def run(act: Path, project: Project, own: Path, tmp_path: Path) -> Run:
    """Open a pull request with some changes, and run the project's own caller of project-ci on it."""

    def call(*changes: Callable[[Path], None], pushed: bool = True) -> Outcome:
        repository, event = projects.pull_request(project, tmp_path, *changes)
        folder = tmp_path / "left"
        project.fill_caches(folder / "caches")
        remote = project.remote if pushed else tmp_path / "another remote"
        remote.mkdir(exist_ok=True)
        variables = {"DVC_REMOTE_URL": str(remote)}
        return acting.run(
            act, repository, "pull_request", event, workflow="ci.yml", folder=folder, own=own, variables=variables
        )

    return call


def test_a_good_pull_request_passes_and_is_told_what_it_does(run: Run, project: Project, tmp_path: Path) -> None:
    config = yaml.safe_load((project.root / "config/project.yaml").read_text())
    owner = config["owner"].removeprefix("team:")

    outcome = run(projects.touch_mart)

    assert outcome.failed == set(), outcome.text
    assert outcome.code == 0
    told = (tmp_path / "left/gh.txt").read_text()
    assert "pr comment 7 --repo acme/project --body-file comment.md\n<!-- project-ci: change -->\n" in told
    assert "Came out as published: " in told
    assert re.search(rf"^Owners: .*{re.escape(owner)}", told, re.MULTILINE), "nobody is told who owns it"
    # One sentence in place of Elementary's report, which is not installed here.
    assert len(re.findall("^> .*no report of it", told, re.MULTILINE)) == 1
    assert not (tmp_path / "left/artifacts/change/elementary.html").exists()
    summary = outcome.summary("change")
    assert told.endswith(summary), "the summary does not say what the comment says"
    assert re.match(r"## \w+: good\n", summary)
    result = json.loads((tmp_path / "left/artifacts/change/change.json").read_text())
    assert result["is_good"]
    assert len(result["modified"]["own"]) == 1
    assert result["tests"]


def test_each_fault_is_stopped_by_its_own_job_with_what_to_do(run: Run, tmp_path: Path) -> None:
    outcome = run(
        projects.touch_mart,
        projects.fail_a_test,
        projects.unformat_a_file,
        projects.add_a_secret,
        pushed=False,
    )

    assert outcome.failed == {"lint", "secrets", "change", "files", "result"}, outcome.text
    assert "Would reformat: project_" in outcome.said("lint") or "unformatted" in outcome.said("lint")
    assert "Potential secrets about to be committed" in outcome.said("secrets")
    assert "config/planted.env:1" in outcome.said("secrets")
    assert "1 blocking check failed: assert_planted (Got 3 results" in outcome.said("change")
    assert re.search(r"dml sql --run ci\w+ --test assert_planted", outcome.said("change"))
    assert "dml dvc repro && dml dvc push" in outcome.said("files")
    # What to do is the last that a job says, and the branch protection's one check says what to type for each.
    assert "'ruff format .' mends it" in outcome.said("lint")
    assert "have it replaced where it was pushed" in outcome.said("secrets")
    for job, command in {
        "lint": "nox -s lint -- origin/main",
        "secrets": "nox -s secrets -- origin/main",  # pragma: allowlist secret
        "change": "nox -s change -- origin/main",
        "files": "nox -s files",
    }.items():
        assert f"{job}: failure. It says the same and what to do on a laptop: {command}" in outcome.said("result")
        assert f"- {job}: failure. On a laptop: `{command}`" in outcome.summary("result")
    assert "tests" not in outcome.summary("result")
    told = (tmp_path / "left/gh.txt").read_text()
    assert "cannot be merged yet" in told
    assert "| `assert_planted` | test |" in told
    assert "first `nox -s change -- origin/main`: it names a RUN there. Look at the failing rows with:" in told


def test_a_broken_contract_is_stopped_before_anything_is_published(run: Run, tmp_path: Path) -> None:
    outcome = run(projects.break_the_contract)

    assert outcome.failed == {"change", "result"}, outcome.text
    assert "contract" in outcome.said("change")
    told = (tmp_path / "left/gh.txt").read_text()
    assert "cannot be merged yet" in told
    assert "enforced contract that failed" in told
    # Which column, what it is and what was promised, and what to do.
    assert re.search(r"^ *\| \w+ +\| \w+ +\| BLOB +\|", told, re.MULTILINE)
    assert "Correct it and run again; 'dml sql --run RUN' opens the run's DuckDB file." in told


def test_on_the_main_branch_files_are_pushed_and_the_state_is_left_for_pull_requests(
    act: Path, own: Path, project: Project, tmp_path: Path
) -> None:
    repository = tmp_path / project.root.name
    shutil.copytree(project.root, repository, symlinks=True)
    projects.git(repository, "clean", "-fdxq")
    remote, folder = tmp_path / "another remote", tmp_path / "left"
    remote.mkdir()
    project.fill_caches(folder / "caches")
    event = {
        "ref": "refs/heads/main",
        "after": project.base,
        "repository": {"full_name": acting.REPOSITORY, "default_branch": "main"},
    }
    variables = {"DVC_REMOTE_URL": str(remote)}

    outcome = acting.run(act, repository, "push", event, workflow="ci.yml", folder=folder, own=own, variables=variables)

    assert outcome.failed == set(), outcome.text
    assert {"lint", "secrets", "tests", "change", "push-files", "result"} <= outcome.passed
    pushed, there = (sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in (remote, project.remote))
    assert pushed == there != []
    assert not (folder / "gh.txt").exists(), "there is no pull request to comment on"
    # The key under which pull requests look is that of this commit: the state is there already, and nothing differs.
    assert f"the published state is here already, made from {project.base[:12]}" in outcome.said("change")
    assert "No model, seed or test of dbt differs from `HEAD`." in outcome.summary("change")


def test_an_anomaly_that_elementary_finds_stops_a_pull_request(
    act: Path, own: Path, project_folder: Path, tmp_path: Path
) -> None:
    mirror = os.environ.get("TEST_DBT_PACKAGES_MIRROR")
    if not mirror:
        pytest.skip("no mirror of dbt packages: set TEST_DBT_PACKAGES_MIRROR")
    mart = f"{project_folder.name.removeprefix('project-')}/marts/fct_watched"
    # Seven builds: before, nothing can be so far from the others.
    variables = {"DML_DBT_PACKAGES_MIRROR": mirror}
    watched = projects.prepare(
        project_folder,
        tmp_path / "base",
        with_files=False,
        plant=projects.watch_a_table,
        commands=[["elementary", "install"], ["ci", "prepare"]],
        variables=variables,
    )
    (lake,) = watched.state.glob("ci/*/*/lake")
    for _ in range(6):
        command = [sys.executable, "-m", "dml_platform.cli", "run", "--select", mart]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DML_")}
        environment |= {"DML_HOME": str(lake.parent), **variables}
        subprocess.run(command, cwd=watched.root, env=environment, check=True)
    outcomes = []
    for name, change in (("good", projects.touch_mart), ("bad", projects.lose_rows)):
        folder = tmp_path / name
        repository, event = projects.pull_request(watched, folder, change)
        watched.fill_caches(folder / "left/caches")
        outcomes.append(
            acting.run(
                act,
                repository,
                "pull_request",
                event,
                workflow="ci.yml",
                folder=folder / "left",
                own=own,
                variables=variables,
            )
        )
    good, bad = outcomes

    assert "change" not in good.failed, good.text
    assert bad.failed == {"change", "result"}, bad.text
    assert "volume_anomalies" in bad.said("change")
    told = (tmp_path / "bad/left/gh.txt").read_text()
    assert "elementary_volume_anomalies_fct_watched" in told
    for name in ("good", "bad"):
        page = tmp_path / name / "left/artifacts/change/elementary.html"
        assert page.stat().st_size > 1_000_000, "Elementary's report is not kept"
    # What the page shows is packed into it.
    packed = re.search(r"elementaryData = JSON.parse\(atob\('([^']+)'\)\)", page.read_text())
    assert packed
    results = json.loads(base64.b64decode(packed[1]))["test_results"]
    (found,) = results[f"model.{project_folder.name.removeprefix('project-')}.fct_watched"]
    assert found["metadata"]["test_name"] == "volume_anomalies"
    assert found["metadata"]["latest_run_status"] == "warn"
    assert "Elementary's report of this trial is `elementary.html`" in told


@pytest.mark.images
def test_an_image_that_does_not_load_is_stopped(act: Path, project_folder: Path, own: Path, tmp_path: Path) -> None:
    base = os.environ.get("TEST_BASE_IMAGE")
    if not base or subprocess.run(["docker", "image", "inspect", base], capture_output=True, check=False).returncode:
        pytest.skip("no base image to build a project's image on: set TEST_BASE_IMAGE to one in a Docker engine")
    project = projects.prepare(project_folder, tmp_path / "base", with_files=False, commands=())
    repository, event = projects.pull_request(project, tmp_path / "branch", projects.break_the_definitions)
    # What is signed in there stays out of the settings of whoever runs the tests.
    environment = {"DOCKER_CONFIG": str(tmp_path / "docker")}

    outcome = acting.run(
        act,
        repository,
        "pull_request",
        event,
        workflow="image.yml",
        folder=tmp_path / "left",
        own=own,
        variables={"BASE_IMAGE": base},
        environment=environment,
    )

    tag = f"ghcr.io/{acting.REPOSITORY}"
    left = subprocess.run(["docker", "images", "--quiet", tag], capture_output=True, text=True, check=False).stdout
    subprocess.run(["docker", "image", "rm", "--force", *left.split()], capture_output=True, check=False)
    assert outcome.failed == {"try", "result"}, outcome.text
    assert "its code server ended" in outcome.said("try")
    assert "planted" in outcome.said("try")
    assert "The image: failure." in outcome.said("result")
