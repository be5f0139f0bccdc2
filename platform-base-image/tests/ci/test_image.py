"""What pip-audit found, held against what a project accepts until a day."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from dml_platform.ci.image import check_image, check_vulnerabilities
from dml_platform.core.errors import ChecksFailedError, ConfigError

TODAY = datetime.date(2026, 11, 23)
FOUND = {
    "dependencies": [
        {"name": "left", "version": "1.0", "vulns": [{"id": "X-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"]}]},
        {"name": "right", "version": "2.0", "vulns": []},
    ]
}


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(FOUND))
    return path


def test_a_known_vulnerability_is_refused_with_the_version_that_corrects_it(report: Path, tmp_path: Path) -> None:
    with pytest.raises(ChecksFailedError, match=r"1 known vulnerabilities: left 1.0: X-1 \(corrected in 1.1\)"):
        check_vulnerabilities(report, tmp_path / "none.yaml", today=TODAY)


@pytest.mark.parametrize("name", ["X-1", "CVE-1"])
def test_what_is_accepted_with_a_reason_passes_until_its_day(report: Path, tmp_path: Path, name: str) -> None:
    accepted = tmp_path / "accepted.yaml"
    accepted.write_text(f"accept: [{{id: {name}, until: 2026-11-23, why: not called}}]\n")
    assert "2 of 2 packages checked, 0 accepted unchecked, 1 vulnerabilities accepted" in check_vulnerabilities(
        report, accepted, today=TODAY
    )
    with pytest.raises(ChecksFailedError, match="X-1"):
        check_vulnerabilities(report, accepted, today=TODAY + datetime.timedelta(days=1))


def test_what_nobody_checked_is_no_pass(tmp_path: Path) -> None:
    with pytest.raises(ChecksFailedError, match="they were not checked"):
        check_vulnerabilities(tmp_path / "none.json", tmp_path / "none.yaml", today=TODAY)


def test_a_report_in_which_every_package_was_skipped_is_no_pass(tmp_path: Path) -> None:
    report = tmp_path / "audit.json"
    report.write_text(json.dumps({"dependencies": [{"name": "left", "skip_reason": "the service is silent"}]}))
    with pytest.raises(ChecksFailedError, match="none of 1 packages was checked: the service is silent"):
        check_vulnerabilities(report, tmp_path / "none.yaml", today=TODAY)


def test_a_package_that_nobody_could_look_up_is_refused_by_name(tmp_path: Path) -> None:
    report, accepted = tmp_path / "audit.json", tmp_path / "accepted.yaml"
    known = {"name": "right", "version": "2.0", "vulns": []}
    skipped = [{"name": name, "skip_reason": "not on the index"} for name in ("Left_Pad", "other")]
    report.write_text(json.dumps({"dependencies": [known, *skipped]}))
    said = r"2 of 3 packages could not be looked up: Left_Pad \(not on the index\); other .*\n.*package: NAME, until"
    with pytest.raises(ChecksFailedError, match=said):
        check_vulnerabilities(report, accepted, today=TODAY)

    accepted.write_text("accept: [{package: left-pad, until: 2026-11-23, why: our own index has it}]\n")
    with pytest.raises(ChecksFailedError, match=r"1 of 3 packages could not be looked up: other \("):
        check_vulnerabilities(report, accepted, today=TODAY)

    accepted.write_text(accepted.read_text().replace("}]", "}, {package: other, until: 2026-12-31, why: as well}]"))
    told = check_vulnerabilities(report, accepted, today=TODAY)
    assert told == "1 of 3 packages checked, 2 accepted unchecked, 0 vulnerabilities accepted"
    with pytest.raises(ChecksFailedError, match="1 of 3 packages could not be looked up: Left_Pad"):
        check_vulnerabilities(report, accepted, today=TODAY + datetime.timedelta(days=1))


def test_a_package_that_is_accepted_unchecked_is_refused_once_something_is_known(report: Path, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.yaml"
    accepted.write_text("accept: [{package: left, until: 2026-12-31, why: our own index has it}]\n")
    with pytest.raises(ChecksFailedError, match=r"1 known vulnerabilities: left 1\.0: X-1"):
        check_vulnerabilities(report, accepted, today=TODAY)


def test_a_list_without_a_day_is_refused(report: Path, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.yaml"
    accepted.write_text("accept: [{id: X-1, why: because}]\n")
    with pytest.raises(ConfigError, match="cannot read"):
        check_vulnerabilities(report, accepted, today=TODAY)


def test_without_docker_the_image_is_not_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="docker cannot be started"):
        check_image("project:1")


@pytest.mark.parametrize(
    ("user", "commit", "said"),
    [
        ("", "a" * 40, "it runs as root"),
        ("10001:10001", "unknown", "does not know its commit .*'unknown'.*\nBuild it in a clone with 'nox -s image'"),
    ],
)
def test_an_image_that_the_server_should_not_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: str, commit: str, said: str
) -> None:
    found = [{"Size": 1, "Config": {"User": user, "Env": ["PATH=/bin", f"DML_GIT_COMMIT={commit}"]}}]
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ChecksFailedError, match=said):
        check_image("project:1")
