"""Three-way: a field is ours to change only while the server still has what we last sent. Else a person wrote it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dml_openmetadata.kinds import Wanted, tag_label
from dml_openmetadata.state import digest

# Of a column, what the platform knows best; all else stays as it is there.
_STRUCTURE = ("name", "dataType", "dataTypeDisplay", "dataLength", "precision", "scale", "arrayDataType", "constraint")


def merge(
    wanted: Wanted, there: Mapping[str, Any], sent: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What an entity should become.

    Args:
        there: as the server has it.
        sent: what we last sent, by field.
    Returns: the entity, what to remember as sent, and the fields that people wrote and keep.
    """
    target = copy.deepcopy(dict(there))
    for name, value in wanted.ours.items():
        if not covers(there.get(name), value):
            target[name] = _overlay(there.get(name), value)
        if value is None:
            target.pop(name, None)
    remember: dict[str, Any] = {}
    kept: list[str] = []
    _share(target, wanted.shared, sent, "", remember, kept)
    if wanted.columns is not None:
        present = {column["name"]: column for column in there.get("columns") or ()}
        target["columns"] = [_column(column, present, sent, "", remember, kept) for column in wanted.columns]
    return target, remember, kept


def remembered(wanted: Wanted) -> dict[str, Any]:
    """What to remember as sent of an entity that was created just now."""
    return merge(wanted, {}, {})[1]


def covers(there: Any, ours: Any) -> bool:
    """Whether the server has what we want; it may have more."""
    if isinstance(ours, Mapping):
        return isinstance(there, Mapping) and all(covers(there.get(key), value) for key, value in ours.items())
    if isinstance(ours, (list, tuple)):
        there = there or []
        return len(there) == len(ours) and all(covers(one, other) for one, other in zip(there, ours, strict=True))
    return (there or None) == (ours or None)


def difference(there: Any, target: Any, path: str = "") -> list[dict[str, Any]]:
    """The JSON patch (RFC 6902) from one to the other. Lists whose members' names are the same are patched inside."""
    if isinstance(there, Mapping) and isinstance(target, Mapping):
        found = [op for key in target for op in difference(there.get(key), target[key], f"{path}/{_escape(key)}")]
        return found + [{"op": "remove", "path": f"{path}/{_escape(key)}"} for key in there if key not in target]
    if (there or None) == (target or None) and not isinstance(target, bool):
        return []
    if _same_names(there, target):
        pairs = enumerate(zip(there, target, strict=True))
        return [op for number, (one, other) in pairs for op in difference(one, other, f"{path}/{number}")]
    return [] if there == target else [{"op": "add", "path": path, "value": target}]


def _overlay(there: Any, ours: Any) -> Any:
    """Ours, with what the server has besides: of a list's members by their name."""
    if isinstance(ours, Mapping):
        known = there if isinstance(there, Mapping) else {}
        return {**copy.deepcopy(dict(known)), **{key: _overlay(known.get(key), value) for key, value in ours.items()}}
    if isinstance(ours, (list, tuple)):
        known = {member["name"]: member for member in there or () if isinstance(member, Mapping) and "name" in member}
        return [_overlay(known.get(one.get("name")), one) if isinstance(one, Mapping) else one for one in ours]
    return ours


def _column(
    wanted: Mapping[str, Any],
    present: Mapping[str, Any],
    sent: Mapping[str, Any],
    inside: str,
    remember: dict[str, Any],
    kept: list[str],
) -> dict[str, Any]:
    there = present.get(wanted["name"], {})
    target = {name: value for name, value in copy.deepcopy(dict(there)).items() if name not in _STRUCTURE}
    target |= {name: wanted[name] for name in _STRUCTURE if wanted.get(name) is not None}
    place = f"{inside}columns.{wanted['name']}."
    shared = {"description": wanted.get("description", ""), "tags": wanted.get("tags", ())}
    _share(target, shared, sent, place, remember, kept)
    target.pop("children", None)
    if wanted.get("children"):
        known = {child["name"]: child for child in there.get("children") or ()}
        target["children"] = [_column(child, known, sent, place, remember, kept) for child in wanted["children"]]
    return target


def _share(
    target: dict[str, Any],
    shared: Mapping[str, Any],
    sent: Mapping[str, Any],
    place: str,
    remember: dict[str, Any],
    kept: list[str],
) -> None:
    for name, value in shared.items():
        last = sent.get(place + name)
        new: Any
        note: Any
        if name == "tags":
            new, note = _tags(target.get(name) or (), list(value), last or ())
        elif name == "owners":
            new, note = _owners(target.get(name) or (), list(value), last)
        else:
            new, note = _text(target.get(name) or "", value or "", last)
        if new:
            target[name] = new
        elif target.get(name):
            target[name] = [] if name != "description" else ""
        if note is None:
            kept.append(place + name)
            if last is not None:
                remember[place + name] = last
        elif note:
            remember[place + name] = note


def _text(there: str, ours: str, last: str | None) -> tuple[str, str | None]:
    if not there.strip() or there.strip() == ours.strip() or (last and digest(there) == last):
        is_same = there.strip() == ours.strip()
        return (there if is_same else ours), digest(ours) if ours.strip() else ""
    return there, None


def _tags(there: Iterable[Mapping[str, Any]], ours: Sequence[str], last: Sequence[str]) -> tuple[list[Any], list[str]]:
    """People's tags stay, and one of ours that they took away stays away."""
    gone = set(last) - set(ours)
    labels = [dict(label) for label in there if label["tagFQN"] not in gone]
    has = {label["tagFQN"] for label in labels}
    labels += [tag_label(name) for name in ours if name not in has and name not in last]
    return labels, list(ours)


def _owners(
    there: Iterable[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]], last: Sequence[str] | None
) -> tuple[list[Any], list[str] | None]:
    there = list(there)
    present = [dict(owner) for owner in there if not owner.get("inherited")]
    ids = {owner["id"] for owner in present}
    wanted = [owner["id"] for owner in ours]
    if ids == set(wanted):
        return [dict(owner) for owner in there], wanted
    if not ids or (last is not None and ids == set(last)):
        return [dict(owner) for owner in ours], wanted
    return there, None


def _same_names(there: Any, target: Any) -> bool:
    if not isinstance(there, list) or not isinstance(target, list) or len(there) != len(target) or not there:
        return False
    members = (*there, *target)
    if not all(isinstance(member, Mapping) and "name" in member and "id" not in member for member in members):
        return False
    return all(one["name"] == other["name"] for one, other in zip(there, target, strict=True))


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
