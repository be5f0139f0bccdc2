"""A plug-in of pytest: dbt reads the project before the first test, in the same process.

``pytest -p dml_platform.dbt.pytest_parse`` stops where dbt cannot read the project, in dbt's words. As ``dml ci parse``
it reads only what changed, and what it read serves the tests: definitions that they load read nothing again.
"""

from __future__ import annotations

import gc

import pytest

from dml_platform.core.errors import PlatformError
from dml_platform.core.project import get_project
from dml_platform.dbt.manifest import count_nodes, ensure_manifest

_FOUND = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Read the project around pytest's settings."""
    try:
        project = get_project(start=config.rootpath)
        if project.dbt_dir.is_dir():
            config.stash[_FOUND] = count_nodes(ensure_manifest(project))
            # dbt's objects live on, and pytest looks for garbage five times before it ends.
            gc.freeze()
    except PlatformError as error:
        pytest.exit(str(error), returncode=error.exit_code)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what was read."""
    return config.stash.get(_FOUND, None)
