"""dbt packages that a project uses where they can be had: Elementary's, with what it stands on.

They are on the dbt hub only, so ``DML_DBT_PACKAGES_MIRROR`` says where from: ``hub``, the address of a git server that
mirrors the two repositories, or a folder. Where they are not there, dbt's tests that need them are absent from the
project.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock

from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.project import Project

# dbt's YAML asks for it: enabled: "{{ env_var('DBT_HAS_ELEMENTARY', 'false') == 'true' }}"
FLAG = "DBT_HAS_ELEMENTARY"
FOLDER = "dbt_packages"
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Package:
    """A dbt package: ``name`` as dbt calls it, ``repository`` on its git server, ``hub`` on the dbt hub."""

    name: str
    version: str
    repository: str
    hub: str


# The package and the `edr` program must be of one version.
ELEMENTARY = Package("elementary", "0.25.1", "dbt-data-reliability", "elementary-data/elementary")
PACKAGES = (ELEMENTARY, Package("dbt_utils", "1.4.1", "dbt-utils", "dbt-labs/dbt_utils"))


def are_installed(dbt_dir: Path) -> bool:
    """Whether the packages are in a dbt project, whole and in the right version."""
    return installed_versions(dbt_dir) == {package.name: package.version for package in PACKAGES}


def installed_versions(dbt_dir: Path) -> dict[str, str]:
    """What is installed, from the mark that an installation leaves last."""
    try:
        found = yaml.safe_load(_mark(dbt_dir).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def absence(dbt_dir: Path) -> str | None:
    """One sentence on why Elementary's tests are not in a project; None where they are, or the project has none."""
    if are_installed(dbt_dir) or not is_wanted(dbt_dir):
        return None
    return (
        f"Elementary's tests are not part of this project: its dbt package {ELEMENTARY.version} is not installed. "
        "Set DML_DBT_PACKAGES_MIRROR and run 'dml elementary install'"
    )


def is_wanted(dbt_dir: Path) -> bool:
    """Whether the project's YAML has tests of Elementary."""
    return any(FLAG in path.read_text(encoding="utf-8") for path in dbt_dir.glob("models/**/*.y*ml"))


def set_flag(dbt_dir: Path) -> None:
    """Tell dbt's YAML whether the packages are there. Always said, as dbt parses anew when it changes."""
    os.environ[FLAG] = "true" if are_installed(dbt_dir) else "false"


def install_packages(project: Project, mirror: str, progress: Callable[[str], None] | None = None) -> dict[str, str]:
    """Put the packages into the project's ``dbt/dbt_packages``, if they are not there.

    Args:
        mirror: ``hub``; a git server's address, below which the repositories are; or a folder with a folder or a bare
            repository for each package.
    Returns: versions by name.
    Raises:
        ConfigError: the mirror does not have them.
        RetryableError: it cannot be reached.
    """
    target = project.dbt_dir / FOLDER
    try:
        target.mkdir(exist_ok=True)
        with FileLock(target / "dml.lock"):
            if not are_installed(project.dbt_dir):
                _install(target, mirror, progress or (lambda _: None))
    except OSError as error:
        raise ConfigError(
            f"cannot install dbt packages into {target}",
            error.strerror or type(error).__name__,
            "They belong to the image's build where nothing may be written later.",
        ) from error
    return installed_versions(project.dbt_dir)


def _install(target: Path, mirror: str, progress: Callable[[str], None]) -> None:
    _mark(target.parent).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="dml-", dir=target.parent) as temporary:
        folder = Path(temporary)
        if mirror == "hub":
            progress("asking the dbt hub")
            _from_hub(folder)
        for package in PACKAGES:
            progress(f"installing dbt package {package.name} {package.version}")
            if mirror == "hub":
                found = folder / FOLDER / package.name
            elif _is_address(mirror):
                found = _from_git(f"{mirror.rstrip('/')}/{package.repository}.git", package, folder)
            else:
                found = _from_folder(Path(mirror).expanduser(), package, folder)
            _check(found, package, mirror)
            _prepare(found, package)
            shutil.rmtree(target / package.name, ignore_errors=True)
            shutil.move(found, target / package.name)
    versions = {package.name: package.version for package in PACKAGES}
    _mark(target.parent).write_text(yaml.safe_dump(versions), encoding="utf-8")


