"""Postgres: the databases, roles and rights of the core and of each project, and how many connections they need.

Everything is a script that may run again at any time: it states what shall be, and removes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from dml_infra.installation import Installation
from dml_infra.psql import Psql, container_psql, quote, quote_name, scram_verifier
from dml_infra.secrets import credentials_lock, read_password

GROUP = "dml_projects"
# Who only looks at the lake's catalogue, from outside of the server's containers.
READERS = "dml_readers"
# Role: (file of its password, database that it owns or None).
CORE_ROLES = {
    "dagster": ("dagster_pgpass", "dagster"),
    "postgres_exporter": ("postgres_exporter_password", None),
    "openmetadata": ("openmetadata_db_password", "openmetadata"),
}
# What a run and a code server write of Dagster's tables; the rest they only read: no project switches another's
# schedules off, starts runs behind the queue's back, or rewrites and deletes what was recorded.
DAGSTER_RIGHTS = {
    "event_logs": "INSERT",
    "asset_keys": "INSERT, UPDATE",
    "asset_event_tags": "INSERT",
    "asset_check_executions": "INSERT, UPDATE",
    "dynamic_partitions": "INSERT, UPDATE, DELETE",
    "runs": "UPDATE",
    "run_tags": "INSERT, UPDATE",
    "kvs": "INSERT, UPDATE",
    "concurrency_limits": "INSERT, UPDATE",
    "concurrency_slots": "INSERT, UPDATE, DELETE",
    "pending_steps": "INSERT, UPDATE, DELETE",
}

# Connections. Measured with Dagster 1.13: a webserver with 4 people clicking all the time holds up to 6, the daemon 7,
# an in-process run 1 and for moments 2, a code server none until a sensor asks the instance or the lake. The daemon
# may use as many as it has threads (config/dagster/dagster.yaml); a run's lake has a pool.
WEBSERVER_CONNECTIONS = 12
DAEMON_CONNECTIONS = 24
EXPORTER_CONNECTIONS = 4
COMMANDS_CONNECTIONS = 4
CODE_SERVER_CONNECTIONS = 2
RUN_CONNECTIONS = 6
# Of each project's reader; out of the reserve, as a workflow looks once a day.
READER_CONNECTIONS = 4
# Postgres keeps three for the superuser; the others are for a person who looks for a mistake.
RESERVE_CONNECTIONS = 8
_PLAIN = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
# While a project is deployed, two of its code servers run.
CODE_SERVERS_AT_ONCE = 2
# What the run queue lets go at once, all projects together (config/dagster/dagster.yaml).
RUNS_AT_ONCE = 20


@dataclass(frozen=True)
class ProjectRole:
    """A project as Postgres sees it. ``concurrent_runs`` is how many of its runs the queue lets go at once."""

    name: str
    concurrent_runs: int = 2


@dataclass(frozen=True)
class Budget:
    """Connections that Postgres has to allow, and how many of them each project may hold at most."""

    core: int
    per_project: dict[str, int]
    reserve: int
    code_servers: int = 0
    runs: int = 0

    @property
    def total(self) -> int:
        """What ``max_connections`` has to be at least; not all projects have all their runs at once."""
        return self.core + self.code_servers + self.runs + self.reserve


def connection_budget(projects: Iterable[ProjectRole], *, runs_at_once: int = RUNS_AT_ONCE) -> Budget:
    """How many connections the core and these projects need at their busiest."""
    projects = list(projects)
    core = 2 * WEBSERVER_CONNECTIONS + DAEMON_CONNECTIONS + EXPORTER_CONNECTIONS + COMMANDS_CONNECTIONS
    return Budget(
        core=core,
        per_project={project.name: _connections(project) for project in projects},
        reserve=RESERVE_CONNECTIONS,
        code_servers=len(projects) * CODE_SERVERS_AT_ONCE * CODE_SERVER_CONNECTIONS,
        runs=min(runs_at_once, sum(project.concurrent_runs for project in projects)) * RUN_CONNECTIONS,
    )


def provision(installation: Installation, projects: Iterable[ProjectRole], *, psql: Psql | None = None) -> None:
    """Bring Postgres to the wanted state, idempotently; nothing is dropped.

    Passwords are those of the secret files. Call it before Dagster's tables are made and again afterwards: rights are
    given on the tables that exist, and on those that a later version adds a project can only read.

    Raises:
        InfraError: Postgres does not run, a secret is missing, or a statement failed; running it again goes on.
    """
    psql = psql or container_psql(installation)
    with credentials_lock(installation):
        _provision(installation, list(projects), psql)


def _provision(installation: Installation, projects: list[ProjectRole], psql: Psql) -> None:
    verifiers = {
        role: scram_verifier(read_password(installation, file))
        for role, (file, _) in CORE_ROLES.items()
        if (installation.secrets / file).is_file()
    }
    verifiers |= {p.name: scram_verifier(read_password(installation, f"projects/{p.name}/pgpass")) for p in projects}
    psql(_roles(verifiers, projects), "postgres")
    psql(_DAGSTER, "dagster")
    # These statements lock the catalogue's tables, so not without need while runs publish.
    rules = f"dml-infra {hashlib.sha256(_LAKE.encode()).hexdigest()[:16]}"
    if psql("SELECT obj_description(to_regclass('public.iceberg_tables'));\n", "lake").strip() != rules:
        psql(f"BEGIN;\n{_LAKE}COMMENT ON TABLE iceberg_tables IS {quote(rules)};\nCOMMIT;\n", "lake")


def set_password(role: str, password: str, psql: Psql) -> None:
    """Give a role another password; open connections stay."""
    psql(f"ALTER ROLE {quote_name(role)} PASSWORD {quote(scram_verifier(password))};\n", "postgres")


def set_reader(project: str, password: str, psql: Psql) -> str:
    """Make a role that reads the lake's catalogue and nothing else, or give it another password. Returns: its name."""
    role = _reader(project)
    lines = [_ensure_role(role), f"GRANT {READERS} TO {quote_name(role)};"]
    settings = f"LOGIN {_PLAIN} CONNECTION LIMIT {READER_CONNECTIONS} PASSWORD {quote(scram_verifier(password))}"
    psql("\n".join([*lines, f"ALTER ROLE {quote_name(role)} {settings};"]) + "\n", "postgres")
    return role


