"""The Portainer driver against a stand-in that behaves as Portainer does, and against a real one where there is one.

`PORTAINER_TEST_URL` and `PORTAINER_TEST_API_KEY_FILE` point the behaviours at a real Portainer (its environment:
`PORTAINER_TEST_ENVIRONMENT`, default ``local``; an image that can `sleep`: `PORTAINER_TEST_IMAGE`).
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from fakes.portainer import ACTIVE, DEPLOYING, FAILED, FakePortainer
from stack.engine import ENGINE_LOCK, PYTHON_STANDIN

from dml_infra.drivers import get_driver
from dml_infra.drivers.portainer import PortainerDriver
from dml_infra.errors import CheckFailedError, ConfigError, PermanentError, RetryableError
from dml_infra.installation import Installation

STACK = "dmltest-portainer"
NEEDED = ("PORTAINER_TEST_URL", "PORTAINER_TEST_API_KEY_FILE")


def compose_text(*services: str, image: str = "image") -> str:
    command = ["sleep", "600"]
    service = {"image": image, "command": command, "init": True, "environment": {"COLOUR": "${COLOUR:-none}"}}
    # As JSON, which is YAML: no anchors.
    return json.dumps({"services": dict.fromkeys(services, service)}, indent=1)


@dataclass(frozen=True)
class Backend:
    """A Portainer to test with."""

    installation: Installation
    fake: FakePortainer | None
    image: str
    has_engine: bool

    def driver(self, **options: Any) -> PortainerDriver:
        return PortainerDriver(self.installation, **{"deadline_s": 60.0, "poll_s": 0.02, **options})

    def text(self, *services: str) -> str:
        return compose_text(*services, image=self.image)

    def with_env(self, **env: str) -> Backend:
        return replace(self, installation=replace(self.installation, env={**self.installation.env, **env}))


def installation_at(folder: Path, url: str, environment: str, key: str) -> Installation:
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "portainer_api_key").write_text(key + "\n", encoding="utf-8")
    env = {"DML_PORTAINER_URL": url, "DML_PORTAINER_ENVIRONMENT": environment, "DML_DRIVER": "portainer"}
    return Installation(root=folder, env=env, state=folder, stack="dmltest")


def _engine_missing() -> str:
    if not shutil.which("docker"):
        return "there is no program 'docker'"
    if subprocess.run(["docker", "image", "inspect", PYTHON_STANDIN], capture_output=True, check=False).returncode:
        return f"the engine is not reached, or has no image {PYTHON_STANDIN}"
    return ""


@pytest.fixture(
    params=[
        "state",
        "state-synchronous",
        pytest.param("docker", marks=pytest.mark.integration),
        pytest.param("real", marks=pytest.mark.integration),
    ]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "real":
        if missing := [name for name in NEEDED if not os.environ.get(name)]:
            pytest.skip(f"no real Portainer: {' and '.join(missing)} not set")
        key = Path(os.environ["PORTAINER_TEST_API_KEY_FILE"]).read_text(encoding="utf-8").strip()
        environment = os.environ.get("PORTAINER_TEST_ENVIRONMENT", "local")
        installation = installation_at(tmp_path, os.environ["PORTAINER_TEST_URL"], environment, key)
        image = os.environ.get("PORTAINER_TEST_IMAGE", "busybox:1.37")
        found = Backend(installation, None, image, has_engine=True)
        yield found
        found.driver().remove(STACK)
        return
    if request.param == "docker":
        with ENGINE_LOCK:  # the server's tests may go on beside these, and stop it
            if reason := _engine_missing():
                pytest.skip(f"no engine: {reason}")
            yield from make_fake(tmp_path, engine=True, asynchronous=True)
        return
    yield from make_fake(tmp_path, asynchronous=request.param != "state-synchronous")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Backend]:
    """The stand-in without an engine, with its switches."""
    yield from make_fake(tmp_path)


def make_fake(folder: Path, **switches: Any) -> Iterator[Backend]:
    portainer = FakePortainer(folder / "portainer", **switches)
    installation = installation_at(folder, portainer.url, "local", portainer.key)
    found = Backend(installation, portainer, PYTHON_STANDIN, has_engine=portainer.engine)
    try:
        yield found
    finally:
        if portainer.engine:
            found.driver().remove(STACK)
        portainer.close()
    assert portainer.broken == []


def test_apply_creates_a_stack_and_updates_it(backend: Backend) -> None:
    driver = backend.driver()
    assert not driver.status(STACK).exists
    driver.apply(STACK, backend.text("code-a"), {"COLOUR": "red"})
    assert driver.status(STACK).active
    assert dict(driver.status(STACK).services) == {"code-a": "running"}
    driver.apply(STACK, backend.text("code-a", "code-b"), {"COLOUR": "red"})
    assert dict(driver.status(STACK).services) == {"code-a": "running", "code-b": "running"}
    driver.apply(STACK, backend.text("code-b"), {"COLOUR": "red"})
    assert dict(driver.status(STACK).services) == {"code-b": "running"}


def test_an_unchanged_service_keeps_its_container_and_gets_its_variables(backend: Backend) -> None:
    if not backend.fake or not backend.has_engine:
        pytest.skip("needs this host's engine")
    driver = backend.driver()
    driver.apply(STACK, backend.text("code-a"), {"COLOUR": "red"})
    before = container(f"{STACK}-code-a-1")
    driver.apply(STACK, backend.text("code-a", "code-b"), {"COLOUR": "red"})
    after = container(f"{STACK}-code-a-1")
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    assert "COLOUR=red" in after["Config"]["Env"]
    assert "COLOUR=red" in container(f"{STACK}-code-b-1")["Config"]["Env"]


def container(name: str) -> dict[str, Any]:
    shown = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(shown)[0])


def test_remove_takes_the_stack_away_and_does_nothing_when_it_is_gone(backend: Backend) -> None:
    driver = backend.driver()
    driver.apply(STACK, backend.text("code-a"), {})
    driver.remove(STACK)
    assert not driver.status(STACK).exists
    driver.remove(STACK)


def test_a_failed_deployment_is_told_in_the_words_of_compose_and_repaired_by_the_next(backend: Backend) -> None:
    driver = backend.driver()
    driver.apply(STACK, backend.text("code-a"), {})
    if backend.fake and not backend.has_engine:
        backend.fake.fail_with = "failed to deploy a stack: No such image: no-such-image:1"
    with pytest.raises(PermanentError, match=r"(?s)cannot deploy stack|failed.*no-such-image") as caught:
        driver.apply(STACK, compose_text("code-a", image="no-such-image:1"), {})
    assert "no-such-image" in str(caught.value)
    if backend.fake and backend.fake.asynchronous:
        assert "no-such-image" in driver.status(STACK).error
        assert not driver.status(STACK).active
    driver.apply(STACK, backend.text("code-a"), {})
    assert driver.status(STACK).active


def test_an_unknown_environment_is_named_with_those_that_exist(backend: Backend) -> None:
    lost = backend.with_env(DML_PORTAINER_ENVIRONMENT="elsewhere")
    with pytest.raises(ConfigError, match=r"no environment 'elsewhere'; this key sees: .*\(\d+\)"):
        lost.driver().apply(STACK, backend.text("code-a"), {})


def test_a_refused_key_is_told_and_never_shown(backend: Backend) -> None:
    key_file = backend.installation.secrets / "portainer_api_key"
    right = key_file.read_text(encoding="utf-8")
    key_file.write_text("ptr_expired", encoding="utf-8")
    try:
        with pytest.raises(ConfigError, match="API key was refused") as caught:
            backend.driver().apply(STACK, backend.text("code-a"), {})
    finally:
        key_file.write_text(right, encoding="utf-8")
    assert str(key_file) in caught.value.fix
    assert "ptr_" not in str(caught.value)


def test_an_environment_may_be_given_by_its_number(fake: Backend) -> None:
    assert fake.fake
    fake.with_env(DML_PORTAINER_ENVIRONMENT="7").driver().apply(STACK, fake.text("code-a"), {})
    assert next(iter(fake.fake.stacks.values()))["EndpointId"] == 7


def test_the_registry_s_driver_setting_finds_it(fake: Backend) -> None:
    assert isinstance(get_driver(fake.installation), PortainerDriver)


def test_portainer_keeps_exactly_the_text_that_was_given(fake: Backend) -> None:
    assert fake.fake
    text = "# made by hand\n" + fake.text("code-a") + "\n\n"
    fake.driver().apply(STACK, text, {})
    assert fake.fake.files == {1: text}


def test_all_variables_are_sent_each_time(fake: Backend) -> None:
    assert fake.fake
    fake.driver().apply(STACK, fake.text("code-a"), {"COLOUR": "red", "SIZE": "1"})
    fake.driver().apply(STACK, fake.text("code-a"), {"COLOUR": "blue", "SIZE": "1"})
    assert fake.fake.stacks[1]["Env"] == [{"name": "COLOUR", "value": "blue"}, {"name": "SIZE", "value": "1"}]
    fake.driver().apply(STACK, fake.text("code-a"), {})
    assert fake.fake.exchanges[-3].operation == "PUT /stacks/{id}"
    assert fake.fake.exchanges[-3].body["Env"] == []


def test_the_stand_in_wipes_variables_that_an_update_leaves_out(fake: Backend) -> None:
    assert fake.fake
    fake.driver().apply(STACK, fake.text("code-a"), {"COLOUR": "red"})
    answer = requests.put(
        f"{fake.fake.url}/api/stacks/1",
        params={"endpointId": 2},
        json={"StackFileContent": fake.text("code-a")},
        headers={"X-API-Key": fake.fake.key},
        timeout=5,
    )
    assert answer.json()["Env"] is None


def test_a_container_that_serves_is_never_made_anew_and_dropped_services_go(fake: Backend) -> None:
    assert fake.fake
    fake.driver().apply(STACK, fake.text("code-a"), {})
    fake.driver().apply(STACK, fake.text("code-b"), {})
    update = next(e for e in fake.fake.exchanges if e.operation == "PUT /stacks/{id}")
    assert update.body["Prune"] is True
    assert update.body["RepullImageAndRedeploy"] is False


def test_apply_returns_only_when_the_deployment_has_ended(fake: Backend) -> None:
    portainer = fake.fake
    assert portainer
    seen: list[int] = []

    def release_at_third_look(operation: str) -> None:
        if operation == "GET /stacks/{id}":
            seen.append(portainer.stacks[1]["Status"])
            if len(seen) == 3:
                portainer.deploy_now.set()

    portainer.on_call = release_at_third_look
    portainer.deploy_now.clear()
    fake.driver().apply(STACK, fake.text("code-a"), {})
    assert seen[:3] == [DEPLOYING] * 3
    assert portainer.stacks[1]["Status"] == ACTIVE


def test_apply_waits_while_another_deployment_is_under_way(fake: Backend) -> None:
    portainer = fake.fake
    assert portainer
    fake.driver().apply(STACK, fake.text("code-a"), {})
    portainer.deploy_now.clear()
    other = threading.Thread(target=fake.driver().apply, args=(STACK, fake.text("code-a", "code-b"), {}))
    refused = threading.Event()
    puts = []

    def watch(operation: str) -> None:
        if operation == "PUT /stacks/{id}":
            puts.append(operation)
        if len(puts) == 2 and operation == "GET /stacks/{id}":
            refused.set()
            portainer.deploy_now.set()

    portainer.on_call = watch
    other.start()
    wait_until(lambda: portainer.stacks[1]["Status"] == DEPLOYING)
    # It ends by another's text or this one's, whichever is later: here this one is.
    try:
        fake.driver().apply(STACK, fake.text("code-c"), {})
    finally:
        portainer.deploy_now.set()
        other.join()
    assert refused.is_set()
    assert [e.status for e in portainer.exchanges if e.operation == "PUT /stacks/{id}"].count(409) >= 1
    assert dict(fake.driver().status(STACK).services) == {"code-c": "running"}


def wait_until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    tick = threading.Event()
    for _ in range(int(deadline_s / 0.02)):
        if condition():
            return
        tick.wait(0.02)
    raise AssertionError("the deadline passed")


def test_apply_gives_up_at_the_deadline_and_says_why(fake: Backend) -> None:
    assert fake.fake
    fake.driver().apply(STACK, fake.text("code-a"), {})
    fake.fake.stacks[1]["Status"] = DEPLOYING
    with pytest.raises(RetryableError, match=r"already in progress after 0\.2 s"):
        fake.driver(deadline_s=0.2).apply(STACK, fake.text("code-a"), {})


def test_a_deployment_that_never_ends_is_given_up(fake: Backend) -> None:
    assert fake.fake
    fake.fake.deploy_now.clear()
    with pytest.raises(RetryableError, match=r"still deploying it after 0\.2 s"):
        fake.driver(deadline_s=0.2).apply(STACK, fake.text("code-a"), {})
    fake.fake.deploy_now.set()


def test_containers_that_portainer_did_not_make_are_not_taken_over(fake: Backend) -> None:
    assert fake.fake
    fake.fake.foreign_projects.add(STACK)
    with pytest.raises(ConfigError, match="were not made by Portainer"):
        fake.driver().apply(STACK, fake.text("code-a"), {})


@pytest.mark.parametrize(
    ("change", "words"),
    [({"GitConfig": {"URL": "https://example.org/x"}}, "git repository"), ({"Type": 1}, "no Compose stack")],
)
def test_a_stack_of_another_kind_is_left_alone(fake: Backend, change: Mapping[str, Any], words: str) -> None:
    assert fake.fake
    fake.driver().apply(STACK, fake.text("code-a"), {})
    fake.fake.stacks[1].update(change)
    for attempt in (lambda: fake.driver().apply(STACK, "x", {}), lambda: fake.driver().remove(STACK)):
        with pytest.raises(ConfigError, match=words):
            attempt()
    assert "PUT /stacks/{id}" not in fake.fake.operations()


def test_a_text_that_somebody_changed_meanwhile_is_noticed(fake: Backend) -> None:
    portainer = fake.fake
    assert portainer

    def meddle(operation: str) -> None:
        if operation == "GET /stacks/{id}/file":
            portainer.files[1] = "services: {}\n"

    portainer.on_call = meddle
    with pytest.raises(CheckFailedError, match="somebody changed it meanwhile"):
        fake.driver().apply(STACK, fake.text("code-a"), {})


def test_a_stack_that_failed_before_is_shown_as_failed(fake: Backend) -> None:
    assert fake.fake
    fake.fake.fail_with = "network dmltest_project_sales not found"
    with pytest.raises(PermanentError, match="network dmltest_project_sales not found"):
        fake.driver().apply(STACK, fake.text("code-a"), {})
    assert fake.fake.stacks[1]["Status"] == FAILED
    assert fake.driver().status(STACK).error == "network dmltest_project_sales not found"


def test_an_address_where_nothing_listens_is_told(fake: Backend) -> None:
    gone = fake.with_env(DML_PORTAINER_URL="http://127.0.0.1:9")
    with pytest.raises(RetryableError, match=r"(?s)cannot reach it .*Check DML_PORTAINER_URL"):
        gone.driver().status(STACK)


@pytest.mark.parametrize(
    ("status", "headers", "content", "words"),
    [
        (302, {"Location": "https://login.example.org/"}, b"", "redirects to https://login"),
        (200, {"Content-Type": "text/html"}, b"<html>sign in</html>", "'text/html' instead of JSON"),
        (502, {"Content-Type": "text/html"}, b"<html>bad gateway</html>", "HTTP 502 without an explanation"),
        (403, {"Content-Type": "application/json"}, b'{"message": "Access denied"}', "may not do this"),
    ],
)
def test_an_answer_that_is_not_portainer_s_is_told(
    fake: Backend, status: int, headers: Mapping[str, str], content: bytes, words: str
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        wrong = fake.with_env(DML_PORTAINER_URL=f"http://127.0.0.1:{server.server_address[1]}")
        try:
            with pytest.raises((ConfigError, RetryableError), match=words):
                wrong.driver().status(STACK)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", ["DML_PORTAINER_URL", "DML_PORTAINER_ENVIRONMENT"])
def test_a_missing_setting_is_named(fake: Backend, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is not set"):
        fake.with_env(**{name: ""}).driver()


@pytest.mark.parametrize("content", ["", "two words", "ptr_ü"])
def test_a_key_file_without_one_key_is_refused(fake: Backend, content: str) -> None:
    (fake.installation.secrets / "portainer_api_key").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="does not hold one key"):
        fake.driver().status(STACK)
