"""The runbooks, typed as they are on a server of their own: every block of commands, in order, and what comes of it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import RUNBOOKS, Block, blocks
from stack.clones import LIST, clone, git, make_clone, merge
from stack.engine import FOLDER, docker, inspect, sh, wait
from stack.server import ENDED, Server

# A story: a later one uses what an earlier one made.
ORDER = ("install", "add-a-project", "roll-back", "incidents", "rotate-a-secret", "security", "sizing",
         "back-up-and-restore", "upgrade", "runner")  # fmt: skip
LAST = "Take it off"
PROGRAM = ("pyproject.toml", "README.md", "LICENSE", "src", "requirements")
STORY = [b for name in ORDER for b in blocks(RUNBOOKS / f"{name}.md") if not b.how]
STORY.sort(key=lambda block: block.heading == LAST)

pytestmark = [pytest.mark.timeout(1200), pytest.mark.long]


@dataclass
class Typist:
    """A person with a terminal, a server, and the runbooks' variables filled in."""

    server: Server
    values: dict[str, str]
    folder: Path
    person: Path
    release: Callable[..., str]
    settings: str = ""
    broken: str = ""
    seen: dict[Any, Any] = field(default_factory=dict)

    def type(self, text: str, cwd: Path) -> str:
        """Run a block; any command that fails ends it."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DML_", "COMPOSE_"))}
        path = {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        environment = kept | {"COLUMNS": "200", "NO_COLOR": "1", "HOME": str(self.folder)} | path | self.values
        return sh("bash", "-euo", "pipefail", "-c", text, cwd=cwd, env=environment, timeout_s=1000).stdout

    def image(self) -> str:
        """What serves `orders` now, as Dagster says."""
        location = self.server.locations()["orders"]
        assert location["error"] is None, location
        return str(location["image"])


@pytest.fixture(scope="module")
def typist(new_server: Callable[..., Server], orders: Callable[..., str], folder: Path) -> Iterator[Typist]:
    server, place = new_server(), folder / "typist"
    (place / "bin").mkdir(parents=True)
    if shutil.which("dml") is None:
        # Without the projects' library: the same commands under the name that the runbooks use.
        shim = place / "bin" / "dml"
        shim.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -m dml_infra "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
    (place / "shop_token").write_text("first", encoding="utf-8")
    (place / "target").mkdir()
    values = {
        "STACK": server.name,
        "STATE": str(server.state),
        "IMAGE": "",
        "TOKEN_FILE": str(place / "shop_token"),
        "TARGET": str(place / "target"),
        "IDENTITY": str(place / "identity"),
        "PUBLIC_KEY": "",
    }
    settings = (server.root / ".env").read_text(encoding="utf-8")
    (server.root / ".env").unlink()
    make_clone(server.root, place / "hosting.git")
    person = clone(place / "hosting.git", place / "person")
    yield Typist(server, values, place, person, orders, settings)
    server.destroy()


@pytest.mark.parametrize("block", STORY, ids=lambda block: f"{block.document.stem}: {block.heading}")
def test_what_a_runbook_says_works(typist: Typist, block: Block) -> None:
    if typist.broken:
        pytest.fail(f"not tried: {typist.broken} failed, and the rest builds on it")
    where, key = typist.server.root, (block.document.stem, block.heading)
    if block.heading == "The program":
        where = tree() if "PATH=" in block.text else copy_of_this_folder(typist.folder)
    if "dml infra register" in block.text:
        where = typist.person  # their own clone, as the runbook says
    typist.broken = block.name
    if key in BEFORE and key not in typist.seen:
        # Once for a section: it may have several blocks.
        typist.seen[key] = BEFORE[key](typist)
    printed = typist.type(block.text, where)
    if key in AFTER:
        AFTER[key](typist, printed)
    typist.broken = ""


def test_no_runbook_is_left_out() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == set(ORDER)
    headings = {(block.document.stem, block.heading) for block in STORY}
    assert {*BEFORE, *AFTER} <= headings, "a heading changed"
    named = {name for d in RUNBOOKS.glob("*.md") for b in blocks(d) if b.how == "set" for name in b.variables}
    assert named == {"STACK", "STATE", "IMAGE", "TOKEN_FILE", "TARGET", "IDENTITY", "PUBLIC_KEY"}


def tree() -> Path:
    """Where the launcher is."""
    if not (FOLDER.parent / "dml").is_file():
        pytest.skip("this folder stands alone; the launcher belongs to the tree")
    return FOLDER.parent


def copy_of_this_folder(place: Path) -> Path:
    """What a checkout of this folder alone has, for an installation of the program."""
    checkout = place / "checkout"
    checkout.mkdir()
    for name in PROGRAM:
        if (FOLDER / name).is_dir():
            shutil.copytree(FOLDER / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(FOLDER / name, checkout / name)
    return checkout


def on_main(typist: Typist) -> str:
    """The list on the main branch."""
    return git(typist.folder / "hosting.git", "show", f"main:{LIST}")


# ---- what a person does besides typing, and what has to be true afterwards ------------------------------------------
def write_settings(typist: Typist, wanted: str) -> None:
    """Settings of this test's engine over those that the runbook wrote: names, ports, images."""
    file = typist.server.root / ".env"
    lines = file.read_text(encoding="utf-8").splitlines()
    for line in wanted.splitlines():
        name = line.partition("=")[0]
        lines = [kept for kept in lines if kept.partition("=")[0] != name] + [line]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def settings_are_written(typist: Typist, _: str) -> None:
    text = (typist.server.root / ".env").read_text(encoding="utf-8")
    assert f"\nDML_DOCKER_GID={os.stat('/var/run/docker.sock').st_gid}\n" in text
    write_settings(typist, typist.settings)


