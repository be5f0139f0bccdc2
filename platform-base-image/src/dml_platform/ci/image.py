"""What an image has to be before it is pushed: it starts as the server starts it, and holds no known vulnerability."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dml_platform.core.errors import ChecksFailedError, ConfigError

PORT = 4000
ACCEPTED = ".vulnerabilities.yaml"
# As a code location runs: no network but its own, nothing to write to but /tmp, no capability.
_CONFINED = ["--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
_SETTINGS = {"DML_PROFILE": "local", "DML_HOME": "/tmp/dml", "DAGSTER_HOME": "/tmp", "HOME": "/tmp"}


def check_image(tag: str, *, timeout_s: float = 180.0) -> str:
    """Start a project's image and wait until its code server answers, which it does once its definitions are loaded.

    Returns: a sentence on what was found.
    Raises:
        ChecksFailedError: it runs as root, does not know its commit, does not start, or its definitions do not load.
        ConfigError: there is no such image, or no Docker engine.
    """
    what = f"cannot accept image {tag!r}"
    found: list[dict[str, Any]] = json.loads(_docker("image", "inspect", tag, what=what))
    user = str(found[0]["Config"].get("User") or "").partition(":")[0]
    if user in ("", "0", "root"):
        raise ChecksFailedError(what, "it runs as root", "End the Dockerfile with 'USER 10001:10001'.")
    known = dict(entry.partition("=")[::2] for entry in found[0]["Config"].get("Env") or [])
    if not re.fullmatch("[0-9a-f]{40}(-dirty)?", commit := known.get("DML_GIT_COMMIT", "")):
        raise ChecksFailedError(
            what,
            f"it does not know its commit (DML_GIT_COMMIT is {commit!r}), so that no run of it could be made again",
            "Build it in a clone with 'nox -s image', or with --build-arg REVISION=$(git rev-parse HEAD).",
        )
    settings = [f"--env={name}={value}" for name, value in _SETTINGS.items()]
    started = time.monotonic()
    with _container([*_CONFINED, *settings, tag], what) as container:
        while not _answers(container):
            if not _is_running(container):
                raise ChecksFailedError(
                    what,
                    f"its code server ended: {_last_words(container)}",
                    "Correct it, then see it start with: nox -s image image_check",
                )
            if time.monotonic() - started > timeout_s:
                raise ChecksFailedError(
                    what, f"its code server does not answer after {timeout_s:.0f} s", f"Look: docker run --rm {tag}"
                )
            time.sleep(0.5)
    size = int(found[0]["Size"]) / 1e6
    return f"{tag}: user {user}, definitions loaded after {time.monotonic() - started:.1f} s, {size:,.0f} MB"


@contextlib.contextmanager
def _container(arguments: list[str], what: str) -> Iterator[str]:
    container = _docker("run", "--detach", *arguments, what=what).strip()
    try:
        yield container
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", container], capture_output=True, check=False)


def _answers(container: str) -> bool:
    check = ["dagster", "api", "grpc-health-check", "--port", str(PORT)]
    return subprocess.run(["docker", "exec", container, *check], capture_output=True, check=False).returncode == 0


def _is_running(container: str) -> bool:
    command = ["docker", "inspect", "--format={{.State.Running}}", container]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "true"


def _last_words(container: str) -> str:
    done = subprocess.run(["docker", "logs", "--tail=400", container], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    # Dagster wraps an error in its own, which only says that there was one.
    named = [line for line in lines if "Error: " in line and not line.startswith("dagster.")]
    return " ".join((named or lines or ["it said nothing"])[-1].split())[:500]


def _docker(*arguments: str, what: str) -> str:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(what, f"docker cannot be started ({error})", "Install a Docker engine.") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["docker gave no reason"])[-1]
        raise ConfigError(what, said, "Build the image first (nox -s image), where a Docker engine answers.")
    return done.stdout


def check_vulnerabilities(report: Path, accepted: Path, *, today: datetime.date) -> str:
    """Hold what pip-audit found (nox -s sbom) against what the project accepts, and until when.

    Args:
        report: pip-audit's JSON.
        accepted: a YAML file with a list ``accept``, each of a vulnerability's ``id`` or of a ``package`` that is on no
            public list, ``until`` and ``why``; may be absent.
    Returns: a sentence on what was found.
    Raises:
        ChecksFailedError: there are others, or a package could not be looked up.
        ConfigError: the file of what is accepted is wrong.
    """
    what = "cannot accept the image's packages"
    if not report.is_file():
        raise ChecksFailedError(
            what, f"they were not checked: there is no {report}", "Run 'nox -s sbom' where the service is reached."
        )
    packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    waived, unlisted = _accepted(accepted, today)
    found = {
        f"{package['name']} {package['version']}: {each['id']}" + _fix(each)
        for package in packages
        for each in package.get("vulns", [])
        if not waived & {each["id"], *each.get("aliases", [])}
    }
    if found:
        raise ChecksFailedError(
            what,
            f"{len(found)} known vulnerabilities: " + "; ".join(sorted(found)[:10]),
            f"Lock newer versions (nox -s lock -- --upgrade), or accept each in {accepted} with until and why.",
        )
    # pip-audit calls it success when its service knows some of them only, or none. Ours are not in its report.
    skipped = {str(package["name"]): package["skip_reason"] for package in packages if "skip_reason" in package}
    if packages and len(skipped) == len(packages):
        raise ChecksFailedError(
            what,
            f"none of {len(packages)} packages was checked: {packages[0]['skip_reason']}",
            "Run 'nox -s sbom' where the service is reached.",
        )
    if unknown := sorted(name for name in skipped if _canonical(name) not in unlisted):
        named = "; ".join(f"{name} ({skipped[name]})" for name in unknown[:10]) + ("; …" if len(unknown) > 10 else "")
        raise ChecksFailedError(
            what,
            f"{len(unknown)} of {len(packages)} packages could not be looked up: {named}",
            f"Run 'nox -s sbom' where the service is reached. One that is on no public list is accepted in {accepted}: "
            "{package: NAME, until: 2027-01-31, why: …}.",
        )
    known = f"{len(packages) - len(skipped)} of {len(packages)} packages checked"
    return f"{known}, {len(skipped)} accepted unchecked, {len(waived)} vulnerabilities accepted"


def _fix(vulnerability: dict[str, Any]) -> str:
    versions = vulnerability.get("fix_versions") or []
    return f" (corrected in {', '.join(versions)})" if versions else ""


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _accepted(path: Path, today: datetime.date) -> tuple[set[str], set[str]]:
    """The vulnerabilities and the packages of which nothing is known that are accepted on that day."""
    if not path.is_file():
        return set(), set()
    try:
        entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {})["accept"]
        kept = [e for e in entries if e["until"] >= today and str(e["why"]).strip()]
        packages = {_canonical(str(e["package"])) for e in kept if "package" in e}
        return {str(e["id"]) for e in kept if "package" not in e}, packages
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read {path}",
            f"{error}",
            "Write 'accept:' with a list of {id: …, until: 2027-01-31, why: …}, or with package in place of id.",
        ) from error
