"""Whether a build would make anything new: same files, same input snapshots, nothing that depends on the moment.

Where it would not, `dml run` leaves the marts alone instead of publishing the same rows again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, read_records
from dml_platform.dbt.runner import ensure_manifest, parsed_digest
from dml_platform.dbt.session import readable_tables
from dml_platform.lake import Lake

# A build that is further back costs more to find than to make anew.
_LOOKED_AT = 400

# SQL whose result may differ although files and inputs are the same. Too many hits only cost a build.
_VOLATILE = re.compile(
    r"\b(current_date|current_time|current_timestamp|localtime\w*|tablesample|using\s+sample|run_started_at"
    r"|invocation_id)\b|\b(now|today|age|transaction_timestamp|get_current_\w+|utcnow|random|setseed|\w*uuid\w*|nextval"
    r"|env_var|getenv|read_(csv|json|parquet|text|blob)\w*|glob)\s*\(|\b(from|join)\s+'",
    re.IGNORECASE,
)


def find_unchanged(project: Project, lake: Lake, *, step: str = "dbt") -> RunRecord | None:
    """The record of the build that is still good: building again would publish the same; None if it may not.

    Good means: it built the whole project from the same files and input snapshots, what it published is what is
    published now, and no model, test or macro depends on the time, chance, the environment or files.
    """
    manifest = json.loads(ensure_manifest(project).read_text(encoding="utf-8"))
    if any(_VOLATILE.search(code) for code in _code(manifest)):
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
    """A digest of the dbt files, the library's version and the snapshots that a build would read now."""
    ensure_manifest(project)
    digest = hashlib.sha256(parsed_digest(project).encode())
    for ref in readable_tables(lake, project.name):
        if ref.project == project.name and ref.layer != "raw":
            continue
        pinned = lake.published(ref)
        digest.update(f"{ref.dotted}={pinned.snapshot_id if pinned else None}\n".encode())
    return digest.hexdigest()


def _code(manifest: Mapping[str, Any]) -> Iterator[str]:
    for node in manifest["nodes"].values():
        # What Elementary's own models and tests make is no part of what is published.
        if node["package_name"] == manifest["metadata"]["project_name"]:
            yield node.get("raw_code") or ""
    for macro in manifest["macros"].values():
        if macro["package_name"] == manifest["metadata"]["project_name"]:
            yield macro["macro_sql"]
