"""Commands that another distribution adds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dml_platform.core.errors import ConfigError
from dml_platform.core.settings import load_settings

COMMANDS = """
import typer
app = typer.Typer(help="Something of another distribution.")

class OtherError(Exception):
    what, why, fix, exit_code = "cannot go on", "the moon is full", "Wait.", 75
    def __str__(self):
        return "cannot go on: the moon is full.\\nWait."

@app.callback()
def root() -> None:
    pass

@app.command()
def fail() -> None:
    raise OtherError
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages with a distribution `extra` that adds the command `moon`."""
    (tmp_path / "extra_commands.py").write_text(COMMANDS)
    info = tmp_path / "extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    points = "[dml.commands]\nmoon = extra_commands:app\nbroken = extra_missing:app\ntables = extra_commands:app\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


def dml(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dml_platform.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_plugin_is_a_command_and_its_errors_are_a_sentence_with_their_exit_code(site: Path) -> None:
    done = dml("moon", "fail")
    assert (done.returncode, done.stderr.strip()) == (75, "cannot go on: the moon is full.\nWait.")


def test_broken_plugin_is_named_and_does_not_hurt_other_commands(site: Path) -> None:
    assert "tables [OPTIONS]" in dml("tables", "--help").stdout
    done = dml("broken")
    assert done.returncode == 2
    assert "cannot load the command 'broken' of extra: No module named 'extra_missing'" in done.stderr


def test_help_lists_plugins_and_cannot_be_broken_by_one(site: Path) -> None:
    help_text = dml("--help").stdout
    assert "Something of another distribution." in help_text
    assert "(cannot load: No module named" in help_text
    assert help_text.count("\n  tables ") == 1


def test_own_command_does_not_look_for_plugins(site: Path) -> None:
    code = "import sys; from dml_platform.cli.app import app; app(['doctor', '--help'], standalone_mode=False);"
    code += "print(sorted({'extra_commands', 'dml_infra'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_variables_of_a_plugin_are_its_own(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_MOON__PHASE", "full")
    load_settings()
    monkeypatch.setenv("DML_SUN__PHASE", "full")
    with pytest.raises(ConfigError, match="unknown environment variable 'DML_SUN__PHASE'"):
        load_settings()
