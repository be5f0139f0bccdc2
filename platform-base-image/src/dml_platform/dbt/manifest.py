"""A dbt project as dbt has read it: parsed when a file changed, kept, and taken over where the files are the same.

What runs on it belongs in ``runner`` and its likes.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from dml_platform import __version__
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project
from dml_platform.dbt.invoke import invoke
from dml_platform.dbt.packages import FOLDER, installed_versions, set_flag

logger = logging.getLogger(__name__)

MANIFEST_STAMP = "dml_manifest.sha256"
PARTIAL_PARSE = "partial_parse.msgpack"
_PARSED = ("manifest.json", PARTIAL_PARSE)


def target_dir(project: Project) -> Path:
    """Where the parsed project is kept; only ``ensure_manifest`` writes there, so an image may hold it read-only.

    Apart from a terminal's ``target/``: dbt caches the project's path as it was given; a relative one would break here.
    """
    return project.dbt_dir / "target" / "dml"


def ensure_manifest(project: Project) -> Path:
    """The project's manifest, parsed anew only if a dbt file changed since.

    Raises:
        ConfigError: dbt cannot parse the project, in its own words; or the manifest is missing or older than the files
            where nothing can be written, which is an image that was not built as it should.
    """
    target = target_dir(project)
    manifest = target / "manifest.json"
    set_flag(project.dbt_dir)
    digest = _digest(project.dbt_dir)
    if _is_marked(target, digest):
        return manifest
    try:
        target.mkdir(parents=True, exist_ok=True)
        turn = FileLock(target / "dml_manifest.lock").acquire()
    except OSError as error:  # in a container nothing can be written
        if error.errno == errno.ENOSPC:
            raise
        raise ConfigError(
            f"cannot use the dbt project in {project.dbt_dir}",
            f"its manifest in {target} is missing or older than its files, and {error.strerror or error}",
            "Build the image again: parsing the dbt project belongs to its build.",
        ) from error
    with turn:
        if _is_marked(target, digest):  # another process was faster
            return manifest
        outcome = invoke(["parse", "--quiet"], project, target=target)
        if not outcome.success:
            raise ConfigError(
                f"cannot parse the dbt project in {project.dbt_dir}",
                str(outcome.exception).strip() if outcome.exception else "dbt gave no reason",
                "Correct the file; 'dbt parse' shows it again.",
            )
        partial = target / f"{MANIFEST_STAMP}.partial"
        partial.write_text(_mark_of(target, digest), encoding="utf-8")
        partial.replace(target / MANIFEST_STAMP)
    return manifest


def parsed_digest(project: Project) -> str:
    """What stands for the files that the manifest was parsed from; call ``ensure_manifest`` before it."""
    return (target_dir(project) / MANIFEST_STAMP).read_text(encoding="utf-8").split()[0]


def load_manifest(project: Project) -> dict[str, Any]:
    """What dbt knows of the project, parsed anew only if a dbt file changed since. Raises as ``ensure_manifest``."""
    return json.loads(ensure_manifest(project).read_text(encoding="utf-8"))


def load_parsed(project: Project) -> tuple[Any, list[str]]:
    """What spares dbt its look at every file.

    Returns: the parsed project for ``invoke``, and the options that go with it; None where only dbt can tell whether
        it is current, which then reads it itself.
    """
    parsed = ensure_manifest(project).with_name(PARTIAL_PARSE)
    manifest = _load(parsed)
    return manifest, [] if manifest is not None else ["--partial-parse-file-path", str(parsed)]


def count_nodes(manifest: Path) -> str:
    """A sentence on what dbt has read."""
    nodes = json.loads(manifest.read_text(encoding="utf-8"))["nodes"].values()
    kinds = [node["resource_type"] for node in nodes]
    return f"dbt can read the project: {kinds.count('model')} models, {kinds.count('test')} tests"


def keep_parsed(project: Project, folder: Path) -> None:
    """Copy what is parsed of a project into a folder, for ``adopt_parsed``; not where nothing can be written."""
    place = ensure_manifest(project).parent
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        for name in (*_PARSED, MANIFEST_STAMP):
            shutil.copyfile(place / name, folder / name)
    except OSError as error:
        logger.warning("what dbt parsed could not be kept in %s: %s", folder, error)


def adopt_parsed(project: Project, folder: Path) -> bool:
    """Take from a folder what was parsed of a project, if it is of the same files and as it was written."""
    set_flag(project.dbt_dir)
    digest = _digest(project.dbt_dir)
    if not _is_marked(folder, digest):
        return False
    target = target_dir(project)
    target.mkdir(parents=True, exist_ok=True)
    for name in (*_PARSED, MANIFEST_STAMP):
        shutil.copyfile(folder / name, target / name)
    return True


def _is_marked(folder: Path, digest: str) -> bool:
    """Whether what lies there was parsed from these files: dbt also leaves what it read before it refused it."""
    try:
        return (folder / MANIFEST_STAMP).read_text(encoding="utf-8") == _mark_of(folder, digest)
    except (OSError, UnicodeDecodeError):  # none yet, or cut short
        return False


def _mark_of(folder: Path, digest: str) -> str:
    found = [(folder / name, (folder / name).stat()) for name in _PARSED]
    return " ".join([digest, *(_hash(path, stat.st_size, stat.st_mtime_ns) for path, stat in found)])


@functools.cache
def _hash(path: Path, _size: int, _mtime_ns: int) -> str:
    """A file's hash, made once as long as the file stays: a build asks several times, and the files are large."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load(path: Path) -> Any:
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(path.read_bytes())
    if any(os.environ.get(name) != value for name, value in manifest.env_vars.items()):
        return None
    # What dbt does after it has read the same file.
    manifest.rebuild_ref_lookup()
    manifest.build_flat_graph()
    return manifest


def with_foundations(manifest: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Unique ids with the views and seeds below them, which live in the file that is built; the lake's tables stay."""
    nodes, parents = manifest["nodes"], manifest["parent_map"]
    pending = list(keys)
    found = set(pending)
    while pending:
        for parent in parents.get(pending.pop(), []):
            node = nodes.get(parent)
            if node and parent not in found and node["config"].get("materialized") != "lake":
                found.add(parent)
                pending.append(parent)
    return sorted(found)


def source_files(folder: Path) -> Iterator[Path]:
    """The files of a dbt project, without what dbt makes of them and the packages that are installed."""
    for name in sorted(_files_of(folder)):
        if (folder / name).is_file():  # an editor's lock is a link to nothing
            yield folder / name


def _digest(folder: Path) -> str:
    packages = installed_versions(folder)
    digest = hashlib.sha256(f"{__version__} {version('dbt-core')} {version('dbt-duckdb')} {packages}".encode())
    for path in source_files(folder):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files_of(folder: Path) -> Iterator[str]:
    """Names of the files below a folder of dbt's, but of those that dbt or we make in it."""
    for place, folders, files in os.walk(folder, followlinks=False):
        inside = os.path.relpath(place, folder)
        if inside == ".":
            folders[:] = [name for name in folders if name not in ("target", "logs", FOLDER)]
            yield from files
        else:
            yield from (f"{inside}/{name}" for name in files)
