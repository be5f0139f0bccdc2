"""Checks of this repository: `nox` for the usual ones, `nox --list` for all.

With `--no-venv` the programs come from the environment that nox itself runs in, and nothing is installed.
"""

import os
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10", "--generate-hashes"]
COMPILE += ["--no-annotate", "--custom-compile-command=nox -s lock"]


def install(session: nox.Session) -> None:
    """Install the locked set, unless nox was told to use what is there."""
    if session.venv_backend != "none":
        session.install("--require-hashes", "-r", "requirements/dev.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and YAML."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("yamllint", "--strict", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests."""
    install(session)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Say that there is nothing to run yet."""
    session.skip("this folder has no program to try yet")


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Write requirements/dev.txt; `-- --upgrade` takes newer versions, `-- -c FILE` follows a list of versions."""
    session.run(*COMPILE, "--group=dev", "-o", "requirements/dev.txt", *session.posargs)
