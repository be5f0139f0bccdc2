"""Whether a build would make anything new: same files, same input snapshots, nothing that depends on the moment.

Where it would not, `dml run` leaves the marts alone instead of publishing the same rows again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

import duckdb

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, read_records
from dml_platform.dbt.manifest import ensure_manifest, load_manifest, parsed_digest, source_files
from dml_platform.dbt.packages import ELEMENTARY
from dml_platform.dbt.session import readable_tables
from dml_platform.lake import Lake

# A build that is further back costs more to find than to make anew.
_LOOKED_AT = 400

# Code whose result may differ although files and inputs are the same. Too many hits only cost a build.
_WORDS = (
    r"current_date|current_time|current_timestamp|localtime\w*|tablesample|using\s+sample|run_started_at|invocation_id"
    r"|external_location"
)
# Functions that DuckDB does not say it of, are in an extension of it, or are dbt's.
_CALLS = (
    r"age|ago|(?!current_(?:database|schemas?|catalog)\b)current_\w+|localtime\w*|get_current_\w+|utcnow|setseed|\w*uuid\w*"
    r"|session_user|getvariable|getenv|env_var|read_\w+|st_read\w*|\w+_scan\w*"
    r"|(?:postgres|mysql|sqlite)_query"
)
# Of those that DuckDB tells: they only say what is in the query, or in a table that it names.
_HARMLESS = {
    "current_database", "current_schema", "current_schemas", "error", "generate_series", "in_search_path", "json_each",
    "json_tree", "query", "query_table", "range", "repeat", "repeat_row", "summary", "unnest",
}  # fmt: skip
_DATA = r"\.(?:parquet|csv|tsv|txt|json|jsonl|ndjson|xlsx|db|duckdb|arrow|avro)(?:\.\w+)?"
_FILES = (
    rf"\battach\b|\b(?:from|join)\s*(?:'|\"[^\"]*[./:*?]|[\w.]+{_DATA}\b)|,\s*'[^'\n]*{_DATA}'|,\s*\"[^\"\n]*{_DATA}\""
)
_COMMENT = re.compile(r"""('(?:[^']|'')*'|"[^"]*")|--[^\n]*|/\*.*?\*/|\{#.*?#\}""", re.DOTALL)
_ENV_VAR = re.compile(r"""\benv_var\s*\(\s*['"](\w+)['"]""")


@cache
def _volatile() -> re.Pattern[str]:
    """What to look for; DuckDB knows of its own functions which depend on the moment, on chance, or read anything."""
    told = "function_type = 'table' OR stability <> 'CONSISTENT'"
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT DISTINCT function_name FROM duckdb_functions() WHERE {told}").fetchall()
    calls = "|".join(sorted({name for (name,) in rows if name.isidentifier()} - _HARMLESS))
    return re.compile(rf"\b(?:{_WORDS})\b|\b(?:{_CALLS}|{calls})\s*\(|{_FILES}", re.IGNORECASE)


def find_unchanged(project: Project, lake: Lake, *, step: str = "dbt") -> RunRecord | None:
    """The record of the build that is still good: building again would publish the same; None if it may not.

    Good means: it built the whole project from the same files and input snapshots, what it published is what is
    published now, and no model, test, hook or macro depends on the time, chance, the environment or files.
    """
    manifest = load_manifest(project)
    if next(find_volatile(manifest), None):
        return None
    wanted = fingerprint(project, lake)
    for record in islice(read_records(lake.settings, project.name), _LOOKED_AT):
        if record.step != step or record.status != "success" or record.details.get("fingerprint") is None:
            continue
        is_good = record.details["fingerprint"] == wanted and all(
            published is not None and published.snapshot_id == snapshot
            for name, snapshot in record.outputs.items()
            for published in [lake.published(TableRef.parse(name))]
        )
        return record if is_good else None
    return None


def fingerprint(project: Project, lake: Lake) -> str:
    """A digest of the dbt files, the library's version, and the snapshots and variables that a build would read now."""
    ensure_manifest(project)
    digest = hashlib.sha256(parsed_digest(project).encode())
    for name in sorted(_variables(project)):
        digest.update(f"{name}={os.environ.get(name)!r}\n".encode())
    for ref in readable_tables(lake, project.name):
        if ref.project == project.name and ref.layer != "raw":
            continue
        pinned = lake.published(ref)
        digest.update(f"{ref.dotted}={pinned.snapshot_id if pinned else None}\n".encode())
    return digest.hexdigest()


def find_volatile(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Unique ids of what may give other results although files and inputs are the same."""
    return (key for key, code in _code(manifest) if volatile_words(code))


def volatile_words(code: str) -> list[str]:
    """What SQL or a macro names that depends on the time, chance, the environment or files."""
    code = _COMMENT.sub(lambda found: found[1] or " ", code)
    return list(dict.fromkeys(found[0].strip(" (") for found in _volatile().finditer(code)))


def _variables(project: Project) -> set[str]:
    """Environment variables that dbt's YAML asks for."""
    files = (path for path in source_files(project.dbt_dir) if path.suffix in (".yml", ".yaml"))
    return {name for path in files for name in _ENV_VAR.findall(path.read_text(encoding="utf-8"))}


def _code(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is run: models, tests with their arguments, hooks, sources that are files, and the macros that these use."""
    # What Elementary's own models and tests make is no part of what is published.
    own = manifest["metadata"]["project_name"]
    pending = [key for key, macro in manifest["macros"].items() if macro["package_name"] == own]
    for key, node in manifest["nodes"].items():
        if node["package_name"] != own:
            continue
        pending += node["depends_on"]["macros"]
        hooks = [node["config"].get(name) for name in ("pre-hook", "post-hook", "where")]
        arguments = (node.get("test_metadata") or {}).get("kwargs")
        yield from ((key, text) for text in _texts([node.get("raw_code"), hooks, arguments]))
    for key, source in manifest["sources"].items():
        if source["package_name"] == own:
            yield key, json.dumps([source.get(part) for part in ("meta", "source_meta", "config")])
    seen: set[str] = set()
    while pending:
        macro = manifest["macros"].get(key := pending.pop())
        # dbt's own macros say what they are in the name by which they are called.
        if key in seen or macro is None or macro["package_name"] in (ELEMENTARY.name, "dbt", "dbt_duckdb"):
            continue
        seen.add(key)
        pending += macro["depends_on"]["macros"]
        yield key, macro["macro_sql"]


def _texts(value: Any) -> Iterator[str]:
    """All texts in a part of the manifest."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)
