"""What is rendered, for every combination of answers: it parses, fits together and says what is there."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import COMBINATIONS, NAME, TEMPLATE, Answers, Rendered, describe, make_answers, render

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

QUESTIONS = yaml.safe_load((TEMPLATE / "copier.yml").read_text())
GOOD = make_answers(["files"], True, True, "local")

every = pytest.mark.parametrize("answers", COMBINATIONS, ids=describe)


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@every
def test_every_file_parses(rendered: Rendered, answers: Answers) -> None:
    for name, text in texts(rendered(answers)).items():
        if name.endswith(".py"):
            ast.parse(text)
        elif name.endswith((".yml", ".yaml")):
            yaml.safe_load(text)
        elif name.endswith((".ipynb", ".json")):
            json.loads(text)
        elif name.endswith(".toml"):
            tomllib.loads(text)


@every
def test_no_trace_of_the_template_or_of_another_project_is_left(rendered: Rendered, answers: Answers) -> None:
    for name, text in texts(rendered(answers)).items():
        if name.startswith("requirements/"):
            continue
        assert "sales" not in (name + text).lower()
        assert not name.endswith(".jinja")
        # dbt's own templates and GitHub's are in SQL, in dbt's YAML and in workflows.
        assert name.endswith(".sql") or "{%" not in text, name
        assert not re.search(r"\{\{ *(name|owner|alerts)\b", text), name
        assert text.endswith("\n") or not text, name
        assert not re.search(r"\n\n\n\n|\n\n$|[ \t]$", text, re.ASCII), name


def test_every_rendered_project_passes_ruff_and_yamllint(rendered: Rendered) -> None:
    projects = [rendered(answers) for answers in COMBINATIONS]
    for command in (
        ["ruff", "check", "--quiet", "--no-cache", *projects],
        ["ruff", "format", "--quiet", "--check", "--no-cache", *projects],
        ["yamllint", "--strict", *projects],
    ):
        done = subprocess.run(command, cwd=projects[0], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@every
def test_what_lands_is_described_and_read_by_a_staging_model(rendered: Rendered, answers: Answers) -> None:
    folder = rendered(answers)
    sources = yaml.safe_load((folder / "config/sources.yaml").read_text())["sources"]
    landed = {
        f"{name}__{table}"
        for name, source in sources.items()
        for table in source.get("tables", source.get("streams", ()))
    }
    [described] = yaml.safe_load((folder / "dbt/models/staging/_sources.yml").read_text())["sources"]
    assert {table["name"] for table in described["tables"]} == landed
    models = {path.stem for path in (folder / "dbt/models").rglob("*.sql")}
    assert {name.removeprefix("stg_") for name in models if name.startswith("stg_")} == landed
    documents = [yaml.safe_load(path.read_text()) for path in (folder / "dbt/models").rglob("*.yml")]
    assert {model["name"] for document in documents for model in document.get("models", ())} == models
    refs = {ref for path in (folder / "dbt").rglob("*.sql") for ref in re.findall(r"ref\('(\w+)'\)", path.read_text())}
    assert refs <= models
    figures = yaml.safe_load((folder / "config/project.yaml").read_text()).get("figures", [])
    assert {figure["table"].split(".")[-1] for figure in figures} <= models
    assert bool(figures) == answers["sample_model"] == any(name.startswith(("fct_", "dim_")) for name in models)


@every
def test_the_readme_fits_the_answers(rendered: Rendered, answers: Answers) -> None:
    folder = rendered(answers)
    readme = (folder / "README.md").read_text()
    for name in re.findall(r"`((?!\./)[\w./-]+/[\w./-]*|[\w-]+\.(?:yaml|toml|md))`", readme):
        made_later = name.startswith("dist/") or (name == "dbt/models/marts/" and not answers["sample_model"])
        assert made_later or any((folder / place / name).exists() for place in (".", "config")), name
    assert ("dvc" in readme.lower()) == (answers["dvc_remote"] != "none")
    assert ("notebooks/" in readme) == answers["notebooks"]
    marts = {path.stem for path in (folder / "dbt/models").glob("marts/*.sql")}
    assert set(re.findall(r"^\| `((?:fct|dim)_\w+)`", readme, re.MULTILINE)) == marts
    table = readme.partition("## What comes in")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert rows == list(yaml.safe_load((folder / "config/sources.yaml").read_text())["sources"])


@every
def test_the_locks_have_what_the_project_asks_for(rendered: Rendered, answers: Answers) -> None:
    folder = rendered(answers)
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    locked = {name: pins(folder / f"requirements/{name}.txt") for name in ("run", "dev", "build")}
    wanted = {"run": project["project"]["dependencies"], **project["dependency-groups"]}
    for lock, lines in wanted.items():
        names = {re.split(r"[\[<>=~ ]", line)[0] for line in lines} - {"dml-platform"}
        assert names <= set(locked[lock]), lock
    assert ("nbclient" in locked["dev"]) == answers["notebooks"]
    hooks = yaml.safe_load((folder / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for tool in [tool for hook in hooks for tool in hook.get("additional_dependencies", [])]:
        name, _, version = tool.partition("==")
        assert locked["dev"][name] == version


def pins(path: Path) -> dict[str, str]:
    text = path.read_text()
    assert "://" not in text
    assert len(re.findall(r"^\S+==", text, re.MULTILINE)) <= text.count("--hash=sha256:")
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


@every
def test_dvc_is_there_as_asked_for(rendered: Rendered, answers: Answers) -> None:
    folder = rendered(answers)
    config = folder / ".dvc/config"
    if answers["dvc_remote"] == "none":
        assert not any("dvc" in name.lower() for name in texts(folder))
        assert ".dvc/config" not in (folder / "docker/Dockerfile").read_text()
    else:
        assert (folder / "dvc.lock").exists()
        assert ("s3://dvc/marketing" in config.read_text()) == (answers["dvc_remote"] == "s3")


def test_the_sample_is_what_its_maker_makes(rendered: Rendered, tmp_path: Path) -> None:
    data = rendered(GOOD) / "data"
    script = tmp_path / "make_sample.py"
    script.write_text((data / "make_sample.py").read_text())
    runpy.run_path(str(script), run_name="__main__")
    [made] = tmp_path.rglob("*.csv")
    assert made.read_bytes() == (data / made.relative_to(tmp_path)).read_bytes()


def test_an_e_mail_address_as_owner_is_told_of_alerts_too(tmp_path: Path) -> None:
    answers = {"name": NAME, "owner": "data@example.com"}
    project = render(tmp_path / "project", answers)
    remembered = yaml.safe_load((project / ".copier-answers.yml").read_text())
    assert remembered["alerts"] == "data@example.com"
    # What is asked for has the usual answers.
    assert remembered["sources"] == ["files"]
    assert remembered["dvc_remote"] == "local"


def test_the_answers_are_remembered_without_a_place_of_this_machine(rendered: Rendered) -> None:
    for answers in COMBINATIONS:
        remembered = yaml.safe_load((rendered(answers) / ".copier-answers.yml").read_text())
        assert remembered.pop("_src_path") == QUESTIONS["template_url"]["default"]
        assert remembered.pop("_commit") == QUESTIONS["template_version"]["default"]
        assert remembered == answers


def test_the_template_has_one_version() -> None:
    version = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]["version"]
    assert QUESTIONS["template_version"]["default"] == f"v{version}"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"name": "Marketing"}, "No name of a project: 2 to 24 lower-case letters and digits"),
        ({"name": "web_shop"}, "No name of a project"),
        ({"name": "x"}, "No name of a project"),
        ({"name": "select"}, 'A word of the platform or of SQL: use another one, such as "selectdata"'),
        ({"name": "lake"}, "A word of the platform"),
        ({"owner": "marketing"}, "No owner: write an e-mail address, or team: and a lower-case name"),
        ({"owner": "team:"}, "No owner"),
        ({"alerts": "somebody"}, "No e-mail address: write one that somebody reads"),
        ({"alerts": "team:marketing"}, "No e-mail address"),
        ({"sources": []}, "No source, so nothing to do: choose files, connector or connection"),
        (
            {"sources": ["connection"], "connection_id": "abc"},
            "No id of a connection: copy its five groups of hex digits from Airbyte",
        ),
        ({"dvc_remote": "s3", "dvc_url": "dvc/marketing"}, "No address in an object store"),
        ({"dvc_remote": "s3", "dvc_url": "s3://key:" + "word@dvc"}, "No address in an object store"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_wrong_answer_is_refused_in_a_sentence(tmp_path: Path, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        render(tmp_path / "project", GOOD | wrong)
    said = re.sub(r"^Validation error for question '\w+': ", "", str(caught.value))
    assert len(said) < 80, "a terminal shows one line of it"
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize("missing", ["name", "owner", "alerts", "connection_id", "dvc_url"])
def test_an_answer_that_cannot_be_guessed_is_asked_for(tmp_path: Path, missing: str) -> None:
    answers = make_answers(["connection"], True, True, "s3")
    del answers[missing]
    with pytest.raises(ValueError, match=f'"{missing}" is required'):
        render(tmp_path / "project", answers)


def test_nothing_secret_is_asked() -> None:
    for name, question in QUESTIONS.items():
        if not name.startswith("_"):
            assert not question.get("secret")
            assert not re.search("secret|token|passw|credential|key", name)


def test_a_built_image_is_described_before_the_next_session_reads_of_it(
    rendered: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nox -s image image_check vulnerabilities` in one call: the last reads what the first wrote."""
    # nox notes every session that it loads; whoever loaded another noxfile in this process did so for another reason.
    monkeypatch.setattr("nox.registry._REGISTRY", {})
    noxfile = runpy.run_path(str(rendered(GOOD) / "noxfile.py"))
    called: list[str] = []
    given: dict[str, str] = {}
    answers = True
    commit = start_repository(tmp_path)
    address = "https://robot:word@git.example.com/acme/project-marketing"  # pragma: allowlist secret
    git(tmp_path, "remote", "add", "origin", address)

    class Session:
        posargs = ("project-marketing:try",)

        def run(self, *command: str, **_: object) -> str:
            called.append(command[1] if command[0] == "docker" else command[-1])
            given.update(part.removeprefix("--build-arg=").split("=", 1) for part in command if "--build-arg=" in part)
            if command[0] == "uv" and "--output" in command and answers:
                report = {"dependencies": [{"name": "six", "version": "1.17.0", "vulns": []}]}
                Path(command[command.index("--output") + 1]).write_text(json.dumps(report))
            return json.dumps({"components": []}) if "environment" in command else "3.11"

        def log(self, _: str) -> None:
            pass

        def warn(self, text: str) -> None:
            called.append(text)

    monkeypatch.chdir(tmp_path)
    noxfile["image"].func(Session())
    assert called[0] == "build"
    assert json.loads((tmp_path / "dist/project-marketing.audit.json").read_text())["dependencies"]
    assert given["REVISION"] == commit
    assert given["SOURCE"] == "https://git.example.com/acme/project-marketing"

    answers = False  # the service: what was found of the image before is not taken for this one's
    noxfile["image"].func(Session())
    assert "vulnerabilities were NOT checked" in called[-1]
    assert not (tmp_path / "dist/project-marketing.audit.json").exists()


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    done = subprocess.run(["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def start_repository(folder: Path) -> str:
    """The first commit, of all that is there."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=first")
    return git(folder, "rev-parse", "HEAD")


def test_a_secret_is_found_whatever_the_file_is_called(rendered: Rendered, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(rendered(GOOD), project)
    base = start_repository(project)
    (project / "config" / "größe clé.py").write_text('password = "correcthorsebattery9"\n')  # pragma: allowlist secret
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message=second")
    for given in ([], [base]):
        nox = [sys.executable, "-m", "nox", "-f", "noxfile.py", "-s", "secrets", "--no-venv", "--", *given]
        done = subprocess.run(nox, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "größe clé.py" in done.stdout
