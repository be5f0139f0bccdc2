"""Checks of this repository: `nox` for the usual ones, `nox --list` for all.

With `--no-venv` the programs come from the environment that nox itself runs in, and nothing is installed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# A call of a workflow or action of this repository: what is before its owner, the owner, what follows.
CALL = re.compile(r"(uses: )([\w-]+)(/ci-templates/[\w./-]+)@[0-9a-f]{40} # v[\d.]+")
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
    """Run the quick tests: schema and linters of the workflows, the release notes."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "not integration", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Run the workflows with act on the project that TEST_PROJECT names; it has to be installed beside."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "integration and not images", *session.posargs)


@nox.session
def images(session: nox.Session) -> None:
    """Run with act what builds and pushes images, on TEST_PROJECT and TEST_BASE_IMAGE; needs a Docker engine."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "images", *session.posargs)


@nox.session(venv_backend="none")
def pin(session: nox.Session) -> None:
    """Pin the calls of these workflows; `-- COMMIT VERSION [--owner=NAME] [FOLDER …]`, without a folder: here."""
    commit, version, *rest = session.posargs
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or not re.fullmatch(r"v[0-9.]+", version):
        session.error(f"{commit} {version} is no commit of 40 digits and a version such as v0.1.0")
    owner = next((word.removeprefix("--owner=") for word in rest if word.startswith("--owner=")), None)
    folders = [word for word in rest if not word.startswith("--")] or ["."]
    if absent := [folder for folder in folders if not Path(folder).is_dir()]:
        session.error(f"there is no folder {', '.join(absent)}: nothing was pinned")
    written = {}
    for folder in folders:
        for path in sorted(Path(folder).glob("**/*.yml")) + sorted(Path(folder).glob("*.md")):
            if {".github", "examples"} & set(path.parts) or path.suffix == ".md":
                text = path.read_text(encoding="utf-8")
                changed = CALL.sub(lambda m: f"{m[1]}{owner or m[2]}{m[3]}@{commit} # {version}", text)
                if changed != text:
                    written[path] = changed
    # What is in .github here calls actions, which call nothing of ours, and this is how they come to be the owner's.
    if owner and any(not path.resolve().is_relative_to(Path(".github").resolve()) for path in written):
        refuse_workflows_of_others(session, commit, version, owner)
    for path, changed in written.items():
        path.write_text(changed, encoding="utf-8")
        session.log(f"pinned {path}")


def refuse_workflows_of_others(session: nox.Session, commit: str, version: str, owner: str) -> None:
    """Stop where the workflows of a commit call actions of another owner: so would whoever calls them."""
    command = ["git", "grep", "--no-color", "-hoE", "uses: [^/ ]+/ci-templates/", commit, "--", ".github"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        session.error(f"{commit} is no commit of this repository that has workflows: push or fetch it first")
    if others := sorted({line.split()[1].partition("/")[0] for line in done.stdout.splitlines()} - {owner}):
        session.error(
            f"the workflows of {commit[:12]} call {', '.join(others)}/ci-templates, which is not of {owner}. First let "
            f"them call your own, here: nox -s pin -- {commit} {version} --owner={owner} .github. Commit and push "
            "that; then pin what calls them to the new commit"
        )


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Write requirements/dev.txt; `-- --upgrade` takes newer versions, `-- -c FILE` follows a list of versions."""
    session.run(*COMPILE, "--group=dev", "-o", "requirements/dev.txt", *session.posargs)
