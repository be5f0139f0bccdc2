"""Finds the project template, and calls copier's program in an environment of its own.

Copier asks and checks the answers; nothing here knows the questions.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dml_platform.core.environments import Progress, ensure_environment
from dml_platform.core.errors import ConfigError, PermanentError, RetryableError
from dml_platform.core.settings import Settings

REQUIREMENTS = Path(__file__).parent / "requirements" / "copier.txt"
FOLDER = "project-template"
_QUESTIONS = "copier.yml"
_REACH_S = 60.0


def find_template(settings: Settings, workspace: Path) -> str:
    """Where the template is: ``DML_TEMPLATE``, else the folder ``project-template`` beside the projects.

    Raises:
        ConfigError: it is nowhere, or the folder is no template.
        RetryableError: its repository cannot be reached.
    """
    what = "cannot find the project template"
    fix = "Set DML_TEMPLATE to its folder or to the address of its git repository."
    named = settings.template
    if named and _is_address(named):
        _reach(what, named)
        return named
    folder = Path(named).expanduser().absolute() if named else workspace / FOLDER
    if (folder / _QUESTIONS).is_file():
        return str(folder)
    if named:
        raise ConfigError(what, f"DML_TEMPLATE names {folder}, which has no {_QUESTIONS}", fix)
    raise ConfigError(what, f"there is no folder {FOLDER} in {workspace}, and DML_TEMPLATE is not set", fix)


def render(
    template: str,
    folder: Path,
    answers: Mapping[str, Any],
    *,
    ask: bool,
    settings: Settings,
    progress: Progress | None = None,
) -> None:
    """Make a project's files.

    Args:
        template: as ``find_template`` found it; of a repository the newest release is taken.
        folder: must not be there yet; nothing is left of it after a failure.
        answers: what is known; it is checked and not asked.
        ask: ask for the rest in this terminal; else defaults are taken.
    Raises:
        ConfigError: an answer is wrong, or one is missing that has no default.
        PermanentError: the template cannot be rendered.
        KeyboardInterrupt: the person stopped at a question.
    """
    program = _find_copier(settings, progress)
    with tempfile.TemporaryDirectory(prefix="dml-new-") as temporary:
        data = Path(temporary, "answers.yml")
        data.write_text(yaml.safe_dump(dict(answers)), encoding="utf-8")
        command = [str(program), "copy", "--quiet", f"--data-file={data}", *([] if ask else ["--defaults"])]
        done = subprocess.run(
            [*command, template, str(folder)],
            stdin=None if ask else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0", "PYTHONWARNINGS": "ignore"},
            check=False,
        )
    if done.returncode != 0:
        raise _explain(f"cannot make {folder.name}", template, done.stderr)


def _find_copier(settings: Settings, progress: Progress | None) -> Path:
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = settings.template_cache_dir / f"copier-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"
    programs = ensure_environment(
        folder,
        ["--require-hashes", "-r", str(REQUIREMENTS)],
        python=sys.executable,
        label="copier (once; it needs an environment of its own)",
        setting="DML_TEMPLATE_CACHE_DIR",
        progress=progress,
    )
    return programs / "copier"


def _is_address(template: str) -> bool:
    """Whether it is a repository elsewhere: a URL, or ``user@host:path``."""
    return "://" in template or bool(re.match(r"[\w.-]+@[\w.-]+:", template))


def _reach(what: str, address: str) -> None:
    """Ask the repository now: copier's own failure would come after the questions."""
    shown = re.sub(r"://[^@/\s]+@", "://***@", address)
    if not shutil.which("git"):
        raise ConfigError(what, "there is no git on the PATH", "Install git.")
    try:
        done = subprocess.run(
            ["git", "ls-remote", "--exit-code", address.removeprefix("git+"), "HEAD"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_REACH_S,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
            check=False,
        )
        said = done.stderr.strip().splitlines()
        why = said[0].removeprefix("fatal: ") if said else "it is empty"
    except subprocess.TimeoutExpired:
        why = f"it did not answer for {_REACH_S:.0f} s"
    else:
        if done.returncode == 0:
            return
    why = re.sub(r"://[^@/\s]+@", "://***@", why)
    fix = "Check the network and DML_TEMPLATE, which may also name a folder with a copy of it."
    raise RetryableError(what, f"{shown} cannot be reached ({why})", fix)


def _explain(what: str, template: str, output: str) -> BaseException:
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines() if line.strip()]
    last = lines[-1] if lines else "copier gave no reason"
    if "stopped by user" in last:
        return KeyboardInterrupt()
    if wrong := re.match(r"ValueError: Validation error for question '\w+': (.*)", last):
        return ConfigError(what, wrong[1], "Give another answer.")
    if missing := re.match(r"ValueError: Question \"(\w+)\" is required", last):
        name = missing[1].replace("_", "-")
        return ConfigError(what, f"{missing[1]!r} has no default", f"Add --{name}, or answer in a terminal.")
    if choice := re.match(r"ValueError: Invalid choice for '(\w+)': (.+) is not in \[(.*)\]", last):
        question, value, choices = choice.groups()
        return ConfigError(what, f"{value} is no answer to '{question}'", f"Choose of: {choices.replace(chr(39), '')}.")
    text = re.sub(r"^[\w.]*(Error|Exception):\s*", "", last)
    return PermanentError(what, text, f"Check the template, {template}.")
