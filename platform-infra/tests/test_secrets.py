"""Secret files and people's sign-ins, without any server."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import bcrypt
import pytest

from dml_infra import database, proxy_users, psql, secrets
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation

OWNERS: dict[str, int] = {}


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """An installation with secrets, whose proxy does not run."""
    OWNERS.clear()
    monkeypatch.setattr(secrets, "_give", lambda path, uid: OWNERS.__setitem__(path.name.strip("."), uid))
    monkeypatch.setattr(proxy_users, "reload_proxy", lambda _installation: None)
    monkeypatch.setattr(proxy_users, "_ROUNDS", 4)
    made = Installation(root=tmp_path, env={}, state=tmp_path / "state", stack="test")
    secrets.ensure_secrets(made, ["sales"])
    return made


def test_all_secrets_are_made_once_with_mode_600_and_nothing_is_changed_again(installation: Installation) -> None:
    files = {f.relative_to(installation.secrets): f for f in installation.secrets.rglob("*") if f.is_file()}
    wanted = {s.name for s in [*secrets.core_secrets(), *secrets.project_secrets("sales")]} | {"proxy_users"}
    assert {str(f) for f in files} == wanted
    assert {stat.S_IMODE(f.stat().st_mode) for f in files.values()} == {0o600}
    before = {name: file.read_bytes() for name, file in files.items()}
    assert secrets.ensure_secrets(installation, ["sales"]) == []
    assert {name: file.read_bytes() for name, file in files.items()} == before
    assert secrets.ensure_secrets(installation, ["sales", "hr"]) == [
        "projects/hr/pgpass",
        "projects/hr/aws_credentials",
    ]
    values = [secrets.read_password(installation, s.name) for s in secrets.core_secrets()]
    assert len(set(values)) == len(values)


def test_each_secret_belongs_to_the_user_that_reads_it(installation: Installation) -> None:
    assert OWNERS["postgres_superuser"] == 999
    assert OWNERS["postgres_exporter_password"] == 65534
    assert OWNERS["pgpass"] == OWNERS["aws_credentials"] == OWNERS["proxy_users"] == 10001


def test_compose_mounts_no_secret_that_nobody_makes_or_gives(installation: Installation) -> None:
    import yaml

    document = yaml.safe_load((Path(__file__).parents[1] / "compose.yaml").read_text(encoding="utf-8"))
    given = {"oidc_client_secret"}
    assert set(document["secrets"]) - given <= {s.name for s in secrets.core_secrets()} | {"proxy_users"}


def test_empty_file_and_the_folder_that_docker_made_for_a_mount_are_replaced(installation: Installation) -> None:
    (installation.secrets / "grafana_admin_password").write_text("")
    (installation.secrets / "dagster_pgpass").unlink()
    (installation.secrets / "dagster_pgpass").mkdir()
    assert sorted(secrets.ensure_secrets(installation)) == ["dagster_pgpass", "grafana_admin_password"]
    assert (installation.secrets / "dagster_pgpass").is_file()


def test_file_is_replaced_in_place_and_never_read_half(installation: Installation) -> None:
    path = installation.secrets / "projects/sales/pgpass"
    inode, ended, torn = path.stat().st_ino, threading.Event(), []
    possible = {secrets.pgpass_text("sales", letter * 40) for letter in "ab"}
    secrets.write_secret(path, min(possible), uid=os.geteuid())

    def read() -> None:
        while not ended.is_set():
            if (text := path.read_text()) not in possible:
                torn.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(200):
        for text in possible:
            secrets.write_secret(path, text, uid=os.geteuid())
    ended.set()
    reader.join()
    assert torn == []
    assert path.stat().st_ino == inode


def test_damaged_credentials_file_is_a_sentence_without_its_content(installation: Installation) -> None:
    (installation.secrets / "projects/sales/aws_credentials").write_text("hunter2")
    with pytest.raises(ConfigError, match="it is not an AWS-style credentials file") as caught:
        secrets.read_s3_key(installation, "projects/sales/aws_credentials")
    assert "hunter2" not in str(caught.value)


def test_people_are_added_changed_and_removed(installation: Installation) -> None:
    assert proxy_users.list_users(installation) == {"admin": "admin"}
    password = proxy_users.add_user(installation, "ann", "viewer")
    assert proxy_users.list_users(installation) == {"admin": "admin", "ann": "viewer"}
    assert _accepts(installation, "ann", password)
    new = proxy_users.set_password(installation, "ann")
    assert _accepts(installation, "ann", new)
    assert not _accepts(installation, "ann", password)
    proxy_users.set_password(installation, "admin", "correct horse battery")
    assert secrets.read_secret(installation, "admin_password") == "correct horse battery"
    proxy_users.remove_user(installation, "ann")
    assert proxy_users.list_users(installation) == {"admin": "admin"}


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda i: proxy_users.add_user(i, "admin", "viewer"), "cannot add user 'admin': there is such a user"),
        (lambda i: proxy_users.add_user(i, "a}\nb", "viewer"), "it is not a name"),
        (lambda i: proxy_users.add_user(i, "ann", "viewer", "short"), "the password has 5 bytes"),
        (lambda i: proxy_users.add_user(i, "ann", "viewer", "x" * 73), "the password has 73 bytes"),
        (lambda i: proxy_users.remove_user(i, "admin"), "no administrator would be left"),
        (lambda i: proxy_users.remove_user(i, "bob"), r"there is no such user \(there are: admin\)"),
    ],
)
def test_wrong_user_is_refused(installation: Installation, call: object, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        call(installation)  # type: ignore[operator]
    assert proxy_users.list_users(installation) == {"admin": "admin"}


def test_proxy_accepts_the_file(installation: Installation, tmp_path: Path) -> None:
    caddy = shutil.which("caddy")
    if not caddy:
        pytest.skip("no Caddy on the path to read the file (Debian: apt install caddy)")
    proxy_users.add_user(installation, "ann@example.com", "viewer")
    root = Path(__file__).parents[1] / "config" / "caddy"
    shutil.copytree(root, tmp_path / "caddy")
    file = tmp_path / "caddy" / "Caddyfile"
    file.write_text(file.read_text().replace("/run/secrets/proxy_users", str(installation.secrets / "proxy_users")))
    env = {"DML_SITE": "localhost", "DML_TLS": "internal", "DML_SIGN_IN": "local", "PATH": os.environ["PATH"]}
    env |= {"DML_WEBSERVER": "127.0.0.1:3000", "DML_WEBSERVER_VIEWER": "127.0.0.1:3001", "HOME": str(tmp_path)}
    done = subprocess.run(
        [caddy, "adapt", "--config", str(file)],
        env=env,
        cwd=tmp_path / "caddy",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ann@example.com" in done.stdout


def test_budget_counts_what_can_happen_at_once() -> None:
    few = database.connection_budget([database.ProjectRole("a"), database.ProjectRole("b", concurrent_runs=4)])
    assert few.per_project["b"] > few.per_project["a"]
    assert few.runs == 6 * database.RUN_CONNECTIONS
    many = database.connection_budget([database.ProjectRole(f"p{n}") for n in range(20)])
    assert many.runs == database.RUNS_AT_ONCE * database.RUN_CONNECTIONS
    assert few.total < many.total <= 300  # what .env.example allows


def test_verifier_is_not_the_password_and_differs_each_time() -> None:
    first, second = psql.scram_verifier("hunter2"), psql.scram_verifier("hunter2")
    assert first.startswith("SCRAM-SHA-256$4096:")
    assert "hunter2" not in first
    assert first != second


def _accepts(installation: Installation, name: str, password: str) -> bool:
    lines = (installation.secrets / "proxy_users").read_text().splitlines()
    hashed = next(line.split()[1] for line in lines if line.startswith(f"\t{name} $2"))
    return bcrypt.checkpw(password.encode(), hashed.encode())
