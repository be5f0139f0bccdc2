"""The one place that reads the environment.

Every setting is ``DML_<SERVICE>__<FIELD>``; the environment beats the project's ``config/project.yaml``
beats the defaults, which serve the laptop only. An unknown ``DML_`` variable is refused by name.
"""

from __future__ import annotations

import configparser
import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dml_platform.core.config import load_project_config
from dml_platform.core.errors import ConfigError
from dml_platform.core.plugins import own_prefixes
from dml_platform.core.project import project_root as find_project_root
from dml_platform.core.project import state_home

# Read by the launcher and by nox, before this module is there.
LAUNCHER_VARIABLES = frozenset({"DML_PYTHON", "DML_DEV", "DML_WHEELS", "DML_GIT_COMMIT"})

# What a folder is relative to must not change when a process changes its own.
Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True)
class S3Key:
    """A key of the object store."""

    access_key_id: str
    secret_access_key: SecretStr


class LakeSettings(_Section):
    """Where the catalogue and the tables are.

    ``catalog_uri`` is a SQLAlchemy URL, on a server without a password: libpq takes it from the file ``PGPASSFILE``.
    ``warehouse`` is a folder or ``s3://bucket/prefix``. The object store's key is in the environment, or in a file that
    can be replaced while processes live.
    """

    catalog_name: str = Field(default="dml", description="the catalogue's name, the same for all who read the tables")
    catalog_uri: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the Iceberg catalogue; default: SQLite below DML_HOME"
    )
    warehouse: str | None = Field(
        default=None, description="folder or s3://bucket/prefix of all tables; default: below DML_HOME"
    )
    s3_endpoint: str | None = Field(default=None, description="address of the object store; default: AWS")
    s3_region: str = Field(default="us-east-1", description="region of the object store")
    s3_access_key_id: str | None = Field(default=None, description="the object store's key, where no file holds it")
    s3_secret_access_key: SecretStr | None = Field(default=None, description="its secret part")
    s3_credentials_file: Folder | None = Field(
        default=None, description="AWS-style file whose [default] has aws_access_key_id and aws_secret_access_key"
    )
    file_size_mb: int = Field(default=128, ge=1, description="size at which a data file is closed")
    commit_retries: int = Field(default=20, ge=0, description="tries of a commit that others were faster than")


class DuckDBSettings(_Section):
    """Limits of every DuckDB connection that the platform opens."""

    memory_limit_mb: int = Field(default=1024, ge=64, description="memory of each DuckDB; what is more goes to disk")
    threads: int | None = Field(default=None, ge=1, description="default: all cores")
    temp_dir: Folder | None = Field(default=None, description="where it goes to disk; default: below DML_HOME")


class AirbyteSettings(_Section):
    """How connector programs are installed and run; and where a self-hosted Airbyte is, for profile ``server``.

    The client's secret is in the environment, or in a file that can be replaced while processes live.
    """

    cache_dir: Folder = Field(
        default=Path("~/.cache/dml/connectors"), validate_default=True, description="where connectors are installed"
    )
    timeout_s: float = Field(default=3600.0, gt=0, description="limit of one read")
    idle_timeout_s: float = Field(default=600.0, gt=0, description="limit of silence during a read")
    window_mb: int = Field(default=128, ge=1, description="buffered output that triggers a commit")
    server_url: str | None = Field(default=None, description="Airbyte's address, e.g. https://airbyte.example.com")
    client_id: str | None = Field(default=None, description="client id of an Airbyte application")
    client_secret: SecretStr | None = Field(default=None, description="client secret of that application")
    client_secret_file: Folder | None = Field(default=None, description="file that holds the client secret instead")
    job_timeout_s: float = Field(default=6 * 3600.0, gt=0, description="limit of one Airbyte job")
    request_timeout_s: float = Field(default=30.0, gt=0, description="limit of one request to Airbyte")
    request_attempts: int = Field(default=8, ge=1, description="tries of a request that a retry can help")
    poll_s: float = Field(default=10.0, gt=0, description="longest wait between two looks at an Airbyte job")
    landing: str = Field(
        default="s3://landing", description="bucket or prefix below which Airbyte's S3 destination writes"
    )


class DbtSettings(_Section):
    """How dbt runs."""

    threads: int = Field(default=2, ge=1, description="models at a time; DuckDB uses all its cores for each")
    keep_failed_runs: int = Field(default=5, ge=0, description="private DuckDB files kept per project")
    keep_failed_mb: int = Field(default=1024, ge=0, description="size up to which the object store takes such a file")


