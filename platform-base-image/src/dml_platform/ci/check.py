"""One answer to a change: does it build, do the tests hold, how do the data differ, who depends on what it touches."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from dml_platform.catalog import build_document, read_document
from dml_platform.ci.columns import compare_columns, compile_both, has_models
from dml_platform.ci.told import told_error, told_message
from dml_platform.core.document import Document
from dml_platform.core.errors import PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project, find_projects
from dml_platform.core.runrecord import git_commit
from dml_platform.dbt.baseline import Baseline, Modified, find_modified, open_baseline
from dml_platform.dbt.manifest import target_dir
from dml_platform.dbt.messages import told
from dml_platform.dbt.packages import absence
from dml_platform.dbt.postmortem import TRIAL
from dml_platform.dbt.results import NodeResult
from dml_platform.dbt.session import readable_tables
from dml_platform.dbt.trial import Trial, try_build
from dml_platform.lake import Lake
from dml_platform.lineage.changes import Change
from dml_platform.lineage.impact import Graph, Impact, find_impact
from dml_platform.lineage.memory import Memory

TRACED = "traced.json"  # beside what dbt parsed


@dataclass
class CheckedChange:
    """What is known of a change.

    Attributes:
        base: what it was compared with, and the commit that stands for it.
        columns: which columns of which models are not what they were.
        not_built: tables of this project below the change that no dbt model makes: a Python asset, for example.
        notes: what a reader has to know.
        error: why it cannot be merged; None where it can.
    """

    project: str
    base: str
    base_commit: str
    commit: str
    modified: Modified = field(default_factory=lambda: Modified((), (), ()))
    trial: Trial | None = None
    columns: list[Change] = field(default_factory=list)
    impacts: list[Impact] = field(default_factory=list)
    not_built: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    error: PlatformError | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def tests(self) -> list[NodeResult]:
        """Results of the tests that ran."""
        return [n for n in self.trial.nodes if n.resource_type in ("test", "unit_test")] if self.trial else []

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Values of rows are in none of it."""
        trial = self.trial
        return {
            "project": self.project,
            "base": self.base,
            "base_commit": self.base_commit,
            "commit": self.commit,
            "is_good": self.error is None,
            "error": _error(told_error(self.error, trial.nodes if trial else [])) if self.error else None,
            "modified": asdict(self.modified),
            "tests": [
                {"id": n.unique_id, "status": n.status, "failures": n.failures, "message": told_message(n)}
                for n in self.tests
            ],
            "tables": [found.as_dict() for found in trial.diffs] if trial else [],
            "needs_full_refresh": {name: list(why) for name, why in trial.refused.items()} if trial else {},
            "columns": [asdict(change) for change in self.columns],
            "impacts": [found.as_dict() for found in self.impacts],
            "not_built": list(self.not_built),
            "notes": self.notes,
            "run_id": trial.run_id if trial else None,
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }


def _error(error: PlatformError) -> dict[str, str]:
    return {"what": error.what, "why": error.why, "fix": error.fix}


def check_change(
    project: Project, lake: Lake, base: str, *, progress: Callable[[str], None] = lambda _text: None
) -> CheckedChange:
    """Build, test and compare what differs since the branch left ``base``. Publishes nothing.

    Raises:
        ConfigError: git does not know the commit, or dbt cannot read the project.
    """
    clock = _Clock()
    with lake.remember_files(), open_baseline(project, base) as baseline:
        known = baseline.commit if baseline else ""
        checked = CheckedChange(project.name, base, known, git_commit(project.root), seconds=clock.seconds)
        progress("comparing the models with those of the base")
        checked.modified = find_modified(project, baseline)
        clock.lap("compare")
        if missing := absence(project.dbt_dir):
            checked.notes.append(f"{missing}. So there is no report of it either.")
        progress(f"building and testing {len(checked.modified.all)} nodes")
        run_id = f"{TRIAL}{uuid.uuid4().hex[:8]}"
        removed = _removed_tables(baseline, checked.modified)
        checked.trial = try_build(
            project,
            lake,
            run_id=run_id,
            select=checked.modified.all,
            removed=removed,
            on_node=lambda node: progress(f"{node.status} {node.resource_type} {node.name}"),
        )
        checked.error = checked.trial.error
        clock.lap("build")
        if baseline is not None and has_models(checked.modified):
            progress("tracing what depends on the change")
            _add_impact(checked, project, lake, baseline)
        elif baseline is not None and not checked.modified.own:
            _look_ahead(checked, project, lake, baseline)
        clock.lap("impact")
    return checked


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now


def _removed_tables(baseline: Baseline | None, modified: Modified) -> list[str]:
    nodes = [baseline.manifest["nodes"][key] for key in modified.removed] if baseline else []
    refs = [TableRef(n["database"], n["schema"], n.get("alias") or n["name"]) for n in nodes if _is_lake(n)]
    return [ref.dotted for ref in refs]


def _is_lake(node: dict[str, Any]) -> bool:
    return bool(node["config"].get("materialized") == "lake")


def _add_impact(checked: CheckedChange, project: Project, lake: Lake, baseline: Baseline) -> None:
    """What a person reads beside the result: a fault in it is a note, and fails no change that builds."""
    traced = target_dir(project) / TRACED
    memory = Memory.load(traced)
    try:
        compiled = compile_both(project, lake, baseline, checked.modified)
        checked.columns = compare_columns(lake, baseline, compiled, memory)
        own = build_document(project, lake, compiled=compiled.after, memory=memory, with_profiles=False)
        graph = Graph.of([own, *other_documents(project, lake, checked.notes)])
    except PlatformError as error:
        checked.notes.append(f"What depends on the change is not known: {told(error.why)}.")
        return
    memory.save(traced)
    checked.impacts = impacts_of(checked.columns, graph)
    nodes = compiled.manifest["nodes"].values()
    made = {f"{n['database']}.{n['schema']}.{n.get('alias') or n['name']}" for n in nodes}
    below = {each.table for found in checked.impacts for each in found.tables}
    checked.not_built = tuple(sorted(t for t in below - made if t.startswith(f"{project.name}.")))


def _look_ahead(checked: CheckedChange, project: Project, lake: Lake, baseline: Baseline) -> None:
    """Where nothing differs, as on the main branch, leave for the changes to come what is the same for all of them."""
    traced = target_dir(project) / TRACED
    memory = Memory.load(traced)
    try:
        compare_columns(lake, baseline, compile_both(project, lake, baseline, checked.modified), memory)
        for pinned in lake.pin_all(readable_tables(lake, project.name)):
            pinned.files()
    except PlatformError as error:
        checked.notes.append(f"The next change starts from less: {error.why}.")
        return
    memory.save(traced)


def impacts_of(changes: Iterable[Change], graph: Graph) -> list[Impact]:
    """What is downstream of each change; what is new has nothing there yet."""
    return [find_impact(graph, c.table, c.column) for c in changes if c.what != "added" and c.table in graph.columns]


def other_documents(project: Project, lake: Lake, notes: list[str]) -> list[Document]:
    """Other projects may read this one's marts: those side by side, and those that left a document with the lake."""
    found = [build_document(each, lake, with_profiles=False) for each in find_projects() if each.name != project.name]
    for name in sorted({ref.project for ref in lake.tables()} - {project.name, *(d.project for d in found)}):
        try:
            document = read_document(lake.settings, name)
        except (OSError, ValueError) as error:
            notes.append(f"What project {name!r} reads is not known here: {type(error).__name__}.")
            continue
        found += [document] if document else []
    return found
