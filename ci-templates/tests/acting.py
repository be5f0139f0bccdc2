"""Workflows run for real on this machine: act in host mode, small stand-ins for the actions that GitHub would fetch.

What the stand-ins do is in `standins/`; what act cannot do is in the README.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STANDINS = Path(__file__).parent / "standins"
_FOUND = re.search(r"uses: ([\w-]+/ci-templates)/", (ROOT / "examples/project/ci.yml").read_text())
assert _FOUND, "the example of a project calls no workflow of this repository"
OWN = _FOUND[1]
REPOSITORY = "acme/project"
_PINNED = re.compile(r"uses: ([\w.-]+/[\w.-]+)(?:/[\w./-]+)?@([0-9a-f]{40})")
_TIMEOUT_S = 1500


@dataclass
class Outcome:
    """What act said: results by job, what each printed, its summary, its seconds; ``text`` is for a failing test."""

    code: int
    text: str
    results: dict[str, str] = field(default_factory=dict)
    printed: dict[str, list[str]] = field(default_factory=dict)
    summaries: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, int] = field(default_factory=dict)

    def said(self, job: str) -> str:
        """All lines of a job."""
        return "\n".join(line for name, lines in self.printed.items() if name.endswith(job) for line in lines)

    def summary(self, job: str) -> str:
        """What a job wrote for people."""
        return "".join(text for name, text in self.summaries.items() if name.endswith(job))

    @property
    def passed(self) -> set[str]:
        """The jobs that passed, by the last part of their name."""
        return {name.rpartition("/")[2] for name, result in self.results.items() if result == "success"}

    @property
    def failed(self) -> set[str]:
        """The jobs that failed, by the last part of their name."""
        return {name for name, result in self.results.items() if result == "failure"}


def templates(folder: Path, *, real_setup: bool = False) -> Path:
    """A copy of this repository for act; the set-up action is a stand-in, which takes the tests' own environment."""
    target = folder / "ci-templates"
    shutil.copytree(ROOT / ".github", target / ".github")
    if not real_setup:
        shutil.copytree(STANDINS / "setup", target / ".github" / "actions" / "setup", dirs_exist_ok=True)
    return target


