"""The images: what every Dockerfile must and must not say, and both built and run for real.

The text is checked always, each rule proved by a planted fault. Building needs a Docker engine (25 or newer,
with buildx) and a Python image to start from, which TEST_PYTHON_IMAGE names; see platform-base-image/docs/image.md.
TEST_CATALOG_IMAGE names an image of project-sales that has the publisher to OpenMetadata; TEST_BASE_IMAGE and
TEST_SALES_IMAGE name images that the session `image` made.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import index
import pytest

ROOT = Path(__file__).parent.parent
BASE, SALES = ROOT / "platform-base-image" / "Dockerfile", ROOT / "project-sales" / "docker" / "Dockerfile"
DAGSTER = ROOT / "platform-infra" / "images" / "dagster" / "Dockerfile"
DOCKERFILES = sorted([*ROOT.glob("*/Dockerfile"), *ROOT.glob("*/docker/Dockerfile")])
LABELS = ["title", "description", "licenses", "source", "version", "revision", "created"]
REVISION = "0123abcd" * 5

Instruction = tuple[str, str]


def read_instructions(text: str) -> list[Instruction]:
    """Each instruction in capitals with its arguments on one line; comments are left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    words = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [(name.upper(), rest.strip()) for name, _, rest in words]


def find_faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile."""
    found = read_instructions(text)
    return [*_sources(text, found), *_user(found), *_installs(found), *_labels(found), *_service(found)]


def _sources(text: str, found: list[Instruction]) -> Iterator[str]:
    if re.match(r"\s*#\s*syntax\s*=", text):
        yield "a syntax line pulls an image that a closed network does not have"
    if "://" in text:
        yield "an address; a mirror comes in as an argument or a secret"
    defaults = dict(arguments.split("=", 1) for name, arguments in found if name == "ARG" and "=" in arguments)
    for name, arguments in found:
        if name == "FROM" and arguments.split()[0] != "scratch":  # which is empty, and pulled from nowhere
            variable = re.match(r"\$\{(\w+)\}", arguments)
            if variable is None:
                yield f"FROM {arguments}: is no argument, so a mirror cannot replace it"
            elif not re.search(r":v?\d+\.\d+\.\d+", defaults.get(variable[1], "")):
                yield f"FROM {arguments}: its default {defaults.get(variable[1])!r} is no exact version"
        elif name == "ADD":
            yield "ADD; use COPY"
        elif name == "COPY" and re.search(r"(^|\s)\.\s+\S+$", arguments):
            yield f"COPY {arguments}: takes whatever lies there"
        elif name in ("ARG", "ENV") and re.search(r"(PASSWORD|TOKEN|SECRET|CREDENTIAL|INDEX)\w*=?", arguments):
            yield f"{name} {arguments.split('=')[0]}: stays in the image's history; use a secret mount"


def _user(found: list[Instruction]) -> Iterator[str]:
    start = max(i for i, (name, _) in enumerate(found) if name == "FROM")
    users = [arguments for name, arguments in found[start:] if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        yield f"runs as {users[-1] if users else 'root'!r}, not as a fixed number that is not root"


def _installs(found: list[Instruction]) -> Iterator[str]:
    for name, arguments in found:
        if name != "RUN":
            continue
        if re.search(r"\b(curl|wget|apt-get|git clone)\b", arguments):
            yield f"RUN {arguments[:40]}: downloads something that is not locked"
        for install in re.findall(r"pip (?:install|sync)[^;&|]*", arguments):
            if "--network=none" not in arguments and "--require-hashes" not in install:
                yield f"{install.strip()}: without hashes"


def _labels(found: list[Instruction]) -> Iterator[str]:
    labels = " ".join(arguments for name, arguments in found if name == "LABEL")
    for label in LABELS:
        if f"org.opencontainers.image.{label}=" not in labels:
            yield f"no label {label}"
    if ("ENV", "DML_GIT_COMMIT=${REVISION}") not in found:
        yield "DML_GIT_COMMIT is not the revision"


def _service(found: list[Instruction]) -> Iterator[str]:
    commands = [arguments for name, arguments in found if name == "CMD"]
    if not commands or not commands[-1].startswith("["):
        yield "CMD goes through a shell, which does not pass signals on"
    if any(name == "EXPOSE" for name, _ in found) and not any(name == "HEALTHCHECK" for name, _ in found):
        yield "a service without HEALTHCHECK"


def version_of(folder: Path) -> str:
    """The version that a folder's package has."""
    found = re.search(r'(?m)^version = "(.+)"$', (folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert found, folder
    return found[1]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_dockerfile_keeps_every_rule(path: Path) -> None:
    assert find_faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [*DOCKERFILES, DAGSTER], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_version_that_a_dockerfile_names_is_that_of_its_package(path: Path) -> None:
    """Where a session builds the image it says the version, and the Dockerfile names none."""
    (default,) = re.findall(r"(?m)^ARG VERSION=(\S+)$", path.read_text(encoding="utf-8"))
    folder = next(parent for parent in path.parents if (parent / "pyproject.toml").exists())
    by_session = "def image(session" in (folder / "noxfile.py").read_text(encoding="utf-8")
    assert default == ("unknown" if by_session else version_of(folder))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_build_context_holds_only_what_is_copied(path: Path) -> None:
    folder = path.parent.parent if path.parent.name == "docker" else path.parent
    ignore = (folder / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignore[0] == "*", f"{folder.name}/.dockerignore has to leave everything out first"
    let_in = [line[1:] for line in ignore if line.startswith("!")]
    copied = [
        source
        for name, arguments in read_instructions(path.read_text(encoding="utf-8"))
        if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]
    assert [source for source in copied if not (folder / source).exists()] == []
    assert [name for name in let_in if not any((name + "/").startswith(source + "/") for source in copied)] == []
    assert [source for source in copied if not any((name + "/").startswith(source + "/") for name in let_in)] == []


@pytest.mark.parametrize(
    ("path", "old", "new", "fault"),
    [
        (BASE, r"\A", "# syntax=docker/dockerfile:1\n", "syntax line"),
        (BASE, r"(PYTHON_IMAGE=python):\S+", r"\1:latest", "no exact version"),
        (BASE, r"(PYTHON_IMAGE=python):\S+", r"\1:3.11-slim", "no exact version"),
        (BASE, r"FROM \S+ AS", "FROM python:3.11.14 AS", "is no argument"),
        (BASE, r"USER 10001:10001", "USER 0:0", "runs as '0:0'"),
        (BASE, r"USER 10001:10001", "USER dml", "runs as 'dml'"),
        (BASE, r"USER .*\n", "", "runs as 'root'"),
        (SALES, r"USER 10001:10001", "USER root", "runs as 'root'"),
        (BASE, r"COPY src src", "ADD https://files.example/src.tar src", "ADD"),
        (BASE, r"COPY src src", "COPY . .", "takes whatever lies there"),
        (BASE, r"COPY src src", "RUN apt-get install gcc", "not locked"),
        (BASE, r" --require-hashes --compile", " --compile", "without hashes"),
        (SALES, r" --require-hashes", "", "without hashes"),
        (SALES, r"RUN --network=none uv", "RUN uv", "without hashes"),
        (BASE, r"ARG SOURCE=", "ARG INDEX_TOKEN=x\nARG SOURCE=", "stays in the image's history"),
        (BASE, r"\s*org.opencontainers.image.revision=\S+ \\\n", " \\\n", "no label revision"),
        (BASE, r"ENV DML_GIT_COMMIT.*", "", "is not the revision"),
        (SALES, r"HEALTHCHECK .*\\\n.*\n", "", "without HEALTHCHECK"),
        (SALES, r"CMD \[\"dagster\", \"api\", \"grpc\", .*", "CMD dagster api grpc", "through a shell"),
    ],
)
def test_planted_fault_is_found(path: Path, old: str, new: str, fault: str) -> None:
    text = path.read_text(encoding="utf-8")
    changed = re.sub(old, new, text, count=1)
    assert changed != text, "the fault was not planted"
    assert fault in "\n".join(find_faults(changed))


def docker(*arguments: str, check: bool = True, timeout_s: float = 120) -> str:
    """What a docker command printed."""
    done = subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode:
        pytest.fail(f"docker {' '.join(arguments)[:200]} exited {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def build(folder: Path, dockerfile: str, tag: str, *arguments: str, check: bool = True) -> str:
    """Build an image with this machine's certificates and index, and give the log."""
    options = ["--network=host", "--progress=plain", f"--tag={tag}", f"--build-arg=REVISION={REVISION}", *arguments]
    if certificates := os.environ.get("SSL_CERT_FILE"):
        options.append(f"--secret=id=ca,src={certificates}")
    if os.environ.get("UV_DEFAULT_INDEX"):
        options.append("--secret=id=index,env=UV_DEFAULT_INDEX")
    return docker("build", *options, f"--file={folder / dockerfile}", str(folder), check=check, timeout_s=1500)


def run(image: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Run a command as the server would: no network here, nothing writable but the state folder and /tmp."""
    return docker("run", "--rm", *HARDENED, *options, image, *arguments).strip()


HARDENED = (
    "--read-only",
    "--network=none",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=2g",
    "--tmpfs=/tmp",
    "--tmpfs=/var/lib/dml:uid=10001,gid=10001",
)


@pytest.fixture(scope="module")
def python_image() -> str:
    image = os.environ.get("TEST_PYTHON_IMAGE")
    if not image:
        pytest.skip("TEST_PYTHON_IMAGE is not set: it names the Python image that the images are built on")
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine runs here")
    return image


@pytest.fixture(scope="module")
def base_image(python_image: str) -> Iterator[str]:
    tag = f"dml-platform-base:test-{uuid.uuid4().hex[:8]}"
    build(BASE.parent, "Dockerfile", tag, f"--build-arg=PYTHON_IMAGE={python_image}")
    yield tag
    docker("image", "rm", "--force", tag, check=False)


@pytest.fixture(scope="module")
def sales_image(base_image: str) -> Iterator[str]:
    tag = f"project-sales:test-{uuid.uuid4().hex[:8]}"
    build(SALES.parent.parent, "docker/Dockerfile", tag, f"--build-arg=BASE_IMAGE={base_image}")
    yield tag
    docker("image", "rm", "--force", tag, check=False)


@pytest.fixture(scope="module")
def catalog_image() -> str:
    """The project's image with the publisher to OpenMetadata: 0.4 GB and minutes more, so not built here."""
    image = os.environ.get("TEST_CATALOG_IMAGE")
    if not image:
        pytest.skip(
            "TEST_CATALOG_IMAGE is not set: it names an image of project-sales with --build-arg=OPENMETADATA=yes"
        )
    return image


@pytest.fixture
def catalog(catalog_image: str) -> Iterator[tuple[str, Callable[[str], list[str]]]]:
    """The fake OpenMetadata of the publisher's tests, in a container of its own: its network, and questions to it."""
    name = f"dml-test-{uuid.uuid4().hex[:8]}"
    docker("network", "create", "--internal", name)
    base = ROOT / "platform-base-image"
    mounts = [f"--volume={base}/openmetadata/tests:/fake:ro", f"--volume={base}/src:/src:ro"]
    serve = "import sys; sys.path[:0] = ['/fake', '/src']; import serve_fake; serve_fake.main()"
    program = f'exec /opt/openmetadata/publisher-*/bin/python -B -W ignore -c "{serve}" 8585'
    command = ["docker", "run", "--rm", "--interactive", "--no-healthcheck", f"--name={name}", f"--network={name}"]
    command += ["--network-alias=catalog", *mounts, catalog_image, "sh", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as fake:
        assert fake.stdin
        assert fake.stdout
        stdin, stdout = fake.stdin, fake.stdout
        try:
            assert stdout.readline().startswith("http://"), "the fake does not start"

            def ask(question: str) -> list[str]:
                stdin.write(f"{question}\n")
                stdin.flush()
                answer: list[str] = json.loads(stdout.readline())
                return answer

            yield name, ask
            stdin.close()
            assert fake.wait(timeout=60) == 0, "something that was sent is not as OpenMetadata describes it"
        finally:
            docker("rm", "--force", name, check=False)
            docker("network", "rm", name, check=False)


@pytest.fixture
def start_container() -> Iterator[Callable[..., str]]:
    names: list[str] = []

    def start(image: str, *options: str) -> str:
        names.append(f"dml-test-{uuid.uuid4().hex[:8]}")
        docker("run", "--detach", f"--name={names[-1]}", *HARDENED, *options, image)
        return names[-1]

    yield start
    for name in names:
        docker("rm", "--force", name, check=False)


def wait_for_health(name: str, *, deadline_s: float = 120) -> None:
    """Poll until Docker calls the container healthy; fail with its log when it ended or time is up."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        state = json.loads(docker("inspect", "--format={{json .State}}", name))
        if state.get("Health", {}).get("Status") == "healthy":
            return
        if state["Status"] != "running":
            break
        time.sleep(0.5)
    pytest.fail(f"not healthy: {state['Status']}\n{docker('logs', name)[-4000:]}")


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_base_image_runs_read_only_without_network_and_not_as_root(base_image: str) -> None:
    assert run(base_image, "id", "-u") == "10001"
    assert re.fullmatch(r"dml \d+\.\d+\.\d+", run(base_image, "dml", "--version"))
    modules = (
        "dml_platform.definitions, dml_platform.cli.app, dagster_postgres, dagster_docker, dagster_webserver, psycopg2"
    )
    run(base_image, "python", "-c", f"import {modules}")
    doctor = docker("run", "--rm", *HARDENED, "--env=DML_PROFILE=local", base_image, "dml", "doctor", check=False)
    assert re.search(r"ok +duckdb extensions: httpfs, avro, iceberg", doctor), doctor


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_base_image_has_no_build_tools_caches_or_uncompiled_code(base_image: str, python_image: str) -> None:
    look = "for tool in gcc cc make git hatchling; do command -v $tool; done; ls -A /opt; find /opt -name '*.whl'"
    assert run(base_image, "sh", "-c", f"({look}) 2>/dev/null; true").split() == ["dml"]
    uncompiled = (
        "import dagster, dml_platform.cli.app, sys; "
        "print([n for n, m in sys.modules.items() if getattr(m, '__cached__', None)"
        " and m.__file__.startswith('/opt/dml') and not __import__('os').path.exists(m.__cached__)])"
    )
    assert run(base_image, "python", "-c", uncompiled) == "[]"
    size = [int(docker("image", "inspect", "--format={{.Size}}", image)) for image in (base_image, python_image)]
    assert size[0] - size[1] < 1.1e9, f"the packages take {(size[0] - size[1]) / 1e9:.2f} GB"


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_images_say_what_they_are_and_keep_no_secret(base_image: str, sales_image: str) -> None:
    for image, title in ((base_image, "dml-platform-base"), (sales_image, "project-sales")):
        config = json.loads(docker("image", "inspect", "--format={{json .Config}}", image))
        labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
        assert labels["title"] == title
        assert labels["revision"] == REVISION
        assert f"DML_GIT_COMMIT={REVISION}" in config["Env"]
        assert config["User"] == "10001:10001"
        history = docker("history", "--no-trunc", "--format={{.CreatedBy}}", image)
        assert "://" not in history + "".join(config["Env"]), "an address stayed in the image"
        assert run(image, "sh", "-c", "ls /run/secrets /opt/project-sales/.git 2>/dev/null; true") == ""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("variable", "folder"), [("TEST_BASE_IMAGE", BASE.parent), ("TEST_SALES_IMAGE", SALES.parent.parent)]
)
def test_an_image_that_a_session_made_says_its_packages_version(variable: str, folder: Path) -> None:
    image = os.environ.get(variable)
    if not image:
        pytest.skip(f"{variable} is not set: it names an image that the session `image` of {folder.name} made")
    labels = json.loads(docker("image", "inspect", "--format={{json .Config.Labels}}", image))
    assert labels["org.opencontainers.image.version"] == version_of(folder)


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_a_package_of_a_private_index_gets_into_a_projects_image_and_its_address_does_not(
    base_image: str, tmp_path: Path
) -> None:
    """By the session that workflows call, with what they set: UV_INDEX beside the public index."""
    wheel = write_wheel(tmp_path / "wheels")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    folder = copy_project(tmp_path)
    (folder / "requirements" / "run.txt").write_text(f"acme-only==1.0 --hash=sha256:{digest}\n", encoding="utf-8")
    # As far as the packages, and the labels: what is between takes minutes and asks no index for packages.
    dockerfile = folder / "docker" / "Dockerfile"
    packages, rest = dockerfile.read_text(encoding="utf-8").split("# Without an index nothing", maxsplit=1)
    dockerfile.write_text(packages + "# Last, because" + rest.partition("# Last, because")[2], encoding="utf-8")
    tag = f"project-sales:private-{uuid.uuid4().hex[:8]}"
    session = [sys.executable, "-m", "nox", "-f", str(folder / "noxfile.py"), "-s", "image", "--no-venv", "--", tag]
    session += [f"--build-arg=BASE_IMAGE={base_image}", "--network=host", "--progress=plain"]
    # The usual index has no such package: only the other way it can get in.
    with index.serve(wheel.parent) as address:
        private = address.replace("://", "://reader:planted-password@")  # pragma: allowlist secret
        variables = {**os.environ, "UV_INDEX": private, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        done = subprocess.run(session, env=variables, capture_output=True, text=True, timeout=900, check=False)
    try:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert run(tag, "python", "-c", "import acme_only; print(acme_only.WORD)") == "private"
        told = docker("image", "inspect", tag) + docker("history", "--no-trunc", tag)
        assert "planted-password" not in told
        labels = json.loads(docker("image", "inspect", "--format={{json .Config.Labels}}", tag))
        assert labels["org.opencontainers.image.version"] == version_of(folder)
    finally:
        docker("image", "rm", "--force", tag, check=False)


def write_wheel(folder: Path) -> Path:
    """A package that no public index has."""
    folder.mkdir()
    path = folder / "acme_only-1.0-py3-none-any.whl"
    texts = {
        "acme_only.py": "WORD = 'private'\n",
        "acme_only-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-only\nVersion: 1.0\n",
        "acme_only-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "acme_only-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in texts.items():
            wheel.writestr(name, text)
    return path


def copy_project(folder: Path) -> Path:
    """A copy of project-sales, in which a test may change what it likes."""
    source, copy = SALES.parent.parent, folder / "project-sales"
    left_out = shutil.ignore_patterns(".*", "target", "logs", "__pycache__")
    shutil.copytree(source, copy, ignore=left_out)
    (copy / ".dvc").mkdir()
    for name in (".dockerignore", ".dvc/config"):
        shutil.copy(source / name, copy / name)
    return copy


@pytest.mark.integration
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(("DML_PROFILE=local",), id="local"),
        pytest.param(
            (
                "DML_LAKE__CATALOG_URI=postgresql+psycopg2://catalog.invalid/lake",
                "DML_LAKE__WAREHOUSE=s3://lake/tables",
                "DML_LAKE__S3_ACCESS_KEY_ID=nobody",
                "DML_LAKE__S3_SECRET_ACCESS_KEY=nothing",
            ),
            id="server",
        ),
    ],
)
def test_location_is_healthy_without_network_and_stops_when_told(
    sales_image: str, start_container: Callable[..., str], settings: tuple[str, ...]
) -> None:
    name = start_container(sales_image, *(f"--env={setting}" for setting in settings))
    wait_for_health(name)
    client = "from dagster._grpc.client import DagsterGrpcClient as Client"
    ask = "print(Client(port=4000, host='localhost').list_repositories())"
    answer = json.loads(docker("exec", name, "python", "-c", f"{client}; {ask}"))
    assert [symbol["attribute"] for symbol in answer["repository_symbols"]] == ["defs"]
    docker("stop", "--time=30", name)
    assert docker("inspect", "--format={{.State.ExitCode}}", name).strip() == "0", "it had to be killed"


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_location_without_addresses_ends_with_a_sentence(sales_image: str) -> None:
    log = docker("run", "--rm", *HARDENED, sales_image, check=False)
    assert "DML_LAKE__CATALOG_URI, DML_LAKE__WAREHOUSE are not set" in log


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_a_run_lands_and_transforms_without_changing_the_image(sales_image: str) -> None:
    steps = ["dml run -s sales/raw/cdnow__purchases", "dml run -s sales/staging/stg_cdnow__purchases", "dml tables"]
    log = run(sales_image, "sh", "-ec", "; ".join(steps), options=("--env=DML_PROFILE=local",))
    assert re.search(r"sales\.raw\.cdnow__purchases +69,659", log), log


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_an_image_with_the_publisher_fills_the_catalogue_over_the_network(
    catalog_image: str, catalog: tuple[str, Callable[[str], list[str]]], tmp_path: Path
) -> None:
    network, ask = catalog
    token = tmp_path / "token"
    token.write_text("test-token-of-a-bot\n")  # pragma: allowlist secret
    token.chmod(0o644)
    options = [option for option in HARDENED if not option.startswith("--network")]
    options += [
        f"--network={network}",
        f"--volume={token}:/run/secrets/openmetadata_token:ro",
        "--env=DML_PROFILE=local",
    ]
    options += ["--env=DML_OPENMETADATA__URL=http://catalog:8585"]
    options += ["--env=DML_OPENMETADATA__TOKEN_FILE=/run/secrets/openmetadata_token"]  # pragma: allowlist secret
    run = "dml run -s sales/raw/cdnow__purchases"  # pragma: allowlist secret
    steps = [run, "dml catalog push", "echo again", "dml catalog push --dry-run"]
    log = docker("run", "--rm", *options, catalog_image, "sh", "-ec", "; ".join(steps), timeout_s=600)
    tables = ask("names table")
    assert [name for name in tables if name.endswith(".sales.raw.cdnow__purchases")], (tables, log)
    assert [name for name in tables if name.endswith(".sales.marts.fct_daily_revenue")], tables
    assert "nothing to do" in log.partition("again")[2], log


@pytest.mark.integration
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pyproject.toml", r"dml-platform>=[^\"]+", "dml-platform>=99", "project-sales depends on dml-platform>=99"),
        (
            "dbt/models/marts/fct_purchases.sql",
            r"\A[\s\S]*\Z",
            "select * from {{ ref('nope') }}",
            "'nope' which was not found",
        ),
    ],
    ids=["another base", "broken dbt project"],
)
def test_build_fails_in_words(
    base_image: str, sales_image: str, tmp_path: Path, file: str, old: str, new: str, said: str
) -> None:
    folder = copy_project(tmp_path)
    path = folder / file
    path.write_text(re.sub(old, new, path.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    tag = f"project-sales:broken-{uuid.uuid4().hex[:8]}"
    log = build(folder, "docker/Dockerfile", tag, f"--build-arg=BASE_IMAGE={base_image}", check=False)
    assert said in log, log[-3000:]
    assert docker("image", "ls", "--quiet", tag) == ""
