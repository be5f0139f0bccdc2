"""The server's list and main's: real repositories, one of them bare; what is live is what the state folder says."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dml_infra import registry_edit, registry_sync
from dml_infra.backup.files import pack_state, unpack_state
from dml_infra.cli import app
from dml_infra.errors import CheckFailedError, ConfigError, RetryableError
from dml_infra.installation import Installation
from dml_infra.records import Record, add_record
from dml_infra.registry import load_registry
from dml_infra.registry_sync import sync
from dml_infra.render import Server
from dml_infra.workspace import ProjectState, forget_state, save_state

LIST = "registry/code-locations.yaml"


def image(name: str, letter: str) -> str:
    return f"registry.example.com/{name}@sha256:{letter * 64}"


def entry(name: str, letter: str = "a") -> dict[str, Any]:
    return {"name": name, "image": image(name, letter), "owner": f"team:{name}", "alerts": f"{name}@example.com"}


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def set_memory(project: str, memory: str) -> Callable[[Installation], None]:
    def change(installation: Installation) -> None:
        file = installation.registry_file
        before, found, after = file.read_text().partition(f"name: {project}\n")
        assert found
        after = re.sub(r"\A    memory: .*\n", "", after)
        file.write_text(f"{before}{found}    memory: {memory}\n{after}")

    return change


@dataclass
class World:
    """The server's clone, the repository at the hosting, and a person's clone."""

    server: Installation
    hosting: Path
    person: Installation

    def main(self) -> str:
        return git(self.hosting, "show", f"main:{LIST}")

    def log(self) -> list[str]:
        return git(self.hosting, "log", "--format=%s", "main").splitlines()

    def images(self) -> dict[str, str]:
        """By the server's file."""
        return {location.name: location.image[-1] for location in load_registry(self.server)}

    def goes_live(self, name: str, letter: str) -> None:
        """What a deploy leaves behind."""
        address = image(name, letter)
        save_state(self.server, ProjectState(name, live=Server(letter * 12, f"dml-{name}", address, {}, {})))
        add_record(self.server, Record("deploy", "ada", name, None, address, 1.0, "live"))
        registry_edit.set_image(self.server, name, address)

    def ends(self, name: str) -> None:
        """What `dml infra remove` leaves behind."""
        forget_state(self.server, name)
        add_record(self.server, Record("remove", "ada", name, None, None, 1.0, "removed"))
        registry_edit.unregister(self.server, name)

    def merge(self, change: Callable[[Installation], object], message: str = "reviewed") -> None:
        """A pull request that somebody merges."""
        for _ in range(20):
            git(self.person.root, "fetch", "--quiet")
            git(self.person.root, "reset", "--quiet", "--hard", "origin/main")
            change(self.person)
            git(self.person.root, "commit", "--quiet", "--all", "--message", message)
            pushed = subprocess.run(
                ["git", "push", "--quiet", "origin", "HEAD:main"], cwd=self.person.root, check=False
            )
            if pushed.returncode == 0:
                return
        pytest.fail("the server was faster 20 times")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Release v1 lists `orders` and `sales`; main goes on; the server stays on v1, with both live."""
    hosting = tmp_path / "hosting"
    hosting.mkdir()
    git(hosting, "init", "--quiet", "--bare", "--initial-branch=main")
    places = {}
    for who in ("person", "server"):
        git(tmp_path, "clone", "--quiet", str(hosting), who)
        root = tmp_path / who
        git(root, "config", "user.name", who)
        git(root, "config", "user.email", f"{who}@example.com")
        env = {"DML_POSTGRES_MAX_CONNECTIONS": "300", "DML_POSTGRES_MEMORY": "2g", "DML_WEBSERVER_MEMORY": "1g"}
        places[who] = Installation(root=root, env=env, state=tmp_path / f"{who}-state", stack="dml")
        if who == "person":
            (root / "registry").mkdir()
            (root / LIST).write_text("# The list.\ncode_locations: []\n")
            (root / "compose.yaml").write_text("services: {}  # released\n")
            (root / ".gitignore").write_text("registry/.*\n")
            registry_edit.register(places[who], entry("orders"))
            registry_edit.register(places[who], entry("sales"))
            git(root, "add", "--all")
            git(root, "commit", "--quiet", "--message", "first")
            git(root, "tag", "v1")
            git(root, "push", "--quiet", "--tags", "origin", "HEAD:main")
    made = World(places["server"], hosting, places["person"])
    git(made.server.root, "switch", "--quiet", "--detach", "v1")
    made.merge(lambda person: (person.root / "compose.yaml").write_text("services: {}  # not released\n"))
    made.goes_live("orders", "a")
    made.goes_live("sales", "a")
    sync(made.server)
    return made


def test_a_deploy_reaches_main_and_the_server_stays_on_its_release(world: World) -> None:
    world.goes_live("orders", "b")

    done = sync(world.server)

    assert done.sent == (f"deploy(orders): sha256:{'b' * 64}",)
    assert world.log()[0] == done.sent[0]
    assert git(world.hosting, "diff", "--name-only", "main~", "main") == LIST
    assert world.main() == world.server.registry_file.read_text().strip()
    assert git(world.server.root, "rev-parse", "HEAD") == git(world.server.root, "rev-parse", "v1")
    assert git(world.server.root, "status", "--porcelain") == f"M {LIST}"
    assert "# released" in (world.server.root / "compose.yaml").read_text()
    assert sync(world.server).differs is False


def test_it_matters_not_which_branch_is_checked_out(world: World) -> None:
    git(world.server.root, "switch", "--quiet", "--create", "add-orders")
    world.goes_live("sales", "b")
    sync(world.server)
    assert image("sales", "b") in world.main()
    assert git(world.hosting, "branch", "--list").split() == ["*", "main"]


def test_a_merged_change_comes_to_the_server_with_the_images_that_are_live(world: World) -> None:
    world.goes_live("orders", "b")
    world.merge(set_memory("orders", "1g"))
    world.merge(lambda person: registry_edit.register(person, entry("shop")))

    done = sync(world.server)

    assert "+    memory: 1g" in done.brought
    assert world.images() == {"orders": "b", "sales": "a", "shop": "a"}
    assert load_registry(world.server)[0].memory == "1g"
    assert world.main() == world.server.registry_file.read_text().strip()


def test_an_image_of_a_merged_change_waits_for_its_deploy(world: World) -> None:
    world.merge(lambda person: registry_edit.set_image(person, "orders", image("orders", "c")))
    assert sync(world.server).sent == ()
    assert world.images()["orders"] == "c"
    world.goes_live("sales", "b")  # a deploy of another project does not take the wish away
    sync(world.server)
    assert world.images() == {"orders": "c", "sales": "b"}
    world.goes_live("orders", "c")
    assert sync(world.server).differs is False
    assert image("orders", "c") in world.main()


def test_a_roll_back_by_hand_wins_over_an_earlier_wish(world: World) -> None:
    world.goes_live("orders", "b")
    world.merge(lambda person: registry_edit.set_image(person, "orders", image("orders", "c")))
    sync(world.server)
    assert image("orders", "b") in world.main()
    world.goes_live("orders", "a")
    sync(world.server)
    assert image("orders", "a") in world.main()


def test_a_project_that_was_ended_leaves_main_and_can_come_again(world: World) -> None:
    world.ends("orders")
    assert sync(world.server).sent == ("remove(orders)",)
    assert "orders" not in world.main()
    assert world.images() == {"sales": "a"}

    world.merge(lambda person: registry_edit.register(person, entry("orders")))
    assert sync(world.server).sent == ()
    assert world.images() == {"sales": "a", "orders": "a"}


def test_several_changes_are_one_commit(world: World) -> None:
    world.goes_live("sales", "b")
    world.ends("orders")
    sync(world.server)
    assert world.log()[0] == "registry: deploy(sales), remove(orders)"
    assert f"deploy(sales): sha256:{'b' * 64}\nremove(orders)" in git(world.hosting, "log", "-1", "--format=%b", "main")


def test_an_upgrade_carries_todays_list_over(world: World) -> None:
    """What upgrade.md types; v2's own list is older than what was deployed and ended since."""
    world.merge(lambda person: (person.root / "compose.yaml").write_text("services: {}  # two\n"))
    git(world.person.root, "tag", "v2")
    git(world.person.root, "push", "--quiet", "--tags", "origin")
    world.goes_live("sales", "d")
    world.ends("orders")

    sync(world.server)
    git(world.server.root, "fetch", "--quiet", "--tags")
    git(world.server.root, "restore", "registry")
    git(world.server.root, "switch", "--quiet", "--detach", "v2")
    assert world.images() == {"orders": "a", "sales": "a"}, "the release's own list is the old one, or this is no test"
    done = sync(world.server)

    assert done.sent == ()
    assert world.images() == {"sales": "d"}
    assert "# two" in (world.server.root / "compose.yaml").read_text()


