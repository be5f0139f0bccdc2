"""The published state of the commit that a branch left, made by running the project as it was, in a lake of its own.

It is below the state folder, ``<home>/ci/<project>/``: what a person published in the state folder is never written
over, and never taken for the base. The workflow caches it with the rest. A newer base is run on the state of an older
one, as on a server: only what is new is landed, and Elementary's history grows. Where that fails, because the tables
refuse the columns of a change that was announced and merged, the state is made anew beside it and takes its place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from filelock import FileLock

from dml_platform.catalog.store import AREA as DOCUMENTS
from dml_platform.core.errors import ConfigError, PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import BASES, Project
from dml_platform.core.settings import Settings
from dml_platform.dbt.manifest import load_manifest
from dml_platform.dbt.packages import FOLDER as PACKAGES
from dml_platform.lake import Lake
from dml_platform.lake.catalog import metadata_locations

_MARK = "state.json"
# Of a run that failed in itself, and of one whose checks failed: what another state to run on may mend.
_MAY_PASS_ANEW = (1, 3)

Say = Callable[[str], None]


@dataclass(frozen=True)
class _State:
    """Which commit a state is of, and its folder; of no commit while it is made."""

    commit: str
    folder: str


def find_base(project: Project, settings: Settings, base: str) -> Lake | None:
    """The lake that ``prepare_base`` made of the very commit at which the branch left ``base``; None if there is none.

    Raises:
        ConfigError: git does not know the commit.
    """
    root = settings.home / BASES / project.name
    state = _read_state(root)
    if state is None or state.commit != find_commit(project, base):
        return None
    return _open(project, settings, root / state.folder)


def prepare_base(project: Project, settings: Settings, base: str, *, say: Say) -> Lake:
    """Make that lake, unless it is there; land what the change reads and the base did not have.

    Raises:
        ConfigError: git does not know the commit.
        PlatformError: the project as it was does not run.
    """
    commit = find_commit(project, base)
    root = settings.home / BASES / project.name
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / "state.lock"):
        state = _read_state(root)
        if state is not None and state.commit == commit:
            say(f"the published state is here already, made from {commit[:12]}")
            lake = _open(project, settings, root / state.folder)
            _borrow(Lake(settings, project.root), lake, project)
        else:
            lake = _make(project, settings, root, state, commit, say)
        if keys := _not_landed(project, lake):
            # A source that the change brings along has nobody else who could land it.
            _run(project.root, lake, "--select", " or ".join(f"key:{key}" for key in keys))
    return lake


def find_commit(project: Project, base: str) -> str:
    """Where the branch left ``base``.

    Raises:
        ConfigError: git does not know it.
    """
    return _git(project, base, "merge-base", base, "HEAD").decode().strip()


def _make(project: Project, settings: Settings, root: Path, older: _State | None, commit: str, say: Say) -> Lake:
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        then = Path(folder) / project.root.name
        if not _unpack(project, commit, then):
            say(f"{commit[:12]} has no such project: there is nothing to compare with yet")
            made = _anew(project, settings, root)
        else:
            found = _run_on_older(project, settings, root, older, then, say) if older else None
            made = found or _anew(project, settings, root)
            if found is None:
                _run(then, made)
            say(f"made the published state from {commit[:12]}")
    place = made.settings.home
    _write_state(root, _State(commit, place.name))
    for other in root.iterdir():
        if other.is_dir() and other != place:
            shutil.rmtree(other, ignore_errors=True)
    return made


def _run_on_older(project: Project, settings: Settings, root: Path, older: _State, then: Path, say: Say) -> Lake | None:
    """Run the base on the state of another commit. Returns: None where that state does not take it."""
    if not (root / older.folder).is_dir():
        return None
    # Killed half-way it is of neither commit.
    _write_state(root, _State("", older.folder))
    lake = _open(project, settings, root / older.folder)
    _borrow(Lake(settings, project.root), lake, project)
    try:
        _run(then, lake)
    except _RunFailedError as error:
        if error.code not in _MAY_PASS_ANEW:
            raise
        say("the state of an earlier base does not take it (see above), so it is made anew")
        return None
    return lake


def _anew(project: Project, settings: Settings, root: Path) -> Lake:
    # Iceberg's metadata has full paths, so a lake cannot be renamed once it is made.
    home = root / uuid.uuid4().hex[:8]
    home.mkdir()
    lake = _open(project, settings, home)
    _borrow(Lake(settings, project.root), lake, project)
    return lake


def _open(project: Project, settings: Settings, home: Path) -> Lake:
    own = settings.lake.model_copy(update={"catalog_uri": None, "warehouse": None})
    return Lake(settings.model_copy(update={"home": home, "lake": own}), project.root)


def _borrow(lake: Lake, base: Lake, project: Project) -> None:
    """Let models read the other projects' marts, and the impact name who reads this one's: both as they are here."""
    there, here = metadata_locations(base.catalog), metadata_locations(lake.catalog)
    for ref in {*lake.tables(), *base.tables()}:
        if ref.project == project.name or ref.layer != "marts" or here.get(ref.dotted) == there.get(ref.dotted):
            continue
        if ref.dotted in there:
            base.catalog.drop_table(ref.identifier)  # its name only
        if ref.dotted in here:
            for depth in (1, 2):
                base.catalog.create_namespace_if_not_exists(ref.namespace[:depth])
            base.catalog.register_table(ref.identifier, here[ref.dotted])
    documents = base.settings.home / DOCUMENTS
    documents.mkdir(exist_ok=True)
    for path in (lake.settings.home / DOCUMENTS).glob("*.json"):
        if path.stem != project.name:
            shutil.copyfile(path, documents / path.name)


def _not_landed(project: Project, lake: Lake) -> list[str]:
    manifest = load_manifest(project)
    refs = {TableRef(s["database"], s["schema"], s["identifier"]) for s in manifest["sources"].values()}
    own = {ref for ref in refs if ref.project == project.name and ref.layer == "raw"}
    return ["/".join(ref.asset_key) for ref in sorted(own - {pinned.ref for pinned in lake.pin_all(own)})]


class _RunFailedError(PlatformError):
    """``dml run`` of the base ended with ``code``."""

    code = 1


def _run(root: Path, lake: Lake, *arguments: str) -> None:
    settings = lake.settings
    environment = os.environ | {
        "DML_PROFILE": "local",
        "DML_HOME": str(settings.home),
        "DML_LAKE__CATALOG_URI": settings.catalog_uri,
        "DML_LAKE__WAREHOUSE": settings.warehouse,
    }
    command = [sys.executable, "-m", "dml_platform.cli", "run", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        error = _RunFailedError(
            "cannot make the published state to compare with",
            f"'dml run' of the project as it was ended with {done.returncode}; what it said is above",
            "Mend the base branch first, or name a commit that runs with --base.",
        )
        error.code = done.returncode
        raise error


def _unpack(project: Project, commit: str, root: Path) -> bool:
    """Write the project as it was. Returns: whether it was there."""
    prefix = _git(project, commit, "rev-parse", "--show-prefix").decode().strip()
    if not _git(project, commit, "ls-tree", "--full-tree", commit, f"{prefix}pyproject.toml").strip():
        return False
    packed = _git(project, commit, "archive", "--format=tar", f"{commit}:{prefix}".rstrip("/"))
    root.mkdir()
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(root, filter="data")
    packages = project.dbt_dir / PACKAGES  # git has none of them, and Elementary's history begins with the base
    if packages.is_dir() and (root / "dbt").is_dir() and not (root / "dbt" / PACKAGES).exists():
        (root / "dbt" / PACKAGES).symlink_to(packages)
    return True


def _git(project: Project, base: str, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(project.root), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise ConfigError(
            f"cannot restore the project as it was at {base!r}",
            done.stderr.decode(errors="replace").strip() or "git knows no such commit",
            "Fetch it, or give a branch, tag or commit with --base.",
        )
    return done.stdout


def _read_state(root: Path) -> _State | None:
    try:
        return _State(**json.loads((root / _MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or cut short
        return None


def _write_state(root: Path, state: _State) -> None:
    beside = root / f"{_MARK}.new"
    beside.write_text(json.dumps(asdict(state)), encoding="utf-8")
    beside.replace(root / _MARK)
