"""``config/sources.yaml``: what a project ingests, and the Dagster assets made from it.

The one place that knows all kinds of sources; each kind's own package does the work.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dml_platform.airbyte.catalog import table_name
from dml_platform.airbyte.config import AirbyteSource, PackageConnector, parse_source
from dml_platform.airbyte.environment import ensure_connector
from dml_platform.airbyte.land import land_streams
from dml_platform.core.errors import ConfigError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.settings import load_settings
from dml_platform.files.config import FileTable
from dml_platform.files.land import land_files
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
            landings = land_streams(
                lake,
                project.name,
                name,
                source,
                run_id=run_id,
                streams=[s for s, ref in refs.items() if dg.AssetKey(ref.asset_key) in context.selected_asset_keys],
                full_refresh=config.full_refresh,
                progress=lambda text: context.log.info(text),
            )
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
                    **_published_metadata(lake, landing.ref),
                },
            )

    return _land


def _published_metadata(lake: Lake, ref: TableRef) -> dict[str, Any]:
    pinned = lake.published(ref)
    return table_metadata(lake, [pinned], preview=False)[ref.dotted] if pinned else {}
