"""Checks of this repository: `nox` for the usual ones, `nox --list` for all.

With `--no-venv` the programs come from the environment that nox itself runs in, and nothing is installed.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests", "integration"]
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

PROJECT = nox.project.load_toml(Path(__file__).parent / "pyproject.toml")["project"]
TAG = f"dml-platform-base:{PROJECT['version']}"
CONSTRAINTS = Path("src/dml_platform/constraints.txt")
COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10", "--generate-hashes"]
COMPILE += ["--no-annotate", "--custom-compile-command=nox -s lock"]

# What describes an image; nothing of it gets into one.
SBOM_TOOLS = {"cyclonedx-py": "cyclonedx-bom==7.5.0", "pip-audit": "pip-audit==2.10.1"}
OURS = {"dml-platform"}


def install(session: nox.Session) -> None:
    """Install the locked set and this package, unless nox was told to use what is there."""
    if session.venv_backend == "none":
        return
    session.install("--require-hashes", "-r", "requirements/run.txt", "-r", "requirements/dev.txt")
    session.install("--no-deps", "--build-constraints", "requirements/build.txt", "-e", ".")


@nox.session(venv_backend="none")
def environment(session: nox.Session) -> None:
    """Install this package and what it needs into the environment that nox runs in, as `dml` wants it."""
    into = ["uv", "pip", "install", "--quiet", f"--python={sys.executable}"]
    session.run(*into, "--require-hashes", "-r", "requirements/run.txt", "-r", "requirements/dev.txt", external=True)
    session.run(*into, "--no-deps", "--build-constraints=requirements/build.txt", "-e", ".", external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, layers and YAML."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("mypy", "--config-file", "openmetadata/pyproject.toml")
    session.run("lint-imports", "--no-cache")
    session.run("yamllint", "--strict", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the quick tests."""
    install(session)
    # A file's tests stay with one process: their servers and lakes are started once.
    workers = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"]
    session.run("python", "-m", "pytest", *workers, "-m", "not integration", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Run the slow tests: real programs, killed processes, a browser."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "integration", *session.posargs)
    session.notify("publisher", [])


@nox.session(venv_backend="none")
def publisher(session: nox.Session) -> None:
    """Test the publisher to OpenMetadata, in an environment that is made when its locked list changes."""
    locked = Path("src/dml_openmetadata/requirements/test.txt").resolve()
    digest = hashlib.sha256(locked.read_bytes()).hexdigest()[:12]
    folder = Path(f".nox/publisher-{digest}-py{sys.version_info.major}.{sys.version_info.minor}").resolve()
    python = str(folder / "bin" / "python")
    if not (folder / ".complete").exists():
        session.run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        wanted = ["--quiet", "--require-hashes", "--compile-bytecode", f"--python={python}", str(locked)]
        session.run("uv", "pip", "sync", *wanted)
        (folder / ".complete").touch()
    session.chdir("openmetadata")
    session.run(python, "-m", "pytest", *session.posargs, external=True)


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
    # DVC and the publisher to OpenMetadata live in environments of their own: docs/versioning.md, docs/openmetadata.md.
    for apart in sorted(Path("src").rglob("requirements/*.in")):
        session.run(*COMPILE, str(apart), "-o", str(apart.with_suffix(".txt")), *session.posargs)
    header = "# The versions that dml-platform is tested with, for `uv pip compile -c`; made by nox -s lock.\n"
    CONSTRAINTS.write_text(header + "".join(f"{pin}\n" for pin in sorted(pins)))


@nox.session(venv_backend="none")
def image(session: nox.Session) -> None:
    """Build the image with plain Docker, and describe it (session sbom); `-- TAG [docker build's own options]`."""
    tag, *options = session.posargs or [TAG]
    if certificates := os.environ.get("SSL_CERT_FILE"):
        options += [f"--secret=id=ca,src={certificates}", "--network=host"]
    indexes = {"index": "UV_DEFAULT_INDEX", "extra-index": "UV_INDEX"}
    options += [f"--secret=id={name},env={variable}" for name, variable in indexes.items() if os.environ.get(variable)]
    session.run("docker", "build", *origin(), *options, "--tag", tag, ".", external=True)
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
    bill, report = Path("dist/dml-platform-base.cdx.json"), Path("dist/dml-platform-base.audit.json")
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
    """Run the image as a project's runs: its command works, with nothing to write to, not as root; `-- TAG`."""
    tag = session.posargs[0] if session.posargs else TAG
    confined = ["--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    run = ["docker", "run", "--rm", *confined, tag]
    session.run(*run, "dml", "--version", external=True)
    user = str(session.run(*run, "id", "-u", silent=True, external=True)).strip()
    if user == "0":
        session.error(f"{tag} runs as root: end the Dockerfile with 'USER 10001:10001'.")
    session.log(f"{tag}: user {user}")


@nox.session(venv_backend="none")
def vulnerabilities(session: nox.Session) -> None:
    """Refuse what session sbom found, but for what .vulnerabilities.yaml accepts with a date and a reason."""
    session.run("dml", "ci", "vulnerabilities", "dist/dml-platform-base.audit.json", external=True)
