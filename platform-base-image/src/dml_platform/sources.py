"""``config/sources.yaml``: what a project ingests, and the Dagster assets made from it.

The one place that knows all kinds of sources; each kind's own package does the work.
"""

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dml_platform.airbyte.catalog import table_name
from dml_platform.airbyte.config import AirbyteSource, PackageConnector, parse_source
from dml_platform.airbyte.environment import ensure_connector
from dml_platform.airbyte.land import StreamLanding, land_streams
from dml_platform.airbyte.sync import SyncResult, run_sync, uses_api
from dml_platform.core.errors import ConfigError, SourceError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.settings import load_settings
from dml_platform.files.config import FileTable
from dml_platform.files.land import land_files
from dml_platform.files.objects import LandingBucket
from dml_platform.lake import Lake
from dml_platform.lake.reporting import RETRY_POLICY, failures, recorded, short_run_id, table_metadata


class LandConfig(dg.Config):
    """How to land a source, set in Dagster's launchpad or by ``dml run``."""

    full_refresh: bool = Field(
        default=False, description="read everything again; it replaces rows and columns, whatever they were"
    )


class FileSource(BaseModel):
    """A source of kind ``files``: tables, each made of the files of a glob."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Literal["files"] = "files"
    tables: dict[str, FileTable] = Field(min_length=1)


Source = FileSource | AirbyteSource


def load_sources(project: Project) -> dict[str, Source]:
    """Read ``config/sources.yaml``; a project without one has no sources.

    Raises:
        ConfigError: the file does not parse, or a source is wrong; the message names each key.
    """
    path = project.config_dir / "sources.yaml"
    if not path.is_file():
        return {}
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}", str(error), "Correct the YAML; it is UTF-8 text.") from error
    if not isinstance(document, dict) or set(document) - {"sources"}:
        raise ConfigError(
            f"cannot read {path}", "it has other keys than 'sources'", "Put every source below 'sources:'."
        )
    entries = document.get("sources") or {}
    if not isinstance(entries, dict):
        raise ConfigError(f"cannot read {path}", "'sources' is no mapping", "Write each source as '<name>:' below it.")
    return {name: _parse(name, entry) for name, entry in entries.items()}


def _parse(name: str, entry: Any) -> Source:
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if kind == "airbyte":
        return parse_source(name, entry)
    if kind != "files":
        raise ConfigError(f"cannot read source {name!r}", f"its kind is {kind!r}", "Use kind: files or kind: airbyte.")
    try:
        return FileSource.model_validate(entry)
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
            for found in error.errors(include_input=False, include_url=False)
        )
        raise ConfigError(
            f"cannot read source {name!r}", "; ".join(problems), "Correct it in config/sources.yaml."
        ) from None


def install_connectors(project: Project) -> list[Path]:
    """Install the connectors that a project's sources run as programs, e.g. while its image is built.

    Returns: their programs.
    Raises:
        RetryableError: the package index cannot be reached.
        ConfigError: a source is wrong, or there is no such connector.
    """
    settings = load_settings(project.root)
    connectors = [source.connector for source in load_sources(project).values() if isinstance(source, AirbyteSource)]
    return [
        ensure_connector(wanted.package, wanted.version, settings, wanted.program, python=wanted.python)
        for wanted in connectors
        if isinstance(wanted, PackageConnector)
    ]


def build_source_assets(
    project: Project, sources: Mapping[str, Source], *, owner: str | None = None
) -> list[dg.AssetsDefinition]:
    """One asset per file table, one step with an asset per stream for each connector."""
    owners = [owner] if owner else None
    made = []
    for name, source in sources.items():
        if isinstance(source, AirbyteSource):
            made.append(_connector_assets(project, name, source, owners))
        else:
            made += [_file_asset(project, name, table, spec, owners) for table, spec in source.tables.items()]
    return made


def _file_asset(
    project: Project, source: str, table: str, spec: FileTable, owners: list[str] | None
) -> dg.AssetsDefinition:
    ref = TableRef(project.name, "raw", f"{source}__{table}")

    @dg.asset(
        key=dg.AssetKey(ref.asset_key),
        group_name="raw",
        owners=owners,
        kinds={spec.format, "duckdb", "iceberg"},
        description=f"Files {spec.path} as they came; rows that do not parse are in {ref.rejects.dotted}.",
        required_resource_keys={"lake"},
        retry_policy=RETRY_POLICY,
    )
    def _land(context: dg.AssetExecutionContext, config: LandConfig) -> dg.MaterializeResult:
        lake: Lake = context.resources.lake.lake
        run_id = short_run_id(context.run.run_id)
        with failures(), recorded(project, lake, run_id=run_id, step=ref.name) as notes:
            landing = land_files(
                lake,
                ref,
                spec,
                root=project.root,
                run_id=run_id,
                full_refresh=config.full_refresh,
                progress=lambda text: context.log.info(text),
            )
            if landing.files_landed and landing.snapshot_id is not None:
                notes.outputs[ref.dotted] = landing.snapshot_id
                notes.rows[ref.dotted] = landing.rows
        context.log.info(f"{landing.rows:,} rows of {landing.files_landed} new files; {landing.files_skipped} known")
        return dg.MaterializeResult(
            metadata={
                "files_landed": landing.files_landed,
                "files_skipped": landing.files_skipped,
                "rows_landed": landing.rows,
                "rejects": landing.rejects,
                **_published_metadata(lake, ref),
            }
        )

    return _land


def _connector_assets(
    project: Project, name: str, source: AirbyteSource, owners: list[str] | None
) -> dg.AssetsDefinition:
    refs = {stream: TableRef(project.name, "raw", table_name(name, stream)) for stream in source.streams}
    specs = [
        dg.AssetSpec(
            dg.AssetKey(ref.asset_key),
            group_name="raw",
            owners=owners,
            kinds={"airbyte", "iceberg"},
            description=f"Stream {stream!r} of {name!r} as the connector sent it ({source.streams[stream].sync_mode}).",
            skippable=True,
        )
        for stream, ref in refs.items()
    ]

    @dg.multi_asset(
        specs=specs,
        name=f"{project.name}_{name}",
        can_subset=True,
        required_resource_keys={"lake"},
        retry_policy=RETRY_POLICY,
    )
    def _land(context: dg.AssetExecutionContext, config: LandConfig) -> Iterator[dg.MaterializeResult]:
        lake: Lake = context.resources.lake.lake
        run_id = short_run_id(context.run.run_id)
        with failures(), recorded(project, lake, run_id=run_id, step=name) as notes:
            chosen = [s for s, ref in refs.items() if dg.AssetKey(ref.asset_key) in context.selected_asset_keys]
            options: dict[str, Any] = {"run_id": run_id, "full_refresh": config.full_refresh}
            options["progress"] = lambda text: context.log.info(text)
            how: dict[str, Any] = {"ran_as": "connector program"}
            if uses_api(lake.settings, source):
                landings, how = sync_and_land(lake, project, name, source, streams=chosen, **options)
            else:
                context.log.info(f"running the connector of {name} as a program")
                landings = land_streams(lake, project.name, name, source, streams=chosen, **options)
            notes.details["ingest"] = how
            for landing in landings:
                if landing.rows and landing.snapshot_id is not None:
                    notes.outputs[landing.ref.dotted] = landing.snapshot_id
                    notes.rows[landing.ref.dotted] = landing.rows
        for landing in landings:
            yield dg.MaterializeResult(
                asset_key=dg.AssetKey(landing.ref.asset_key),
                metadata={
                    "rows_landed": landing.rows,
                    "rejects": landing.rejects,
                    "seconds": round(landing.seconds, 3),
                    **how,
                    **_published_metadata(lake, landing.ref),
                },
            )

    return _land


def sync_and_land(
    lake: Lake,
    project: Project,
    name: str,
    source: AirbyteSource,
    *,
    run_id: str,
    streams: Sequence[str],
    full_refresh: bool = False,
    progress: Callable[[str], None],
) -> tuple[list[StreamLanding], dict[str, Any]]:
    """Run a source's connection in Airbyte, then land the objects that its S3 destination wrote and that are new.

    A run that dies in between is made up for by the next: it lands whatever is not in the tables yet.

    Returns: one entry a stream, and what is told of the job.
    Raises:
        SourceError: the job failed, or what it says that it wrote is not there.
    """
    progress(f"running {name} through Airbyte's API, connection {source.connection_id}")
    job = run_sync(lake.settings, name, source, progress=progress)
    prefix = source.landing or f"{lake.settings.airbyte.landing.rstrip('/')}/{project.name}/{name}"
    _require_objects(lake, project, name, prefix, job)
    landings = []
    for stream in streams:
        options = source.streams[stream]
        ref = TableRef(project.name, "raw", table_name(name, stream))
        table = FileTable(
            path=f"{prefix}/{options.folder or glob.escape(stream)}/**",
            format="airbyte",
            columns=dict(options.columns) if options.columns else None,
            max_rejects_share=source.max_rejects_share,
            mode="append" if options.sync_mode == "incremental" else "table",
        )
        landed = land_files(
            lake,
            ref,
            table,
            root=project.root,
            run_id=run_id,
            full_refresh=full_refresh,
            may_be_empty=True,
            progress=progress,
        )
        if not landed.snapshot_id:
            progress(f"{stream}: Airbyte wrote nothing yet, so there is no table {ref.dotted}")
        landings.append(
            StreamLanding(stream, ref, landed.rows, landed.rejects, landed.snapshot_id, None, landed.seconds)
        )
    told = {
        "ran_as": "Airbyte job",
        "airbyte_job_id": job.job_id,
        "airbyte_job_adopted": job.adopted,
        "airbyte_attempts_seen": job.attempts_seen,
        "airbyte_bytes": job.bytes_synced,
        "airbyte_rows": job.rows_synced,
        "airbyte_seconds": round(job.seconds, 3),
    }
    return landings, {key: value for key, value in told.items() if value is not None}


def _require_objects(lake: Lake, project: Project, name: str, prefix: str, job: SyncResult) -> None:
    """A destination that writes elsewhere must not look like a source without rows."""
    if not job.rows_synced:
        return
    with LandingBucket(lake.settings, TableRef(project.name, "raw", name)) as bucket:
        if bucket.find(f"{prefix}/**"):
            return
    raise SourceError(
        f"cannot land source {name!r}",
        f"Airbyte's job {job.job_id} says that it synced {job.rows_synced:,} rows, but nothing is below {prefix}/",
        "Set the S3 destination's bucket and path so that streams are folders there, or 'landing' in "
        "config/sources.yaml.",
    )


def _published_metadata(lake: Lake, ref: TableRef) -> dict[str, Any]:
    pinned = lake.published(ref)
    return table_metadata(lake, [pinned], preview=False)[ref.dotted] if pinned else {}
