"""The step of the Dockerfile that installs the publisher to OpenMetadata, in this machine's shell; no Docker."""

import os
import re
import subprocess
from pathlib import Path

import pytest

DOCKERFILE = (Path(__file__).parents[1] / "docker" / "Dockerfile").read_text(encoding="utf-8")


def run_step(folder: Path, openmetadata: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run it with a `dml` that only says how it was called. Returns: what the step did, and what `dml` said."""
    steps = re.findall(r"^RUN ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    [step] = [step for step in steps if "dml catalog install" in step]
    script = re.sub(r"--mount=\S+", "", step.replace("\\\n", " "))
    called = folder / "called"
    (folder / "dml").write_text(
        f'#!/bin/sh\necho "$*, profile $DML_PROFILE, in $DML_OPENMETADATA__CACHE_DIR" >{called}\n'
    )
    (folder / "dml").chmod(0o755)
    environment = dict(re.findall(r"^ENV (DML_OPENMETADATA__CACHE_DIR)=(\S+)$", DOCKERFILE, re.MULTILINE))
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "OPENMETADATA": openmetadata}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    return done, called.read_text() if called.exists() else ""


def test_the_publisher_to_openmetadata_is_installed_where_it_is_asked_for(tmp_path: Path) -> None:
    done, said = run_step(tmp_path, "yes")
    assert done.returncode == 0, done.stderr
    assert said == "catalog install, profile local, in /opt/openmetadata\n"


def test_by_default_it_is_not_part_of_the_image_and_the_build_says_so(tmp_path: Path) -> None:
    [default] = re.findall(r"^ARG OPENMETADATA=(\S+)$", DOCKERFILE, re.MULTILINE)
    done, said = run_step(tmp_path, default)
    assert (done.returncode, said) == (0, "")
    assert "is not part of this image" in done.stdout


@pytest.mark.parametrize("wrong", ["", "true", "YES"])
def test_another_answer_fails_the_build(tmp_path: Path, wrong: str) -> None:
    done, said = run_step(tmp_path, wrong)
    assert (done.returncode, said) == (1, "")
    assert "write yes or no" in done.stderr
