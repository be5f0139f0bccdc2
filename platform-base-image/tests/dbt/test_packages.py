"""Elementary's dbt package: absent and said so, or installed from a mirror (of stand-ins)."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest
import yaml
from rich.console import Console

from dml_platform.cli.doctor import check
from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.project import Project
from dml_platform.dbt.assets import build_dbt_assets
from dml_platform.dbt.manifest import load_manifest
from dml_platform.dbt.packages import PACKAGES, absence, are_installed, install_packages
from dml_platform.lake import Lake
from dml_platform.lake.resource import LakeResource

TEST = """
    data_tests:
      - elementary.volume_anomalies:
          config: {severity: warn, enabled: "{{ env_var('DBT_HAS_ELEMENTARY', 'false') == 'true' }}"}
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder with both packages, of which Elementary's has one model and one test."""
    folder = tmp_path / "mirror"
    for package in PACKAGES:
        place = folder / package.name
        (place / "macros").mkdir(parents=True)
        version = package.version if package.name == "elementary" else "0.1.0"
        (place / "dbt_project.yml").write_text(yaml.safe_dump({"name": package.name, "version": version}))
        (place / "packages.yml").write_text("packages: [{package: dbt-labs/dbt_utils, version: 1.4.1}]\n")
    elementary = folder / "elementary"
    (elementary / "macros" / "volume.sql").write_text(
        "{% test volume_anomalies(model) %} select * from {{ model }} where false {% endtest %}\n"
    )
    (elementary / "models").mkdir()
    (elementary / "models" / "metadata.sql").write_text("select '0.25.1' as dbt_pkg_version\n")
    return folder


@pytest.fixture
def wanting(project: Project) -> Project:
    """The small project, with a test of Elementary beside dbt's own."""
    path = project.dbt_dir / "models" / "schema.yml"
    text = path.read_text().replace("  - name: fct_orders\n", "  - name: fct_orders" + TEST, 1)
    path.write_text(text)
    return project


def nodes(project: Project) -> set[str]:
    manifest = load_manifest(project)
    return {key for key in manifest["nodes"] if key.startswith(("test.", "model.elementary"))}


def test_without_the_package_its_tests_are_absent_and_that_is_said(wanting: Project) -> None:
    assert not are_installed(wanting.dbt_dir)
    found = nodes(wanting)
    assert any("unique_fct_orders" in key for key in found)
    assert not any("elementary" in key for key in found)
    said = absence(wanting.dbt_dir)
    assert said is not None
    assert "Elementary's tests are not part of this project" in said


def test_doctor_and_the_runs_log_say_that_they_are_absent(
    wanting: Project, shop_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(wanting.root)
    console = Console(width=400, file=io.StringIO(), record=True)
    check(console, wanting.root)
    assert "shop: Elementary's tests are not part of this project" in console.export_text()
    with dg.DagsterInstance.ephemeral(tempdir=str(wanting.root)) as instance:
        resources = {"lake": LakeResource(project_root=str(wanting.root))}
        done = dg.materialize([build_dbt_assets(wanting)], instance=instance, resources=resources)
        said = [entry.user_message for entry in instance.all_logs(done.run_id)]
    assert any(text.startswith("Elementary's tests are not part of this project") for text in said)


def test_a_project_that_has_no_such_tests_is_told_nothing(project: Project) -> None:
    assert absence(project.dbt_dir) is None


def test_with_the_package_they_are_there_and_its_tables_have_a_layer_of_their_own(
    wanting: Project, mirror: Path
) -> None:
    assert not any("elementary" in key for key in nodes(wanting))
    install_packages(wanting, str(mirror))
    assert absence(wanting.dbt_dir) is None
    found = nodes(wanting)
    assert any(key.startswith("test.shop.elementary_volume_anomalies_fct_orders") for key in found)
    manifest = load_manifest(wanting)
    assert manifest["nodes"]["model.elementary.metadata"]["schema"] == "elementary"


def test_the_packages_come_from_a_git_server_by_their_tag(wanting: Project, mirror: Path, tmp_path: Path) -> None:
    server = tmp_path / "server"
    for package in PACKAGES:
        place = server / f"{package.repository}.git"
        commands = (
            ["init", "--quiet"],
            ["add", "--all"],
            ["-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "-m", "one"],
            ["tag", package.version],
        )
        for command in commands:
            subprocess.run(["git", *command], cwd=mirror / package.name, check=True, capture_output=True)
        place.parent.mkdir(exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", "--bare", mirror / package.name, place], check=True)
    install_packages(wanting, f"file://{server}")
    assert are_installed(wanting.dbt_dir)
    assert any("elementary_volume" in key for key in nodes(wanting))


def test_the_packages_come_from_a_hub(
    wanting: Project, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dbt's own ``deps`` asks it; ``DBT_PACKAGE_HUB_URL`` is dbt's name for a hub of one's own."""
    site = tmp_path / "hub"
    (site / "api" / "v1").mkdir(parents=True)
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=site))
    url = f"http://127.0.0.1:{served.server_port}/"
    for package in PACKAGES:
        with tarfile.open(site / f"{package.name}.tar.gz", "w:gz") as archive:
            archive.add(mirror / package.name, arcname=f"{package.repository}-{package.version}")
        version = {
            "id": f"{package.hub}/{package.version}",
            "name": package.name,
            "packages": [],
            "downloads": {"tarball": f"{url}{package.name}.tar.gz", "format": "tgz", "sha1": ""},
        }
        answer = site / "api" / "v1" / f"{package.hub}.json"
        answer.parent.mkdir(exist_ok=True)
        answer.write_text(json.dumps({"name": package.name, "versions": {package.version: version}}))
    (site / "api" / "v1" / "index.json").write_text(json.dumps([package.hub for package in PACKAGES]))
    monkeypatch.setenv("DBT_PACKAGE_HUB_URL", url)
    with served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        install_packages(wanting, "hub")
        served.shutdown()
        thread.join()
    assert are_installed(wanting.dbt_dir)
    assert any("elementary_volume" in key for key in nodes(wanting))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def test_another_version_is_refused_by_name(wanting: Project, mirror: Path) -> None:
    (mirror / "elementary" / "dbt_project.yml").write_text("{name: elementary, version: 0.24.0}")
    with pytest.raises(ConfigError, match=r"has elementary 0\.24\.0\.\nMirror version 0\.25\.1"):
        install_packages(wanting, str(mirror))
    assert not are_installed(wanting.dbt_dir)


def test_a_mirror_without_the_package_and_one_that_is_away_say_so(wanting: Project, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has neither 'elementary' nor a repository"):
        install_packages(wanting, str(tmp_path))
    with pytest.raises(RetryableError) as caught:
        install_packages(wanting, "https://user:very-secret@127.0.0.1:9/mirror")  # pragma: allowlist secret
    assert "very-secret" not in str(caught.value)
