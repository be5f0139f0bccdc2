"""What the template changed becomes a pull request, run by act on small repositories."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import git
from small import NOXFILE, Runner, caller, commit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


CONFLICT = "<<<<<<< yours\nmine\n=======\nbetter\n>>>>>>> template\n"


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
