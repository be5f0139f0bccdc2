"""Maintenance as a Dagster job with its schedule. A thin wrapper: ``maintain`` does the work."""

from dataclasses import dataclass

import dagster as dg

from dml_platform.core.config import MaintenanceConfig
from dml_platform.core.errors import PermanentError
from dml_platform.core.project import Project
from dml_platform.lake.client import Lake
from dml_platform.lake.maintain import Work, maintain
from dml_platform.lake.reporting import RETRY_POLICY, failures, living_runs, recorded, short_run_id

NAME = "maintain"


@dataclass(frozen=True)
class MaintenanceJob:
    """The job and its schedule, to be registered together."""

    job: dg.JobDefinition
    schedule: dg.ScheduleDefinition


def build_maintenance(project: Project, policy: MaintenanceConfig, *, profile: str) -> list[MaintenanceJob]:
    """The job, in a list that is empty on a laptop and where the project's config has no schedule for it.

    Dagster shows a new schedule as stopped unless it says otherwise: this one runs from the first deploy on.
    """
    if profile != "server" or policy.schedule is None:
        return []

    # Not the job's name: Dagster refuses a code location in which a step and a job share one, as it loads on a server.
    @dg.op(
        name="maintain_tables",
        required_resource_keys={"lake"},
        retry_policy=RETRY_POLICY,
        description="Dead branches, expired snapshots and files that nothing names go.",
    )
    def _maintain(context: dg.OpExecutionContext) -> None:
        lake: Lake = context.resources.lake.lake
        alive = [short_run_id(run_id) for run_id in living_runs(context.instance) if run_id != context.run_id]
        with failures(), recorded(project, lake, run_id=short_run_id(context.run_id), step=NAME) as notes:
            done = maintain(lake, project.name, Work(policy, living=alive), progress=context.log.info)
            notes.details[NAME] = [found.as_dict() for found in done if found.is_changed]
            if faults := [f"{found.ref.dotted}: {found.fault}" for found in done if found.fault]:
                raise PermanentError(
                    "some files were left alone",
                    "; ".join(faults),
                    "Bring back the files from a backup, or publish the table anew; then run it again.",
                )
        context.add_output_metadata(
            {
                "tables": len(done),
                "snapshots_expired": sum(len(found.expired) for found in done),
                "files_deleted": sum(len(found.deleted) for found in done),
                "bytes_freed": sum(found.before.size_bytes - found.after.size_bytes for found in done),
            }
        )

    @dg.job(name=NAME, description="Weekly: what the project's tables do not need any more goes.")
    def _job() -> None:
        _maintain()

    schedule = dg.ScheduleDefinition(
        name=f"{NAME}_schedule",
        job=_job,
        cron_schedule=policy.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return [MaintenanceJob(_job, schedule)]
