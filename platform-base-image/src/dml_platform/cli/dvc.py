"""``dml dvc``: our check, and DVC's own commands in its environment with the settings' remote."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from dml_platform.core.project import get_project
from dml_platform.core.settings import load_settings
from dml_platform.dvc import Dvc, check

CHECKS_FAILED = 3


def run(arguments: Sequence[str], console: Console, errors: Console) -> int:
    """Run ``check`` or one of DVC's commands. Returns: the exit code."""
    if arguments[:1] == ["check"]:
        return _check(arguments[1:], console, errors)
    project = get_project()
    settings = load_settings(project.root)
    dvc = Dvc(project.root, settings, progress=lambda text: errors.print(text, markup=False))
    if not arguments:
        errors.print("'dml dvc check' is ours; all else is DVC's:", markup=False)
    return dvc.call(arguments or ["--help"])


def _check(arguments: Sequence[str], console: Console, errors: Console) -> int:
    parser = argparse.ArgumentParser(
        "dml dvc check",
        description="Files as the lock says, pushed and committed, nothing big in git. Exit code 3: no.",
    )
    parser.add_argument("--json", action="store_true", help="print the faults as JSON")
    parser.add_argument("--project", "-p", help="which project, where several are side by side")
    options = parser.parse_args(list(arguments))
    project = get_project(options.project)
    settings = load_settings(project.root)
    with errors.status("checking files, lock, remote and git"):
        dvc = Dvc(project.root, settings, progress=lambda text: errors.print(text, markup=False))
        found = check(project.root, settings, dvc=dvc)
    if options.json:
        answer = {"project": project.name, "uses_dvc": found is not None, "faults": [asdict(f) for f in found or []]}
        print(json.dumps(answer, indent=2))
    elif found is None:
        console.print(f"project {project.name!r} has no dvc.yaml: nothing to check", markup=False)
    elif not found:
        console.print("files, lock, remote and git agree", markup=False)
    else:
        for finding in found:
            console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    return CHECKS_FAILED if found else 0