def run(
    act: Path,
    repository: Path,
    event: str,
    payload: dict[str, Any],
    *,
    workflow: str,
    folder: Path,
    own: Path,
    variables: dict[str, str] | None = None,
    secrets: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    one_by_one: bool = False,
) -> Outcome:
    """Run one workflow of a repository.

    Args:
        act: the program.
        payload: what GitHub would say of the event.
        folder: takes what the run leaves: `artifacts`, `caches`, what the stand-in for `gh` was asked. Programs in its
            `programs` come before this machine's.
        own: this repository or a copy of it; what mypy finds out is kept beside.
        one_by_one: no two jobs at the same time.
    """
    for name in ("artifacts", "caches"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    event_file = folder / "event.json"
    event_file.write_text(json.dumps(payload))
    command = [str(act), event, "--workflows", f".github/workflows/{workflow}", "--eventpath", str(event_file)]
    for label in ("ubuntu-24.04", "self-hosted"):
        command += ["--platform", f"{label}=-self-hosted"]
    command += ["--json", "--no-cache-server", "--action-offline-mode"]
    if one_by_one:
        command += ["--concurrent-jobs", "1"]
    command += ["--cache-server-path", str(folder / "none"), "--action-cache-path", str(folder / "actions")]
    for place in _local(repository, own):
        command += ["--local-repository", place]
    # dbt's hub, which a project takes where nothing else is said, is not of this machine.
    for name, value in ({"DML_DBT_PACKAGES_MIRROR": "none"} | (variables or {})).items():
        command += ["--var", f"{name}={value}"]
    for name, value in (secrets or {"GITHUB_TOKEN": "none"}).items():
        command += ["--secret", f"{name}={value}"]
    done = subprocess.run(
        command,
        cwd=repository,
        env=_environment(folder, own) | (environment or {}),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    (folder / "act.log").write_text(done.stdout + done.stderr)
    return _read(done)


def _local(repository: Path, own: Path) -> list[str]:
    """Every action and workflow that is named, and where on this machine it is."""
    texts = [path.read_text() for root in (repository, own) for path in (root / ".github").rglob("*.yml")]
    found = {match.groups() for text in texts for match in _PINNED.finditer(text)}
    places = []
    for name, commit in sorted(found):
        place = own if name.endswith("/ci-templates") else STANDINS / name.partition("/")[2]
        places.append(f"{name}@{commit}={place}")
    return places


def _environment(folder: Path, own: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DML_", "GITHUB_", "ACT", "AWS_"))}
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    _stand_in_for_gh(programs / "gh", folder)
    _stand_in_for_bash(programs / "bash")
    return {
        **kept,
        "XDG_CONFIG_HOME": str(folder / "config"),
        # Types are checked from nothing only once, or never, where whoever runs the tests names what mypy knows.
        "MYPY_CACHE_DIR": os.environ.get("MYPY_CACHE_DIR") or str(own.parent / "mypy"),
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "TEST_ENVIRONMENT": sys.prefix,
        "TEST_ARTIFACTS": str(folder / "artifacts"),
        "TEST_CACHES": str(folder / "caches"),
        "GITHUB_REPOSITORY": REPOSITORY,
    }


def _stand_in_for_bash(path: Path) -> None:
    """A step that fails ends a moment later: act closes its terminal at once, and what it printed last is lost."""
    path.write_text(
        "#!/bin/sh\n"
        f"'{shutil.which('bash')}' \"$@\" && exit\n"
        "code=$?\n"
        # Only act's own call of a step's shell.
        'if [ "$1" = --noprofile ]; then sleep 0.3; fi\n'
        "exit $code\n"
    )
    path.chmod(0o755)


def _stand_in_for_gh(path: Path, folder: Path) -> None:
    """Notes what it is asked, with the files that are named, and says what a test put into `answers`.

    A release that it was asked to create is there then.
    """
    asked = folder / "gh.txt"
    path.write_text(
        "#!/usr/bin/env bash\n"
        "if [[ $1 == release && $2 == view ]]; then\n"
        f"  created=$(grep -s \"^release create $3 \" '{asked}') || exit 1\n"
        "  grep -o '[^/ ]*[.]whl' <<<\"$created\" || true\n"
        "  exit 0\n"
        "fi\n"
        f"printf '%s\\n' \"$*\" >>'{asked}'\n"
        f"answer='{folder}/answers'/\"$1 $2\"\n"
        'if [[ -f $answer ]]; then cat "$answer"; fi\n'
        "while (($#)); do case $1 in "
        f"--body-file | --notes-file) cat \"$2\" >>'{asked}' ;; "
        f"body=@*) cat \"${{1#body=@}}\" >>'{asked}' ;; "
        "esac; shift; done\n"
    )
    path.chmod(0o755)


def _read(done: subprocess.CompletedProcess[str]) -> Outcome:
    found = Outcome(done.returncode, done.stderr)
    started: dict[str, datetime] = {}
    for line in done.stdout.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        job = str(entry.get("jobID") or "").strip()
        if job and "time" in entry:
            now = datetime.fromisoformat(entry["time"].replace("Z", "+00:00"))
            started.setdefault(job, now)
            found.seconds[job] = round((now - started[job]).total_seconds())
        if entry.get("command") == "summary":
            found.summaries[job] = found.summaries.get(job, "") + entry["content"]
        if entry.get("raw_output") or entry.get("command") in ("error", "warning", "notice"):
            found.printed.setdefault(job, []).append(entry["msg"].rstrip())
        elif "jobResult" in entry:
            found.results[job] = entry["jobResult"]
    found.text += "".join(f"\n== {job}\n" + "\n".join(found.printed.get(job, [])[-40:]) for job in found.failed)
    return found
