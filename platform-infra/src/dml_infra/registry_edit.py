"""Changes of the registry file: an entry added, an image replaced, an entry removed; comments and order stay.

The new text is checked as a whole before it replaces the file in one step.
"""

from __future__ import annotations

import difflib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from dml_infra.budget import check_budgets
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation
from dml_infra.registry import TOP, CodeLocation, check_host_name, known_names, load_yaml, parse_registry


def register(installation: Installation, entry: dict[str, Any]) -> str:
    """Add a project to the list. Needs no server: the change is one file's.

    Args:
        installation: where.
        entry: the fields of a `CodeLocation`; those left out keep their defaults.

    Returns: the change as a unified diff.
    Raises: ConfigError: the entry is wrong, is there already or does not fit.
    """

    item = CommentedMap()
    for field in CodeLocation.model_fields:
        value = entry.get(field)
        if value not in (None, (), [], {}):
            item[field] = list(value) if isinstance(value, (tuple, list)) else value
    unknown = set(entry) - set(CodeLocation.model_fields)
    if unknown:
        raise ConfigError("cannot register", f"unknown field {sorted(unknown)[0]!r}", "Correct it.")
    return edit(installation, lambda text, path: with_entries(text, path, [item]))


def set_image(installation: Installation, project: str, image: str) -> str:
    """Write the image that is live into the list; all else stays. Returns: the change, empty when it was there."""
    return edit(installation, lambda text, path: with_image(text, path, project, image))


def unregister(installation: Installation, project: str) -> str:
    """Take a project off the list. Returns: the change as a unified diff."""
    return edit(installation, lambda text, path: without(text, path, project), known=False)


def with_image(text: str, path: Path, project: str, image: str) -> str:
    """The list's text with another image; where possible no other character of it changes."""
    data = load_yaml(text, path)
    entry = _entry(data, project, path)
    line, column = entry.lc.value("image")
    lines = text.splitlines(keepends=True)
    head, tail = lines[line][:column], lines[line][column:]
    if entry["image"] in tail:
        lines[line] = head + tail.replace(entry["image"], image, 1)
        return "".join(lines)
    entry["image"] = image
    return _dump(data)


def without(text: str, path: Path, project: str) -> str:
    """The list's text without a project."""
    data = load_yaml(text, path)
    data[TOP].remove(_entry(data, project, path))
    return _dump(data)


def with_entries(text: str, path: Path, entries: list[Any]) -> str:
    """The list's text with more entries at its end: plain ones, or those of another text's tree."""
    data = load_yaml(text, path)
    if data[TOP].fa.flow_style():
        # `code_locations: []` grows entry by entry, each on lines of its own.
        data[TOP] = CommentedSeq(data[TOP])
    data[TOP].extend(entries)
    return _dump(data)


def edit(installation: Installation, change: Callable[[str, Path], str], *, known: bool = True) -> str:
    """Replace the file by what `change` makes of its text, checked as a whole.

    Args:
        change: gets the text and the file's name for messages.
        known: a project of before may not come back under another name.

    Returns: the change as a unified diff.
    Raises: ConfigError: the new list is wrong or does not fit; the file stays as it was.
    """
    path = installation.registry_file
    # Beside the file itself, so that two installations of one checkout meet.
    with FileLock(str(path.with_name(f".{path.name}.lock")), timeout=30):
        before = path.read_text(encoding="utf-8")
        after = change(before, path)
        names = known_names(installation) if known else {}
        locations = parse_registry(after, path=path, known=names)
        for location in locations:
            check_host_name(installation, location.name)
        check_budgets(installation, locations)
        if after != before:
            _replace(path, after)
    return difference(before, after)


def difference(before: str, after: str) -> str:
    """A change of the list as a unified diff; empty where there is none."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        "a/registry/code-locations.yaml",
        "b/registry/code-locations.yaml",
    )
    return "".join(lines)


def _entry(data: Any, project: str, path: Path) -> Any:
    for entry in data[TOP]:
        if entry.get("name") == project:
            return entry
    raise ConfigError(f"cannot find project {project!r}", f"{path} does not list it", "Correct the name.")


def _dump(data: Any) -> str:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _replace(path: Path, text: str) -> None:
    """The file is the old or the new one, whatever happens; its owner and mode stay."""
    status = path.stat()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, status.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(name, status.st_uid, status.st_gid)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