def drop_reader(project: str, psql: Psql) -> None:
    """Remove that role and end its connections; nothing where there is none."""
    role = _reader(project)
    psql(f"SELECT FROM pg_stat_activity a, pg_terminate_backend(a.pid) WHERE a.usename = {quote(role)};\n", "postgres")
    psql(f"DROP ROLE IF EXISTS {quote_name(role)};\n", "postgres")


def _reader(project: str) -> str:
    return f"{project}-reader"  # no project's name has a hyphen


def drop_project(installation: Installation, name: str, *, psql: Psql | None = None) -> None:
    """Remove a project's role and end its connections; its tables stay in the catalogue and can be read."""
    psql = psql or container_psql(installation)
    role, text = quote_name(name), quote(name)
    exists = f"SELECT 1 FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = {text} "
    exists += f"AND m.roleid = (SELECT oid FROM pg_roles WHERE rolname = {quote(GROUP)})"
    if not psql(f"{exists};\n", "postgres").strip():  # also: never another service's role
        return
    end = f"SELECT FROM pg_stat_activity a, pg_terminate_backend(a.pid) WHERE a.usename = {text};\n"
    psql(f"ALTER ROLE {role} NOLOGIN;\n{end}", "postgres")
    for database in ("dagster", "lake", "postgres"):
        psql(f"DROP OWNED BY {role};\n", database)
    psql(f"DROP ROLE {role};\n", "postgres")


def _connections(project: ProjectRole) -> int:
    return CODE_SERVERS_AT_ONCE * CODE_SERVER_CONNECTIONS + project.concurrent_runs * RUN_CONNECTIONS


