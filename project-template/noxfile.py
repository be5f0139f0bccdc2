"""Checks of this repository: `nox` for the usual ones, `nox --list` for all.

With `--no-venv` the programs come from the environment that nox itself runs in, and nothing is installed.
Otherwise dml-platform comes from the package index, or from the folder of wheels that DML_WHEELS names.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests", "integration"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10", "--generate-hashes"]
COMPILE += ["--no-annotate", "--custom-compile-command=nox -s lock"]
# A wheel that was built again has the same name, and uv would take the one that it remembers.
WHEELS = ["--refresh-package=dml-platform"]
if os.environ.get("DML_WHEELS"):
    WHEELS.append(f"--find-links={os.environ['DML_WHEELS']}")
# What a rendered project is locked to; its tools are a few less without notebooks.
RENDERED = Path("template/requirements")
TOOLS = {True: Path("locks/requirements/notebooks.txt"), False: Path("locks/requirements/dev.txt")}


def install(session: nox.Session) -> None:
    """Install the locked set, unless nox was told to use what is there."""
    if session.venv_backend != "none":
        session.install("--require-hashes", "-r", "requirements/dev.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and YAML; what is rendered is checked by the tests, with the rendered project's own settings."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("yamllint", "--strict", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Render every combination of answers and look at the files; update projects that a team has changed."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "not integration", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Render some projects in full: run them, with their own checks and tests."""
    if session.venv_backend != "none":
        rendered = [f"-r{RENDERED / 'run.txt'}", f"-r{TOOLS[True]}"]
        session.install("--require-hashes", "-r", "requirements/dev.txt", *rendered)
        session.install("--no-deps", *WHEELS, "dml-platform")
    session.run("python", "-m", "pytest", "-m", "integration", *session.posargs)


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Write requirements/dev.txt and what rendered projects are locked to, by their own session `lock`.

    `-- --upgrade` takes newer versions, `-- -c FILE` follows a list of versions. dml-platform has to be installed.
    """
    session.run(*COMPILE, "--group=dev", "-o", "requirements/dev.txt", *session.posargs)
    for notebooks, tools in TOOLS.items():
        with tempfile.TemporaryDirectory() as folder:
            answers = {"name": "example", "owner": "team:example", "alerts": "example@example.com"}
            data = [f"--data={key}={value}" for key, value in {**answers, "notebooks": str(notebooks)}.items()]
            session.run("copier", "copy", "--quiet", "--defaults", *data, ".", folder)
            noxfile = str(Path(folder, "noxfile.py"))
            session.run("python", "-m", "nox", "-f", noxfile, "-s", "lock", "--no-venv", "--", *session.posargs)
            shutil.copy(Path(folder, "requirements", "dev.txt"), tools)
            for name in ("run.txt", "build.txt"):
                shutil.copy(Path(folder, "requirements", name), RENDERED / name)
