"""Checks of this repository: `nox` for the usual ones, `nox --list` for all.

With `--no-venv` the programs come from the environment that nox itself runs in, and nothing is installed.
Otherwise dml-platform comes from the package index, or from the folder of wheels that DML_WHEELS names.
"""

import os
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests", "integration"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

PLATFORM = "dml-platform>=0.1,<0.2"
# A wheel that was built again has the same name, and uv would take the one that it remembers.
WHEELS = ["--refresh-package=dml-platform"]
if os.environ.get("DML_WHEELS"):
    WHEELS.append(f"--find-links={os.environ['DML_WHEELS']}")
COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10", "--generate-hashes"]
COMPILE += ["--no-annotate", "--custom-compile-command=nox -s lock", "--no-emit-package=dml-platform", *WHEELS]


def install(session: nox.Session) -> None:
    """Install the locked set, the platform and this package, unless nox was told to use what is there."""
    if session.venv_backend == "none":
        return
    session.install("--require-hashes", "-r", "requirements/run.txt", "-r", "requirements/dev.txt")
    session.install("--no-deps", *WHEELS, PLATFORM)
    session.install("--no-deps", "--build-constraints", "requirements/build.txt", "-e", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, SQL and YAML."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("sqlfluff", "lint", "--disable-progress-bar", "dbt/models", "dbt/tests")
    session.run("yamllint", "--strict", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the quick tests."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "not integration", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Run the slow tests: the whole pipeline, a real connector, the notebooks."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "integration", *session.posargs)


@nox.session(venv_backend="none")
def build(session: nox.Session) -> None:
    """Build the wheel into dist/ or the given folder."""
    out = session.posargs[0] if session.posargs else "dist"
    session.run("uv", "build", "--wheel", "--build-constraints=requirements/build.txt", f"--out-dir={out}")


@nox.session
def lock(session: nox.Session) -> None:
    """Write requirements/*.txt within the platform's own versions; `-- --upgrade` takes newer ones."""
    if session.venv_backend != "none":
        session.install("--no-deps", *WHEELS, PLATFORM)
    find = "from importlib.resources import files; print(files('dml_platform') / 'constraints.txt')"
    platform = session.run("python", "-c", find, silent=True)
    assert platform
    follow = ["-c", platform.strip()]
    for name, what in (("run", "pyproject.toml"), ("dev", "--group=dev"), ("build", "--group=build")):
        locked = f"requirements/{name}.txt"
        session.run(*COMPILE, what, *follow, "-o", locked, *session.posargs)
        follow += ["-c", locked]
