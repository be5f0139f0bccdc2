"""The dbt project as it was at a commit, and which of its nodes differ since.

Of the two versions nearly all files are the same, so what is parsed of the one serves the other: dbt then reads only
what differs. What came out is kept beside the project's own, for the next change that leaves the same base.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project
from dml_platform.dbt.invoke import invoke
from dml_platform.dbt.manifest import (
    PARTIAL_PARSE,
    adopt_parsed,
    ensure_manifest,
    keep_parsed,
    load_manifest,
    load_parsed,
    target_dir,
)
from dml_platform.dbt.packages import ELEMENTARY, FOLDER

_KEPT = "base"  # a folder beside it
_KINDS = ("model", "seed", "snapshot", "test", "unit_test")


@dataclass(frozen=True)
class Baseline:
    """The project at the commit that a branch left ``base`` at."""

    base: str
    commit: str
    project: Project
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Modified:
    """Unique ids of what differs: ``own`` itself, ``all`` with what is downstream, ``removed`` is there no more."""

    own: tuple[str, ...]
    all: tuple[str, ...]
    removed: tuple[str, ...]


@contextmanager
def open_baseline(project: Project, base: str) -> Iterator[Baseline | None]:
    """Check the project out as it was where the branch left ``base``, and parse it; None if it was not there yet.

    Raises:
        ConfigError: git does not know the commit, or dbt cannot read the project as it was.
    """
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        # A module may be named after its folder.
        root = Path(folder) / project.root.name
        commit = _check_out(project, base, root)
        if commit is None:
            yield None
            return
        then = replace(project, root=root)
        kept = target_dir(project) / _KEPT
        if not adopt_parsed(then, kept):
            ensure_manifest(project)
            target_dir(then).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target_dir(project) / PARTIAL_PARSE, target_dir(then) / PARTIAL_PARSE)
            keep_parsed(then, kept)
        manifest = load_manifest(then)
        yield Baseline(base, commit, then, manifest)


def find_modified(project: Project, baseline: Baseline | None) -> Modified:
    """dbt's own ``state:modified``, and what is downstream; everything where there is no baseline."""
    manifest = load_manifest(project)
    ours = {key for part in ("nodes", "unit_tests") for key, node in manifest[part].items() if _is_ours(node)}
    if baseline is None:
        return Modified(tuple(sorted(ours)), tuple(sorted(ours)), ())
    found = _list_modified(project, ensure_manifest(baseline.project).parent)
    below = _with_downstream(manifest, found)
    before = {key for key, node in baseline.manifest["nodes"].items() if _is_ours(node) and _is_table(node)}
    own, everything = (tuple(sorted(ours & keys)) for keys in (found, below))
    return Modified(own, everything, tuple(sorted(before - manifest["nodes"].keys())))


def _list_modified(project: Project, state: Path) -> set[str]:
    """Unique ids of what differs, sources and exposures too: their readers are downstream of a change."""
    # A test of a model that differs is no test that differs.
    arguments = ["ls", "--quiet", "--select", "state:modified", "--state", str(state), "--indirect-selection", "empty"]
    arguments += ["--output", "json", "--output-keys", "unique_id"]
    manifest, how = load_parsed(project)
    with tempfile.TemporaryDirectory(prefix="ls-") as target:
        outcome = invoke([*arguments, *how], project, target=Path(target), manifest=manifest, shows=False)
    if not outcome.success:
        raise ConfigError(
            f"cannot compare the dbt project in {project.dbt_dir} with what it was",
            " ".join(str(outcome.exception or "dbt gave no reason").split()),
            "Correct the file; 'dbt ls --select state:modified --state <folder>' shows it again.",
        )
    return {json.loads(line)["unique_id"] for line in outcome.result or []}


def _with_downstream(manifest: dict[str, Any], keys: set[str]) -> set[str]:
    """With all that reads them, and the tests of all: what ``state:modified+`` is, without asking dbt once more."""
    found, pending = set(keys), list(keys)
    while pending:
        new = set(manifest["child_map"].get(pending.pop(), ())) - found
        found |= new
        pending += new
    return found


def _is_ours(node: dict[str, Any]) -> bool:
    return node["resource_type"] in _KINDS and node["package_name"] not in (ELEMENTARY.name, "dbt_utils")


def _is_table(node: dict[str, Any]) -> bool:
    return node["resource_type"] in ("model", "seed", "snapshot")


def _check_out(project: Project, base: str, root: Path) -> str | None:
    """Unpack dbt's folder as it was. Returns: the commit; None if the project was not there."""
    what = f"cannot compare with {base!r}"
    prefix = _git(project.root, "rev-parse", "--show-prefix", what=what).decode().strip()
    top = Path(_git(project.root, "rev-parse", "--show-toplevel", what=what).decode().strip())
    _git(top, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}", what=what)
    # What others changed on the base since is no change of this branch.
    commit = _git(top, "merge-base", base, "HEAD", what=what, reason="they have no common commit").decode().strip()
    if not _git(top, "ls-tree", "--full-tree", commit, f"{prefix}dbt/dbt_project.yml", what=what).strip():
        return None
    index = {"GIT_INDEX_FILE": str(root.with_name("index"))}  # not the one that a person works with
    _git(top, "read-tree", "--prefix=dbt/", f"{commit}:{prefix}dbt", what=what, variables=index)
    _git(top, "checkout-index", "--all", f"--prefix={root}/", what=what, variables=index)
    packages = project.dbt_dir / FOLDER
    if packages.is_dir() and not (root / "dbt" / FOLDER).exists():
        (root / "dbt" / FOLDER).symlink_to(packages)
    return commit


def _git(
    folder: Path,
    *arguments: str,
    what: str,
    reason: str = "git knows no such commit",
    variables: Mapping[str, str] | None = None,
) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env={**os.environ, **(variables or {})}, capture_output=True, check=False)
    except OSError as error:
        raise ConfigError(what, f"git cannot be started ({error})", "Install git.") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or reason
        raise ConfigError(what, said, "Fetch it, or give a branch, tag or commit with --base.")
    return done.stdout
