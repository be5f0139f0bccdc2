"""Runs every folder's own checks, and the tests of the whole: `nox --list`.

`./dml test` is `nox --no-venv` in the environment that the launcher made; then nothing is installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
FOLDERS = ["platform-base-image", "project-sales", "platform-infra", "project-template", "ci-templates"]
PACKAGES = ["platform-base-image", "project-sales", "platform-infra"]
# What projects get instead of a path into another folder.
WHEELS = ROOT / "dist"
# Images and the layers they are built from, a registry with them; and what the preflight wants free besides.
STACK_DISK_GB = 20
GLUE = ["noxfile.py", "tests", "tree"]
# Projects that no folder holds: rendered from the template for the server's tests, with these answers.
RENDERED = {"marketing": ["--notebooks"], "logistics": ["--no-notebooks", "--dvc-remote=none"]}

# What the lint session found out about the packages' types: where workflows run it, that takes longer than all else.
TYPES = {"MYPY_CACHE_DIR": str(ROOT / "project-sales" / ".mypy_cache")}

nox.options.default_venv_backend = "none"
nox.options.sessions = ["borders", "lint", "tests", "integration", "docs"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def fan_out(session: nox.Session, folder: str, name: str, *args: str, **variables: str) -> None:
    """Run one session of one folder in this environment, with some variables."""
    noxfile = str(ROOT / folder / "noxfile.py")
    # What workflows are tried on: their folder has no project of its own.
    env = {"DML_WHEELS": str(WHEELS), "TEST_PROJECT": str(ROOT / "project-sales"), **variables}
    session.run("python", "-m", "nox", "-f", noxfile, "-s", name, "--no-venv", "--", *args, env=env)


@nox.session
def borders(session: nox.Session) -> None:
    """Test the launcher, and that the folders stand alone."""
    session.chdir(ROOT)
    session.run("ruff", "check", *GLUE)
    session.run("ruff", "format", "--check", *GLUE)
    session.run("yamllint", "--strict", ".github", ".pre-commit-config.yaml", "mkdocs.yml")
    session.run("python", "-m", "pytest", "-m", "not long", *session.posargs)


@nox.session
@nox.parametrize("folder", FOLDERS, ids=FOLDERS)
def lint(session: nox.Session, folder: str) -> None:
    """Check style, types and layers of each folder."""
    fan_out(session, folder, "lint")


@nox.session
@nox.parametrize("folder", FOLDERS, ids=FOLDERS)
def tests(session: nox.Session, folder: str) -> None:
    """Run the quick tests of each folder."""
    fan_out(session, folder, "tests", *session.posargs)


@nox.session
@nox.parametrize("folder", FOLDERS, ids=FOLDERS)
def integration(session: nox.Session, folder: str) -> None:
    """Run the slow tests of each package, quick ones of rendered projects, the workflows with act on a small one."""
    if folder == "project-template":
        fan_out(session, folder, "integration", "-k", "any_answers", *session.posargs)
        return
    if folder != "ci-templates":
        fan_out(session, folder, "integration", *session.posargs)
        return
    with tempfile.TemporaryDirectory() as temporary:
        rendered = Path(temporary) / "project-marketing"
        answers = {"name": "marketing", "owner": "team:marketing", "alerts": "marketing@example.com"}
        answers["dvc_remote"] = "local"  # what a pull request leaves out is looked for there
        data = [f"--data={name}={value}" for name, value in answers.items()]
        template = str(ROOT / "project-template")
        session.run("copier", "copy", "--defaults", "--quiet", "--vcs-ref=HEAD", *data, template, str(rendered))
        fan_out(session, folder, "integration", *session.posargs, TEST_PROJECT=str(rendered), **TYPES)


@nox.session(name="integration-long")
def integration_long(session: nox.Session) -> None:
    """Render projects in full and run their own checks; run the workflows on project-sales. Takes long."""
    fan_out(session, "project-template", "integration", *session.posargs)
    fan_out(session, "ci-templates", "integration", "tests/test_act.py", *session.posargs, **TYPES)


@nox.session
def stack(session: nox.Session) -> None:
    """Build the images, push one by its workflow, run the whole server on this machine's engine: `dml test --stack`."""
    with tempfile.TemporaryDirectory() as folder:
        build_images(session, folder)
        session.run("python", "-m", "pytest", str(ROOT / "tests" / "test_images.py"))
        marketing = str(Path(folder) / "project-marketing")
        fan_out(session, "ci-templates", "images", TEST_PROJECT=marketing)
        fan_out(session, "platform-infra", "stack", *session.posargs)


