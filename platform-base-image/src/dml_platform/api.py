"""What projects may use of this library, and whether a later release still lets them.

``python -m dml_platform.api`` prints docs/api.md; with ``--record`` what tests/api keeps of a release.
Belongs here: the list, and comparing it. Nothing of it is imported until somebody asks.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from typing import Any

# Names that projects may import. All else may change in any release.
PUBLIC: dict[str, tuple[str, ...]] = {
    "dml_platform.definitions": ("build_definitions",),
    "dml_platform.lake": ("Lake", "SnapshotInfo", "open_lake"),
    "dml_platform.lake.reporting": ("RETRY_POLICY", "failures", "picture"),
    "dml_platform.core.errors": (
        "ChecksFailedError",
        "ConfigError",
        "PermanentError",
        "PlatformError",
        "PublishConflictError",
        "RetryableError",
        "SchemaMismatchError",
        "SourceError",
        "TooManyRejectsError",
    ),
    "dml_platform.core.naming": ("TableRef",),
    "dml_platform.core.project": ("Project", "find_projects", "get_project", "read_project", "state_home"),
    "dml_platform.core.settings": ("Settings", "load_settings"),
    "dml_platform.sources": ("install_connectors",),
    "dml_platform.dbt.packages": ("install_packages",),
    "dml_platform.dbt.runner": ("build", "ensure_manifest"),
}
# What a constant is for: it has no docstring that a program could read.
_CONSTANTS = {
    "RETRY_POLICY": "For `retry_policy=` of an asset: two more attempts, where `failures()` allows it.",
}
# Modules that a project's files name without importing them.
NAMED: dict[str, str] = {
    "dml_platform.cli": "`python -m dml_platform.cli`, the `dml` command",
    "dml_platform.dbt.plugin": "in `dbt/profiles.yml`",
    "dml_platform.dbt.pytest_parse": "`pytest -p dml_platform.dbt.pytest_parse`, in `noxfile.py`",
    "dml_platform.healthcheck": "`python -m dml_platform.healthcheck`, in a Dockerfile",
}
Shape = dict[str, Any]


def describe() -> dict[str, Shape]:
    """Every public name with what callers rely on: parameters, members, base classes."""
    return {
        f"{module}.{name}": _shape(getattr(importlib.import_module(module), name))
        for module, names in PUBLIC.items()
        for name in names
    }


def _shape(thing: Any) -> Shape:
    if inspect.isclass(thing):
        ours = [base for base in thing.__mro__ if base.__module__.startswith("dml_platform")]
        names = {n for base in ours for n in (*vars(base), *inspect.get_annotations(base)) if not n.startswith("_")}
        # What a class says to the framework that it is built on, such as pydantic's hooks, is not for callers.
        names -= {n for base in thing.__mro__ if base not in ours for n in vars(base)}
        members = {name: _shape(inspect.getattr_static(thing, name, None)) for name in sorted(names)}
        bases = [f"{base.__module__}.{base.__qualname__}" for base in ours[1:]]
        return {"kind": "class", "bases": bases, "call": _parameters(thing), "members": members}
    if isinstance(thing, (classmethod, staticmethod)):
        return {"kind": "function", "call": _parameters(thing.__func__)}
    if inspect.isfunction(thing):
        return {"kind": "function", "call": _parameters(thing)}
    return {"kind": "value"}


def _parameters(function: Any) -> list[list[Any]]:
    """Name, kind and whether it may be left out."""
    return [
        [p.name, p.kind.name, p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for p in inspect.signature(function).parameters.values()
    ]


def find_breaks(before: dict[str, Shape], after: dict[str, Shape], path: str = "") -> list[str]:
    """What somebody who relied on ``before`` would trip over in ``after``."""
    found = []
    for name, old in before.items():
        new, where = after.get(name), f"{path}{name}"
        if new is None:
            found.append(f"{where} is gone")
        elif old["kind"] != new["kind"] and "function" in (old["kind"], new["kind"]):
            found.append(f"{where} was a {old['kind']} and is a {new['kind']}")
        else:
            found += [f"{where} is no {base} any more" for base in old.get("bases", []) if base not in new["bases"]]
            found += [f"{where}: {fault}" for fault in _call_breaks(old.get("call", []), new.get("call", []))]
            found += find_breaks(old.get("members", {}), new.get("members", {}), f"{where}.")
    return found


def _call_breaks(before: list[list[Any]], after: list[list[Any]]) -> list[str]:
    new = {name: (kind, optional) for name, kind, optional in after}
    takes_any = any(kind == "VAR_KEYWORD" for kind, _ in new.values())
    found = []
    for name, kind, optional in before:
        if name not in new:
            found += [] if takes_any and kind == "KEYWORD_ONLY" else [f"parameter {name!r} is gone"]
        elif kind == "POSITIONAL_OR_KEYWORD" and new[name][0] != kind:
            found.append(f"parameter {name!r} was {kind} and is {new[name][0]}")
        elif optional and not new[name][1]:
            found.append(f"parameter {name!r} has to be given now")
    known = {name for name, _, _ in before}
    found += [
        f"new parameter {n!r} has to be given"
        for n, (_, optional) in new.items()
        if n not in known | {"self"} and not optional
    ]
    by_place = [[n for n, kind, _ in call if kind.startswith("POSITIONAL")] for call in (before, after)]
    if not found and by_place[1][: len(by_place[0])] != by_place[0]:
        found.append(f"parameters {by_place[0]} are in the order {by_place[1]}")
    return found


def to_markdown() -> str:
    """The page docs/api.md."""
    lines = [_HEAD]
    for module, names in PUBLIC.items():
        lines += [f"## `{module}`", "", "| name | |", "|---|---|"]
        for name in names:
            thing = getattr(importlib.import_module(module), name)
            lines.append(f"| `{name}{_call(thing)}` | {_CONSTANTS.get(name) or _first_line(thing)} |")
            if inspect.isclass(thing) and not issubclass(thing, Exception):
                members = [m for m, shape in _shape(thing)["members"].items() if shape["kind"] == "function"]
                lines += [f"| `.{m}{_call(getattr(thing, m))}` | {_first_line(getattr(thing, m))} |" for m in members]
        lines.append("")
    lines += ["## Named in files", "", "| module | where |", "|---|---|"]
    lines += [f"| `{module}` | {where} |" for module, where in NAMED.items()]
    return "\n".join(lines) + "\n"


def _call(thing: Any) -> str:
    if not callable(thing) or (inspect.isclass(thing) and len(inspect.signature(thing).parameters) > 5):
        return ""
    signature = inspect.signature(thing)
    kept = [
        p.replace(annotation=p.empty, default=p.default if _is_plain(p.default) else Ellipsis)
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    return str(signature.replace(parameters=kept, return_annotation=inspect.Signature.empty)).replace("=Ellipsis", "=…")


def _is_plain(value: Any) -> bool:
    return value is inspect.Parameter.empty or value is None or isinstance(value, (bool, int, str, tuple))


def _first_line(thing: Any) -> str:
    own = inspect.isclass(thing) or callable(thing)
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("|", "\\|") if own else ""


_HEAD = """# What projects may import

Made by `python -m dml_platform.api`; a test compares it with the code. Names that are not here may change in any
release, and `dml doctor` says where a project uses one.

Until 1.0 a minor release (0.1 → 0.2) may break a name, a patch release (0.1.0 → 0.1.1) does not; from 1.0 on only a
major release does. Before a name goes, one such release has both it and what takes its place, and each use of the old
one warns with a `PlatformDeprecationWarning` that says the new one. `tests/api/` keeps what each release let callers
do, and a test that finds something missing fails.
"""


if __name__ == "__main__":
    print(json.dumps(describe(), indent=1, sort_keys=True) if "--record" in sys.argv else to_markdown(), end="")
