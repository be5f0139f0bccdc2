"""README and runbooks name only what exists: files, settings, services, commands with their options, figures."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from documents import DOCUMENTS, NOT_RUN, README, ROOT, RUNBOOKS, Block, blocks, languages, prose

from dml_infra.budget import memory_budget, roles
from dml_infra.cli import app
from dml_infra.database import connection_budget
from dml_infra.installation import find_installation
from dml_infra.registry import CodeLocation
from dml_infra.secrets import core_secrets

COMMANDS = typer.main.get_command(app)
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
TITLES = re.compile(r"^#+ (.+)$", re.MULTILINE)
# `dml infra …` in a line of a block, up to what ends a shell's command.
CALL = re.compile(r"(?:\bdml infra|\bdml-infra)\b([^|;&'\n]*)")
INLINE = re.compile(r"`([^`\n]+)`")
# Named in the documents and read by others than this installation.
OTHERS = {"DML_INFRA__ROOT", "DML_PROJECT", "DML_SERVER"}

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)


def parse(arguments: list[str], *, whole: bool) -> None:
    """Let the command line read arguments without doing anything; ``whole``: nothing that it needs may be missing."""
    command: Any = COMMANDS
    name, rest = "dml infra", arguments
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name, *rest = rest
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    named = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert named <= options | {"-h", "--help"}, f"{name} has no {sorted(named - options)}"
    if whole and not named & {"-h", "--help"}:
        assert not hasattr(command, "commands"), f"{name} needs a command"
        command.make_context(name, rest)


def slug(title: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@documents
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", prose(document)):
        if "://" in target:
            continue
        file = (document.parent / target).resolve() if target else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in {slug(title) for title in TITLES.findall(prose(file))}, f"{document.name}: #{anchor}"


@documents
def test_every_setting_is_one_that_is_read(document: Path) -> None:
    known = set(re.findall(r"\bDML_[A-Z0-9_]+\b", (ROOT / ".env.example").read_text(encoding="utf-8"))) | OTHERS
    named = set(re.findall(r"\bDML_[A-Z0-9_]*[A-Z0-9]\b(?!_?…)", document.read_text(encoding="utf-8")))
    named = {name for name in named if not re.search(rf"{name}_?…", document.read_text(encoding="utf-8"))}
    assert named <= known, sorted(named - known)


@documents
def test_every_command_in_the_text_exists_with_its_options(document: Path) -> None:
    for text in INLINE.findall(prose(document)):
        for call in CALL.findall(text):
            parse([word for word in shlex.split(call) if word != "…"], whole=False)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_every_command_of_a_block_can_be_read_as_it_is(block: Block) -> None:
    for line in block.text.splitlines():
        for call in CALL.findall(line):
            parse(shlex.split(call), whole=True)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_every_block_is_run_or_says_why_not(block: Block) -> None:
    how, _, reason = block.how.partition("=")
    assert how in ("", "set", "not-run"), f"{block.name}: {block.how!r} is none of these"
    assert (reason in NOT_RUN) == (how == "not-run"), f"{block.name}: no reason {reason!r}"
    if how == "set":
        assert block.variables
        assert all(re.match(r"[A-Z_]+=", line) for line in block.text.splitlines())


def test_no_reason_for_not_running_is_left_over() -> None:
    assert {block.how.partition("=")[2] for block in BLOCKS if block.how.startswith("not-run")} == set(NOT_RUN)


@documents
def test_commands_are_only_in_blocks_that_are_tested(document: Path) -> None:
    for language, _, text in languages(document):
        assert language in ("sh", "mermaid"), f"{document.name} has a block of {language!r}"
        assert language == "sh" or "dml infra" not in text


def test_what_the_readme_tells_to_type_is_in_a_runbook_that_is_run() -> None:
    known = {line for document in RUNBOOKS.glob("*.md") for b in blocks(document) for line in b.text.splitlines()}
    for block in blocks(README):
        if block.how:
            continue
        for line in block.text.splitlines():
            start = line.partition(" --memory")[0]
            assert line in known or any(k.startswith(start) for k in known), f"no runbook has: {line}"


def test_every_variable_of_a_runbook_is_set_in_it() -> None:
    for document in RUNBOOKS.glob("*.md"):
        found = blocks(document)
        given = {name for block in found if block.how == "set" for name in block.variables} | {"PATH", "PWD"}
        for block in found:
            used = set(re.findall(r"\$\{?([A-Z_]+)", block.text))
            if not block.how.startswith("not-run"):
                assert used <= given, f"{block.name}: {sorted(used - given)}"
        text = "".join(block.text for block in found if block.how != "set")
        assert {name for name in given - {"PATH", "PWD"} if f"${name}" not in text} == set(), document.name


def test_the_readme_names_every_service_and_every_command() -> None:
    text = README.read_text(encoding="utf-8")
    for service in yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]:
        assert f"`{service}`" in text, service
    for command in COMMANDS.commands:
        assert f"`dml infra {command}`" in text, command


def test_every_alert_has_a_line_in_the_incident_guide() -> None:
    rules = yaml.safe_load((ROOT / "config" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    text = prose(RUNBOOKS / "incidents.md")
    assert {alert for alert in alerts if f"`{alert}`" not in text} == set()


def test_secrets_that_the_runbooks_name_exist() -> None:
    given = {"portainer_api_key", "airbyte_client_secret", "oidc_client_secret", "backup_aws_credentials"}
    given |= {"shop_token", "openmetadata_token"}  # of projects
    known = {secret.name for secret in core_secrets()} | given
    for document in DOCUMENTS:
        words = r"`([a-z0-9_]+_(?:password|token|api_key|client_secret|aws_credentials))`"
        assert set(re.findall(words, prose(document))) <= known


def test_the_table_of_sizes_is_what_the_budget_counts(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    (tmp_path / ".env.example").write_bytes((ROOT / ".env.example").read_bytes())
    (tmp_path / "registry").mkdir()
    (tmp_path / "config").symlink_to(ROOT / "config")
    installation = find_installation(tmp_path)
    text = (RUNBOOKS / "sizing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(rows) >= 5
    for count, memory, _, _, connections in rows:
        image = "registry.example.com/p@sha256:" + "a" * 64
        locations = [
            CodeLocation(name=f"p{number}", image=image, owner="team:p", alerts="p@example.com")
            for number in range(int(count))
        ]
        assert f"{memory_budget(installation, locations).total_mb / 1024:.1f}" == memory
        assert connection_budget(roles(locations)).total == int(connections)
