"""The report as a Dagster asset: written anew after a run, beside the project's tables.

On a laptop a file of the state folder, on a server ``<warehouse>/<project>/_report/index.html``. It never undoes or
holds up a publish: it only reads, comes after everything else and is retried alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from dml_platform.core.document import Document
from dml_platform.core.errors import RetryableError
from dml_platform.core.project import Project
from dml_platform.core.settings import Settings
from dml_platform.core.storage import open_storage
from dml_platform.lake import Lake
from dml_platform.lake.reporting import RETRY_POLICY, failures
from dml_platform.report.page import render_report

AREA = "report"
PAGE = "index.html"


def publish_report(settings: Settings, document: Document) -> str:
    """Write a project's page where its readers find it, replacing the last one.

    Returns: its path, or its address in the object store.

    Raises:
        RetryableError: the disk or the object store refused.
    """
    page = render_report(document).encode("utf-8")
    try:
        return open_storage(settings, document.project, AREA).write(PAGE, page)
    except OSError as error:
        raise RetryableError(
            f"cannot publish the report of {document.project!r}",
            str(error),
            "Check the free space or the object store, then materialize the report again.",
        ) from error


def build_report_asset(
    project: Project,
    *,
    build: Callable[[Project, Lake], Document],
    deps: Sequence[Any] = (),
    owner: str | None = None,
) -> dg.AssetsDefinition:
    """The asset ``<project>/report``.

    Args:
        build: makes the document when the asset runs: ``dml_platform.catalog.build_document``.
        deps: what it comes after: the project's other assets.
    """

    @dg.asset(
        key=dg.AssetKey([project.name, "report"]),
        deps=deps,
        group_name="report",
        owners=[owner] if owner else None,
        kinds={"html"},
        description="One page that explains the project: health, runs, tests, freshness, lineage, owners, key figures.",
        required_resource_keys={"lake"},
        retry_policy=RETRY_POLICY,
    )
    def _report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        lake: Lake = context.resources.lake.lake
        with failures():
            document = build(project, lake)
            address = publish_report(lake.settings, document)
        context.log.info(f"the report is at {address}")
        return dg.MaterializeResult(
            metadata={
                "page": dg.MetadataValue.path(address),
                "tables": len(document.tables),
                "tests": len(document.tests),
                "notices": dg.MetadataValue.md("\n".join(f"- {notice}" for notice in document.notices) or "none"),
            }
        )

    return _report
