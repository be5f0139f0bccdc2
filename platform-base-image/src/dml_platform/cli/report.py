"""``dml report``: write the page and open it."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from dml_platform.core.document import Document
from dml_platform.core.errors import ConfigError, PermanentError
from dml_platform.core.project import get_project
from dml_platform.core.settings import load_settings
from dml_platform.lake import Lake
from dml_platform.report import render_report


def report(
    console: Console,
    project_name: str | None,
    *,
    output: Path | None,
    document_file: Path | None,
    open_page: bool | None,
) -> None:
    """Write a project's report, by default to ``<home>/report/<project>.html``.

    Args:
        document_file: take this document instead of looking at the lake.
        open_page: show it in a browser; None: where there is a screen.
    Raises:
        ConfigError: there is no such project, or the document cannot be read.
        PermanentError: the page cannot be written.
    """
    document = read_document(document_file) if document_file else _build(project_name)
    if output is None:
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in document.project)[:100]
        output = load_settings().home / "report" / f"{name}.html"
    path = write_page(render_report(document), output)
    console.print(str(path), soft_wrap=True, markup=False, highlight=False)
    for notice in document.notices:
        console.print(f"not known: {notice}", style="yellow", soft_wrap=True, markup=False, highlight=False)
    if open_page if open_page is not None else has_screen():
        webbrowser.open(path.as_uri())


def read_document(path: Path) -> Document:
    """A document from its file.

    Raises:
        ConfigError: there is none, or it is of another version.
    """
    try:
        return Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"cannot read the document {path}", error.strerror or str(error), "Give the file that 'dml catalog' wrote."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"cannot read the document {path}",
            f"{place}: {first['msg']}" if place else first["msg"],
            "Write it anew with this version of the platform.",
        ) from None


def write_page(page: str, path: Path) -> Path:
    """Write beside, then replace: who has the page open never sees half of one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8", newline="\n")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # its folder may be no folder
            partial.unlink(missing_ok=True)
        raise PermanentError(
            f"cannot write the report to {path}",
            error.strerror or str(error),
            "Choose another file with --output, or check the folder's permissions and free space.",
        ) from error
    return path.absolute()


def has_screen() -> bool:
    """Whether somebody sits before this terminal and a browser could show something."""
    if not sys.stdout.isatty():
        return False
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _build(project_name: str | None) -> Document:
    from dml_platform.catalog import build_document

    project = get_project(project_name)
    return build_document(project, Lake(load_settings(project.root), project.root))
