"""What is kept of deploys: the state of a project, the folder that Dagster reads, the records."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
import yaml

from dml_infra.errors import ConfigError, RetryableError
from dml_infra.installation import Installation
from dml_infra.records import Record, add_record, read_records, records_file
from dml_infra.registry import CodeLocation
from dml_infra.render import Server, plan_server
from dml_infra.workspace import (
    ProjectState,
    forget_state,
    load_routes,
    load_state,
    project_lock,
    save_state,
    write_workspace,
)

IMAGES = [f"registry.example.com/project-sales@sha256:{digit * 64}" for digit in "abcdef0123456"]


def server(installation: Installation, image: str = IMAGES[0]) -> Server:
    return plan_server(installation, CodeLocation(name="sales", image=image, owner="team:sales", alerts="#sales"))


def routed_host(installation: Installation) -> list[str]:
    document = yaml.safe_load((installation.state / "workspace" / "workspace.yaml").read_text())
    return [entry["grpc_server"]["host"] for entry in document["load_from"]]


def test_state_is_read_as_it_was_written(installation: Installation) -> None:
    state = ProjectState("sales", live=server(installation), phase="retiring", previous=(IMAGES[1],))
    save_state(installation, state)
    assert load_state(installation, "sales") == state
    forget_state(installation, "sales")
    assert load_state(installation, "sales") == ProjectState("sales")


def test_damaged_state_is_told_with_its_file(installation: Installation) -> None:
    save_state(installation, ProjectState("sales"))
    (installation.state / "projects" / "sales.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot read .*sales\.json"):
        load_state(installation, "sales")


def test_workspace_names_the_new_server_only_while_it_is_switched_to(installation: Installation) -> None:
    old, new = server(installation), server(installation, IMAGES[1])
    state = ProjectState("sales", live=old, next=new, phase="starting")
    for phase, expected in (("starting", old), ("switched", new), ("starting", old)):
        save_state(installation, replace(state, phase=phase))  # type: ignore[arg-type]
        write_workspace(installation)
        assert routed_host(installation) == [expected.host]
    save_state(installation, replace(state, phase="removing"))
    write_workspace(installation)
    assert routed_host(installation) == []


def test_images_before_are_kept_newest_first_without_the_present_one(installation: Installation) -> None:
    state = ProjectState("sales")
    for image in (*IMAGES, IMAGES[0]):
        state = replace(state.with_live(server(installation, image)), retiring=None, phase="idle")
    assert state.live is not None
    assert state.live.image == IMAGES[0]
    assert state.previous == tuple(reversed(IMAGES[3:]))
    save_state(installation, state)
    assert load_routes(installation).previous["sales"] == state.previous


def test_lock_names_who_is_deploying(installation: Installation) -> None:
    refused: list[RetryableError] = []

    def second() -> None:
        try:
            with project_lock(installation, "sales"):
                pass
        except RetryableError as error:
            refused.append(error)

    with project_lock(installation, "sales"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(10)
    assert "is deploying it now" in str(refused[0])
    assert "process" in str(refused[0])
    with project_lock(installation, "sales"):
        pass


def test_records_are_one_line_each_and_survive_a_cut_one(installation: Installation) -> None:
    first = Record("deploy", "ada", "sales", None, IMAGES[0], 12.3, "live")
    second = Record("deploy", "bob", "sales", IMAGES[0], IMAGES[1], 8.0, "rolled back", "line\nline")
    add_record(installation, first)
    with records_file(installation).open("a") as file:
        file.write('{"when": "2026-\n')
    add_record(installation, second)
    assert read_records(installation) == [first, second]
    assert read_records(installation, "people") == []
    line = json.loads(records_file(installation).read_text().splitlines()[0])
    assert list(line) == ["when", "what", "who", "project", "seconds", "outcome", "error", "from", "to"]
