"""What mkdocs does not know of a tree of repositories: the papers of every folder become pages where they are.

Hooks of mkdocs.yml. A link means the same on a page of the site as in the file: to another page it leads there; to a
file or folder that is no page it becomes plain text; to nothing it is left for mkdocs to refuse.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["platform-base-image", "project-sales", "platform-infra", "project-template", "ci-templates"]
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The first line of a block: its language, and what stands behind it.
FENCE_LINE = re.compile(r"^ *```(\w+)[ \t]*([^\n]*)$", re.MULTILINE)
# How a test types a block stands behind its language; mkdocs knows titles only.
_HOW = re.compile(r"^( *```\w+) (?!title=)[^\n]+$", re.MULTILINE)


def without_marks(markdown: str) -> str:
    """A page as people read it."""
    return _HOW.sub(r"\1", markdown)


def papers(folder: str) -> Iterator[str]:
    """The pages of a folder, by their path in the tree: README first."""
    for name in ("README.md", "CHANGELOG.md"):
        yield f"{folder}/{name}"
    for path in sorted((ROOT / folder / "docs").rglob("*.md")):
        yield path.relative_to(ROOT).as_posix()


def papers_of_the_tree() -> list[str]:
    """All pages that are not in docs/ itself, and the root's README, by their path in the tree."""
    return ["README.md", "CONTRIBUTING.md", *(page for folder in FOLDERS for page in papers(folder))]


def on_config(config: Any) -> Any:
    """Add a section for each folder to the navigation."""
    config.nav += [{"Folders": [{folder: list(papers(folder))} for folder in FOLDERS]}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the folders' pages, where they are in the tree."""
    from mkdocs.structure.files import File

    for name in papers_of_the_tree()[1:]:  # docs/index.md stands for the README
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Let the links of a page mean what they mean in its file, and show diagrams as pictures."""
    uri = page.file.src_uri
    markdown = without_marks(markdown)
    markdown = DIAGRAM.sub(lambda match: f"![diagram]({_relative(picture_uri(match[1]), uri)})\n", markdown)
    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _relink(part, tree_path(uri), files) for part in parts)


def _relink(text: str, here: str, files: Any) -> str:
    def one(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        uri = page_uri(path)
        if files.get_file_from_path(uri):
            return f"[{match[1]}]({_relative(uri, page_uri(here))}{'#' + anchor if anchor else ''})"
        return match[1] if (ROOT / path).exists() else match[0]

    return _LINK.sub(one, text)


def _relative(uri: str, from_uri: str) -> str:
    return posixpath.relpath(uri, posixpath.dirname(from_uri) or ".")


def tree_path(uri: str) -> str:
    """Where a page's file is in the tree."""
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def page_uri(path: str) -> str:
    """The address in the site of a file of the tree; the root's README is the site's first page."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def picture_uri(diagram: str) -> str:
    """Where the picture of a diagram is: tree/diagrams.py draws it. A changed diagram has another address."""
    return f"images/diagram-{hashlib.sha256(diagram.encode()).hexdigest()[:12]}.svg"
