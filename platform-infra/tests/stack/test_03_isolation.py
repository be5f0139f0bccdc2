"""What a project can reach from inside its container: its own things, and nothing else. Each attempt is a test.

The attempts run in the code server of `orders` itself, as its own user, with its own credentials, against `sales`.
An attempt ends with "refused: …" or "done: …"; anything else is a fault of the test, not a refusal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from stack.engine import docker, inspect, sh
from stack.server import Server

pytestmark = pytest.mark.timeout(900)

PRELUDE = """
import os, socket, sys
import psycopg2, boto3, botocore.exceptions, urllib.request, urllib.error
from botocore.config import Config

def database(name='lake'):
    return psycopg2.connect(host='postgres', dbname=name, connect_timeout=5)

def store():
    settings = Config(connect_timeout=5, read_timeout=10, retries={'max_attempts': 1}, s3={'addressing_style': 'path'})
    return boto3.client('s3', endpoint_url='http://object-store:9000', region_name='us-east-1', config=settings)

def connect(host, port):
    socket.create_connection((host, port), timeout=4).close()

def listed(bucket, prefix=''):
    return store().list_objects_v2(Bucket=bucket, Prefix=prefix)['KeyCount']

def sql(text, name='lake'):
    cursor = database(name).cursor()
    cursor.execute(text)
    return cursor

def add(namespace):
    columns = 'catalog_name, table_namespace, table_name'
    sql(f"insert into iceberg_tables ({columns}) values ('dml', '{namespace}', 'forged')")

def update(rest):
    changed(sql('update iceberg_tables set ' + rest))

def changed(cursor):
    if cursor.rowcount == 0:
        raise psycopg2.errors.InsufficientPrivilege('no row was changed')

try:
    ATTEMPT
except (OSError, psycopg2.Error, botocore.exceptions.ClientError, urllib.error.URLError) as error:
    print('refused:', type(error).__name__, str(error).strip().replace(chr(10), ' ')[:300])
else:
    print('done:', locals().get('got'))
"""


def attempt(server: Server, code: str, **names: str) -> str:
    """What came of it."""
    for name, value in names.items():
        code = code.replace(name, value)
    code = code.strip().replace("\n", "\n    ")
    script = PRELUDE.replace("ATTEMPT", code)
    done = sh("docker", "exec", server.location("orders"), "python", "-W", "ignore", "-c", script, check=False)
    assert re.match(r"(refused|done): ", done.stdout), done.stdout
    return done.stdout


ALLOWED = {
    "read its own raw files": "got = listed('lake', 'orders/raw/'); assert got",
    "write its own prefix": "store().put_object(Bucket='lake', Key='orders/raw/isolation-test', Body=b'x')",
    "read its own catalogue rows": "got = sql('select 1 from iceberg_tables').fetchone()",
    "list another project's marts": "got = listed('lake', 'sales/marts/')",
    "reach Postgres": "connect('postgres', 5432)",
    "reach the object store": "connect('object-store', 9000)",
}

REFUSED = {
    "read another's secrets by path": "got = open('/run/secrets/projects/sales/pgpass').read()",
    "read the state folder": "got = os.listdir('STATE')",
    "read the core's secrets": "got = open('/run/secrets/postgres_superuser').read()",
    "write another's prefix": "store().put_object(Bucket='lake', Key='sales/marts/x', Body=b'x')",
    "delete from another's prefix": "store().delete_object(Bucket='lake', Key='sales/raw/x')",
    "read another's raw files": "got = listed('lake', 'sales/raw/')",
    "get another's raw file": "got = store().get_object(Bucket='lake', Key='sales/raw/x')",
    "read another's staging files": "got = listed('lake', 'sales/staging/')",
    "write another's landing folder": "store().put_object(Bucket='landing', Key='sales/x', Body=b'x')",
    "write the backups": "store().put_object(Bucket='backups', Key='x', Body=b'x')",
    "read the backups": "got = listed('backups')",
    "read other runs' logs": "got = listed('dagster', 'compute-logs/')",
    "make a bucket": "store().create_bucket(Bucket='mine')",
    "make its own bucket public": "store().put_bucket_policy(Bucket='lake', Policy='{}')",
    "ask the object store's administration": "urllib.request.urlopen('http://object-store:9000/minio/admin/v3/info')",
    "update another's catalogue row": "update(\"metadata_location = 's3://x' where table_namespace like 'sales%'\")",
    "drop another's table": """changed(sql("delete from iceberg_tables where table_namespace like 'sales%'"))""",
    "add a table in another's namespace": "add('sales.marts')",
    "move its own row into another's namespace": """
