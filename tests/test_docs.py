"""The papers tell what is there: commands, options, sessions, settings. tests/test_guides.py types them."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import reference
import site_pages
import tutorial
from dml_platform.core.settings import known_variables

ROOT = Path(__file__).parent.parent
FOLDERS = ["platform-base-image", "project-sales", "platform-infra", "project-template", "ci-templates"]
OF_THE_TREE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAPERS = [
    *OF_THE_TREE,
    *(ROOT / name for name in site_pages.papers_of_the_tree()[2:] if not name.endswith("CHANGELOG.md")),
]
FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = dict(reference.commands())
# These give their words to another program.
PASSED_ON = ("dml dvc", "dml test")


def commands_in(text: str) -> Iterator[str]:
    """Every `dml …` of a paper: lines of shell blocks, and inline code."""
    for language, _, block in FENCE.findall(text):
        if language in ("sh", "bash", "console"):
            yield from re.split(r"\n|&&|;", block.replace("\\\n", " "))
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def fault_of(line: str) -> str | None:
    """What is wrong with a line that calls `dml`; None for a good one and for other programs."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words or words[0] not in ("dml", "./dml") or len(words) == 1:
        return None
    name, rest = "dml", words[1:]
    while rest and f"{name} {rest[0]}" in COMMANDS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name == "dml" and not rest[0].startswith("-") and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        return f"there is no command {rest[0]!r}"
    if hasattr(COMMANDS[name], "list_commands") and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        return f"there is no command {name!r} {rest[0]!r}"
    if name in PASSED_ON:
        return None
    known = {*reference.options(COMMANDS[name]), *reference.options(COMMANDS["dml"]), "--help", "-h"}
    given = [word.partition("=")[0].strip("[]") for word in rest if re.match(r"\[?--?[a-z]", word)]
    unknown = [option for word in given for option in word.split("|") if option not in known]
    return f"{name} has no {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_option_of_a_paper_exists(paper: Path) -> None:
    text = paper.read_text(encoding="utf-8").partition("## Not there yet")[0]
    found = {line.strip(): fault_of(line) for line in commands_in(text)}
    assert {line: fault for line, fault in found.items() if fault} == {}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("./dml tables", None),
        ("DML_DEV=1 ./dml doctor", None),
        ('./dml sql "from x limit 5" --format=csv', None),
        ("./dml infra deploy orders --allow-removed", None),
        ("./dml tabels", "there is no command 'tabels'"),
        ("dml infra deploi", "there is no command 'dml infra' 'deploi'"),
        ("./dml run --slect x", "dml run has no --slect"),
        ("dml dvc exp run -S x=1", None),
    ],
)
def test_a_wrong_command_is_found(line: str, fault: str | None) -> None:
    assert fault_of(line) == fault


def sessions(noxfile: Path) -> set[str]:
    """Names of a noxfile's sessions."""
    text = noxfile.read_text(encoding="utf-8")
    named = re.findall(r"@nox\.session\([^)]*name=\"([\w-]+)\"", text)
    return {*named, *re.findall(r"^def (\w+)\(session: nox\.Session", text, re.MULTILINE)}


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_session_of_a_paper_exists(paper: Path) -> None:
    known = set().union(*(sessions(ROOT / name / "noxfile.py") for name in (".", *FOLDERS)))
    called = re.findall(r"(?:nox|dml test) -s \"?([a-z][\w-]*)", paper.read_text(encoding="utf-8"))
    assert {name for name in called if name not in known} == set()


def test_the_reference_is_what_the_programs_say() -> None:
    stale = [str(path) for path, text in reference.pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "nox -s reference writes them"


def test_every_setting_of_a_process_is_described() -> None:
    assert [name for name, description in known_variables().items() if not description] == []


def test_every_diagram_is_drawn_and_no_picture_is_left_over() -> None:
    diagrams = [text for paper in PAPERS for text in site_pages.DIAGRAM.findall(paper.read_text(encoding="utf-8"))]
    wanted = {f"docs/{site_pages.picture_uri(text)}" for text in diagrams}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "images").glob("diagram-*.svg")}
    assert there == wanted, "draw them: tree/diagrams.py"


@pytest.mark.parametrize("paper", OF_THE_TREE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_block_says_what_it_is(paper: Path) -> None:
    for language, _, text in FENCE.findall(paper.read_text(encoding="utf-8")):
        assert language, text
        if language == "sh":
            checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stderr


def test_links_of_the_trees_papers_lead_somewhere() -> None:
    for paper in OF_THE_TREE:
        text = FENCE.sub("", paper.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert re.match(r"[a-z]+:", target) or (paper.parent / target).exists(), f"{paper.name}: {target}"


def test_the_way_to_run_one_test_runs_one(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^cd .*pytest.*$", text, re.MULTILINE)
    line = line.replace("../.venv/bin/python", shlex.quote(sys.executable))
    done = subprocess.run(["bash", "-e", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_what_may_differ_from_run_to_run_is_not_compared() -> None:
    page = "done in 87.9 s · run 0e5ac886\ntable  rows\nsales.raw.x  69,659  8750606728284857016\n"
    run = "done in 3.1 s · run ff00aa11\ntable  rows\nsales.raw.x  1  42\n"
    assert tutorial.words(page) == tutorial.words(run)
    assert tutorial.words(page) != tutorial.words(run.replace("done", "failed"))
