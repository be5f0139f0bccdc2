"""``dml new``: a project from the template: its folder, a first commit, a first run, and what to do next."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from dml_platform.core.dvcfiles import PIPELINE
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.project import STATE_FOLDER, project_root, workspace_root
from dml_platform.core.settings import load_settings

_ANSWERS = ".copier-answers.yml"


def new(
    name: str,
    console: Console,
    *,
    answers: Mapping[str, Any],
    folder: Path | None = None,
    ask: bool = True,
    first_run: bool = True,
) -> int:
    """Make a project.

    Args:
        name: the project's; its folder is ``project-<name>``.
        answers: what is known already, by question; None is not known.
        folder: where its folder is made; default: beside the other projects.
        ask: ask for the rest, where there is a terminal.
        first_run: run its pipeline once, and make the files that DVC tracks.
    Returns: the exit code of the first run.
    Raises:
        PlatformError: the project cannot be made; nothing is left of it.
    """
    from dml_platform.template import find_template, render

    place = (folder or find_place()).expanduser().absolute()
    # A wrong name is refused by the template; until then it must not be a path.
    target = place / f"project-{re.sub(r'[^A-Za-z0-9_-]', '', name)}"
    settings = load_settings()
    _require_room(target)
    _require_git(place)
    template = find_template(settings, place)
    known = {"name": name, **{key: value for key, value in answers.items() if value is not None}}

    def say(text: str) -> None:
        console.print(escape(text), highlight=False)

    render(template, target, known, ask=ask and sys.stdin.isatty(), settings=settings, progress=say)
    chosen: dict[str, Any] = yaml.safe_load((target / _ANSWERS).read_text(encoding="utf-8"))
    _commit(target, chosen)
    console.print(f"[green]made[/] {escape(str(target))}", soft_wrap=True, highlight=False)
    code = _run(target, console) if first_run else 0
    has_files = first_run and _make_files(target, chosen, console)
    steps = _next_steps(target, chosen, has_run=first_run and code == 0, has_files=has_files)
    console.print(steps, markup=False, highlight=False, soft_wrap=True)  # somebody copies its lines
    return code


def find_place() -> Path:
    """Beside the project that one stands in, else in the workspace, else here."""
    here = Path.cwd()
    if inside := project_root(here):
        return inside.parent
    root = workspace_root(here)
    return root if (root / STATE_FOLDER).is_dir() else here


def _require_room(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"cannot make {target.name}",
            f"{target} is there already",
            "Choose another name; a project that exists is brought up to date with 'copier update'.",
        )
    parent = target.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"cannot make {target.name}", f"{parent} cannot be written", "Choose another --folder.")


def _require_git(place: Path) -> None:
    """Before anything is made: the first commit needs a name."""
    if not shutil.which("git"):
        raise ConfigError("cannot make a repository", "there is no git on the PATH", "Install git.")
    asked = _git(place, "var", "GIT_COMMITTER_IDENT")
    if asked.returncode != 0:
        raise ConfigError(
            "cannot make a first commit",
            "git does not know who you are",
            "Tell it: git config --global user.name 'Your Name' and git config --global user.email you@example.com",
        )


def _commit(target: Path, chosen: Mapping[str, Any]) -> None:
    """Make it a repository of its own, also inside a tree that is one."""
    message = f"feat: make {target.name} from the project template {chosen.get('_commit', '')}".rstrip()
    # The hooks of the team come with `pre-commit install`, and somebody's own might not fit.
    commit = [
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "commit.gpgSign=false",
        "commit",
        "--quiet",
        f"--message={message}",
    ]
    for command in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"], commit):
        done = _git(target, *command)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["git gave no reason"]
            raise PermanentError(
                f"cannot make the first commit of {target.name}",
                said[-1],
                f"Its files are in {target}: mend and commit.",
            )


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A hook of the surrounding repository may have called us: its variables would mean that repository.
    kept = {
        name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    return subprocess.run(["git", *arguments], cwd=folder, env=kept, capture_output=True, text=True, check=False)


def _run(target: Path, console: Console) -> int:
    console.print("\n[bold]First run[/]: ingest → land → transform → test → publish")
    command = [sys.executable, "-m", "dml_platform.cli", "run"]
    code = subprocess.run(command, cwd=target, check=False).returncode
    if code:
        console.print(
            f"[red]the first run failed[/] (exit code {code}); the project is made. See above, mend, 'dml run'"
        )
    return code


def _make_files(target: Path, chosen: Mapping[str, Any], console: Console) -> bool:
    """Make what DVC tracks, and push it where that needs no key, so that the project passes its check of them.

    Returns: whether it is all there.
    """
    if not (target / PIPELINE).is_file():
        return False
    needs_key = chosen.get("dvc_remote") != "local"
    with console.status("making the files that DVC tracks"):
        for command in ["repro"] if needs_key else ["repro", "push"]:
            program = [sys.executable, "-m", "dml_platform.cli", "dvc", command]
            done = subprocess.run(program, cwd=target, capture_output=True, text=True, check=False)
            if done.returncode:
                said = " ".join((done.stderr.strip() or done.stdout.strip() or "it gave no reason").split())
                console.print(f"dml dvc {command}: {said[-500:]}", style="red", markup=False, soft_wrap=True)
                return False
    console.print("  [green]✓[/] files that DVC tracks" + ("" if needs_key else ", in its storage"))
    return not needs_key


def _next_steps(target: Path, chosen: Mapping[str, Any], *, has_run: bool, has_files: bool) -> str:
    name, dml = chosen["name"], _command(target)
    first = [(f"{dml} up", "Dagster's UI: lineage, checks, plots")]
    if (target / PIPELINE).is_file() and not has_files:
        first = [*first, (f"{dml} dvc repro && {dml} dvc push", "what DVC tracks, to its storage: nox -s files")]
    first = first if has_run else [(f"{dml} run", "ingest, build, test, publish"), *first]
    steps = [
        (f"cd {_shown(target)}", ""),
        *first,
        (f"{dml} test", "every check of the repository; runs nox"),
        ("git remote add origin <address> && git push -u origin main", "publish it; its workflow checks each change"),
    ]
    lines = ["", "Next", *(f"  {command:<28}{f'  # {why}' if why else ''}".rstrip() for command, why in steps)]
    lines += ["  Replace the samples: README.md says where ('Making it yours').", ""]
    lines += [f"On the server: one file changes, once the image is pushed ({target.name}/README.md, 'Going live')"]
    who = [f"--{key} {chosen[key]}" for key in ("owner", "alerts") if chosen.get(key)]
    lines += [" ".join([f"  {dml} infra register {name} --image <repository>@sha256:<digest>", *who])]
    return "\n".join(lines)


def _command(target: Path) -> str:
    """How this command is typed in the project's folder: by the launcher of its tree, where ``dml`` is on no path."""
    if shutil.which("dml") or not os.access(target.parent / "dml", os.X_OK):
        return "dml"
    return "../dml"


def _shown(target: Path) -> str:
    here = Path.cwd()
    return str(target.relative_to(here)) if target.is_relative_to(here) else str(target)
