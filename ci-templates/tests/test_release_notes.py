"""A release is made only where tag, version and change log agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from notes import ReleaseError, read_notes

NOTES = Path(__file__).parent.parent / ".github/actions/release-notes/notes.py"
PYPROJECT = '[build-system]\nrequires = []\n\n[project]\nname = "x"\nversion = "1.2.0"\n'
CHANGELOG = "# Change log\n\n## Unreleased\n\n## 1.2.0 (2026-11-20)\n\n- New: a thing.\n\n## 1.1.0\n\n- Old.\n"


def test_the_notes_are_the_section_of_the_version() -> None:
    assert read_notes("v1.2.0", PYPROJECT, CHANGELOG) == "- New: a thing.\n"


@pytest.mark.parametrize(
    ("tag", "changelog", "why"),
    [
        ("v1.3.0", CHANGELOG, r"pyproject.toml has version '1.2.0'"),
        ("1.2.0", CHANGELOG, r"Tag the commit that has the version, as v1.2.0"),
        ("v1.2.0", CHANGELOG.replace("## 1.2.0", "## 1.2.1"), r"the newest release in CHANGELOG.md is '1.2.1'"),
        ("v1.2.0", "# Change log\n\n## Unreleased\n\n- New.\n", r"the newest release in CHANGELOG.md is none"),
        ("v1.2.0", CHANGELOG.replace("- New: a thing.\n", ""), r"its section in CHANGELOG.md is empty"),
    ],
)
def test_what_does_not_agree_is_refused_in_a_sentence(tag: str, changelog: str, why: str) -> None:
    with pytest.raises(ReleaseError, match=why):
        read_notes(tag, PYPROJECT, changelog)


def test_the_program_writes_the_notes_or_ends_with_two(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)

    def call(tag: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(NOTES), tag, "dist/notes.md"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert call("v1.2.0").returncode == 0
    assert (tmp_path / "dist/notes.md").read_text() == "- New: a thing.\n"
    assert call("v9").returncode == 2
    assert "correct the version" in call("v9").stderr
