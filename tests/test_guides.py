"""Every command of the papers that needs no server is typed as it stands, in a copy of the tree; others say why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import guides
import pytest
import site_pages
import tutorial

ROOT = Path(__file__).parent.parent
# platform-infra has a test of its own for README and runbooks: tests/test_documents.py there.
PAPERS = [
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
    *(name for name in site_pages.papers_of_the_tree() if not name.startswith("platform-infra/")),
]
PAGES = guides.pages()
# Typed with each change; the others take minutes together, and the session `guides` types all of them.
QUICK = {
    "docs/polyrepo.md",
    "docs/how-to/add-a-mart.md",
    "docs/how-to/keep-a-file-in-dvc.md",
    "docs/how-to/move-to-another-base.md",
    "docs/how-to/set-alerts.md",
    "docs/how-to/trace-a-number.md",
}

pytestmark = pytest.mark.timeout(1800)


def commands(page: str) -> list[tuple[str, str]]:
    """What stands behind the language of each block of commands, and the block."""
    found = site_pages.FENCE_LINE.findall((ROOT / page).read_text(encoding="utf-8"))
    return [(how.strip(), language) for language, how in found if language in ("sh", "bash", "console", "shell")]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[guides.Guest]:
    with guides.Receiver() as receiver:
        yield guides.Guest(tmp_path_factory.mktemp("guest"), receiver)


@pytest.mark.parametrize("page", [pytest.param(p, marks=[] if p in QUICK else pytest.mark.long) for p in PAGES])
def test_a_page_does_what_it_says(guest: guides.Guest, page: str) -> None:
    guest.open(page)
    _, faults = tutorial.follow((ROOT / page).read_text(encoding="utf-8"), guest)
    assert faults == [], "\n".join(faults) + f"\ntree/guides.py --write {page} writes down what comes out"


@pytest.mark.parametrize("page", PAPERS)
def test_a_block_of_commands_is_typed_or_says_why_not(page: str) -> None:
    typed = page in PAGES or page == "docs/tutorial.md"
    for how, language in commands(page):
        kind, _, value = how.partition("=")
        assert language == "sh", f"{page}: {language}"
        if kind == "not-run":
            assert value in guides.NOT_RUN, f"{page}: {how}"
        else:
            assert typed, f"{page}: a block of commands is typed by no test and does not say why"
            assert how in ("", "set") or (kind == "exit" and value.isdigit()), f"{page}: {how}"


def test_no_reason_for_not_typing_is_left_over() -> None:
    used = {how.partition("=")[2] for page in PAPERS for how, _ in commands(page) if how.startswith("not-run=")}
    assert used == set(guides.NOT_RUN)


def test_the_site_does_not_show_how_a_block_is_typed() -> None:
    for page in PAPERS:
        shown = site_pages.without_marks((ROOT / page).read_text(encoding="utf-8"))
        left = [how for _, how in site_pages.FENCE_LINE.findall(shown) if how and not how.startswith("title=")]
        assert left == [], page


def test_a_block_that_fails_or_prints_something_else_is_a_fault() -> None:
    class Silent(tutorial.Reader):
        def __init__(self) -> None:
            self.clone = self.here = ROOT
            self.env = tutorial.environment()

    page = "```sh\nfalse\n```\n\n```sh\necho orders\n```\n\n```text\nrefunds\n```\n"
    text, faults = tutorial.follow(page, Silent())
    assert [fault.partition("\n")[0] for fault in faults] == [
        "'false' ended with 1 and not 0:",
        "not the same on the page and in the output: ['orders', 'refunds']",
    ]
    assert "```text\norders\n```" in text