class DvcSettings(_Section):
    """How DVC's program is found, and where files that are no tables are kept."""

    program: Folder | None = Field(default=None, description="DVC's program; default: installed on first use")
    cache_dir: Folder = Field(
        default=Path("~/.cache/dml/dvc"), validate_default=True, description="where DVC is installed"
    )
    remote_url: str | None = Field(
        default=None, description="remote used instead of the project's own, e.g. s3://bucket/sales; the lake's key"
    )
    s3_endpoint: str | None = Field(default=None, description="its object store; default: the lake's")
    timeout_s: float = Field(default=3600.0, gt=0, description="limit of one DVC command that the platform gives")
    max_git_mb: float = Field(default=5.0, gt=0, description="size from which a file belongs to DVC and not to git")


class ElementarySettings(_Section):
    """Where Elementary's program is installed, and where it sends alerts of its own; nowhere unless one is set."""

    cache_dir: Folder = Field(
        default=Path("~/.cache/dml/elementary"), validate_default=True, description="where edr is installed"
    )
    slack_webhook: SecretStr | None = Field(default=None, description="Slack webhook that edr alerts; default: none")
    slack_webhook_file: Folder | None = Field(default=None, description="file that holds the webhook's address instead")


class OpenMetadataSettings(_Section):
    """Where OpenMetadata is, and how its publisher is found. The token is a bot's; a file is read anew each time."""

    url: str | None = Field(default=None, description="OpenMetadata's address, e.g. https://catalog.example.com")
    token: SecretStr | None = Field(default=None, description="token of a bot")
    token_file: Folder | None = Field(default=None, description="file that holds the token instead")
    service: str = Field(default="dml", description="name of the database, pipeline and dashboard service there")
    classification: str = Field(default="DataPlatform", description="what the tags of projects are below there")
    program: Folder | None = Field(default=None, description="the publisher; default: installed on first use")
    cache_dir: Folder = Field(
        default=Path("~/.cache/dml/openmetadata"), validate_default=True, description="where the publisher is installed"
    )
    timeout_s: float = Field(default=600.0, gt=0, description="limit of one push")
    request_timeout_s: float = Field(default=30.0, gt=0, description="limit of one request")
    request_attempts: int = Field(default=5, ge=1, description="tries of a request that a retry can help")


class Settings(BaseSettings):
    """All settings of one process, frozen."""

    model_config = SettingsConfigDict(
        env_prefix="DML_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    profile: Literal["local", "server"] = Field(
        default="local",
        description="local: folders, no server; server: Postgres and S3, no defaults for addresses and keys",
    )
    home: Folder = Field(description="state, logs and the local lake")
    image: str | None = Field(default=None, description="digest of the image that this process runs in")
    dbt_packages_mirror: str | None = Field(
        default=None,
        description="where dbt packages (Elementary) come from: hub, a git server's address or a folder; default: none",
    )
    dagster_url: str | None = Field(default=None, description="address of Dagster's UI, as people open it")
    reports_url: str | None = Field(
        default=None,
        description="address below which people open projects' pages, e.g. https://data.example.com/reports/; "
        "default: no link but the place where they lie",
    )
    template: str | None = Field(
        default=None, description="project template: folder or git address; default: the one beside the projects"
    )
    template_cache_dir: Folder = Field(
        default=Path("~/.cache/dml/copier"), validate_default=True, description="where copier is installed on first use"
    )
    lake: LakeSettings = LakeSettings()
    duckdb: DuckDBSettings = DuckDBSettings()
    airbyte: AirbyteSettings = AirbyteSettings()
    dbt: DbtSettings = DbtSettings()
    elementary: ElementarySettings = ElementarySettings()
    dvc: DvcSettings = DvcSettings()
    openmetadata: OpenMetadataSettings = OpenMetadataSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first; what a file of the project says comes in as init arguments."""
        return env_settings, init_settings

    @property
    def catalog_uri(self) -> str:
        """SQLAlchemy URL of the Iceberg catalogue."""
        if self.lake.catalog_uri:
            return self.lake.catalog_uri.get_secret_value()
        return f"sqlite:///{self.home / 'lake' / 'catalog.db'}?timeout=60"

    @property
    def warehouse(self) -> str:
        """Folder or ``s3://`` address that all tables are below, without a trailing slash."""
        warehouse = (self.lake.warehouse or str(self.home / "lake" / "warehouse")).rstrip("/")
        return warehouse if "://" in warehouse else str(Path(warehouse).expanduser().absolute())

    @property
    def is_s3(self) -> bool:
        """Whether the warehouse is an object store."""
        return self.warehouse.startswith("s3://")

    def read_s3_key(self) -> S3Key | None:
        """The object store's key as it is now, or None when none is set. A file is read anew each time.

        Raises:
            ConfigError: the file cannot be read or has no key.
        """
        if self.lake.s3_credentials_file:
            return _read_credentials(self.lake.s3_credentials_file)
        if self.lake.s3_access_key_id and self.lake.s3_secret_access_key:
            return S3Key(self.lake.s3_access_key_id, self.lake.s3_secret_access_key)
        return None

    @property
    def temp_dir(self) -> Path:
        """Where DuckDB spills and segments wait."""
        return self.duckdb.temp_dir or self.home / "tmp"


