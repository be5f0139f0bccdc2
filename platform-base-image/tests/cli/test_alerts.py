"""`dml alerts` as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
owner: shop@example.com
alerts:
  channels:
    chat: {kind: slack, url: "${SHOP_HOOK}", timeout_s: 2}
    other: {kind: teams, url: "${NOT_SET}"}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project-shop"
    (root / "config").mkdir(parents=True)
    (tmp_path / ".dml").mkdir()
    (root / "pyproject.toml").write_text('[project]\nname = "project-shop"\n[tool.dml]\nproject = "shop"\n')
    (root / "config" / "project.yaml").write_text(CONFIG)
    return root


def dml(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dml_platform.cli", *arguments],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_test_says_of_each_channel_what_happened_without_its_secret(root: Path) -> None:
    done = dml(root, "alerts", "test", SHOP_HOOK="http://127.0.0.1:9/very-secret-token")
    assert done.returncode == 75
    assert "failed chat (slack): http://127.0.0.1:9: Connection refused" in done.stdout
    assert "failed other (teams): environment variable NOT_SET is not set" in done.stdout
    assert "very-secret" not in done.stdout + done.stderr


def test_what_is_wrong_and_what_waits_can_be_seen(root: Path) -> None:
    done = dml(root, "alerts", "show", SHOP_HOOK="http://127.0.0.1:9/x")
    assert done.returncode == 0, done.stderr
    assert "shop: nothing is wrong" in done.stdout
    assert "channel chat: nothing waits" in done.stdout


def test_a_project_without_alerts_says_so(root: Path) -> None:
    (root / "config" / "project.yaml").write_text("owner: shop@example.com\n")
    done = dml(root, "alerts", "test")
    assert done.returncode == 2
    assert "config/project.yaml has no section 'alerts'" in done.stderr
