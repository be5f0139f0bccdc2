"""A dbt project as Dagster assets and checks, built in the run's own process."""

import graphlib
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._utils.interrupts import raise_interrupts_as
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, dbt_assets

from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord
from dml_platform.dbt.changes import find_unchanged, fingerprint
from dml_platform.dbt.manifest import ensure_manifest
from dml_platform.dbt.packages import ELEMENTARY, absence
from dml_platform.dbt.results import BuildResult, NodeResult
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake
from dml_platform.lake.reporting import (
    RETRY_POLICY,
    Plot,
    failure,
    failures,
    recorded,
    short_run_id,
    table_metadata,
)

_UNIQUE_ID = "dagster_dbt/unique_id"


class LakeTranslator(DagsterDbtTranslator):
    """Names dbt's nodes as the lake does, so that lineage joins up with what landed."""

    def __init__(self, project: Project) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_asset_checks=True, enable_source_tests_as_checks=True))
        self._project = project

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """``project/layer/name``: dbt's database is the project and its schema is the layer."""
        name = dbt_resource_props.get("alias") or dbt_resource_props.get("identifier") or dbt_resource_props["name"]
        ref = TableRef(dbt_resource_props["database"], dbt_resource_props["schema"], name)
        return dg.AssetKey(ref.asset_key)

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The layer."""
        return str(dbt_resource_props["schema"])


class BuildConfig(dg.Config):
    """What a person may set when launching the dbt step."""

    full_refresh: bool = False
    if_changed: bool = False
    """Build only if files or inputs changed since the last build of everything."""


def build_dbt_assets(project: Project, *, plots: Mapping[str, Plot] | None = None) -> dg.AssetsDefinition:
    """All models and seeds of a project as one step that publishes all of its tables or none.

    Args:
        plots: functions from a published mart's frame to a figure, by table name.
    Raises:
        ConfigError: dbt cannot parse the project.
    """

    @dbt_assets(
        manifest=ensure_manifest(project),
        dagster_dbt_translator=LakeTranslator(project),
        exclude=f"package:{ELEMENTARY.name}",
        name=f"{project.name}_dbt",
        required_resource_keys={"lake"},
        retry_policy=RETRY_POLICY,
    )
    def _dbt(context: dg.AssetExecutionContext, config: BuildConfig) -> Iterator[Any]:
        with failures():
            yield from _build(context, project, config, plots)

    return _dbt


def _build(
    context: dg.AssetExecutionContext, project: Project, config: BuildConfig, plots: Mapping[str, Plot] | None
) -> Iterator[Any]:
    lake: Lake = context.resources.lake.lake

    def on_node(node: NodeResult) -> None:
        # A passed test is an asset check of its own, so it is no line of the log.
        if node.resource_type not in ("test", "unit_test") or node.status != "pass":
            context.log.info(f"{node.status} {node.resource_type} {node.name} ({node.duration_s:.2f} s)")

    if missing := absence(project.dbt_dir):
        context.log.warning(f"{missing}.")
    run_id, selection = short_run_id(context.run.run_id), _selection(context)
    if config.if_changed and not config.full_refresh and (good := find_unchanged(project, lake)):
        context.log.info(f"Nothing new: what run {good.run_id} published is still what a build would make.")
        with recorded(project, lake, run_id=run_id, step="unchanged") as notes:
            notes.details["unchanged_since"] = good.run_id
        yield from _unchanged(context, good)
        return
    # Taken before the build: what lands meanwhile makes the next run build again.
    details = {} if selection else {"fingerprint": fingerprint(project, lake)}
    # Told to end by Ctrl-C dbt cancels its queries and waits for its threads; it does not know Dagster's own signal.
    with raise_interrupts_as(KeyboardInterrupt):
        result = build(
            project,
            lake,
            run_id=run_id,
            select=selection,
            full_refresh=config.full_refresh,
            on_node=on_node,
            details=details,
        )
    yield from _checks(context, result)
    if result.error is not None:
        for node in result.failed:
            context.log.error(f"{node.name}: {node.message}\n{node.sql or ''}")
        raise failure(result.error)
    yield from _materializations(context, lake, result, plots)


def _unchanged(context: dg.AssetExecutionContext, good: RunRecord) -> Iterator[dg.MaterializeResult]:
    """Point at what is published, so that what comes after still runs: it may have failed the last time."""
    specs = {spec.key: spec for spec in context.assets_def.specs}
    order = graphlib.TopologicalSorter(
        {key: {dep.asset_key for dep in spec.deps} & specs.keys() for key, spec in specs.items()}
    )
    for key in order.static_order():
        name = ".".join(key.path)
        if key not in context.selected_asset_keys or name not in good.outputs:
            continue
        snapshot = str(good.outputs[name])
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={
                "unchanged_since_run": good.run_id,
                "snapshot_id": snapshot,
                "dagster/row_count": good.rows.get(name, 0),
            },
            data_version=dg.DataVersion(snapshot),
        )


def _selection(context: dg.AssetExecutionContext) -> list[str]:
    """dbt unique ids of what was asked for; empty for everything."""
    if not context.is_subset:
        return []
    specs = context.assets_def.specs_by_key
    chosen = [specs[key].metadata[_UNIQUE_ID] for key in context.selected_asset_keys]
    checks = context.assets_def.check_specs_by_output_name.values()
    chosen += [s.metadata[_UNIQUE_ID] for s in checks if s.key in context.selected_asset_check_keys]
    return chosen


def _checks(context: dg.AssetExecutionContext, result: BuildResult) -> Iterator[dg.AssetCheckResult]:
    nodes = {node.unique_id: node for node in result.nodes}
    for spec in context.assets_def.check_specs_by_output_name.values():
        node = nodes.get(spec.metadata[_UNIQUE_ID])
        if node is None or node.status == "skipped" or spec.key not in context.selected_asset_check_keys:
            continue
        yield dg.AssetCheckResult(
            asset_key=spec.asset_key,
            check_name=spec.name,
            passed=node.status in ("pass", "success"),
            severity=dg.AssetCheckSeverity.WARN if node.status == "warn" else dg.AssetCheckSeverity.ERROR,
            metadata={
                "status": node.status,
                "failing_rows": node.failures or 0,
                "seconds": round(node.duration_s, 3),
                "query": dg.MetadataValue.md(f"```sql\n{(node.sql or '').strip()}\n```"),
            },
        )


def _materializations(
    context: dg.AssetExecutionContext, lake: Lake, result: BuildResult, plots: Mapping[str, Plot] | None
) -> Iterator[dg.MaterializeResult]:
    published = {s.ref.dotted: s for s in result.published}
    pinned = [lake.pin(s.ref, snapshot_id=s.snapshot_id) for s in result.published]
    metadata = table_metadata(lake, pinned, plots=plots)
    keys = {spec.metadata[_UNIQUE_ID]: spec.key for spec in context.assets_def.specs}
    # Nodes finish in an order that respects their dependencies, which Dagster asks for.
    for node in result.nodes:
        key = keys.get(node.unique_id)
        if key is None or key not in context.selected_asset_keys:
            continue
        name = ".".join(key.path)
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={"seconds": round(node.duration_s, 3), **metadata.get(name, {})},
            data_version=dg.DataVersion(str(published[name].snapshot_id)) if name in published else None,
        )