def test_a_deploy_in_the_middle_of_an_upgrade_does_not_bring_the_old_list_to_main(world: World) -> None:
    world.goes_live("sales", "d")
    world.merge(lambda person: registry_edit.register(person, entry("shop")))
    sync(world.server)
    git(world.server.root, "restore", "registry")
    world.goes_live("orders", "e")

    sync(world.server)

    assert world.images() == {"orders": "e", "sales": "d", "shop": "a"}
    assert world.main() == world.server.registry_file.read_text().strip()


def test_a_restored_server_takes_what_main_has_since_the_backup(world: World) -> None:
    packed = pack_state(world.server)
    world.goes_live("sales", "d")
    sync(world.server)
    unpack_state(world.server, packed)

    assert sync(world.server).sent == ()
    assert world.images() == {"orders": "a", "sales": "d"}, "a deploy of all then brings it"


def test_a_server_that_never_told_main_anything_tells_all(world: World) -> None:
    (world.server.state / "told.json").unlink()
    world.goes_live("sales", "b")
    world.ends("orders")
    assert sync(world.server).sent == (f"deploy(sales): sha256:{'b' * 64}", "remove(orders)")
    assert world.images() == {"sales": "b"}


def test_a_commit_that_was_faster_is_taken_along(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    push = registry_sync._Branch.push

    def late(self: Any, *arguments: Any) -> bool:
        if "faster" not in world.log():
            world.merge(set_memory("sales", "1g"), "faster")
        return push(self, *arguments)

    monkeypatch.setattr(registry_sync._Branch, "push", late)
    world.goes_live("orders", "b")
    sync(world.server)
    assert world.log()[:2] == [f"deploy(orders): sha256:{'b' * 64}", "faster"]
    assert load_registry(world.server)[1].memory == "1g"


def test_two_projects_at_the_same_time_and_people_at_work(world: World) -> None:
    def deploys(name: str) -> None:
        for letter in "bcd":
            world.goes_live(name, letter)
            sync(world.server)

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(deploys, name) for name in ("orders", "sales")]
        for memory in ("1g", "2g", "3g"):
            world.merge(set_memory("orders", memory), memory)
        for work in working:
            work.result()
    sync(world.server)
    assert world.images() == {"orders": "d", "sales": "d"}
    assert load_registry(world.server)[0].memory == "3g"
    assert {"1g", "2g", "3g"} <= set(world.log())
    assert world.main() == world.server.registry_file.read_text().strip()


