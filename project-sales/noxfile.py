"""Checks of this repository: `nox` for the usual ones, `nox --list` for all.

With `--no-venv` the programs come from the environment that nox itself runs in, and nothing is installed.
Otherwise dml-platform comes from the package index, or from the folder of wheels that DML_WHEELS names.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nox
from nox.command import CommandFailed

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests", "integration"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

PROJECT = nox.project.load_toml(Path(__file__).parent / "pyproject.toml")["project"]
NAME = PROJECT["name"]
TAG = f"{NAME}:{PROJECT['version']}"
PLATFORM = next(wanted for wanted in PROJECT["dependencies"] if wanted.startswith("dml-platform"))
# A wheel that was built again has the same name, and uv would take the one that it remembers.
WHEELS = ["--refresh-package=dml-platform"]
if os.environ.get("DML_WHEELS"):
    WHEELS.append(f"--find-links={os.environ['DML_WHEELS']}")
# What a session needs, in the order in which uv takes it.
LOCKED = ["--require-hashes", "-r", "requirements/run.txt", "-r", "requirements/dev.txt"]
INSTALLED = [LOCKED, ["--no-deps", *WHEELS, PLATFORM]]
INSTALLED += [["--no-deps", "--build-constraints", "requirements/build.txt", "-e", "."]]
COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10", "--generate-hashes"]
COMPILE += ["--no-annotate", "--custom-compile-command=nox -s lock", "--no-emit-package=dml-platform", *WHEELS]

# What describes an image; nothing of it gets into one. The wheels of this tree are on no list of vulnerabilities.
SBOM_TOOLS = {"cyclonedx-py": "cyclonedx-bom==7.5.0", "pip-audit": "pip-audit==2.10.1"}
COPIER = "copier==9.19.1"
OURS = {"dml-platform", NAME}
SECRET = (
    "Take it out of every commit of the branch, and have it replaced where it was pushed: others have read it. "
    "What is no secret gets '# pragma: allowlist secret' behind it."
)


def install(session: nox.Session) -> None:
    """Install the locked set, the platform and this package, unless nox was told to use what is there."""
    if session.venv_backend != "none":
        for what in INSTALLED:
            session.install(*what)


def changed_files(session: nox.Session, *patterns: str) -> list[str] | None:
    """What the branch changes since it left the commit that the session is given; None where it is given none."""
    base = session.posargs[0] if session.posargs else ""
    if not base:
        return None
    # -z: else git writes a name that is not plain ASCII in another way, and nobody finds the file.
    command = ["git", "diff", "-z", "--name-only", "--diff-filter=d", "--relative", "--merge-base", base]
    return str(session.run(*command, "--", *patterns, silent=True, external=True) or "").split("\0")[:-1]


@nox.session(venv_backend="none")
def environment(session: nox.Session) -> None:
    """Install what every session needs into the environment that nox runs in; then `nox --no-venv` uses it."""
    for what in INSTALLED:
        session.run("uv", "pip", "install", "--quiet", f"--python={sys.executable}", *what, external=True)


def check(session: nox.Session, *command: str, mend: str) -> None:
    """Run a program that finds faults; where it does, the last line says what to do."""
    try:
        session.run(*command)
    except CommandFailed:
        session.error(mend)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, SQL and YAML; `-- COMMIT` checks of SQL and YAML only what changed since: both are slow."""
    install(session)
    check(session, "ruff", "check", ".", mend="'ruff check --fix .' mends most of it, the rest is by hand")
    check(session, "ruff", "format", "--check", ".", mend="'ruff format .' mends it")
    check(session, "mypy", mend="Correct the lines above, then see it pass: mypy")
    settings = changed_files(session, "*.yml", "*.yaml")
    if settings is None or ".yamllint.yaml" in settings:
        settings = ["."]
    if settings:
        command = ["yamllint", "--strict", *settings]
        check(session, *command, mend=f"Correct the lines above, then see it pass: {' '.join(command)}")
    queries = changed_files(session, ":(glob)dbt/models/**/*.sql", ":(glob)dbt/tests/**/*.sql", "dbt/.sqlfluff")
    if queries is None or "dbt/.sqlfluff" in queries:
        queries = [folder for folder in ("dbt/models", "dbt/tests") if Path(folder).exists()]
    if queries:
        mend = f"'sqlfluff fix {' '.join(queries)}' mends most of it, the rest is by hand"
        check(session, "sqlfluff", "lint", "--disable-progress-bar", *queries, mend=mend)