def _roles(verifiers: dict[str, str], projects: list[ProjectRole]) -> str:
    """Roles and databases; runs in the database `postgres`."""
    lines = [line for role in (GROUP, READERS, "lake") for line in (_ensure_role(role), f"ALTER ROLE {role} NOLOGIN;")]
    for role, verifier in verifiers.items():
        lines.append(_ensure_role(role))
        lines.append(f"ALTER ROLE {quote_name(role)} LOGIN {_PLAIN} PASSWORD {quote(verifier)};")
    for project in projects:
        lines.append(f"ALTER ROLE {quote_name(project.name)} CONNECTION LIMIT {_connections(project)};")
        lines.append(f"GRANT {GROUP} TO {quote_name(project.name)};")
    owners = {"lake": "lake"} | {db: role for role, (_, db) in CORE_ROLES.items() if db and role in verifiers}
    for database, owner in owners.items():
        create = f"CREATE DATABASE {database} OWNER {owner} ENCODING 'UTF8' TEMPLATE template0"
        there = f"SELECT FROM pg_database WHERE datname = {quote(database)}"
        lines.append(f"SELECT {quote(create)} WHERE NOT EXISTS ({there}) \\gexec")
    for database in (*owners, "postgres", "template1"):
        # Also the right to make temporary tables, which would fill a disk that all share.
        lines.append(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;")
    lines.append(f"GRANT CONNECT ON DATABASE dagster, lake TO {GROUP};")
    lines.append(f"GRANT CONNECT ON DATABASE lake TO {READERS};")
    if "postgres_exporter" in verifiers:
        lines.append("GRANT pg_monitor TO postgres_exporter;")
        lines.append("GRANT CONNECT ON DATABASE postgres TO postgres_exporter;")
    return "\n".join(lines) + "\n"


def _ensure_role(role: str) -> str:
    create = f"CREATE ROLE {quote_name(role)}"
    return f"SELECT {quote(create)} WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {quote(role)}) \\gexec"


# No role but the owner makes anything; large objects, which anybody may make otherwise, fill a disk too.
_CLOSED = f"""
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO {GROUP};
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
"""

# In one transaction: a run never meets the moment between taking and giving.
_DAGSTER = (
    f"""
BEGIN;
ALTER SCHEMA public OWNER TO dagster;
{_CLOSED}
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {GROUP};
GRANT SELECT ON ALL TABLES IN SCHEMA public TO {GROUP};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {GROUP};
ALTER DEFAULT PRIVILEGES FOR ROLE dagster IN SCHEMA public GRANT SELECT ON TABLES TO {GROUP};
ALTER DEFAULT PRIVILEGES FOR ROLE dagster IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {GROUP};
"""
    + "".join(
        f"SELECT 'GRANT {rights} ON {table} TO {GROUP}' WHERE to_regclass('public.{table}') IS NOT NULL \\gexec\n"
        for table, rights in DAGSTER_RIGHTS.items()
    )
    + "COMMIT;\n"
)


def _own_rows(table: str, column: str) -> str:
    own = f"{column} = current_user::text OR starts_with({column}, current_user::text || '.')"
    return f"""
ALTER TABLE {table} OWNER TO lake;
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON {table} FROM PUBLIC, {GROUP}, {READERS};
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {GROUP};
GRANT SELECT ON {table} TO {READERS};
DROP POLICY IF EXISTS everyone_reads ON {table};
CREATE POLICY everyone_reads ON {table} FOR SELECT TO {GROUP}, {READERS} USING (true);
DROP POLICY IF EXISTS own_inserts ON {table};
CREATE POLICY own_inserts ON {table} FOR INSERT TO {GROUP} WITH CHECK ({own});
DROP POLICY IF EXISTS own_updates ON {table};
CREATE POLICY own_updates ON {table} FOR UPDATE TO {GROUP} USING ({own}) WITH CHECK ({own});
DROP POLICY IF EXISTS own_deletes ON {table};
CREATE POLICY own_deletes ON {table} FOR DELETE TO {GROUP} USING ({own});
"""


# The tables are pyiceberg's and Java's (JDBC catalogue, schema V1). In one transaction: a reader never finds a table
# without its policies. A project owns the namespace of its name and all below it.
_LAKE = f"""{_CLOSED}
GRANT USAGE ON SCHEMA public TO {READERS};
CREATE TABLE IF NOT EXISTS iceberg_tables (
    catalog_name varchar(255) NOT NULL,
    table_namespace varchar(255) NOT NULL,
    table_name varchar(255) NOT NULL,
    metadata_location varchar(1000),
    previous_metadata_location varchar(1000),
    iceberg_type varchar(5),
    PRIMARY KEY (catalog_name, table_namespace, table_name)
);
CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
    catalog_name varchar(255) NOT NULL,
    namespace varchar(255) NOT NULL,
    property_key varchar(255) NOT NULL,
    property_value varchar(1000) NOT NULL,
    PRIMARY KEY (catalog_name, namespace, property_key)
);
{_own_rows("iceberg_tables", "table_namespace")}
{_own_rows("iceberg_namespace_properties", "namespace")}
"""
