"""The steps of a run, one after the other: what can be made again is made and compared, what cannot is named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from dml_platform import __version__
from dml_platform.core.dvcfiles import read_hashes, uses_dvc
from dml_platform.core.errors import ConfigError, PermanentError, PlatformError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord
from dml_platform.dvc import Dvc
from dml_platform.lake import Lake, create_view
from dml_platform.lake.compare import Comparison, compare_rows
from dml_platform.lake.engine import quote, quote_name
from dml_platform.lake.replay import ReplayIOManager, missing, replay_step, replayed_name

SAME, DIFFERS, MOMENT = "same", "differs", "depends on the moment"


@dataclass(frozen=True)
class TableResult:
    """One table: ``status`` is same, differs, or depends on the moment (differs, and its SQL says why)."""

    table: str
    step: str
    status: str
    reason: str
    snapshot_id: int
    comparison: Comparison


@dataclass
class Reproduction:
    """What came out; ``notes`` are what a reader has to know, ``inputs`` the tables that were taken as they landed."""

    run_id: str
    project: str
    git_commit: str
    tables: list[TableResult] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """Whether every table came out as it was published, and at least one was made."""
        return bool(self.tables) and all(table.status == SAME for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "is_same": self.is_same}


def reproduce(
    project: Project,
    lake: Lake,
    records: Sequence[RunRecord],
    *,
    folder: Path,
    load: Callable[[Project], dg.Definitions],
    dvc: Dvc | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> Reproduction:
    """Make the transforms of a run again and compare each table with the snapshot that the run published.

    Args:
        project: the checkout of the run's commit.
        lake: where the snapshots are; only read.
        records: the run's, in any order.
        folder: empty; takes the private DuckDB files.
        load: imports the project's definitions; called only where an asset is no dbt model.
        dvc: brings the files that DVC tracks into the checkout.
    Raises:
        PermanentError: the run published nothing that can be made again, or what it needs is gone.
    """
    first = records[0]
    result = Reproduction(first.run_id, project.name, first.git_commit)
    _compare_versions(result, records, lake)
    _restore_files(result, project, first, dvc, progress)
    for record in sorted(records, key=lambda record: record.started_at):
        if record.status != "success":
            result.notes.append(f"step {record.step!r} did not succeed: nothing to compare")
        elif earlier := record.details.get("unchanged_since"):
            result.notes.append(f"its models were those of run {earlier}: 'dml reproduce {earlier}' makes them again")
        elif not record.outputs:
            continue
        elif all(TableRef.parse(name).layer == "raw" for name in record.outputs):
            result.inputs += sorted(record.outputs)
        else:
            progress(f"making step {record.step!r} again")
            result.tables += _replay(project, lake, record, folder=folder, load=load)
    if not result.tables:
        raise PermanentError(
            f"cannot make run {first.run_id!r} again",
            "; ".join(result.notes) or "it only landed data, which is taken from its sources and not computed",
            "Name a run that built tables; 'dml history' lists them.",
        )
    return result


def _replay(
    project: Project, lake: Lake, record: RunRecord, *, folder: Path, load: Callable[[Project], dg.Definitions]
) -> list[TableResult]:
    from dml_platform.dbt.replay import replay_build

    database = folder / f"{record.step}.duckdb"
    keys: dict[str, tuple[str, ...]] = {}
    moments: dict[str, tuple[str, ...]] = {}
    if "full_refresh" in record.details or record.step == "dbt":
        for model in replay_build(project, lake, record, database=database):
            keys[model.ref.dotted], moments[model.ref.dotted] = model.key, model.volatile
    else:
        _replay_asset(lake, record, load(project), database=database)
    found = []
    with contextlib.closing(lake.connect()) as connection:
        name = quote_name(project.name)
        connection.execute(f"ATTACH {quote(str(database))} AS {name} (READ_ONLY)")
        connection.execute("ATTACH ':memory:' AS _dml_then")
        for dotted, snapshot_id in sorted(record.outputs.items()):
            pinned = lake.pin(dotted, snapshot_id=snapshot_id)
            select = pinned.select()
            if select is None:  # with row deletes, which pyiceberg applies
                with contextlib.closing(lake.connect()) as other:
                    create_view(other, pinned)
                    rows = other.sql(f"SELECT * FROM {pinned.ref.sql}").to_arrow_table()
                connection.register("_dml_rows", rows)
                select = "SELECT * FROM _dml_rows"
            compared = compare_rows(connection, f"({select})", replayed_name(pinned.ref), key=keys.get(dotted, ()))
            found.append(_judge(dotted, record.step, snapshot_id, compared, moments.get(dotted, ())))
    return found


def _judge(table: str, step: str, snapshot_id: int, compared: Comparison, moments: tuple[str, ...]) -> TableResult:
    if compared.is_same:
        return TableResult(table, step, SAME, "", snapshot_id, compared)
    if moments:
        reason = f"its SQL has {', '.join(moments)}: another result each time"
        return TableResult(table, step, MOMENT, reason, snapshot_id, compared)
    reason = "; ".join(compared.column_faults) or (
        f"{compared.only_then:,} rows only then, {compared.only_now:,} only now"
    )
    return TableResult(table, step, DIFFERS, reason, snapshot_id, compared)


def _replay_asset(lake: Lake, record: RunRecord, defs: dg.Definitions, *, database: Path) -> None:
    what = f"cannot make step {record.step!r} of run {record.run_id!r} again"
    keys = {dg.AssetKey(TableRef.parse(name).asset_key) for name in record.outputs}
    found = [a for a in defs.assets or () if isinstance(a, dg.AssetsDefinition) and keys <= set(a.keys)]
    if not found:
        raise PermanentError(
            what, f"the checkout has no asset {', '.join(record.outputs)}", "Check that it is the right repository."
        )
    (asset,) = found
    if "lake" in asset.required_resource_keys:
        raise PermanentError(
            what, "its asset writes to the lake itself, which would publish", "Let it return its rows instead."
        )
    if asset.dependency_keys and not record.inputs:
        raise PermanentError(
            what,
            "its record does not say which snapshots it read",
            "Runs from before that was recorded cannot be made again; newer ones can.",
        )
    if gone := missing(lake, {**record.inputs, **record.outputs}):
        raise PermanentError(
            what,
            f"the lake no longer has the snapshots of {', '.join(sorted(gone))} that the run read or wrote",
            "Nothing brings back an expired snapshot; keep them longer, or tag those that count.",
        )
    step = replay_step(lake, run_id=record.run_id, name=record.step, inputs=record.inputs, outputs=record.outputs)
    others = {name: value for name, value in (defs.resources or {}).items() if name in asset.required_resource_keys}
    with contextlib.closing(lake.connect()) as connection, dg.DagsterInstance.ephemeral() as instance:
        project = quote_name(TableRef.parse(next(iter(record.outputs))).project)
        connection.execute(f"ATTACH {quote(str(database))} AS {project}")
        try:
            dg.materialize(
                [asset, *(dg.AssetSpec(key) for key in set(asset.dependency_keys) - set(asset.keys))],
                selection=dg.AssetSelection.assets(*keys),
                resources={**others, "io_manager": ReplayIOManager(step, connection)},
                instance=instance,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        except dg.DagsterError as error:
            cause = error.__cause__ or error
            if isinstance(cause, PlatformError):
                raise cause from error
            raise PermanentError(what, str(cause), "Compare this machine's packages with those of the run.") from error


def _compare_versions(result: Reproduction, records: Sequence[RunRecord], lake: Lake) -> None:
    for record in records:
        if record.image and record.image != lake.settings.image:
            here = f"here it is {lake.settings.image}" if lake.settings.image else "here is none"
            note = f"the run was in image {record.image}, {here}: packages may differ"
        elif record.platform and record.platform != __version__:
            note = f"the run was with dml-platform {record.platform}, here it is {__version__}"
        else:
            continue
        if note not in result.notes:
            result.notes.append(note)


def _restore_files(
    result: Reproduction, project: Project, record: RunRecord, dvc: Dvc | None, progress: Callable[[str], None]
) -> None:
    """Bring the files that DVC tracks, as the commit's own lock names them, and hold them against the record."""
    if not uses_dvc(project.root):
        return
    locked = read_hashes(project.root)
    changed = sorted(name for name, value in record.dvc.items() if locked.get(name) != value)
    if changed:
        result.notes.append(f"the commit's lock names other contents than the run had: {', '.join(changed)}")
    if dvc is None:
        return
    progress("bringing the files that DVC tracks")
    try:
        dvc.run("pull")
        result.files = {name: value for name, value in locked.items() if (project.root / name).exists()}
    except (ConfigError, PlatformError) as error:
        why = " ".join(error.why.split())
        if "missing-files" in why:
            why = "the remote does not have them; 'dml dvc push' where they were made"
        result.notes.append(f"files that DVC tracks were not brought: {why[-300:]}")
