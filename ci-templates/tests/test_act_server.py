"""Deploy and nightly, which the server's own runner runs, by act; a stand-in for `dml infra` does what a test says.

A server itself is what platform-infra's tests are about; they run these two against one.
"""

from __future__ import annotations

from pathlib import Path

import acting
import pytest
from small import NOXFILE, Runner, caller, commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


DIGEST = "ghcr.io/acme/project@sha256:" + "1" * 64


def installation(runner: Runner, tmp_path: Path, *, fails: str = "") -> Path:
    """The server's folder, and a `dml` that does what it is asked; but one command may fail."""
    root = tmp_path / "infra"
    root.mkdir()
    runner.add_program(
        "dml",
        f"""printf '%s|' "$@" >>'{runner.folder}/dml.txt'; echo "in $DML_INFRA__ROOT" >>'{runner.folder}/dml.txt'
case $2 in
    '{fails}') echo "cannot {fails}: planted" >&2; exit 3 ;;
    deploys) echo "2026-11-01 12:00 sales old -> new 31 s" ;;
    status) echo "sales live" ;;
esac""",
    )
    return root


@pytest.mark.parametrize("image", ["ghcr.io/acme/project:latest", "$(touch planted)@sha256:" + "1" * 64])
def test_what_is_no_digest_is_not_deployed(runner: Runner, tmp_path: Path, image: str) -> None:
    infra = installation(runner, tmp_path)
    text = caller("deploy", project="sales", image=image, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "is no image by digest: give what image.yml put out" in outcome.said("deploy")
    assert "infra|deploy|" not in runner.asked("dml")


def test_after_a_deploy_main_is_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path)
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    deployed, synced, told = runner.asked("dml").splitlines()
    assert deployed.startswith(f"infra|deploy|sales|--image|{DIGEST}|--who|")
    assert f"({acting.REPOSITORY})|" in deployed
    assert synced == f"infra|sync|sales|in {infra}"
    assert told == f"infra|deploys|sales|--lines|3|in {infra}"
    assert "sales old -> new 31 s" in outcome.summary("deploy")


def test_a_deploy_that_went_back_fails_and_main_is_not_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path, fails="deploy")
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "cannot deploy: planted" in outcome.said("deploy")
    assert "infra|sync|" not in runner.asked("dml")
    assert "infra|deploys|sales|--lines|3|" in runner.asked("dml")


def test_a_deploy_that_main_does_not_take_is_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path, fails="sync")
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "cannot sync: planted" in outcome.said("deploy")
    assert "sales is live, but the list on platform-infra's main branch does not say so" in outcome.said("deploy")
    assert f"in {infra} on the server: dml infra sync sales" in outcome.said("deploy")


def test_each_night_everything_runs_and_a_registry_that_is_not_in_git_is_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path, fails="sync")
    text = caller("nightly", "{contents: read}", python_versions='["3.11"]', installation=str(infra))
    text = text.rstrip() + "\n      server: true\n"
    noxfile = NOXFILE.format(written={}).replace("name=name", 'name=name, venv_backend="none"')
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text, "noxfile.py": noxfile})

    outcome = runner.run(root)

    assert outcome.failed == {"server"}, outcome.text
    for session in ("lint", "secrets", "tests", "integration", "build"):
        assert f"ran {session}" in outcome.said("full")
    assert "ran maintenance" in outcome.said("maintenance")
    assert f"in {infra} on the server: dml infra sync." in outcome.said("server")
    for asked in ("preflight|", "status|", "sync|--check|", "verify-backup|--full|"):
        assert f"infra|{asked}in {infra}" in runner.asked("dml")
