#!/usr/bin/env python3
"""Lets the repositories that this tree splits into stand alone: each is cloned, and gets only what the others publish.

    tree/alone.py checks FOLDER [nox's arguments]    its own sessions, with an index that has the others' wheels
    tree/alone.py images PYTHON_IMAGE [tests]        the base's image, projects' on it, the server with one of them;
                                                     each pushed to a registry on this machine, and pulled by its digest

What is committed counts. Clones have environments of their own, and nothing that they run finds this tree by a path or
a variable; what is in neither the index nor the registry of this machine comes from the usual ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import index
import split

ROOT = Path(__file__).resolve().parent.parent
# Their wheels are what the others install.
PACKAGES = ["platform-base-image", "project-sales", "platform-infra"]
# A team that no folder holds, and what `dml new` asks it.
TEAM = "logistics"
ANSWERS = [f"--owner=team:{TEAM}", f"--alerts={TEAM}@example.com", "--no-notebooks", "--dvc-remote=none"]
PERSON = {f"GIT_{role}_{what}": "team@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
# The server is installed, takes the project by digest, and a person runs its pipeline from a browser.
SERVER_TESTS = ["tests/stack/test_01_install.py"]


def leave_tree(environment: dict[str, str]) -> dict[str, str]:
    """An environment without this tree's programs and settings, and without those of the tools that started us."""
    ours = ("COMPOSE_", "DAGSTER_", "DBT_", "DML_", "NOX", "PYTEST_", "PYTHON", "TEST_", "VIRTUAL_ENV")
    kept = {n: v for n, v in environment.items() if not n.startswith(ours) and str(ROOT) not in v}
    programs = environment["PATH"].split(os.pathsep)
    return kept | {"PATH": os.pathsep.join(part for part in programs if not Path(part).is_relative_to(ROOT))}


@dataclass(frozen=True)
class Clone:
    """A repository as somebody has it who has only that one."""

    folder: Path
    env: dict[str, str]

    def run(self, program: str, *arguments: str | Path, **env: str) -> None:
        """Run a program of its environment, in its folder."""
        command = [str(self.folder / ".venv" / "bin" / program), *map(str, arguments)]
        subprocess.run(command, cwd=self.folder, env=self.env | env, check=True)

    def nox(self, *arguments: str | Path, **env: str) -> None:
        """Run sessions as its workflow calls them."""
        started = time.monotonic()
        self.run("nox", *arguments, **env)
        say(f"{self.folder.name}: nox {' '.join(map(str, arguments))}: {time.monotonic() - started:.0f} s")


@dataclass(frozen=True)
class Place:
    """Where the repositories are published on this machine: git repositories, wheels, clones of who takes part."""

    folder: Path
    env: dict[str, str]

    @property
    def repositories(self) -> Path:
        """What a forge would have."""
        return self.folder / "repositories"

    @property
    def wheels(self) -> Path:
        """What the index has."""
        return self.folder / "wheels"

    def clone(self, name: str) -> Clone:
        """Clone a repository, splitting it off where nobody asked for it yet."""
        if not (self.repositories / name).exists():
            split.check(ROOT, self.repositories, [name], "HEAD")
            split.split(ROOT, self.repositories, name, "HEAD")
        folder = self.folder / "clones" / name
        if not folder.exists():
            split.git(ROOT, "clone", "--quiet", str(self.repositories / name), str(folder))
        return self.prepare(folder)

    def prepare(self, folder: Path) -> Clone:
        """Make a repository's environment from its lock, as its workflow does."""
        made = Clone(folder, self.env)
        if not (folder / ".venv").exists():
            python = str(folder / ".venv" / "bin" / "python")
            uv = ["uv", "venv", "--quiet", f"--python={sys.executable}", str(folder / ".venv")]
            subprocess.run(uv, check=True)
            uv = ["uv", "pip", "install", "--quiet", f"--python={python}", "--require-hashes", "-r"]
            subprocess.run([*uv, "requirements/dev.txt"], cwd=folder, env=self.with_uv(), check=True)
        return made

    def with_uv(self) -> dict[str, str]:
        """The environment of the one step that this tree's uv does: the clones' own is not there yet."""
        return self.env | {"PATH": os.environ["PATH"]}

    def publish_wheel(self, name: str) -> None:
        """Build a repository's wheel into the index."""
        self.clone(name).nox("--session", "build", "--", self.wheels)


