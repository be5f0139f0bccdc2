"""Checks of this repository: `nox` for the usual ones, `nox --list` for all.

With `--no-venv` the programs come from the environment that nox itself runs in, and nothing is installed.
"""

import os
import re
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests", "integration"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

CONSTRAINTS = Path("src/dml_platform/constraints.txt")
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
    """Run the quick tests."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "not integration", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Run the slow tests: real programs, killed processes, a browser."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "integration", *session.posargs)


@nox.session(venv_backend="none")
def build(session: nox.Session) -> None:
    """Build the wheel into dist/ or the given folder."""
    out = session.posargs[0] if session.posargs else "dist"
    session.run("uv", "build", "--wheel", "--build-constraints=requirements/build.txt", f"--out-dir={out}")


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Write requirements/*.txt and the constraints that projects follow; `-- --upgrade` takes newer versions."""
    follow: list[str] = []
    pins: set[str] = set()
    for name, what in (("run", "pyproject.toml"), ("dev", "--group=dev"), ("build", "--group=build")):
        locked = f"requirements/{name}.txt"
        session.run(*COMPILE, what, *follow, "-o", locked, *session.posargs)
        follow += ["-c", locked]
        pins |= set(re.findall(r"^(\S+==.+?) \\$", Path(locked).read_text(), re.MULTILINE))
    header = "# The versions that dml-platform is tested with, for `uv pip compile -c`; made by nox -s lock.\n"
    CONSTRAINTS.write_text(header + "".join(f"{pin}\n" for pin in sorted(pins)))
