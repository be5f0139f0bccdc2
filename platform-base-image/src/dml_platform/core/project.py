"""Where things are: the project a command was started in, its workspace and the state folder.

A project is a folder whose ``pyproject.toml`` has ``[tool.dml] project = "<name>"``. State lives in
``.dml`` of the nearest folder upward that has one, so that projects side by side share a lake.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dml_platform.core.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STATE_FOLDER = ".dml"
BASES = "ci"  # below it: published states that changes are compared with, each in a state folder of its own


@dataclass(frozen=True)
class Project:
    """One team's repository.

    ``module`` is the Python module whose ``defs`` Dagster loads.
    """

    name: str
    root: Path
    module: str

    @property
    def config_dir(self) -> Path:
        """Folder of ``project.yaml`` and ``sources.yaml``."""
        return self.root / "config"

    @property
    def dbt_dir(self) -> Path:
        """Folder of ``dbt_project.yml``."""
        return self.root / "dbt"


def read_project(root: Path) -> Project | None:
    """Read the project in exactly this folder, or None when it is not one.

    Raises:
        ConfigError: ``pyproject.toml`` does not parse or ``[tool.dml]`` names no project.
    """
    pyproject = root / "pyproject.toml"
    document = read_pyproject(root)
    table = document.get("tool", {}).get("dml")
    if table is None:
        return None
    if not isinstance(table.get("project"), str):
        raise ConfigError(f"cannot read {pyproject}", "[tool.dml] names no project", 'Add: project = "<name>".')
    unknown = set(table) - {"project", "module"}
    if unknown:
        raise ConfigError(
            f"cannot read {pyproject}",
            f"[tool.dml] has unknown keys {sorted(unknown)}",
            "Keep only 'project' and 'module'.",
        )
    # Not the folder's name: a clone may be in a folder of any name.
    name = document.get("project", {}).get("name", root.name)
    module = table.get("module", f"{name.replace('-', '_')}.definitions")
    return Project(name=table["project"], root=root, module=module)


def read_pyproject(root: Path) -> dict[str, Any]:
    """What ``pyproject.toml`` of a folder says; nothing where there is none that can be read.

    Raises:
        ConfigError: it does not parse.
    """
    pyproject = root / "pyproject.toml"
    if not os.access(pyproject, os.R_OK) or not pyproject.is_file():
        return {}
    try:
        return tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {pyproject}", str(error), "Correct the file.") from error


def find_projects(start: Path | None = None) -> list[Project]:
    """Find the project around ``start``, or, outside of one, those directly below its workspace.

    Returns: one project inside a project's folder, otherwise all side by side, sorted by name.
    """
    here = (start or Path.cwd()).resolve()
    if (inside := project_root(here)) and (project := read_project(inside)):
        return [project]
    root = workspace_root(here)
    found = [read_project(folder) for folder in sorted(root.iterdir()) if folder.is_dir()]
    return sorted((p for p in found if p), key=lambda p: p.name)


def project_root(start: Path | None = None) -> Path | None:
    """The folder of the project around ``start``, or None outside of every project."""
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if read_project(folder)), None)


def get_project(name: str | None = None, start: Path | None = None) -> Project:
    """Choose one project by name, or the only one there is.

    Raises:
        ConfigError: none or several were found, or none has that name.
    """
    projects = find_projects(start)
    if name is not None:
        projects = [p for p in projects if p.name == name]
    if len(projects) == 1:
        return projects[0]
    if not projects:
        raise ConfigError(
            f"cannot find {'project ' + repr(name) if name else 'a project'}",
            f"no pyproject.toml with [tool.dml] in or above {start or Path.cwd()} or one folder below",
            "Change into a project's folder.",
        )
    raise ConfigError(
        "cannot choose a project",
        f"found {', '.join(p.name for p in projects)}",
        "Add --project <name> or change into its folder.",
    )


def workspace_root(start: Path | None = None) -> Path:
    """The folder that holds ``.dml``: nearest with one, else the git root, else ``start``."""
    here = (start or Path.cwd()).resolve()
    nobodys = (Path.home(), Path(here.anchor))  # what a command left there would take in everything below
    for marker in (STATE_FOLDER, ".git"):
        for folder in (here, *here.parents):
            if folder not in nobodys and (folder / marker).exists():
                return folder
    return here


def state_home(start: Path | None = None) -> Path:
    """The state folder: ``$DML_HOME``, else ``.dml`` of the workspace."""
    if value := os.environ.get("DML_HOME"):
        return Path(value).expanduser().resolve()
    return workspace_root(start) / STATE_FOLDER