def _from_hub(folder: Path) -> None:
    wanted = {"packages": [{"package": package.hub, "version": package.version} for package in PACKAGES]}
    (folder / "packages.yml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
    (folder / "dbt_project.yml").write_text("name: dml_packages\nprofile: none\n", encoding="utf-8")
    # Not the program by its name: 'dml' may be called without its environment's folder in PATH.
    _call([sys.executable, "-m", "dbt.cli.main", "deps", "--project-dir", str(folder)], "the dbt hub", cwd=folder)


def _from_git(address: str, package: Package, folder: Path) -> Path:
    found = folder / package.name
    command = ["git", "clone", "--quiet", "--depth=1", f"--branch={package.version}", address, str(found)]
    _call(command, f"{package.repository} {package.version}", cwd=folder)
    shutil.rmtree(found / ".git")
    return found


def _from_folder(mirror: Path, package: Package, folder: Path) -> Path:
    for name in (package.name, package.repository, f"{package.repository}.git"):
        place = mirror / name
        if (place / "dbt_project.yml").is_file():
            ignored = shutil.ignore_patterns(".git", "integration_tests")
            return Path(shutil.copytree(place, folder / package.name, ignore=ignored))
        if (place / "HEAD").is_file() or (place / ".git").exists():
            return _from_git(f"file://{place.resolve()}", package, folder)
    raise ConfigError(
        f"cannot install dbt package {package.name} {package.version}",
        f"{mirror} has neither {package.name!r} nor a repository {package.repository!r}",
        "Point DML_DBT_PACKAGES_MIRROR to a folder with both packages.",
    )


def _check(found: Path, package: Package, mirror: str) -> None:
    what = f"cannot install dbt package {package.name} {package.version}"
    try:
        project = yaml.safe_load((found / "dbt_project.yml").read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(what, f"{_shown(mirror)} has no such package", "Mirror it.") from None
    # dbt_utils' own number is 0.1.0 whatever it is.
    if project["name"] != package.name or (package is ELEMENTARY and project["version"] != package.version):
        raise ConfigError(
            what,
            f"{_shown(mirror)} has {project['name']} {project['version']}",
            f"Mirror version {package.version}: the package and the edr program must be of one version.",
        )


def _prepare(found: Path, package: Package) -> None:
    """Cut what dbt would look for on the hub, and give Elementary's tables a layer of their own."""
    for name in ("packages.yml", "package-lock.yml", "dependencies.yml"):
        (found / name).unlink(missing_ok=True)
    shutil.rmtree(found / "integration_tests", ignore_errors=True)
    if package is ELEMENTARY:
        path = found / "dbt_project.yml"
        project = yaml.safe_load(path.read_text(encoding="utf-8"))
        project["models"] = {package.name: {"+schema": package.name}}
        path.write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")


def _call(command: list[str], what: str, *, cwd: Path) -> None:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise ConfigError(f"cannot get {what}", f"{command[0]} is not installed", "Install it.") from None
    except subprocess.TimeoutExpired:
        raise RetryableError(f"cannot get {what}", f"no answer in {_TIMEOUT_S:.0f} s", "Try again later.") from None
    if done.returncode != 0:
        said = _shown(" ".join((done.stderr or done.stdout).split()))[-300:]
        raise RetryableError(f"cannot get {what}", said or "no reason was given", "Check DML_DBT_PACKAGES_MIRROR.")


def _is_address(mirror: str) -> bool:
    return "://" in mirror or re.match(r"^[\w.-]+@[\w.-]+:", mirror) is not None


def _shown(text: str) -> str:
    """Without the credentials that an address may carry."""
    return re.sub(r"://[^@/\s]+@", "://***@", text)


def _mark(dbt_dir: Path) -> Path:
    return dbt_dir / FOLDER / ".dml.yml"
