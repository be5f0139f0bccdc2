"""Runs of a server that left no record: Dagster's daemon found their container gone, or somebody cancelled them."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from dml_platform.catalog.lost import record_lost_runs
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, read_records, write_record
from dml_platform.core.settings import Settings
from dml_platform.lake.reporting import short_run_id

JOB = dg.GraphDefinition(name="daily").to_job()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(name="shop", root=tmp_path, module="shop")


def start(instance: dg.DagsterInstance, location: str) -> dg.DagsterRun:
    target = LoadableTargetOrigin(module_name=location)
    repository = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(target, location_name=location), "__repository__")
    code = RepositoryPythonOrigin("python", ModuleCodePointer(location, "defs"))
    return instance.create_run_for_job(
        JOB,
        status=dg.DagsterRunStatus.STARTED,
        remote_job_origin=RemoteJobOrigin(repository, "daily"),
        job_code_origin=JobPythonOrigin("daily", code),
    )


def test_a_run_that_the_daemon_failed_gets_a_record_once(project: Project, settings: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        lost, told, other = start(instance, "shop"), start(instance, "shop"), start(instance, "orders")
        for run in (lost, told, other):
            instance.report_run_failed(run, "Run monitoring: the container exited with 137.")
        ended = RunRecord("shop", short_run_id(told.run_id), "catalog", "success", "2026-11-23T02:00:00+00:00", 1, "c")
        write_record(settings, ended)
        cancelled = start(instance, "shop")
        instance.report_run_canceled(cancelled)
        assert record_lost_runs(settings, project, instance, but="another") == 2
        assert record_lost_runs(settings, project, instance, but="another") == 0
    found = {record.run_id: record for record in read_records(settings, "shop") if record.status == "failed"}
    assert set(found) == {short_run_id(lost.run_id), short_run_id(cancelled.run_id)}
    assert found[short_run_id(lost.run_id)].error == "Run monitoring: the container exited with 137."


def test_a_run_that_still_goes_on_or_asks_is_left(project: Project, local: Settings, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        start(instance, "shop")
        mine = start(instance, "shop")
        instance.report_run_failed(mine, "A step failed.")
        assert record_lost_runs(local, project, instance, but=mine.run_id) == 0
    assert list(read_records(local, "shop")) == []
