from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dml_platform.core.errors import ConfigError
from dml_platform.core.settings import Settings, known_variables, load_settings
from dml_platform.lake import Lake

SECRET = "hunter2-do-not-print"  # pragma: allowlist secret


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with state beside it; also the current folder."""
    (tmp_path / ".dml").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.dml]\nproject = "sales"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("DML_PROFILE", "server")
    monkeypatch.setenv("DML_LAKE__CATALOG_URI", f"postgresql+psycopg2://u:{SECRET}@db/lake")
    monkeypatch.setenv("DML_LAKE__WAREHOUSE", "s3://lake/")
    monkeypatch.setenv("DML_LAKE__S3_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("DML_LAKE__S3_SECRET_ACCESS_KEY", SECRET)
    return monkeypatch


def test_laptop_needs_no_settings(root: Path) -> None:
    settings = load_settings(root)
    assert settings.profile == "local"
    assert settings.home == root / ".dml"
    assert settings.warehouse == str(root / ".dml/lake/warehouse")
    assert settings.catalog_uri.startswith("sqlite:///")
    assert not settings.is_s3
    assert settings.temp_dir == root / ".dml/tmp"


def test_environment_beats_project_file_beats_default(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "config/project.yaml").write_text(
        "settings: {duckdb: {memory_limit_mb: 222, threads: 3}, dbt: {threads: 4}}"
    )
    monkeypatch.setenv("DML_DUCKDB__THREADS", "7")
    monkeypatch.setenv("DML_DBT__THREADS", "")  # empty is not set
    for settings in (load_settings(root), load_settings()):
        assert settings.duckdb.memory_limit_mb == 222
        assert settings.duckdb.threads == 7
        assert settings.dbt.threads == 4


def test_misspelt_variable_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_LAKE__WAREHOSE", SECRET)
    monkeypatch.setenv("DML_COLOUR_OF_THE_SKY", SECRET)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert str(caught.value) == (
        "cannot load the settings: unknown environment variable "
        "'DML_COLOUR_OF_THE_SKY', 'DML_LAKE__WAREHOSE' (did you mean DML_LAKE__WAREHOUSE?).\n"
        "Correct or unset it; 'dml doctor --settings' lists all that are read."
    )


def test_wrong_values_are_all_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_DUCKDB__THREADS", SECRET)
    monkeypatch.setenv("DML_PROFILE", SECRET)
    with pytest.raises(ConfigError, match=r"DML_PROFILE: Input should be 'local' or 'server'") as caught:
        load_settings()
    assert "DML_DUCKDB__THREADS: Input should be a valid integer" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("settings: {duckdb: {memory_limit: 1}}", "DML_DUCKDB__MEMORY_LIMIT: Extra inputs are not permitted"),
        ("settings: {lake: {warehouse: x}}", "settings.lake: Extra inputs are not permitted"),
        ("settings: [1]", "settings: Input should be a valid dictionary"),
        ("onwer: me", "onwer: Extra inputs are not permitted"),
        ("settings: {", "cannot read .*project.yaml"),
    ],
)
def test_wrong_project_file_is_named(root: Path, content: str, message: str) -> None:
    (root / "config/project.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_settings(root)


def test_server_profile_has_no_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_PROFILE", "server")
    with pytest.raises(ConfigError, match="DML_LAKE__CATALOG_URI, DML_LAKE__WAREHOUSE are not set") as caught:
        load_settings()
    assert caught.value.fix == "Set them; the server profile has no defaults for addresses and credentials."


def test_server_profile_on_s3_needs_credentials(server: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert settings.is_s3
    assert settings.warehouse == "s3://lake"
    server.delenv("DML_LAKE__S3_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="DML_LAKE__S3_SECRET_ACCESS_KEY is not set"):
        load_settings()


def test_secrets_are_never_printed(server: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    server.setenv("DML_LAKE__FILE_SIZE_MB", "0")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None or SECRET not in str(caught.value.__context__)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        (f"postgresql+psycopg2://u:{SECRET}@127.0.0.1:1/lake", "Connection refused"),
        (f"no url {SECRET}", "is not an SQLAlchemy URL for SQLite or Postgres"),
        (f"nodb://u:{SECRET}@host/lake", "is not an SQLAlchemy URL for SQLite or Postgres"),
    ],
)
def test_catalogue_that_cannot_be_opened_is_a_sentence_without_the_password(
    server: pytest.MonkeyPatch, uri: str, why: str
) -> None:
    server.setenv("DML_LAKE__CATALOG_URI", uri)
    with pytest.raises(ConfigError, match=f"cannot open the lake's catalogue: .*{why}") as caught:
        Lake(load_settings()).tables()
    assert SECRET not in str(caught.value)


def test_folders_do_not_move_with_the_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_HOME", "state")
    monkeypatch.setenv("DML_LAKE__WAREHOUSE", "tables")
    monkeypatch.setenv("DML_DUCKDB__TEMP_DIR", "~/spill")
    settings = load_settings()
    assert settings.home == root / "state"
    assert settings.warehouse == str(root / "tables")
    assert settings.temp_dir == Path.home() / "spill"
    assert settings.airbyte.cache_dir == Path.home() / ".cache/dml/connectors"


def test_settings_are_frozen_and_every_variable_is_known() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.profile = "server"  # type: ignore[misc]
    assert isinstance(settings, Settings)
    assert {"DML_HOME", "DML_PROFILE", "DML_LAKE__CATALOG_URI", "DML_DBT__THREADS"} <= set(known_variables())


def test_object_store_key_comes_from_a_file_that_is_read_anew(server: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.delenv("DML_LAKE__S3_ACCESS_KEY_ID")
    server.delenv("DML_LAKE__S3_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="DML_LAKE__S3_CREDENTIALS_FILE is not set"):
        load_settings()
    file = tmp_path / "aws_credentials"
    server.setenv("DML_LAKE__S3_CREDENTIALS_FILE", str(file))
    settings = load_settings()
    for number in (1, 2):
        file.write_text(f"[default]\naws_access_key_id = key-{number}\naws_secret_access_key = %{number}{SECRET}\n")
        key = settings.read_s3_key()
        assert key is not None
        assert key.access_key_id == f"key-{number}"
        assert key.secret_access_key.get_secret_value() == f"%{number}{SECRET}"
        assert SECRET not in repr(key)


def test_object_store_key_may_not_be_set_twice(server: pytest.MonkeyPatch) -> None:
    server.setenv("DML_LAKE__S3_CREDENTIALS_FILE", "/run/secrets/aws_credentials")
    why = "set twice: by DML_LAKE__S3_CREDENTIALS_FILE and by DML_LAKE__S3_ACCESS_KEY_ID, DML_LAKE__S3_SECRET"
    with pytest.raises(ConfigError, match=why):
        load_settings()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (f"[default]\naws_access_key_id = {SECRET}\n", "it is not such a file"),
        (f"aws_secret_access_key = {SECRET}\n", "it is not such a file"),
    ],
)
def test_file_without_a_key_is_a_sentence_without_the_secret(
    server: pytest.MonkeyPatch, tmp_path: Path, content: str | None, why: str
) -> None:
    server.delenv("DML_LAKE__S3_ACCESS_KEY_ID")
    server.delenv("DML_LAKE__S3_SECRET_ACCESS_KEY")
    file = tmp_path / "aws_credentials"
    if content is not None:
        file.write_text(content)
    server.setenv("DML_LAKE__S3_CREDENTIALS_FILE", str(file))
    with pytest.raises(ConfigError, match=f"cannot read the object store's key from {file}: {why}") as caught:
        load_settings().read_s3_key()
    assert SECRET not in str(caught.value)