update("table_namespace = 'sales.marts' where table_namespace like 'orders%'")""",
    "add a namespace that begins alike": "add('orders2.marts')",
    "drop the catalogue": "sql('drop table iceberg_tables')",
    "empty the catalogue": "sql('truncate iceberg_tables')",
    "switch row level security off": "sql('alter table iceberg_tables disable row level security')",
    "become another role": "sql('set role lake')",
    "become another project": "sql('set role sales')",
    "make a table in the catalogue's database": "sql('create table mine (x int)')",
    "read Postgres' password hashes": "sql('select * from pg_authid')",
    "run a program in Postgres": "sql(\"copy (select 1) to program 'id'\")",
    "read a file of Postgres": "sql(\"select pg_read_file('/etc/passwd')\")",
    "end another's connections": """
c = sql("select pg_terminate_backend(pid) from pg_stat_activity where usename not in (current_user)")
if not any(row[0] for row in c.fetchall()): raise PermissionError('nobody was hurt')""",
    "reach the database postgres": "database('postgres')",
    "delete runs": "changed(sql('delete from runs', 'dagster'))",
    "drop Dagster's tables": "sql('drop table runs', 'dagster')",
    "reach the engine's socket": "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
    "reach the socket proxy by name": "connect('socket-proxy', 2375)",
    "reach the socket proxy by address": "connect('SOCKET_PROXY', 2375)",
    "reach the other's gRPC port by name": "connect('SALES_NAME', 4000)",
    "reach the other's gRPC port by address": "connect('SALES_ADDRESS', 4000)",
    "reach the webserver without signing in": "connect('webserver', 3000)",
    "reach the webserver at its address": "connect('WEBSERVER', 3000)",
    "reach the read-only webserver": "connect('webserver-viewer', 3000)",
    "reach the proxy inside": "connect('PROXY', 443)",
    "reach the proxy's own administration": "connect('PROXY', 2019)",
    "become root": "os.setuid(0)",
    "write its own code": "open('/opt/orders/orders/definitions.py', 'a').write('x')",
    "load a kernel's secret": "got = open('/proc/kcore', 'rb').read(1)",
}


@pytest.fixture(scope="module")
def names(projects: Server) -> dict[str, str]:
    def address(container: str, network: str | None = None) -> str:
        networks = inspect(container)["NetworkSettings"]["Networks"]
        chosen = networks[network] if network else next(iter(networks.values()))
        return str(chosen["IPAddress"])

    found = {
        "STATE": str(projects.state),
        "SOCKET_PROXY": address(projects.service("socket-proxy")),
        "WEBSERVER": address(projects.service("webserver"), f"{projects.name}_edge"),
        "PROXY": address(projects.service("proxy"), f"{projects.name}_edge"),
    }
    if "sales" in projects.locations():
        sales = projects.location("sales")
        found |= {"SALES_NAME": inspect(sales)["Name"].lstrip("/"), "SALES_ADDRESS": address(sales)}
    return found


@pytest.mark.parametrize("what", ALLOWED)
def test_a_project_can(projects: Server, names: dict[str, str], what: str) -> None:
    assert attempt(projects, ALLOWED[what], **names).startswith("done"), attempt(projects, ALLOWED[what], **names)


@pytest.mark.parametrize("what", REFUSED)
def test_a_project_cannot(projects: Server, names: dict[str, str], what: str) -> None:
    if "SALES_" in REFUSED[what] and "SALES_NAME" not in names:
        pytest.skip("there is no image project-sales; TEST_SALES_IMAGE names one")
    outcome = attempt(projects, REFUSED[what], **names)
    assert outcome.startswith("refused"), outcome
    assert "could not translate" not in outcome, "the attempt never reached what was to refuse it"


def test_a_run_goes_with_the_same_rights_as_the_code_server(projects: Server) -> None:
    run_id = projects.batch(wait_s=15)
    found = inspect(projects.run_container(run_id))
    code = inspect(projects.location("orders"))
    assert set(found["NetworkSettings"]["Networks"]) == set(code["NetworkSettings"]["Networks"])
    assert found["Config"]["User"] == code["Config"]["User"] == "10001:10001"
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["Memory"] > 0
    assert found["HostConfig"]["PidsLimit"] > 0
    assert any("no-new-privileges" in option for option in found["HostConfig"]["SecurityOpt"])
    assert not [m for m in found["Mounts"] if "docker.sock" in m["Source"]]
    projects.wait_for_runs(run_id)


def test_the_code_servers_claim_of_another_image_is_not_believed(projects: Server) -> None:
    """A run's container_image that is not of the project's repository is refused with a reason."""
    foreign = projects.location("sales") if "sales" in projects.locations() else projects.service("webserver")
    image = inspect(foreign)["Config"]["Image"]
    config = {"ops": {"orders__raw__till__orders": {"config": {"wait_s": 0}}}}
    tags = {"docker/image": image, "dagster/image": image}
    run_id = projects.launch("orders", "intake", config=config, tags=tags)
    [status] = projects.wait_for_runs(run_id).values()
    containers = docker("ps", "-aq", "--no-trunc", f"--filter=label=dagster/run_id={run_id}").split()
    used = {inspect(c)["Config"]["Image"] for c in containers}
    assert image not in used, status


# ---- secrets -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def secret_values(projects: Server) -> dict[str, str]:
    """Every generated password, by the name of its file."""
    found = {}
    for path in sorted((projects.state / "secrets").rglob("*")):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        assert path.stat().st_mode & 0o177 == 0 or path.stat().st_mode & 0o77 == 0, f"{path} can be read by others"
        for word in re.findall(r"[A-Za-z0-9+/=_$.-]{16,}", text):
            found[f"{path.relative_to(projects.state)}: {word[:3]}…"] = word
    assert len(found) >= 6
    return found


def everything(projects: Server) -> list[str]:
    labels = docker("ps", "-aq", "--no-trunc", f"--filter=name=^{projects.name}").split()
    return sorted({*labels, *projects.location_ids("orders")})


PLACES: dict[str, Callable[[Server], str]] = {
    "docker inspect of every container": lambda s: "".join(docker("inspect", c) for c in everything(s)),
    "the history and settings of the images": lambda s: "".join(
        docker("history", "--no-trunc", image) + docker("image", "inspect", image)
        for image in {inspect(c)["Image"] for c in everything(s)}
    ),
    "the logs of every container": lambda s: "".join(docker("logs", c) for c in everything(s)),
    "the rendered workspace and stacks": lambda s: "".join(
        path.read_text(encoding="utf-8")
        for folder in ("workspace", "stacks")
        for path in (s.state / folder).rglob("*")
        if path.is_file()
    ),
    "Dagster's own pages": lambda s: json.dumps(
        [
            s.query("{instance {info runLauncher {name} daemonHealth {id} runQueueConfig {maxConcurrentRuns}}}"),
            s.query("{workspaceOrError {... on Workspace {locationEntries {name displayMetadata {key value}}}}}"),
        ]
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_shows_in(projects: Server, secret_values: dict[str, str], place: str) -> None:
    text = PLACES[place](projects)
    assert text
    assert [name for name, value in secret_values.items() if value in text] == []


def test_environment_of_every_process_is_free_of_secrets(projects: Server, secret_values: dict[str, str]) -> None:
    for container in everything(projects):
        if inspect(container)["State"]["Status"] != "running":
            continue
        environment: Any = sh("docker", "exec", container, "env", check=False).stdout
        assert [name for name, value in secret_values.items() if value in environment] == []