def known_variables() -> dict[str, str]:
    """Every variable that settings read, with its description."""
    names: dict[str, str] = {}
    for field, info in Settings.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for sub, sub_info in section.model_fields.items():
                names[f"DML_{field}__{sub}".upper()] = sub_info.description or ""
        else:
            names[f"DML_{field}".upper()] = info.description or ""
    return names


def load_settings(project_root: Path | None = None) -> Settings:
    """Read the settings for the project in ``project_root`` (default: around the current folder).

    Raises:
        ConfigError: an unknown or wrong variable or key; the message names each.
    """
    project_root = project_root or find_project_root()
    known = set(known_variables()) | LAUNCHER_VARIABLES
    _refuse_unknown(known)
    values = load_project_config(project_root).settings.model_dump(exclude_defaults=True) if project_root else {}
    values.setdefault("home", state_home(project_root))
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(
            "cannot load the settings",
            "; ".join(_describe(e) for e in error.errors(include_input=False, include_url=False)),
            "Correct the variable, or the key in config/project.yaml.",
        ) from None
    if settings.profile == "server":
        _require_server_settings(settings)
    return settings


def _refuse_unknown(known: set[str]) -> None:
    unknown = sorted(n for n in os.environ if n.upper().startswith("DML_") and n.upper() not in known)
    if unknown:
        prefixes = own_prefixes()
        unknown = [name for name in unknown if not name.upper().startswith(prefixes)]
    if not unknown:
        return
    hints = []
    for name in unknown:
        close = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.6)
        hints.append(f"{name!r}" + (f" (did you mean {close[0]}?)" if close else ""))
    raise ConfigError(
        "cannot load the settings",
        f"unknown environment variable {', '.join(hints)}",
        "Correct or unset it; 'dml doctor --settings' lists all that are read.",
    )


def _describe(error: Any) -> str:
    location = "__".join(str(part) for part in error["loc"]).upper()
    return f"DML_{location}: {error['msg']}"


def _require_server_settings(settings: Settings) -> None:
    """No default address or credential may reach a server."""
    needed = {
        "DML_LAKE__CATALOG_URI": settings.lake.catalog_uri,
        "DML_LAKE__WAREHOUSE": settings.lake.warehouse,
    }
    keys = {
        "DML_LAKE__S3_ACCESS_KEY_ID": settings.lake.s3_access_key_id,
        "DML_LAKE__S3_SECRET_ACCESS_KEY": settings.lake.s3_secret_access_key,
    }
    what = "cannot load the settings of profile 'server'"
    if settings.lake.s3_credentials_file:
        if doubled := [name for name, value in keys.items() if value]:
            raise ConfigError(
                what,
                f"the object store's key is set twice: by DML_LAKE__S3_CREDENTIALS_FILE and by {', '.join(doubled)}",
                "Keep one of them; a file can be replaced while processes live.",
            )
    elif settings.is_s3 and not any(keys.values()):
        needed["DML_LAKE__S3_CREDENTIALS_FILE"] = None
    elif settings.is_s3:
        needed |= keys
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise ConfigError(
            what,
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            "Set them; the server profile has no defaults for addresses and credentials.",
        )


def _read_credentials(path: Path) -> S3Key:
    what = f"cannot read the object store's key from {path}"
    fix = "DML_LAKE__S3_CREDENTIALS_FILE names a file with [default], aws_access_key_id and aws_secret_access_key."
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        section = parser["default"]
        return S3Key(section["aws_access_key_id"], SecretStr(section["aws_secret_access_key"]))
    except OSError as error:
        raise ConfigError(what, error.strerror or type(error).__name__, fix) from error
    except (configparser.Error, KeyError, UnicodeDecodeError):  # their text may hold the secret
        raise ConfigError(what, "it is not such a file", fix) from None