def test_what_main_does_not_list_stays_and_is_told(world: World) -> None:
    registry_edit.register(world.server, entry("shop"))
    assert sync(world.server).unlisted == {"shop": False}
    world.goes_live("shop", "b")
    assert sync(world.server).unlisted == {"shop": True}
    assert world.images()["shop"] == "b"
    assert "shop" not in world.main()

    world.merge(lambda person: registry_edit.register(person, entry("shop")))
    assert sync(world.server).sent == (f"deploy(shop): sha256:{'b' * 64}",)


def test_a_list_of_main_that_is_wrong_changes_nothing(world: World) -> None:
    world.merge(lambda person: person.registry_file.write_text(person.registry_file.read_text() + "    memroy: 1g\n"))
    world.goes_live("orders", "b")
    before = world.server.registry_file.read_text(), world.log()
    with pytest.raises(ConfigError, match=f"cannot use origin/main:{LIST}: 1 mistake\n .*memroy"):
        sync(world.server)
    assert (world.server.registry_file.read_text(), world.log()) == before


def test_a_push_that_is_refused_is_told_and_made_up_for_later(world: World) -> None:
    hook = world.hosting / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho main is protected >&2\nexit 1\n")
    hook.chmod(0o755)
    world.goes_live("orders", "b")
    with pytest.raises(ConfigError, match="main is protected") as raised:
        sync(world.server)
    assert "docs/runbooks/runner.md" in raised.value.fix
    assert world.images()["orders"] == "b"
    hook.unlink()
    assert sync(world.server).sent == (f"deploy(orders): sha256:{'b' * 64}",)