def the_way_in_is_printed(typist: Typist, printed: str) -> None:
    if "Ready: " in printed:
        assert typist.server.admin[1] in printed
        assert str(typist.server.port) in printed
    else:
        assert "daemon" in printed
    assert typist.server.locations() == {}


def people_can_sign_in(typist: Typist, printed: str) -> None:
    passwords = dict(re.findall(r"Password of (\w+): (\S+)", printed))
    assert {"vera", "adam"} <= set(passwords)
    wait(
        lambda: typist.server.query("{version}", user=("vera", passwords["vera"])),
        seconds=30,
        what="the new person is let in",
    )


def is_registered(typist: Typist, printed: str) -> None:
    def listed(root: Path) -> list[str]:
        entries = yaml.safe_load((root / "registry" / "code-locations.yaml").read_text(encoding="utf-8"))
        return [entry["name"] for entry in entries["code_locations"]]

    if "a pull request would contain" in printed:
        assert (listed(typist.person), listed(typist.server.root)) == (["orders"], [])
        merge(typist.person, "register orders")
    else:
        assert listed(typist.server.root) == ["orders"]
    assert not typist.server.location_ids("orders"), "a registration changes a file only"


def is_live(typist: Typist, _: str) -> None:
    assert typist.image() == typist.values["IMAGE"]
    code = "print(open('/run/secrets/shop_token').read())"
    assert docker("exec", typist.server.location("orders"), "python", "-c", code) == "first"


def release_two(typist: Typist) -> None:
    typist.seen["first"], typist.values["IMAGE"] = typist.values["IMAGE"], typist.release(2)


def two_is_live(typist: Typist, _: str) -> None:
    assert typist.image() == typist.values["IMAGE"]
    assert typist.values["IMAGE"] in on_main(typist)


def one_is_live(typist: Typist, _: str) -> None:
    assert typist.image() == typist.seen["first"]
    assert typist.seen["first"] in on_main(typist)


def new_token(typist: Typist) -> None:
    (typist.folder / "shop_token").write_text("second", encoding="utf-8")


def token_is_seen(typist: Typist, _: str) -> None:
    code = "print(open('/run/secrets/shop_token').read())"
    assert docker("exec", typist.server.location("orders"), "python", "-c", code) == "second"