@nox.session(name="stack-long")
def stack_long(session: nox.Session) -> None:
    """Build the images, then do on a server what takes longer: twenty projects, upgrades, the runbooks' commands."""
    with tempfile.TemporaryDirectory() as folder:
        build_images(session, folder)
        fan_out(session, "platform-infra", "stack-long", *session.posargs)


def build_images(session: nox.Session, folder: str) -> None:
    """Build all images, and say in this environment which they are; rendered projects come into the folder."""
    if missing := find_missing_for_images():
        session.skip(missing)
    images = {
        "TEST_BASE_IMAGE": ("platform-base-image", "dml-platform-base:stack-test", "PYTHON_IMAGE", find_python_image()),
        "TEST_SALES_IMAGE": ("project-sales", "project-sales:stack-test", "BASE_IMAGE", "dml-platform-base:stack-test"),
    }
    for variable, (name, tag, argument, source) in images.items():
        fan_out(session, name, "image", tag, f"--build-arg={argument}={source}")
        os.environ[variable] = tag
    os.environ["TEST_RENDERED_IMAGES"] = build_rendered(session, "dml-platform-base:stack-test", folder)
    os.environ["TEST_RENDERED_PROJECTS"] = folder
    os.environ["TEST_WORKFLOWS"] = str(ROOT / "ci-templates")


