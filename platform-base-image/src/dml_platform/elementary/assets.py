"""Elementary's report as a Dagster asset, after the models and never in their way."""

from collections.abc import Sequence

import dagster as dg

from dml_platform.core.project import Project
from dml_platform.dbt.packages import are_installed
from dml_platform.elementary.report import make_report
from dml_platform.lake import Lake
from dml_platform.lake.reporting import RETRY_POLICY, failures


def build_report_assets(
    project: Project, after: Sequence[dg.AssetKey], *, owner: str | None
) -> list[dg.AssetsDefinition]:
    """The report, in a list that is empty where Elementary is not installed.

    Args:
        after: the assets whose tests it tells of.
    """
    if not are_installed(project.dbt_dir):
        return []

    @dg.asset(
        key=dg.AssetKey([project.name, "reports", "elementary"]),
        deps=list(after),
        group_name="reports",
        owners=[owner] if owner else None,
        kinds={"html"},
        description="Elementary's page: every test, its history and what was unusual.",
        required_resource_keys={"lake"},
        retry_policy=RETRY_POLICY,
    )
    def _report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        lake: Lake = context.resources.lake.lake
        with failures():
            place = make_report(project, lake, lambda text: context.log.info(text))
        # No browser opens s3://….
        shown = dg.MetadataValue.url(place) if place.startswith("http") else dg.MetadataValue.path(place)
        return dg.MaterializeResult(metadata={"report": shown})

    return [_report]
