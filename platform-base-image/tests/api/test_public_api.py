"""The list of what projects may import: it is true, it is written down, and no release takes away what one gave."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from dml_platform import __version__
from dml_platform.api import NAMED, PUBLIC, describe, find_breaks, to_markdown
from dml_platform.core.deprecation import DECLARED

HERE = Path(__file__).parent
RECORDED = sorted(HERE.glob("*.json"))


@pytest.mark.parametrize("module", [*PUBLIC, *NAMED])
def test_what_is_listed_is_there(module: str) -> None:
    there = importlib.import_module(module)
    for name in PUBLIC.get(module, ()):
        assert getattr(there, name).__doc__, f"{module}.{name}"


def test_the_page_tells_what_the_code_has() -> None:
    page = HERE.parents[1] / "docs" / "api.md"
    assert page.read_text(encoding="utf-8") == to_markdown(), "write it: python -m dml_platform.api > docs/api.md"


def test_the_version_in_work_is_recorded() -> None:
    """So that its next change is compared with it. A release's file is never written again after the release."""
    minor = ".".join(__version__.split(".")[:2])
    assert HERE / f"{minor}.json" in RECORDED, f"write it: python -m dml_platform.api --record > tests/api/{minor}.json"


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
def test_what_a_release_let_callers_do_still_works(recorded: Path) -> None:
    """A release from which one step leads to this one; older ones may have lost what was deprecated since."""
    then, now = Version(recorded.stem), Version(__version__)
    steps = now.major - then.major if now.major else now.minor - then.minor
    if steps > 1:
        pytest.skip(f"{recorded.stem} is not the release before {__version__}")
    assert find_breaks(json.loads(recorded.read_text()), describe()) == []


def test_no_deprecated_name_outlives_its_time() -> None:
    for module in PUBLIC:
        importlib.import_module(module)
    ours = [going for going in DECLARED if going.name.startswith("dml_platform.")]
    assert [going for going in ours if Version(going.until) <= Version(__version__)] == []


def function(*parameters: tuple[str, str, bool]) -> dict[str, Any]:
    return {"kind": "function", "call": [list(p) for p in parameters]}


PLAIN, KEYWORD = "POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY"
BEFORE = {
    "m.f": function(("a", PLAIN, False), ("b", PLAIN, True), ("c", KEYWORD, True)),
    "m.C": {"kind": "class", "bases": ["m.B"], "call": [], "members": {"go": function(("self", PLAIN, False))}},
    "m.X": {"kind": "value"},
}


@pytest.mark.parametrize(
    ("name", "after", "said"),
    [
        ("m.f", None, "m.f is gone"),
        ("m.X", function(), "m.X was a value and is a function"),
        ("m.f", function(("a", PLAIN, False), ("c", KEYWORD, True)), "m.f: parameter 'b' is gone"),
        ("m.f", function(("a", PLAIN, False), ("b", KEYWORD, True), ("c", KEYWORD, True)), "'b' was POSITIONAL"),
        ("m.f", function(("a", PLAIN, False), ("b", PLAIN, False), ("c", KEYWORD, True)), "'b' has to be given now"),
        (
            "m.f",
            function(("a", PLAIN, False), ("b", PLAIN, True), ("c", KEYWORD, True), ("d", KEYWORD, False)),
            "new parameter 'd' has to be given",
        ),
        ("m.f", function(("b", PLAIN, True), ("a", PLAIN, False), ("c", KEYWORD, True)), "in the order"),
        ("m.C", {**BEFORE["m.C"], "bases": []}, "m.C is no m.B any more"),
        ("m.C", {**BEFORE["m.C"], "members": {}}, "m.C.go is gone"),
    ],
)
def test_a_break_is_found(name: str, after: dict[str, Any] | None, said: str) -> None:
    changed = {key: value for key, value in {**copy.deepcopy(BEFORE), name: after}.items() if value}
    assert any(said in found for found in find_breaks(BEFORE, changed)), find_breaks(BEFORE, changed)


def test_what_only_adds_is_no_break() -> None:
    more = copy.deepcopy(BEFORE)
    more["m.f"]["call"].append(["d", KEYWORD, True])
    more["m.C"]["members"]["stop"] = function()
    more["m.g"] = function()
    assert find_breaks(BEFORE, more) == []


# A library in which a function, an argument and a place changed since the project below was written.
LIBRARY = {
    "shelf/__init__.py": "",
    "shelf/new.py": """
from dml_platform.core.deprecation import deprecated, renamed_argument

def read_rows(table, *, where=""):
    return [table, where]

read_rows = renamed_argument("condition", "where", until="0.3")(read_rows)

@deprecated(use="shelf.new.read_rows", until="0.3")
def load(table):
    return read_rows(table)
""",
    "shelf/old.py": """
from dml_platform.core.deprecation import moved_names

__getattr__ = moved_names(__name__, {"read_rows": "shelf.new.read_rows"}, until="0.3")
""",
}
PROJECT = """
from shelf.new import load
from shelf.old import read_rows

assert load("a") == ["a", ""]
assert read_rows("a", condition="b") == ["a", "b"]
try:
    from shelf.old import nothing
except ImportError:
    print("works")
"""


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    (tmp_path / "shelf").mkdir()
    for name, text in LIBRARY.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "project.py").write_text(PROJECT)
    return tmp_path


def run_project(shelf: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "project.py"]
    return subprocess.run(command, cwd=shelf, capture_output=True, text=True, check=False)


def test_a_project_of_the_release_before_works_and_is_told_the_new_names(shelf: Path) -> None:
    done = run_project(shelf)
    assert (done.returncode, done.stdout) == (0, "works\n"), done.stderr
    warned = [line for line in done.stderr.splitlines() if "PlatformDeprecationWarning" in line]
    for said in (
        "shelf.new.load goes with dml-platform 0.3: use shelf.new.read_rows",
        "shelf.old.read_rows goes with dml-platform 0.3: use shelf.new.read_rows",
        "shelf.new.read_rows(condition=) goes with dml-platform 0.3: use where=",
    ):
        assert any(said in line for line in warned), done.stderr
    assert any("project.py:5" in line for line in warned), done.stderr


def test_a_project_whose_tests_take_warnings_for_errors_hears_of_it_there(shelf: Path) -> None:
    done = run_project(shelf, "-W", "error::FutureWarning")
    assert done.returncode == 1
    assert "use shelf.new.read_rows" in done.stderr
