"""An installation in a folder: no server, no engine."""

from pathlib import Path

import pytest

from dml_infra.installation import Installation


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """An empty list of code locations and the core's usual sizes."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "code-locations.yaml").write_text("# The list.\ncode_locations: []\n")
    env = {"DML_POSTGRES_MAX_CONNECTIONS": "300", "DML_POSTGRES_MEMORY": "2g", "DML_WEBSERVER_MEMORY": "1g"}
    return Installation(root=tmp_path, env=env, state=tmp_path / "state", stack="dml")
