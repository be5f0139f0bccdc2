"""The workflows that no pull request starts, run by act: deploy, release, template-update, nightly.

The repositories are small ones of their own; where a workflow calls `dml infra`, a stand-in notes what it was asked and
does what the test says, because a server is what platform-infra's tests are about.
"""

from __future__ import annotations

import re
from pathlib import Path

import acting
import pytest
from acting import ROOT
from projects import git
from small import Runner, caller, commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DIGEST = "ghcr.io/acme/project@sha256:" + "1" * 64
CONFLICT = "<<<<<<< yours\nmine\n=======\nbetter\n>>>>>>> template\n"
NOXFILE = """
import nox
from pathlib import Path


@nox.session
def template(session):
    for name, text in {written}.items():
        Path(name).write_text(text)


def empty(name):
    nox.session(lambda session: print("ran", name), name=name)


for name in ("lint", "secrets", "tests", "integration", "build", "maintenance"):
    empty(name)
"""


def installation(runner: Runner, tmp_path: Path, *, deploys: bool = True) -> Path:
    """The server's clone of platform-infra, and a `dml` that deploys, or cannot."""
    entry = "locations:\n  - {name: sales, image: old}\n"
    root = commit(tmp_path / "infra", {"registry/code-locations.yaml": entry})
    git(root, "remote", "set-url", "origin", str(runner.hosting))
    git(root, "push", "--quiet", "--set-upstream", "origin", "main")
    change = 'sed -i "s|image: old|image: $5|" "$DML_INFRA__ROOT/registry/code-locations.yaml"'
    refuse = 'echo "cannot deploy sales: the new code server ended: planted" >&2; exit 1'
    runner.add_program(
        "dml",
        f"""printf '%s|' "$@" >>'{runner.folder}/dml.txt'; echo >>'{runner.folder}/dml.txt'
case $2 in
    deploy) {change if deploys else refuse} ;;
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


def test_a_deploy_is_kept_in_git(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path)
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    assert f"infra|deploy|sales|--image|{DIGEST}|--who|" in runner.asked("dml")
    assert f"({acting.REPOSITORY})|" in runner.asked("dml")
    assert f"image: {DIGEST}" in git(runner.hosting, "show", "main:registry/code-locations.yaml")
    assert git(runner.hosting, "log", "-1", "--format=%s", "main") == f"deploy(sales): {DIGEST.partition('@')[2]}"


def test_a_deploy_that_went_back_fails_and_changes_nothing(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path, deploys=False)
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})

    outcome = runner.run(root)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "the new code server ended: planted" in outcome.said("deploy")
    assert git(runner.hosting, "log", "--format=%s", "main") == "first"
    assert "infra|deploys|sales|--lines|3|" in runner.asked("dml")


@pytest.mark.parametrize(
    ("tag", "said"),
    [("v1.2.0", ""), ("v1.3.0", "cannot release 'v1.3.0': pyproject.toml has version '1.2.0'")],
)
def test_a_release_needs_tag_and_version_to_agree(runner: Runner, tmp_path: Path, tag: str, said: str) -> None:
    rights = "{contents: write, id-token: write, attestations: write}"
    files = {
        ".github/workflows/called.yml": caller("release", rights),
        "pyproject.toml": '[project]\nname = "thing"\nversion = "1.2.0"\n',
        "CHANGELOG.md": "# Changes\n\n## Unreleased\n\n## 1.2.0 (2026-11-01)\n\n- It is faster.\n",
    }
    root = commit(tmp_path / "library", files)
    git(root, "tag", tag)

    outcome = runner.run(root, "push", f"refs/tags/{tag}")

    if said:
        assert outcome.failed == {"build"}, outcome.text
        assert said in outcome.said("build")
        assert runner.asked("gh") == ""
    else:
        assert outcome.failed == set(), outcome.text
        assert f"release create {tag} " in runner.asked("gh")
        assert "- It is faster." in runner.asked("gh")


def test_this_repositorys_own_tag_makes_its_release(runner: Runner, tmp_path: Path) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    files = {
        ".github/workflows/called.yml": (ROOT / ".github/workflows/release-here.yml").read_text(),
        "pyproject.toml": (ROOT / "pyproject.toml").read_text(),
        "CHANGELOG.md": f"# Change log\n\n## Unreleased\n\n## {version[1]} (2026-12-01)\n\n- A word for callers.\n",
    }
    root = commit(tmp_path / "ci-templates", files)
    git(root, "tag", f"v{version[1]}")

    outcome = runner.run(root, "push", f"refs/tags/v{version[1]}")

    assert outcome.failed == set(), outcome.text
    assert f"release create v{version[1]} --repo" in runner.asked("gh")
    assert "- A word for callers." in runner.asked("gh")


def test_a_deploy_that_git_does_not_take_is_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path)
    text = caller("deploy", project="sales", image=DIGEST, installation=str(infra))
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text})
    refuse = runner.hosting / "hooks" / "pre-receive"
    refuse.write_text("#!/bin/sh\necho main is protected >&2\nexit 1\n")
    refuse.chmod(0o755)

    outcome = runner.run(root)

    assert outcome.failed == {"deploy"}, outcome.text
    assert "main is protected" in outcome.said("deploy")
    assert f"sales is live, but its entry is on the server only: in {infra}, git pull" in outcome.said("deploy")


def templated(runner: Runner, tmp_path: Path, written: dict[str, str]) -> Path:
    """A project whose template writes these files."""
    files = {
        ".github/workflows/called.yml": caller("template-update", "{contents: write, pull-requests: write}"),
        ".gitignore": "dist/\n.venv\n.nox/\n__pycache__/\n",
        "README.md": "mine\n",
        "noxfile.py": NOXFILE.format(written=written).replace("@nox.session\n", '@nox.session(venv_backend="none")\n'),
    }
    root = commit(tmp_path / "project", files)
    git(root, "push", "--quiet", str(runner.hosting), "main")
    return root


@pytest.mark.parametrize(
    ("written", "opened"),
    [
        ({}, None),
        ({"README.md": "better\n"}, "--title Update from the template"),
        ({"README.md": CONFLICT}, "--draft"),
    ],
    ids=["nothing new", "an improvement", "a conflict"],
)
def test_what_the_template_changed_becomes_a_pull_request(
    runner: Runner, tmp_path: Path, written: dict[str, str], opened: str | None
) -> None:
    root = templated(runner, tmp_path, written)

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    if opened is None:
        assert runner.asked("gh") == ""
        return
    assert "pr create --repo acme/project --head template-update" in runner.asked("gh")
    assert opened in runner.asked("gh")
    assert "On a laptop: nox -s template" in runner.asked("gh")
    assert git(runner.hosting, "show", "template-update:README.md") == written["README.md"].strip()
    if opened == "--draft":
        assert "You and the template changed the same lines" in runner.asked("gh")
        assert "- README.md" in runner.asked("gh")


def test_workflows_of_the_template_need_a_token_that_may_push_them(runner: Runner, tmp_path: Path) -> None:
    root = templated(runner, tmp_path, {".github/workflows/new.yml": "name: new\n"})

    outcome = runner.run(root)

    assert outcome.failed == {"propose"}, outcome.text
    assert "the secret TEMPLATE_UPDATE_TOKEN (contents, pull requests and workflows: write)" in outcome.said("propose")
    assert "template-update" not in git(runner.hosting, "branch", "--list")


def test_an_open_pull_request_that_has_all_of_it_is_left_alone(runner: Runner, tmp_path: Path) -> None:
    """A week later: a push would run its checks again and take back what was approved."""
    root = templated(runner, tmp_path, {"README.md": "better\n"})
    assert runner.run(root).failed == set()
    runner.answer("pr list", "7\n")
    branch = git(runner.hosting, "rev-parse", "template-update")
    before = runner.asked("gh")
    # Its own commit would have another time, so another id.
    git(root, "commit", "--quiet", "--amend", "--no-edit", "--date=2026-01-01T00:00:00Z")

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    assert "Pull request 7 has all of it already." in outcome.said("propose")
    assert git(runner.hosting, "rev-parse", "template-update") == branch
    assert "pr edit" not in runner.asked("gh").removeprefix(before)
    assert "pr create" not in runner.asked("gh").removeprefix(before)


@pytest.mark.parametrize(
    ("written", "said", "undone"),
    [
        ("better still\n", "What the template changed", False),
        (CONFLICT, "You and the template changed the same lines", True),
    ],
    ids=["an improvement", "a conflict"],
)
def test_an_open_pull_request_says_what_is_in_it_now(
    runner: Runner, tmp_path: Path, written: str, said: str, *, undone: bool
) -> None:
    root = templated(runner, tmp_path, {"README.md": "better\n"})
    assert runner.run(root).failed == set()
    assert "You and the template" not in runner.asked("gh")
    runner.answer("pr list", "7\n")
    before = runner.asked("gh")
    noxfile = root / "noxfile.py"
    noxfile.write_text(noxfile.read_text().replace(repr("better\n"), repr(written)))
    git(root, "commit", "--quiet", "--all", "--message=the template moved on")

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    asked = runner.asked("gh").removeprefix(before)
    assert "pr edit 7 --repo acme/project --body-file dist/template/text.md\n" in asked
    assert said in asked
    assert ("pr ready 7 --repo acme/project --undo\n" in asked) == undone
    assert "pr create" not in asked
    assert git(runner.hosting, "show", "template-update:README.md") == written.strip()


def test_a_branch_whose_pull_request_is_gone_gets_another(runner: Runner, tmp_path: Path) -> None:
    root = templated(runner, tmp_path, {"README.md": CONFLICT})
    assert runner.run(root).failed == set()
    branch, before = git(runner.hosting, "rev-parse", "template-update"), runner.asked("gh")

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    assert git(runner.hosting, "rev-parse", "template-update") == branch
    asked = runner.asked("gh").removeprefix(before)
    assert "pr create --repo acme/project --head template-update" in asked
    assert "--draft" in asked


def test_a_branch_on_which_somebody_works_stays_as_it_is(runner: Runner, tmp_path: Path) -> None:
    root = templated(runner, tmp_path, {"README.md": "better\n"})
    git(root, "commit", "--quiet", "--allow-empty", "--message=mended by hand")
    git(root, "push", "--quiet", str(runner.hosting), "HEAD:template-update")
    git(root, "reset", "--quiet", "--hard", "HEAD~")

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    assert "Somebody works on the branch template-update" in outcome.said("propose")
    assert git(runner.hosting, "log", "-1", "--format=%s", "template-update") == "mended by hand"
    assert "pr create" not in runner.asked("gh")


def test_the_set_up_action_makes_an_environment_of_what_the_locks_name(act: Path, tmp_path: Path) -> None:
    """The action itself, not its stand-in: uv and nox come from the package index, held to the lock's hashes."""
    runner = Runner(act, acting.templates(tmp_path, real_setup=True), tmp_path)
    noxfile = """
import sys
from importlib.metadata import version
from pathlib import Path

import nox


@nox.session(venv_backend="none")
def environment(session):
    here = Path(sys.prefix)
    assert here == Path.cwd() / ".venv" and not here.is_symlink(), here
    print("environment made in", here.name)


def told(name):
    nox.session(lambda session: print(name, "with zizmor", version("zizmor")), name=name, venv_backend="none")


for name in ("lint", "secrets", "tests", "integration", "build", "maintenance"):
    told(name)
"""
    lock = (ROOT / "requirements/dev.txt").read_text()
    text = caller("nightly", "{contents: read}", python_versions='["3.11"]')
    files = {".github/workflows/called.yml": text, "noxfile.py": noxfile, "requirements/dev.txt": lock}
    root = commit(tmp_path / "project", files)

    outcome = runner.run(root)

    assert outcome.failed == set(), outcome.text
    said = outcome.said("full")
    assert "environment made in .venv" in said, "the session for more was not run, or not there"
    for session in ("lint", "secrets", "tests", "integration", "build"):
        assert f"{session} with zizmor" in said
    assert "maintenance with zizmor" in outcome.said("maintenance")


def test_a_lock_whose_hash_is_not_that_of_the_file_stops_the_set_up(act: Path, tmp_path: Path) -> None:
    runner = Runner(act, acting.templates(tmp_path, real_setup=True), tmp_path)
    lock = (ROOT / "requirements/dev.txt").read_text()
    begin = lock.index("uv==")
    lock = lock[:begin] + re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock[begin:])
    text = caller("nightly", "{contents: read}", python_versions='["3.11"]')
    files = {".github/workflows/called.yml": text, "noxfile.py": NOXFILE, "requirements/dev.txt": lock}
    root = commit(tmp_path / "project", files)

    outcome = runner.run(root)

    assert outcome.failed == {"full", "maintenance"}, outcome.text
    for job in ("full", "maintenance"):
        assert "DO NOT MATCH THE HASHES" in outcome.said(job)
    assert not (root / ".venv").exists()


def test_each_night_everything_runs_and_a_registry_that_is_not_in_git_is_told(runner: Runner, tmp_path: Path) -> None:
    infra = installation(runner, tmp_path)
    (infra / "registry/code-locations.yaml").write_text("locations: []\n")
    text = caller("nightly", "{contents: read}", python_versions='["3.11"]', installation=str(infra))
    text = text.rstrip() + "\n      server: true\n"
    noxfile = NOXFILE.format(written={}).replace("name=name", 'name=name, venv_backend="none"')
    root = commit(tmp_path / "project", {".github/workflows/called.yml": text, "noxfile.py": noxfile})

    outcome = runner.run(root)

    assert outcome.failed == {"server"}, outcome.text
    for session in ("lint", "secrets", "tests", "integration", "build"):
        assert f"ran {session}" in outcome.said("full")
    assert "ran maintenance" in outcome.said("maintenance")
    assert "-locations:" in outcome.said("server")
    assert f"in {infra}, git commit registry && git push" in outcome.said("server")
    for asked in ("infra|preflight|", "infra|status|", "infra|verify-backup|--full|"):
        assert asked in runner.asked("dml")
