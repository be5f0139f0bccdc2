"""What dbt's manifest says: tables with their columns, docs and owners, tests, exposures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dml_platform.catalog.draft import Draft, parse_owner
from dml_platform.core.document import Consumer, Owner, Test
from dml_platform.lineage.project import relation_name

_GRAIN = re.compile(r"\bGrain:\s*(.+?)\.(?:\s|$)", re.DOTALL)
_HOURS = {"minute": 1 / 60, "hour": 1.0, "day": 24.0}
_TABLES = ("model", "seed", "snapshot")
# Folded YAML ends in a line end, and breaks lines where the author did.
_SPACE = re.compile(r"\s+")


def read_manifest(draft: Draft, manifest: Mapping[str, Any], compiled: Mapping[str, str]) -> dict[str, str]:
    """Add what dbt knows.

    Returns: of sources with a freshness, the column that it is read from, by table.
    """
    groups = {group["name"]: group for group in manifest.get("groups", {}).values()}
    nodes = {key: node for key, node in manifest["nodes"].items() if node["resource_type"] in _TABLES}
    for key, node in {**nodes, **manifest.get("sources", {})}.items():
        _add_table(draft, key, node, groups, compiled)
    names = {key: relation_name(node) for key, node in {**nodes, **manifest.get("sources", {})}.items()}
    for node in nodes.values():
        for parent in node.get("depends_on", {}).get("nodes", ()):
            if names.get(parent) in draft.tables and relation_name(node) in draft.tables:
                draft.connect(names[parent], relation_name(node))
    for key, node in manifest["nodes"].items():
        if node["resource_type"] == "test":
            draft.tests[key] = _test(key, node, names, compiled)
    for key, node in manifest.get("unit_tests", {}).items():
        draft.tests[key] = Test(
            id=key,
            name=node["name"],
            kind="unit",
            table=_only(names.get(parent) for parent in node["depends_on"]["nodes"][:1]),
            description=_line(node.get("description")),
        )
    draft.consumers += [_consumer(node, names) for node in manifest.get("exposures", {}).values()]
    loaded_at = {}
    for key, node in manifest.get("sources", {}).items():
        column = node.get("loaded_at_field") or (node.get("config") or {}).get("loaded_at_field")
        table = draft.tables.get(names[key])
        if column and table is not None and "max_age_hours" in table.values:
            loaded_at[names[key]] = column
    return loaded_at


def has_package(manifest: Mapping[str, Any], package: str) -> bool:
    """Whether a dbt package is part of the project."""
    return any(macro["package_name"] == package for macro in manifest["macros"].values())


def _add_table(
    draft: Draft, key: str, node: Mapping[str, Any], groups: Mapping[str, Any], compiled: Mapping[str, str]
) -> None:
    table = draft.table(relation_name(node))
    if table is None:  # a package's own model, in a schema that is no layer
        return
    config = node.get("config") or {}
    meta = {**(config.get("meta") or {}), **(node.get("meta") or {})}
    group = groups.get(config.get("group") or node.get("group") or "")
    grain = _GRAIN.search(node.get("description") or "")
    unique = node.get("primary_key") or config.get("unique_key") or ()
    table.fill(
        description=_line(node.get("description")),
        grain=_line(grain.group(1)) if grain else "",
        owner=parse_owner(meta.get("owner")) or (_owner(group["owner"]) if group else None) or draft.owner,
        tags=tuple(dict.fromkeys([*(node.get("tags") or ()), *(config.get("tags") or ())])),
        path=f"dbt/{node['original_file_path']}",
        sql=compiled.get(key) if node["resource_type"] == "model" else None,
        unique_key=(unique,) if isinstance(unique, str) else tuple(unique),
        max_age_hours=_max_age_hours(node.get("freshness") or {}),
    )
    for column in (node.get("columns") or {}).values():
        tags = [*(column.get("tags") or ()), *((column.get("config") or {}).get("tags") or ())]
        table.fill_column(
            column["name"],
            type=(column.get("data_type") or "").upper() or None,
            description=_line(column.get("description")),
            tags=tuple(dict.fromkeys(tags)),
        )


def _test(key: str, node: Mapping[str, Any], names: Mapping[str, str], compiled: Mapping[str, str]) -> Test:
    kind = (node.get("test_metadata") or {}).get("namespace") == "elementary"
    parents = [names[parent] for parent in node["depends_on"]["nodes"] if parent in names]
    return Test(
        id=key,
        name=node["name"],
        kind="anomaly" if kind else "data",
        table=names.get(node.get("attached_node") or "") or _only(parents),
        column=node.get("column_name"),
        description=_line(node.get("description")),
        severity="warn" if (node["config"].get("severity") or "").lower() == "warn" else "error",
        sql=compiled.get(key),
    )


def _consumer(node: Mapping[str, Any], names: Mapping[str, str]) -> Consumer:
    return Consumer(
        name=node["name"],
        kind=node["type"],
        label=node.get("label") or "",
        description=_line(node.get("description")),
        owner=_owner(node.get("owner") or {}),
        url=node.get("url"),
        depends_on=tuple(names[parent] for parent in node["depends_on"]["nodes"] if parent in names),
    )


def _owner(owner: Mapping[str, Any]) -> Owner | None:
    email = owner.get("email")
    email = email[0] if isinstance(email, list) and email else email
    return Owner(name=owner.get("name"), email=email or None) if owner.get("name") or email else None


def _max_age_hours(freshness: Mapping[str, Any]) -> float | None:
    ages = [
        limit["count"] * _HOURS[limit["period"]]
        for limit in (freshness.get("warn_after"), freshness.get("error_after"))
        if limit and limit.get("count")
    ]
    return min(ages, default=None)


def _only(names: Iterable[str | None]) -> str | None:
    found = list(names)
    return found[0] if len(found) == 1 else None


def _line(text: str | None) -> str:
    return _SPACE.sub(" ", text or "").strip()