@nox.session
def secrets(session: nox.Session) -> None:
    """Look for secrets with the rules of the pre-commit hook; `-- COMMIT` only in what changed since."""
    install(session)
    hooks = [hook for repo in yaml_file(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    hook = next(hook for hook in hooks if hook["id"] == "detect-secrets")
    names = changed_files(session)
    if names is None:
        names = str(session.run("git", "ls-files", "-z", silent=True, external=True)).split("\0")[:-1]
    if names := [name for name in names if not re.search(hook["exclude"], name)]:
        check(session, *hook["entry"].split(), *names, mend=SECRET)


def yaml_file(name: str) -> Any:
    """A file of this folder; YAML comes with the tools that are installed."""
    import yaml

    return yaml.safe_load(Path(name).read_text(encoding="utf-8"))


@nox.session
def parse(session: nox.Session) -> None:
    """Let dbt read the project, which connects to nothing; what it read serves the tests and the next time."""
    install(session)
    session.run("dml", "ci", "parse")


@nox.session
def change(session: nox.Session) -> None:
    """Build and test what changed since `-- COMMIT` (default: origin/main), and write into dist/change what it does."""
    install(session)
    base, out = f"--base={session.posargs[0] if session.posargs else 'origin/main'}", Path("dist/change")
    shutil.rmtree(out, ignore_errors=True)
    if os.environ.get("DML_DBT_PACKAGES_MIRROR"):
        session.run("dml", "elementary", "install")
    mend = f"{out / 'comment.md'} says it too. A run's file is where it ran: elsewhere, run this session there first"
    check(session, "dml", "ci", "check", "--prepare", "--elementary", base, f"--output={out}", mend=mend)


@nox.session
def maintenance(session: nox.Session) -> None:
    """Say what `dml maintain` would remove; where DML_PROFILE names no server, from the lake that a run makes first."""
    install(session)
    if os.environ.get("DML_PROFILE", "local") == "local":
        session.run("dml", "run")
    session.run("dml", "maintain", "--dry-run")


@nox.session
def files(session: nox.Session) -> None:
    """Check what DVC tracks; `-- push` makes and pushes what is missing before."""
    if not Path("dvc.yaml").exists():
        session.skip("DVC tracks nothing here")
    install(session)
    if session.posargs == ["push"]:
        # Not `repro --pull`, which knows only the storage that .dvc/config names.
        session.run("dml", "dvc", "pull", "--allow-missing")
        session.run("dml", "dvc", "repro")
        session.run("dml", "dvc", "push")
    session.run("dml", "dvc", "check")


@nox.session
def tests(session: nox.Session) -> None:
    """Let dbt read the project, then run the quick tests."""
    install(session)
    command = ["python", "-m", "pytest", "-p", "dml_platform.dbt.pytest_parse", "-m", "not integration"]
    session.run(*command, *session.posargs)


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


@nox.session(venv_backend="none")
def image(session: nox.Session) -> None:
    """Build the image with plain Docker, and describe it (session sbom); `-- TAG [docker build's own options]`."""
    tag, *options = session.posargs or [TAG]
    if os.environ.get("DML_DBT_PACKAGES_MIRROR"):  # what is in dbt/dbt_packages goes along into the image
        session.run("dml", "elementary", "install", external=True)
    if certificates := os.environ.get("SSL_CERT_FILE"):
        options += [f"--secret=id=ca,src={certificates}", "--network=host"]
    indexes = {"index": "UV_DEFAULT_INDEX", "extra-index": "UV_INDEX"}
    options += [f"--secret=id={name},env={variable}" for name, variable in indexes.items() if os.environ.get(variable)]
    session.run("docker", "build", *origin(), *options, "--tag", tag, "--file=docker/Dockerfile", ".", external=True)
    # Here and not as a session of its own: that would come after `vulnerabilities`, which reads what this writes.
    describe(session, tag)


@nox.session(venv_backend="none")
def sbom(session: nox.Session) -> None:
    """Write the image's bill of materials (CycloneDX) and its known vulnerabilities into dist/; `-- TAG`."""
    describe(session, session.posargs[0] if session.posargs else TAG)


def origin() -> list[str]:
    """What an image is told of its code: version, commit (by which its runs can be made again), day and origin."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    told = {
        "VERSION": PROJECT["version"],
        "REVISION": git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        "CREATED": git("log", "-1", "--format=%cI"),
        "SOURCE": re.sub("//[^/@]*@", "//", git("remote", "get-url", "origin")),  # without a password
    }
    return [f"--build-arg={name}={value}" for name, value in told.items() if value]


def describe(session: nox.Session, tag: str) -> None:
    """What session sbom does, for an image."""
    bill, report = Path(f"dist/{NAME}.cdx.json"), Path(f"dist/{NAME}.audit.json")
    bill.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)  # one of another image would be taken for this one's
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    run = ["docker", "run", "--rm", "--network=none"]
    python = session.run(*run, tag, "python", "-c", ask, silent=True, external=True)
    with tempfile.TemporaryDirectory() as tools:
        wanted = ["--quiet", "--target", tools, "--python-version", str(python).strip(), SBOM_TOOLS["cyclonedx-py"]]
        session.run("uv", "pip", "install", *wanted, external=True)
        os.chmod(tools, 0o755)  # read by the image's own user
        # Appended here and not by PYTHONPATH, so that the tool does not list itself.
        code = "import sys; sys.path.append('/sbom'); from cyclonedx_py._internal.cli import run; sys.exit(run())"
        describe = ["environment", "/opt/dml/bin/python", "--no-validate", "--output-reproducible"]
        mount = f"--volume={tools}:/sbom:ro"
        listed = session.run(*run, mount, tag, "python", "-c", code, *describe, silent=True, stderr=None, external=True)
    bill.write_text(str(listed), encoding="utf-8")
    components = [c for c in json.loads(str(listed))["components"] if c["name"] not in OURS]
    session.log(f"{bill}: {len(components)} packages")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write("".join(f"{c['name']}=={c['version']}\n" for c in components))
        pins.flush()
        audit = ["pip-audit", "--requirement", pins.name, "--no-deps", "--disable-pip", "--progress-spinner=off"]
        command = ["uv", "tool", "run", "--from", SBOM_TOOLS["pip-audit"], *audit]
        # 1: it found something, or could not ask; what it wrote says which.
        session.run(
            *command, "--format=json", "--output", str(report), success_codes=[0, 1], silent=True, external=True
        )
    if not report.exists():
        session.warn("vulnerabilities were NOT checked: the service did not answer. Run this where it is reached.")
        return
    checked = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    skipped = [found["name"] for found in checked if "skip_reason" in found]
    if skipped:  # pip-audit itself calls this "no known vulnerabilities"
        session.warn(
            f"vulnerabilities of {len(skipped)} of {len(checked)} packages were NOT checked: the service does not "
            f"know them or does not answer ({', '.join(skipped[:3])}, …). Run this where it is reached."
        )
    bad = [f"{found['name']} {found['version']}: {v['id']}" for found in checked for v in found.get("vulns", [])]
    if bad:
        session.warn("known vulnerabilities: " + "; ".join(bad))


@nox.session(venv_backend="none")
def image_check(session: nox.Session) -> None:
    """Start the built image as the server does: it loads its definitions and is not root; `-- TAG`."""
    session.run("dml", "ci", "image", session.posargs[0] if session.posargs else TAG, external=True)


@nox.session(venv_backend="none")
def vulnerabilities(session: nox.Session) -> None:
    """Refuse what session sbom found, but for what .vulnerabilities.yaml accepts with a date and a reason."""
    session.run("dml", "ci", "vulnerabilities", f"dist/{NAME}.audit.json", external=True)


@nox.session(venv_backend="none")
def template(session: nox.Session) -> None:
    """Take over what the template changed since; own edits stay, conflicts are marked in the files; `-- VERSION`."""
    version = [f"--vcs-ref={session.posargs[0]}"] if session.posargs else []
    command = ["uv", "tool", "run", "--from", COPIER, "copier", "update", "--skip-answered", "--defaults"]
    session.run(*command, "--conflict=inline", *version, external=True)
