"""Postgres in a backup: dumping, loading, and reading single tables out of a dump."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pyrage

from dml_infra.backup.iceberg import TablePointer
from dml_infra.backup.server import SUPERUSER, Server, output_of, run
from dml_infra.backup.target import Target

LAKE = "lake"
DAGSTER = "dagster"
GLOBALS = "globals.sql.age"
_COPY = re.compile(r"COPY (?:[\w\"]+\.)?\"?(\w+)\"? \((.*)\) FROM stdin;")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def dump_name(database: str) -> str:
    """Name of a database's part."""
    return f"postgres/{database}.dump"


def databases(server: Server) -> list[str]:
    """The databases to keep, the catalogue last.

    A commit that the catalogue has and history does not is made again, to the same rows; the other way round, history
    would claim rows that are not there.
    """
    sql = "select datname from pg_database where not datistemplate and datname <> 'postgres' order by datname"
    found = query(server, "postgres", sql)
    return sorted((row[0] for row in found), key=lambda name: name == LAKE)


def query(server: Server, database: str, sql: str) -> list[list[str]]:
    """Rows of a statement, as text."""
    command = server.client(
        "psql", "--no-psqlrc", "--quiet", "-At", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql
    )
    output = run(command, f"cannot ask database {database!r}").decode()
    return [line.split("\t") for line in output.splitlines()]


def server_version(server: Server) -> str:
    """Postgres's own version."""
    return query(server, "postgres", "show server_version")[0][0]


def dump_database(server: Server, database: str) -> Any:
    """A database's dump in Postgres's custom format, as a stream in a ``with``."""
    command = server.client("pg_dump", "--format=custom", "--dbname", database)
    return output_of(command, f"cannot dump database {database!r}")


def dump_globals(server: Server, recipient: Any) -> bytes:
    """Roles, their rights and their passwords' hashes; encrypted."""
    text = run(server.client("pg_dumpall", "--globals-only"), "cannot dump the roles")
    return bytes(pyrage.encrypt(text, [recipient]))


def load_globals(server: Server, text: bytes) -> None:
    """Make the roles of a dump in a server that has the superuser only."""
    lines = [line for line in text.decode().splitlines() if line != f"CREATE ROLE {SUPERUSER};"]
    command = server.client("psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", "-")
    run(command, "cannot make the roles", stdin=io.BytesIO("\n".join(lines).encode() + b"\n"))


def load_database(server: Server, database: str, stream: Any) -> None:
    """Make a database from its dump, in place of one of that name."""
    command = server.client(
        "pg_restore", "--create", "--clean", "--if-exists", "--exit-on-error", "--dbname", "postgres"
    )
    run(command, f"cannot load database {database!r}", stdin=stream)


def read_table(server: Server, target: Target, name: str, table: str) -> Iterator[dict[str, str | None]]:
    """A table's rows out of a stored dump; none when the dump has no such table."""
    command = server.client("pg_restore", "--data-only", "--table", table, "--file", "-")
    with target.open(name) as stream, output_of(command, f"cannot read {name}", stdin=stream) as output:
        columns: list[str] | None = None
        for raw in output:
            line = raw.decode().rstrip("\n")
            if columns is None:
                if (match := _COPY.fullmatch(line)) and match[1] == table:
                    columns = [column.strip().strip('"') for column in match[2].split(",")]
            elif line == "\\.":
                columns = None
            else:
                yield dict(zip(columns, map(_unescape, line.split("\t")), strict=True))


def catalogue_pointers(server: Server, target: Target, prefix: str) -> list[TablePointer]:
    """The tables of the catalogue's dump."""
    rows = read_table(server, target, f"{prefix}/{dump_name(LAKE)}", "iceberg_tables")
    return [
        TablePointer(str(row["table_namespace"]), str(row["table_name"]), str(row["metadata_location"]))
        for row in rows
        if row["metadata_location"]
    ]


def facts_of(server: Server, target: Target, prefix: str) -> dict[str, Any]:
    """What a restore is compared with: exactly what the dumps hold."""
    name = f"{prefix}/{dump_name(DAGSTER)}"
    instigators = read_table(server, target, name, "instigators")
    return {
        "runs": sum(1 for _ in read_table(server, target, name, "runs")),
        "instigators": {str(row["selector_id"]): row["status"] for row in instigators},
    }


def live_facts(server: Server) -> dict[str, Any]:
    """The same of a running server."""
    has = query(server, DAGSTER, "select to_regclass('runs') is not null and to_regclass('instigators') is not null")
    if has != [["t"]]:
        return {"runs": 0, "instigators": {}}
    states = query(server, DAGSTER, "select selector_id, status from instigators")
    return {
        "runs": int(query(server, DAGSTER, "select count(*) from runs")[0][0]),
        "instigators": {row[0]: row[1] for row in states},
    }


def live_pointers(server: Server) -> list[TablePointer]:
    """The tables of a running server's catalogue."""
    if query(server, LAKE, "select to_regclass('iceberg_tables') is not null") != [["t"]]:
        return []
    sql = (
        "select table_namespace, table_name, metadata_location from iceberg_tables where metadata_location is not null"
    )
    return [TablePointer(*row) for row in query(server, LAKE, sql)]


def _unescape(value: str) -> str | None:
    if value == "\\N":
        return None
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), value)