def work_goes_on(typist: Typist, _: str) -> None:
    run_id = typist.server.batch()
    assert typist.server.wait_for_runs(run_id) == {run_id: "SUCCESS"}, typist.server.reason(run_id)


def key_is_made(typist: Typist, printed: str) -> None:
    typist.values["PUBLIC_KEY"] = key = re.findall(r"public key: (age1\w+)", printed)[0]
    write_settings(typist, f"DML_BACKUP_TARGET={typist.values['TARGET']}\nDML_BACKUP_RECIPIENT={key}\n")


def two_are_listed(typist: Typist, printed: str) -> None:
    assert len(re.findall(r"\d{8}T\d{6}Z .* complete$", printed, re.MULTILINE)) == 2, printed


def lose_the_server(typist: Typist) -> None:
    typist.seen["runs"] = {run["runId"]: run["status"] for run in typist.server.runs()}
    typist.seen["tables"] = typist.server.tables("orders")
    typist.server.dml("down", "--delete-data", "--yes")
    assert not docker("volume", "ls", "-q", f"--filter=name=^{typist.server.name}_postgres$")


def it_is_as_before(typist: Typist, _: str) -> None:
    wait(typist.image, seconds=180, what="the location is loaded")
    assert {run["runId"]: run["status"] for run in typist.server.runs()}.items() >= typist.seen["runs"].items()
    after = typist.server.tables("orders")
    for batch, rows in typist.seen["tables"]["orders.raw.till__orders"]["batches"].items():
        assert after["orders.raw.till__orders"]["batches"][batch] == rows
    work_goes_on(typist, "")


def it_is_gone(typist: Typist, _: str) -> None:
    assert "name: orders" not in on_main(typist)
    assert "orders" not in typist.server.locations()
    assert not typist.server.location_ids("orders")


def all_is_healthy(typist: Typist, _: str) -> None:
    for service in ("proxy", "webserver", "webserver-viewer", "daemon", "postgres", "object-store", "socket-proxy"):
        assert inspect(typist.server.service(service))["State"]["Running"], service
    two_is_live(typist, "")
    work_goes_on(typist, "")


def build_release_one(typist: Typist) -> None:
    typist.values["IMAGE"] = typist.release(1)


def let_its_runs_end(typist: Typist) -> None:
    typist.server.turn("orders", "every_minute", on=False)
    going = [run["runId"] for run in typist.server.runs() if run["status"] not in ENDED]
    if going:
        typist.server.wait_for_runs(*going)


BEFORE: dict[tuple[str, str], Callable[[Typist], None]] = {
    ("add-a-project", "Register it"): build_release_one,
    ("add-a-project", "Release again"): release_two,
    ("add-a-project", LAST): let_its_runs_end,
    ("rotate-a-secret", "A secret that a project brought"): new_token,
    ("back-up-and-restore", "Restore"): lose_the_server,
}
AFTER: dict[tuple[str, str], Callable[[Typist, str], None]] = {
    ("install", "Settings"): settings_are_written,
    ("install", "Start"): the_way_in_is_printed,
    ("install", "People"): people_can_sign_in,
    ("add-a-project", "Register it"): is_registered,
    ("add-a-project", "Bring it live"): is_live,
    ("add-a-project", "Release again"): two_is_live,
    ("roll-back", "To the image before"): one_is_live,
    ("roll-back", "To any image"): two_is_live,
    ("incidents", "The machine was rebooted, or is lost"): all_is_healthy,
    ("rotate-a-secret", "A project's credentials"): work_goes_on,
    ("rotate-a-secret", "Dagster's own"): work_goes_on,
    ("rotate-a-secret", "A secret that a project brought"): token_is_seen,
    ("back-up-and-restore", "The first time"): key_is_made,
    ("back-up-and-restore", "Every night"): two_are_listed,
    ("back-up-and-restore", "Restore"): it_is_as_before,
    ("upgrade", "After"): all_is_healthy,
    ("add-a-project", LAST): it_is_gone,
}