def test_a_folder_that_is_no_clone_or_has_no_author_or_remote_is_told(
    world: World, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="this is no clone of its repository"):
        sync(installation)
    world.goes_live("orders", "b")
    git(world.server.root, "config", "user.name", "")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    with pytest.raises(ConfigError, match="empty ident name") as raised:
        sync(world.server)
    assert "an author for its commits" in raised.value.fix
    world.hosting.rename(world.hosting.with_name("elsewhere"))
    with pytest.raises(RetryableError, match="cannot fetch origin/main"):
        sync(world.server)


# ---- as it is typed -------------------------------------------------------------------------------------------------
def typed(world: World, *arguments: str) -> tuple[int, str]:
    root = world.server.root
    settings = {**world.server.env, "DML_STATE": str(world.server.state), "DML_STACK": "dml"}
    (root / ".env.example").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    done = CliRunner().invoke(app, ["--root", str(root), "sync", *arguments])
    if isinstance(done.exception, CheckFailedError):
        return done.exception.exit_code, f"{done.output}{done.exception}"
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_the_command_says_what_it_did(world: World) -> None:
    world.goes_live("orders", "b")
    world.merge(set_memory("sales", "1g"))
    code, printed = typed(world, "orders")
    assert code == 0
    assert f"main now has: deploy(orders): sha256:{'b' * 64}" in printed
    assert "+    memory: 1g" in printed
    assert typed(world) == (0, "the list is main's\n")


def test_a_check_changes_nothing(world: World) -> None:
    assert typed(world, "--check")[0] == 0
    world.goes_live("orders", "b")
    world.merge(set_memory("sales", "1g"))
    before = (
        world.server.registry_file.read_text(),
        world.log(),
        json.loads((world.server.state / "told.json").read_text()),
    )
    code, printed = typed(world, "--check")
    assert code == 3
    assert f"main does not have: deploy(orders): sha256:{'b' * 64}" in printed
    assert "+    memory: 1g" in printed
    assert "Bring them together: dml infra sync." in printed
    after = (
        world.server.registry_file.read_text(),
        world.log(),
        json.loads((world.server.state / "told.json").read_text()),
    )
    assert after == before


def test_a_project_that_main_does_not_list_fails_its_own_job_and_no_others(world: World) -> None:
    registry_edit.register(world.server, entry("shop"))
    world.goes_live("shop", "b")
    code, printed = typed(world, "shop")
    assert code == 3
    assert "main does not list 'shop'" in printed
    world.goes_live("orders", "b")
    code, printed = typed(world, "orders")
    assert code == 0
    assert "shop is live and not on main's list: merge the pull request that adds it, or end it" in printed