def build_rendered(session: nox.Session, base: str, folder: str) -> str:
    """Make new teams' projects as they do, and their images: what the server's tests take, NAME=IMAGE NAME=IMAGE."""
    images = {}
    who = {f"GIT_{role}_{what}": "team@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for name, answers in RENDERED.items():
        images[name] = f"project-{name}:stack-test"
        people = [f"--owner=team:{name}", f"--alerts={name}@example.com"]
        new = ["dml", "new", name, *people, *answers, "--defaults", "--no-run", f"--folder={folder}"]
        session.run(*new, env={**who, "DML_TEMPLATE": str(ROOT / "project-template")})
        # Its own session, as its workflow calls it.
        noxfile = str(Path(folder) / f"project-{name}" / "noxfile.py")
        image = ["-s", "image", "--no-venv", "--", images[name], f"--build-arg=BASE_IMAGE={base}"]
        session.run("python", "-m", "nox", "-f", noxfile, *image)
    return " ".join(f"{name}={image}" for name, image in images.items())


def find_missing_for_images() -> str:
    """Why no image can be built here; empty where one can."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine answers here: start one (.ci/run does, as root), or do without what needs images"
    free_gb = disk_free_gb()
    if free_gb < STACK_DISK_GB:
        return f"{free_gb:.0f} GB are free where Docker keeps images; images and servers take {STACK_DISK_GB}"
    return ""


def disk_free_gb() -> float:
    """What is free where the engine keeps its images; of the root, where that folder is not this machine's."""
    command = ["docker", "info", "--format", "{{.DockerRootDir}}"]
    folder = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return shutil.disk_usage(folder if Path(folder).is_dir() else "/").free / 1e9


def find_python_image() -> str:
    """What the base image is built on: as the tests of the server choose it."""
    find = "from stack.engine import python_image; print(python_image())"
    path = str(ROOT / "platform-infra" / "tests")
    found = subprocess.run(
        [sys.executable, "-c", find],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    os.environ["TEST_PYTHON_IMAGE"] = found.stdout.strip()
    return os.environ["TEST_PYTHON_IMAGE"]


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into dist/site, every link checked, and open it as a file; an environment of its own."""
    python = str(ROOT / ".nox" / "docs" / "bin" / "python")
    if not Path(python).exists():
        session.run("uv", "venv", "--quiet", f"--python={sys.executable}", str(ROOT / ".nox" / "docs"))
    locked = str(ROOT / "docs" / "requirements.txt")
    session.run("uv", "pip", "sync", "--quiet", f"--python={python}", "--require-hashes", locked)
    site = ["build", "--strict", "--quiet", "--config-file", str(ROOT / "mkdocs.yml")]
    session.run(python, "-m", "mkdocs", *site, env={"NO_MKDOCS_2_WARNING": "1"}, external=True)
    check = str(ROOT / "tests" / "test_site.py")
    session.run("python", "-m", "pytest", check, env={"TEST_SITE": str(ROOT / "dist" / "site")})


@nox.session
def reference(session: nox.Session) -> None:
    """Write docs/reference/ from the programs: their commands, options and settings."""
    session.run("python", str(ROOT / "tree" / "reference.py"), *session.posargs)


@nox.session
def tutorial(session: nox.Session) -> None:
    """Type docs/tutorial.md into a fresh clone and compare what comes out; `-- --write` writes it down (minutes)."""
    session.run("python", str(ROOT / "tree" / "tutorial.py"), *session.posargs)


@nox.session
def guides(session: nox.Session) -> None:
    """Type every page of the papers that needs no server, in a copy of the tree (minutes); `borders` types a few."""
    session.run("python", "-m", "pytest", str(ROOT / "tests" / "test_guides.py"), *session.posargs)


@nox.session
def split(session: nox.Session) -> None:
    """Make the five repositories, each with the history of its folder: `-- DESTINATION [FOLDER ...] [--ref BRANCH]`."""
    session.run("python", str(ROOT / "tree" / "split.py"), *session.posargs)


@nox.session
@nox.parametrize("folder", FOLDERS, ids=FOLDERS)
def alone(session: nox.Session, folder: str) -> None:
    """Split a folder off and run its own checks there, with environments of its own and an index that has our wheels.

    What is committed counts. `-- -s lint tests` runs less. Slow, and needs the package index for everything else.
    """
    session.run("python", str(ROOT / "tree" / "alone.py"), "checks", folder, *session.posargs)
    if not session.posargs:
        session.notify("alone-images")


@nox.session(name="alone-images")
def alone_images(session: nox.Session) -> None:
    """Let each split-off repository build its image from those that the others pushed, up to a server that runs one.

    What is committed counts. `-- tests/stack/test_02_deploy.py` does more on the server than to install and run.
    """
    if missing := find_missing_for_images():
        session.skip(missing)
    session.run("python", str(ROOT / "tree" / "alone.py"), "images", find_python_image(), *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build every wheel into dist/."""
    for folder in PACKAGES:
        fan_out(session, folder, "build", str(WHEELS))


@nox.session
def lock(session: nox.Session) -> None:
    """Lock every folder again, the base first because the others follow it; `-- --upgrade` takes newer versions."""
    fan_out(session, "platform-base-image", "lock", *session.posargs)
    fan_out(session, "platform-base-image", "build", str(WHEELS))
    fan_out(session, "project-sales", "lock", *session.posargs)
    follow = ["-c", str(ROOT / "platform-base-image" / "src" / "dml_platform" / "constraints.txt")]
    for folder in ("platform-infra", "project-template", "ci-templates"):
        fan_out(session, folder, "lock", *follow, *session.posargs)
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10", "--generate-hashes"]
    command += ["--no-annotate", "--custom-compile-command=nox -s lock", *session.posargs]
    session.run(*command, str(ROOT / "docs" / "requirements.in"), "-o", str(ROOT / "docs" / "requirements.txt"))
