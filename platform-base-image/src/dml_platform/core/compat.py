"""Does a project fit the library that it meets: its version, and the names that it imports.

A project says which base it was made for by its dependency on ``dml-platform`` in ``pyproject.toml``. Installers
compare them too, but not with ``--no-deps``, nor in an environment of several projects.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name
from packaging.version import Version

from dml_platform import __version__
from dml_platform.core.errors import ConfigError
from dml_platform.core.project import Project, read_pyproject

_DISTRIBUTION, _PACKAGE = "dml-platform", "dml_platform"


def wanted_base(project: Project) -> Requirement | None:
    """The project's dependency on this library, or None where it states none.

    Raises:
        ConfigError: it does not parse.
    """
    for line in read_pyproject(project.root).get("project", {}).get("dependencies", []):
        try:
            wanted = Requirement(line)
        except InvalidRequirement as error:
            raise ConfigError(
                f"cannot read {project.root / 'pyproject.toml'}", f"dependency {line!r}: {error}", "Correct it."
            ) from error
        if canonicalize_name(wanted.name) == _DISTRIBUTION:
            return wanted
    return None


def require_base(project: Project, version: str = __version__) -> str:
    """Compare the version that is here with the one that the project was made for.

    Returns: a phrase for people.
    Raises:
        ConfigError: it is too old or too new; the fix says how to come together.
    """
    wanted = wanted_base(project)
    if wanted is None:
        return f"{project.name} names no version of {_DISTRIBUTION}"
    if wanted.specifier.contains(version, prereleases=True):
        return f"{project.name} is made for {_DISTRIBUTION}{wanted.specifier}"
    what = f"cannot use project {project.name!r} with {_DISTRIBUTION} {version}"
    why = f"{project.name} is made for {_DISTRIBUTION}{wanted.specifier}, this is {version}"
    if _is_older(version, wanted):
        raise ConfigError(
            what,
            f"the base is too old: {why}",
            "Install the newer one ('nox -s environment'), in an image build on a newer base image (BASE_IMAGE); "
            "or lower the bound in pyproject.toml where the project still works with this one.",
        )
    raise ConfigError(
        what,
        f"the base is too new: {why}",
        "Read what changed (CHANGELOG.md of platform-base-image), take over the template's update ('nox -s template'), "
        "raise the bound in pyproject.toml and run 'nox -s lock' and 'nox'; "
        "until then install a base within the bound.",
    )


def _is_older(version: str, wanted: Requirement) -> bool:
    """Whether a bound that it breaks is above it."""
    broken = [one for one in wanted.specifier if not one.contains(version, prereleases=True)]
    return any(Version(version) < _bound(one) for one in broken if one.operator not in ("<", "<="))


def _bound(one: Specifier) -> Version:
    return Version(one.version.removesuffix(".*"))


def foreign_imports(project: Project, public: Mapping[str, Collection[str]]) -> list[str]:
    """What the project's package imports of this library beyond its public names, as ``file:line: name``."""
    package = project.root / project.module.partition(".")[0]
    found = []
    for path in sorted(package.rglob("*.py")):
        for line, module, name in imports_of(path):
            if module not in public or (name and name not in public[module]):
                dotted = f"{module}.{name}" if name else module
                found.append(f"{path.relative_to(project.root)}:{line}: {dotted}")
    return found


def imports_of(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Line, module and name of each import of this library in a Python file; a file that does not parse has none."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # whoever loads it says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == _PACKAGE:
                    yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == _PACKAGE:
            for alias in node.names:
                yield node.lineno, node.module or "", alias.name
