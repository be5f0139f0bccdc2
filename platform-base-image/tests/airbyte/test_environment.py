"""Connectors are installed once, repaired when interrupted, and explained when they cannot be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from fake_source import with_airbyte

from dml_platform.airbyte import ensure_connector
from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.settings import Settings


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, with one connector: ``airbyte-source-tiny`` 1.0."""
    project = tmp_path / "tiny"
    (project / "source_tiny").mkdir(parents=True)
    (project / "source_tiny" / "__init__.py").write_text("def main():\n    print('tiny')\n")
    links = tmp_path / "index" / "airbyte-source-tiny"
    links.mkdir(parents=True)
    wheel = "airbyte_source_tiny-1.0-py3-none-any.whl"
    _make_wheel(project, links / wheel)
    (links / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "index").as_uri())
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return tmp_path / "index"


def _make_wheel(project: Path, path: Path) -> None:
    info = project / "airbyte_source_tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: airbyte-source-tiny\nVersion: 1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nsource-tiny = source_tiny:main\n")
    names = ["source_tiny/__init__.py", *(f"{info.name}/{n}" for n in ("METADATA", "WHEEL", "entry_points.txt"))]
    (info / "RECORD").write_text("".join(f"{n},,\n" for n in [*names, f"{info.name}/RECORD"]))
    archive = shutil.make_archive(str(path), "zip", project)
    Path(archive).rename(path)


def test_a_connector_is_installed_once_and_repaired_when_interrupted(
    index: Path, local: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_airbyte(local, cache_dir=tmp_path / "cache")
    said: list[str] = []
    program = ensure_connector("airbyte-source-tiny", "1.0", settings, progress=said.append)
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "tiny\n"
    assert said == ["installing connector airbyte-source-tiny==1.0"]

    # Installed: the index is not asked again.
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    assert ensure_connector("airbyte-source-tiny", "1.0", settings, progress=said.append) == program
    assert len(said) == 1

    # Interrupted: no marker, and half of the files.
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.as_uri())
    environment = program.parent.parent
    (environment / ".complete").unlink()
    program.unlink()
    assert ensure_connector("airbyte-source-tiny", "1.0", settings, progress=said.append).is_file()
    assert len(said) == 2


def test_a_program_that_the_package_does_not_have_is_named(index: Path, local: Settings, tmp_path: Path) -> None:
    settings = with_airbyte(local, cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match="no program 'source-huge', but source-tiny"):
        ensure_connector("airbyte-source-tiny", "1.0", settings, "source-huge")


def test_a_package_or_version_that_does_not_exist_is_a_matter_of_config(
    index: Path, local: Settings, tmp_path: Path
) -> None:
    settings = with_airbyte(local, cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"cannot install connector airbyte-source-tiny==2.0"):
        ensure_connector("airbyte-source-tiny", "2.0", settings)
    with pytest.raises(ConfigError, match="airbyte-source-none"):
        ensure_connector("airbyte-source-none", "2.0", settings)


def test_no_network_is_one_sentence_with_the_fix(
    local: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hunter22@127.0.0.1:9/simple")  # pragma: allowlist secret
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    settings = with_airbyte(local, cache_dir=tmp_path / "cache")
    with pytest.raises(
        RetryableError, match=r"index cannot be reached .*\n.*UV_DEFAULT_INDEX or PIP_INDEX_URL"
    ) as caught:
        ensure_connector("airbyte-source-tiny", "1.0", settings)
    assert "hunter22" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(local: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = with_airbyte(local, cache_dir=tmp_path / "file" / "cache")
    with pytest.raises(ConfigError, match="DML_AIRBYTE__CACHE_DIR"):
        ensure_connector("airbyte-source-tiny", "1.0", settings)