@contextmanager
def publish() -> Iterator[Place]:
    """A place with an empty index, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dml-alone-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # containers of the server look at what is mounted from there
        (folder / "wheels").mkdir()
        with index.serve(folder / "wheels") as address:
            env = leave_tree(dict(os.environ))
            env["UV_INDEX"] = " ".join(filter(None, (address, env.get("UV_INDEX"))))
            for name in ("NO_PROXY", "no_proxy"):  # behind a proxy this machine is still reached directly
                env[name] = ",".join(filter(None, (env.get(name), "127.0.0.1")))
            yield Place(folder, env)


def run_checks(folder: str, arguments: list[str]) -> None:
    """Run a repository's own sessions in its clone; without arguments those that its noxfile calls usual."""
    with publish() as place:
        for name in PACKAGES:
            if name != folder:
                place.publish_wheel(name)
        place.clone(folder).nox(*arguments)


def try_images(python_image: str, tests: list[str]) -> None:
    """Let each repository's image come about from what the others published, up to a server that runs one."""
    engine = load_engine()
    with publish() as place:
        registry, stop = engine.start_registry(make(place.folder / "registry"))
        try:
            place.publish_wheel("platform-base-image")
            base = place.clone("platform-base-image")
            base_image = publish_image(base, f"{registry.address}/dml-platform-base", "PYTHON_IMAGE", python_image)

            sales = place.clone("project-sales")
            sales.nox("--session", "environment")
            image = publish_image(sales, f"{registry.address}/project-sales", "BASE_IMAGE", base_image)

            place.clone("project-template")
            team = make_team(place, sales)
            publish_image(team, f"{registry.address}/project-{TEAM}", "BASE_IMAGE", base_image)

            wanted = {"TEST_PYTHON_IMAGE": python_image, "TEST_BASE_IMAGE": base_image, "TEST_SALES_IMAGE": image}
            place.clone("platform-infra").nox("--session", "stack", "--", *(tests or SERVER_TESTS), **wanted)
        finally:
            forget(registry.address)
            stop()


def publish_image(project: Clone, repository: str, argument: str, source: str) -> str:
    """Build, try and push a repository's image, and forget it here: who wants it has to pull it.

    Returns: its address, by digest.
    """
    tag = f"{repository}:{split.git(project.folder, 'rev-parse', 'HEAD').strip()}"
    project.nox("--session", "image", "--", tag, f"--build-arg={argument}={source}")
    project.nox("--session", "image_check", "--", tag)
    started = time.monotonic()
    docker("push", "--quiet", tag)
    addresses = docker("image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', tag).splitlines()
    pushed = next(address for address in addresses if address.startswith(f"{repository}@"))
    forget(repository)
    say(f"{project.folder.name}: pushed in {time.monotonic() - started:.0f} s as {pushed}")
    return pushed


def make_team(place: Place, sales: Clone) -> Clone:
    """Make a new team's project with the published command and the published template."""
    teams = place.folder / "clones"
    template = {"DML_TEMPLATE": str(place.repositories / "project-template")}
    sales.run("dml", "new", TEAM, *ANSWERS, "--defaults", "--no-run", f"--folder={teams}", **PERSON, **template)
    team = place.prepare(teams / f"project-{TEAM}")
    team.nox("--session", "environment")
    return team


def forget(repository: str) -> None:
    """Remove from the engine what it knows by an address."""
    for name in docker("image", "ls", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}").splitlines():
        address, tag, digest = name.split(" ")
        if (address + "/").startswith(repository + "/"):
            docker("image", "rm", f"{address}@{digest}" if tag == "<none>" else f"{address}:{tag}")


def docker(*arguments: str) -> str:
    """What a docker command prints."""
    return subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def load_engine():
    """The functions of the server's tests for an engine and its registry."""
    sys.path.insert(0, str(ROOT / "platform-infra" / "tests"))
    from stack import engine

    return engine


def make(folder: Path) -> Path:
    """A new folder."""
    folder.mkdir()
    return folder


def say(line: str) -> None:
    """Say what was done, between what the programs print."""
    print(f"alone > {line}", flush=True)


def main(arguments: list[str]) -> int:
    """Do as the command line says; the exit code."""
    what, *rest = arguments or [""]
    try:
        if what == "checks" and rest and rest[0] in split.FOLDERS:
            run_checks(rest[0], rest[1:])
        elif what == "images" and rest:
            try_images(rest[0], rest[1:])
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except split.SplitError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"alone: {' '.join(map(str, error.cmd))[:300]} exited {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
