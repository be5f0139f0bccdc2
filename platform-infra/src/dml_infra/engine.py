"""Calls of the `docker` program, and nothing above it: no service's or project's name is decided here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from dml_infra.errors import EngineError
from dml_infra.installation import Installation


def docker(
    *args: str, stdin: str | None = None, timeout_s: float = 600, env: dict[str, str] | None = None, check: bool = True
) -> str:
    """Run `docker …` and return what it printed.

    Args:
        args: the arguments after `docker`.
        stdin: text for its standard input; secrets go this way, never as an argument.
        timeout_s: limit of the call.
        env: variables besides those of this process.
        check: raise when it fails; otherwise a failure gives ``""``.

    Raises:
        EngineError: it is not installed, failed or took too long; its last lines are in the message.
    """
    program = shutil.which("docker")
    if not program:
        raise EngineError(
            "cannot call Docker", "there is no program 'docker' on the PATH", "Install Docker Engine with Compose 2."
        )
    what = f"'docker {' '.join(args[:4])}{' …' if len(args) > 4 else ''}' failed"
    try:
        done = subprocess.run(
            [program, *args],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            what, f"it did not end within {timeout_s:g} s", "Look at 'docker ps' and the engine's log."
        ) from error
    if done.returncode and check:
        why = " / ".join(line.strip() for line in done.stderr.strip().splitlines()[-6:]) or f"exit {done.returncode}"
        raise EngineError(what, why, "See what it says and run this again.")
    return done.stdout if not done.returncode else ""


def docker_text(*args: str, timeout_s: float = 60) -> str:
    """Run `docker …` and return what it printed to both streams, whether it failed or not; for logs."""
    done = subprocess.run(
        ["docker", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    return done.stdout


def docker_live(*args: str) -> int:
    """Run `docker …` on this terminal and return its exit code; Ctrl-C ends it."""
    return subprocess.run(["docker", *args], check=False).returncode


def docker_json(*args: str) -> Any:
    """Run `docker …` and parse its output as JSON, or a list of objects where each line is one."""
    text = docker(*args).strip()
    try:
        return json.loads(text) if text else []
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


def inspect(kind: str, *names: str) -> list[dict[str, Any]]:
    """What the engine knows of containers, networks, images or volumes; those that do not exist are left out."""
    found: list[dict[str, Any]] = []
    for name in names:
        text = docker(kind, "inspect", name, check=False).strip()
        found += json.loads(text) if text else []
    return found


def containers(*labels: str) -> list[dict[str, Any]]:
    """Details of all containers, running or not, that have every label (``key=value``)."""
    ids = docker("ps", "-aq", "--no-trunc", *(f"--filter=label={label}" for label in labels)).split()
    return inspect("container", *ids)


def compose(installation: Installation, *args: str, timeout_s: float = 900) -> str:
    """Run `docker compose …` for the core stack with exactly the installation's settings."""
    return compose_file(installation, installation.compose_file, installation.stack, *args, timeout_s=timeout_s)


def compose_file(installation: Installation, file: Path, project: str, *args: str, timeout_s: float = 900) -> str:
    """Run `docker compose …` for any file of the installation, such as a project's stack."""
    base = ["compose", "--project-name", project, "--file", str(file), "--project-directory", str(installation.root)]
    # The same values reach it as process variables, which beat the file.
    return docker(*base, *args, timeout_s=timeout_s, env={**installation.env, **installation.config_sums()})
