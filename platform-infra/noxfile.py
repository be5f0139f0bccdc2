"""Checks of this repository: `nox` for the usual ones, `nox --list` for all.

With `--no-venv` the programs come from the environment that nox itself runs in, and nothing is installed.
"""

import os
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests", "integration"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10", "--generate-hashes"]
COMPILE += ["--no-annotate", "--custom-compile-command=nox -s lock"]


def install(session: nox.Session) -> None:
    """Install the locked set and this package, unless nox was told to use what is there."""
    if session.venv_backend == "none":
        return
    session.install("--require-hashes", "-r", "requirements/run.txt", "-r", "requirements/dev.txt")
    session.install("--no-deps", "--build-constraints", "requirements/build.txt", "-e", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, layers and YAML."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports", "--no-cache")
    session.run("yamllint", "--strict", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the quick tests: no Docker."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "not integration and not stack", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Run the slow tests: a real Postgres, a real object store, killed processes."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "integration", *session.posargs)


@nox.session
def stack(session: nox.Session) -> None:
    """Run the whole server on a Docker engine: install, deploy, isolate, break, back up, restore (half an hour).

    `-- tests/stack/test_01_install.py` runs less.
    """
    install(session)
    chosen = any(argument.startswith("tests/") for argument in session.posargs)
    had_store = has_object_store(session)
    wanted = session.posargs if chosen else ["tests/stack", *session.posargs]
    session.run("python", "-m", "pytest", "-m", "stack and not long", "--durations=12", *wanted)
    # Skipped by `integration` where no object store was at hand; the images above have brought one.
    if had_store:
        session.log("tests/services run in session `integration`: the object store was there before this one")
    elif not chosen:
        session.run("python", "-m", "pytest", "tests/services", "-m", "integration")


def has_object_store(session: nox.Session) -> bool:
    """Whether the tests of session `integration` find an object store to start."""
    find = "from services.servers import minio_binary; print(minio_binary() or '')"
    return bool(str(session.run("python", "-c", find, env={"PYTHONPATH": "tests"}, silent=True)).strip())


@nox.session(name="stack-long")
def stack_long(session: nox.Session) -> None:
    """Run what takes longer: deploys cut short and ten in a row, the runbooks' commands, twenty code locations."""
    install(session)
    session.run("python", "-m", "pytest", "tests/deploys", "-m", "stack", "--durations=12", *session.posargs)
    session.run("python", "-m", "pytest", "tests/stack", "-m", "stack and long", "--durations=12", *session.posargs)


@nox.session(venv_backend="none")
def build(session: nox.Session) -> None:
    """Build the wheel into dist/ or the given folder."""
    out = session.posargs[0] if session.posargs else "dist"
    session.run("uv", "build", "--wheel", "--build-constraints=requirements/build.txt", f"--out-dir={out}")


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Write requirements/*.txt; `-- --upgrade` takes newer versions, `-- -c FILE` follows a list of versions.

    run: the commands on the host · server: the image of Dagster's services · dev: both, and the tools.
    """
    follow: list[str] = []
    everything = ["pyproject.toml", "--extra=server"]
    for name, what in (
        ("run", ["pyproject.toml"]),
        ("server", everything),
        ("dev", [*everything, "--group=dev"]),
        ("build", ["--group=build"]),
    ):
        locked = f"requirements/{name}.txt"
        session.run(*COMPILE, *what, *follow, "-o", locked, *session.posargs)
        follow += ["-c", locked]
