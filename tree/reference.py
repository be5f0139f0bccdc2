#!/usr/bin/env python3
"""Writes docs/reference/ from the programs themselves: every command with its options, every setting with its default.

    tree/reference.py            writes the pages
    tree/reference.py --check    only says whether they are as they should be

Runs in the environment of ./dml, which has dml-platform and dml-infra. Nothing on the pages is typed by hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from dml_platform.cli.app import app
from dml_platform.core.settings import Settings, known_variables
from pydantic import BaseModel, SecretStr

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
MADE = "<!-- Made by tree/reference.py: nox -s reference. -->\n"
LAUNCHER = {
    "DML_PYTHON": "the Python that `./dml` makes its environment with",
    "DML_DEV": "`1`: `./dml` installs the developer tools too",
    "DML_WHEELS": "a folder of wheels in which nox looks for dml-platform first",
    "DML_GIT_COMMIT": "the commit that an image was built from, for run records",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its full name, in the order of `dml --help`; groups come before what is in them."""
    root = typer.main.get_command(app)
    yield "dml", root
    yield from _below(root, "dml")


def _below(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    context = typer.Context(group, info_name=name)
    for below in group.list_commands(context):
        command = group.get_command(context, below)
        if command is None or command.hidden:
            continue
        yield f"{name} {below}", command
        if hasattr(command, "list_commands"):
            yield from _below(command, f"{name} {below}")


def options(command: Any) -> list[str]:
    """Every spelling of a command's options."""
    return [spelt for p in command.params if p.param_type_name == "option" for spelt in (*p.opts, *p.secondary_opts)]


def cli_page() -> str:
    """docs/reference/cli.md."""
    lines = ["# The command line\n", MADE, "Exit codes:\n"]
    lines.append(
        "0 done · 1 failed · 2 wrong usage or configuration · 3 a check failed or too many rows were rejected ·"
    )
    lines.append("75 worth trying again · 130 interrupted.\n")
    lines.append("`--help` shows this for one command, `--debug` the trace of an error.\n")
    for name, command in commands():
        if name == "dml":
            continue
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        shown = " ".join([name, *(_argument(p) for p in arguments)])
        lines.append(f"{'##' if name.count(' ') == 1 else '###'} `{shown}`\n")
        lines.append(f"{_text(command.help)}\n")
        rows = [f"| {_spelling(p)} | {_text(p.help)} | {_default(p)} |" for p in command.params if p.name != "help"]
        if rows:
            lines += ["| | | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _text(text: str | None) -> str:
    return re.sub(r"\s+", " ", inspect.cleandoc(text or "")).replace("|", "\\|").replace("<", "\\<")


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`"
    return ", ".join(f"`{spelt}`" for spelt in (*parameter.opts, *parameter.secondary_opts))


def _argument(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "has to be given"
    if value is None or value is False or value == [] or value == "" or callable(value):
        return ""
    return f"`{value}`"


def settings_page() -> str:
    """docs/reference/settings.md."""
    lines = ["# Settings\n", MADE]
    lines.append("The environment wins over the project's `config/project.yaml`, which wins over the default. A name")
    lines.append("that begins with `DML_` and is not here is refused.\n")
    lines += ["## Of every process\n", "| variable | what it is | default |", "|---|---|---|"]
    for name, description in known_variables().items():
        section, _, field = name.removeprefix("DML_").lower().partition("__")
        lines.append(f"| `{name}` | {_text(description)} | {_setting_default(section, field)} |")
    lines += ["\n## Of the launcher and of nox\n", "| variable | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in LAUNCHER.items()]
    lines += ["\n## Of a server\n", "In the installation's `.env`; `platform-infra/.env.example` is the same list.\n"]
    lines += list(_server_settings())
    return "\n".join(lines) + "\n"


def _setting_default(section: str, field: str) -> str:
    info = Settings.model_fields[section]
    if field:
        model = info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        info = model.model_fields[field]
    value = info.default
    if section == "home" and not field:
        return "`.dml` of the workspace"
    return "" if value is None or isinstance(value, (SecretStr, BaseModel)) or info.is_required() else f"`{value}`"


def _server_settings() -> Iterator[str]:
    """The names of .env.example below their headings, with the comment above each."""
    said: list[str] = []
    for line in (ROOT / "platform-infra" / ".env.example").read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"# -+ (.+?) -+", line)
        name = re.fullmatch(r"(# ?)?((?:DML|COMPOSE|GF)_[A-Z0-9_]+)=(.*)", line)
        if heading:
            yield from (f"\n### {heading[1]}\n", "| variable | what it is | default |", "|---|---|---|")
        elif name:
            default = f"e.g. `{name[3]}`" if name[1] and name[3] else f"`{name[3]}`" if name[3] else ""
            yield f"| `{name[2]}` | {_text(' '.join(said))} | {default} |"
        said = [*said, line.removeprefix("#").strip()] if line.startswith("#") and not (heading or name) else []


def pages() -> dict[Path, str]:
    """Every page with its text."""
    return {PAGES / "cli.md": cli_page(), PAGES / "settings.md": settings_page()}


def main(arguments: list[str]) -> int:
    """Write or check the pages; the exit code."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the programs say: nox -s reference")
        return 1 if stale else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
