"""The one list of code locations, `registry/code-locations.yaml`: its model, and reading it with clear errors.

Every mistake is named at once, with its line and field. Changing the file is in ``registry_edit``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from dml_infra.errors import ConfigError
from dml_infra.installation import Installation
from dml_infra.names import check_image, check_name, check_secret_name, check_variable, megabytes
from dml_infra.records import read_records

TOP = "code_locations"


class CodeLocation(BaseModel):
    """A project of the list.

    ``memory`` and ``cpus`` limit its code server, ``run_memory`` and ``run_cpus`` each of its runs, of which
    ``max_runs`` go at once. ``secrets`` names files of the state folder's ``secrets/projects/<name>/``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    image: str
    owner: str = Field(min_length=2, max_length=120)
    alerts: str = Field(min_length=2, max_length=200)
    memory: str = "512m"
    cpus: float = Field(default=1.0, ge=0.1, le=256)
    run_memory: str = "2g"
    run_cpus: float = Field(default=1.0, ge=0.1, le=256)
    max_runs: int = Field(default=2, ge=1, le=100)
    environment: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()

    @property
    def repository(self) -> str:
        """The image without its digest."""
        return self.image.partition("@")[0]

    @property
    def digest(self) -> str:
        """``sha256:…``."""
        return self.image.partition("@")[2]

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value)

    @field_validator("image")
    @classmethod
    def _image(cls, value: str) -> str:
        return check_image(value)

    @field_validator("memory", "run_memory")
    @classmethod
    def _memory(cls, value: str) -> str:
        if megabytes(value) < 128:
            raise ValueError(f"{value!r} is less than the 128m that Dagster needs to start; give more")
        return value

    @field_validator("environment", mode="before")
    @classmethod
    def _environment(cls, value: Any) -> Any:
        if isinstance(value, dict):
            problems = [p for k, v in value.items() if (p := check_variable(str(k), v))]
            if problems:
                raise ValueError("; ".join(problems))
        return value

    @field_validator("secrets")
    @classmethod
    def _secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            check_secret_name(name)
        return value


def load_registry(installation: Installation, *, check_budget: bool = True) -> list[CodeLocation]:
    """Read and check the list, in the order of the file.

    Raises:
        ConfigError: with a line for every mistake.
    """
    path = installation.registry_file
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}", str(error), "Restore the file from version control.") from error
    locations = parse_registry(text, path=path, known=known_names(installation))
    for location in locations:
        check_host_name(installation, location.name)
    if check_budget:
        from dml_infra.budget import check_budgets

        check_budgets(installation, locations)
    return locations


def find_location(installation: Installation, project: str) -> CodeLocation:
    """One project of the list.

    Raises:
        ConfigError: the list is wrong or does not have it.
    """
    locations = load_registry(installation)
    for location in locations:
        if location.name == project:
            return location
    names = ", ".join(location.name for location in locations) or "none"
    raise ConfigError(
        f"cannot find project {project!r}",
        f"{installation.registry_file} does not list it (it has: {names})",
        f"Correct the name, or add it: dml infra register {project} --image REPOSITORY@sha256:DIGEST --owner OWNER.",
    )


def parse_registry(text: str, *, path: Path, known: Mapping[str, str] | None = None) -> list[CodeLocation]:
    """Read and check the text of the list.

    Args:
        text: of the file.
        path: its name in messages.
        known: repository by name of projects that were there before: they may not come back under another name.
    """
    data = load_yaml(text, path)
    entries = data[TOP]
    locations: list[CodeLocation] = []
    mistakes: list[str] = []
    lines: dict[str, int] = {}
    for index, entry in enumerate(entries):
        line = entries.lc.item(index)[0] + 1
        if not isinstance(entry, dict):
            mistakes.append(f"line {line}: an entry is a list of 'field: value', beginning with '- name: …'")
            continue
        try:
            location = CodeLocation.model_validate(_plain(entry))
        except ValidationError as error:
            mistakes += [_describe(entry, line, problem) for problem in error.errors()]
            continue
        if location.name in lines:
            mistakes.append(
                f"line {line}, name: {location.name!r} is there already, in line {lines[location.name]}; "
                "remove one of the two"
            )
            continue
        mistakes += _check_identity(location, _line(entry, "name", line), locations, lines, known or {}, entries)
        lines[location.name] = _line(entry, "name", line)
        locations.append(location)
    if mistakes:
        raise wrong(path, mistakes)
    return locations


def load_yaml(text: str, path: Path) -> Any:
    """The file's tree with comments and positions."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    try:
        data = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        # The rest of ruamel's text is advice to its callers.
        raise wrong(path, [f"{line}{str(error.problem or error.context).splitlines()[0]}"]) from error
    if not isinstance(data, dict) or list(data) != [TOP] or not isinstance(data[TOP] or [], list):
        raise wrong(path, [f"line 1: the file has one field, '{TOP}:', with a list of entries"])
    if data[TOP] is None:
        data[TOP] = yaml.load("[]")
    return data


def known_names(installation: Installation) -> dict[str, str]:
    """Repository by name of what was registered before: at git's HEAD, and as deployed on this server."""
    known: dict[str, str] = {}
    for name, image in committed_images(installation.registry_file).items():
        known[name] = image.partition("@")[0]
    for record in read_records(installation):
        if record.what == "remove":
            known.pop(record.project, None)
        elif record.outcome == "live" and record.to_image:
            known[record.project] = record.to_image.partition("@")[0]
    return known


def check_host_name(installation: Installation, name: str) -> None:
    """The container's name is a DNS label: 63 characters with the stack, the digest's beginning and a suffix."""
    longest = 63 - len(installation.stack) - len("--0123456789ab-0123")
    if len(name) > longest:
        raise wrong(
            installation.registry_file,
            [f"{name}: with the stack's name {installation.stack!r} at most {longest} characters are left for a name"],
        )


def wrong(path: Path, mistakes: Sequence[str]) -> ConfigError:
    """One error for all mistakes of the file."""
    head = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return ConfigError(
        f"cannot use {path}", "\n  ".join([head, *mistakes]), "Correct the file; nothing was changed on the server."
    )


def _check_identity(
    location: CodeLocation,
    line: int,
    others: Iterable[CodeLocation],
    lines: Mapping[str, int],
    known: Mapping[str, str],
    entries: Iterable[Any],
) -> list[str]:
    """A project keeps its name for ever, because its schedules, its data and its rights hang on it."""
    for other in others:
        if other.repository == location.repository:
            return [
                f"line {line}, name: {location.name!r} has the image repository of {other.name!r} "
                f"(line {lines[other.name]}); a project is one repository, so remove one of the two"
            ]
    names = {str(entry.get("name")) for entry in entries if isinstance(entry, dict)}
    former = [name for name, repository in known.items() if repository == location.repository and name not in names]
    if former and location.name not in known:
        return [
            f"line {line}, name: {location.repository!r} was registered as {former[0]!r} and is now {location.name!r}; "
            f"a new name would lose its schedules and data, so write 'name: {former[0]}' again "
            f"(to end it for good: dml infra remove {former[0]})"
        ]
    return []


def committed_images(path: Path) -> dict[str, str]:
    """Image by name in the committed version of the file; empty where there is none."""
    try:
        done = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"],
            cwd=path.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        entries = (YAML(typ="safe").load(done.stdout) or {}).get(TOP) or [] if done.returncode == 0 else []
        return {str(e["name"]): str(e["image"]) for e in entries}
    except (OSError, subprocess.SubprocessError, MarkedYAMLError, AttributeError, KeyError, TypeError):
        return {}


def _describe(entry: Any, line: int, problem: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    field = place[0] if place else "entry"
    kind, message = problem["type"], str(problem["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        message = f"is missing; add '{field}: …'"
    elif kind == "extra_forbidden":
        message = f"is no field; use one of {', '.join(CodeLocation.model_fields)}"
    name = f"{entry['name']}." if isinstance(entry.get("name"), str) and field != "name" else ""
    return f"line {_line(entry, field, line)}, {name}{'.'.join(place) or field}: {message}"


def _line(entry: Any, field: str, default: int) -> int:
    try:
        return int(entry.lc.key(field)[0]) + 1
    except (KeyError, AttributeError, TypeError):
        return default


def _plain(value: Any) -> Any:
    """Without ruamel's types; numbers and booleans of the environment as they would be written."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, bool):
        return value
    return next((kind(value) for kind in (str, int, float) if isinstance(value, kind)), value)
