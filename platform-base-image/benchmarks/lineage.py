"""How much column lineage finds, and how fast.

Without a folder: traces 300 made-up models and compares the time with sqlglot's own `qualify` of the same SQL, the
first step of sqlglot's lineage; prints the ratio and exits with 1 above a bound.

With the folder of a dbt project (its packages in place): makes its sources and seeds as empty tables in a DuckDB file,
with the columns that it documents, runs and compiles it there, traces it, and compares with the columns that DuckDB
itself says each model has. --sample N prints N edges drawn by chance, for a person to judge against the SQL.

    python benchmarks/lineage.py [--dbt FOLDER [--vars YAML] [--sample 40] [--keep FOLDER]]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
import yaml
from sqlglot.optimizer.qualify import qualify

from dml_platform.lineage import ALL, Lineage, relation_name, trace_project

BOUND = 1.0
MODELS = 300
TIME_LIMIT_S = 20.0


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dbt", type=Path, help="folder of a dbt project")
    parser.add_argument("--vars", default="{}", help="dbt's --vars")
    parser.add_argument("--sample", type=int, default=0, help="edges to print for judging by hand")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where to work, and leave everything; taken as it is if it is there")
    options = parser.parse_args()
    if options.dbt is None:
        sys.exit(compare_speed())
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "target" / "manifest.json").is_file():
            compile_project(options.dbt.resolve(), folder.resolve(), options.vars)
        measure(folder.resolve(), sample=options.sample, seed=options.seed)


def compare_speed() -> bool:
    """Trace made-up models, and judge."""
    manifest, schemas = make_models()
    started = time.perf_counter()
    lineage = trace_project(manifest, schemas)
    ours = time.perf_counter() - started
    known = {name: dict(columns) for name, columns in schemas.items()} | lineage.columns
    nested: dict[str, Any] = {}
    for name, columns in known.items():
        database, schema, table = name.split(".")
        nested.setdefault(database, {}).setdefault(schema, {})[table] = {c: t or "VARCHAR" for c, t in columns.items()}
    started = time.perf_counter()
    for node in manifest["nodes"].values():
        parsed = sqlglot.parse_one(node["compiled_code"], dialect="duckdb")
        qualify(parsed, dialect="duckdb", schema=nested, validate_qualify_columns=False)
    theirs = time.perf_counter() - started
    ratio = ours / theirs
    print(
        f"{len(manifest['nodes'])} models, {sum(map(len, lineage.columns.values())):,} columns, "
        f"{len(lineage.edges):,} edges"
    )
    print(f"traced            {ours:6.2f} s (limit {TIME_LIMIT_S:.0f} s)")
    print(f"sqlglot's qualify {theirs:6.2f} s")
    print(f"ratio {ratio:.2f} (bound {BOUND}): {'ok' if ratio <= BOUND and ours < TIME_LIMIT_S else 'over'}")
    return ratio > BOUND or ours >= TIME_LIMIT_S


def make_models() -> tuple[dict[str, Any], dict[str, dict[str, str | None]]]:
    """A project of 300 models of some 20 columns in chains, with the usual shapes of SQL."""
    columns = [f"c{i}" for i in range(20)]
    schemas: dict[str, dict[str, str | None]] = {
        f"shop.raw.r{i}": {"id": "BIGINT", "key": "BIGINT", **dict.fromkeys(columns, "VARCHAR")} for i in range(20)
    }
    nodes = {}
    names = list(schemas)
    for i in range(MODELS):
        left, right = names[-1 - i % 7], names[-1 - (i * 5) % 19]
        sums = ", ".join(f"sum(length(a.{c})) as sum_{c}" for c in columns[:5])
        cases = ", ".join(f"case when a.{c} > b.{c} then a.{c} else b.{c} end as {c}" for c in columns)
        sql = f"""
        with a as (select * from {left}), b as (select * from {right}),
        joined as (select a.id, a.key, {cases} from a left join b on a.id = b.id where b.key is not null),
        summed as (select a.id, {sums} from joined as a group by a.id),
        ranked as (select *, row_number() over (partition by key order by c1) as place from joined qualify place = 1)
        select ranked.* exclude (place), summed.sum_c0 from ranked left join summed using (id)
        union all select * exclude (sum_c0), null from (select *, 0 as sum_c0 from joined)
        """
        name = f"shop.marts.m{i}"
        nodes[f"model.shop.m{i}"] = {
            "resource_type": "model",
            "database": "shop",
            "schema": "marts",
            "name": f"m{i}",
            "config": {"materialized": "view"},
            "compiled_code": sql,
            "depends_on": {"nodes": [f"model.shop.{n.rsplit('.', 1)[1]}" for n in (left, right) if ".marts." in n]},
        }
        names.append(name)
    return {"nodes": nodes}, schemas


def compile_project(root: Path, folder: Path, variables: str) -> None:
    """Leave ``target/manifest.json`` with compiled SQL, and a DuckDB file with empty tables."""
    profile = yaml.safe_load((root / "dbt_project.yml").read_text(encoding="utf-8"))["profile"]
    database = folder / "warehouse.duckdb"
    output = {"type": "duckdb", "path": str(database), "schema": "main", "threads": 2}
    profiles = {profile: {"target": "bench", "outputs": {"bench": output}}}
    (folder / "profiles.yml").write_text(yaml.safe_dump(profiles), encoding="utf-8")
    run_dbt("parse", root, folder, variables)
    manifest = json.loads((folder / "target" / "manifest.json").read_text(encoding="utf-8"))
    make_tables(manifest, root, database)
    run_dbt("run", root, folder, variables)
    run_dbt("compile", root, folder, variables)


def run_dbt(command: str, root: Path, folder: Path, variables: str) -> None:
    """Run one dbt command in this process; failures of single models are counted, not fatal."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner

    started, target = time.perf_counter(), folder / "target"
    arguments = [command, "--quiet", "--project-dir", str(root), "--profiles-dir", str(folder)]
    arguments += ["--target-path", str(target), "--log-path", str(folder / "logs"), "--vars", variables]
    with contextlib.redirect_stdout(io.StringIO()):
        outcome = dbtRunner().invoke(arguments)
    if DuckDBConnectionManager._ENV is not None:
        DuckDBConnectionManager._ENV.close()
    DuckDBConnectionManager.close_all_connections()
    statuses = Counter(str(r.status) for r in getattr(outcome.result, "results", None) or [])
    print(f"dbt {command}: {time.perf_counter() - started:.1f} s {dict(statuses)} {outcome.exception or ''}"[:500])


def make_tables(manifest: dict[str, Any], root: Path, database: Path) -> None:
    """Sources with the columns that are documented, seeds with those of their CSV file."""
    with duckdb.connect(str(database)) as connection:
        for node in manifest["nodes"].values():
            if node["resource_type"] == "seed":
                path = Path(node.get("root_path") or root) / node["original_file_path"]
                make_table(
                    connection, node, {**seed_columns(connection, path), **(node["config"].get("column_types") or {})}
                )
        for node in manifest["sources"].values():
            columns = {c["name"]: c.get("data_type") or "VARCHAR" for c in node["columns"].values()}
            make_table(connection, node, columns or {"_undocumented": "VARCHAR"})


def seed_columns(connection: duckdb.DuckDBPyConnection, path: Path) -> dict[str, str]:
    """The columns of a seed's CSV file, with the types that its first rows have."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(lines), [])
    with contextlib.suppress(duckdb.Error):
        found = connection.execute("describe select * from read_csv(?, header = true)", [str(path)]).fetchall()
        if [row[0] for row in found] == header and len(path.read_bytes().splitlines()) > 1:
            return {row[0]: row[1] for row in found}
    return dict.fromkeys(header, "VARCHAR")


def make_table(connection: duckdb.DuckDBPyConnection, node: dict[str, Any], columns: dict[str, str]) -> None:
    """One empty table; of text where DuckDB does not know a type."""
    name = node.get("alias") or node.get("identifier") or node["name"]
    if node["database"] not in {
        row[0] for row in connection.execute("select database_name from duckdb_databases()").fetchall()
    }:
        connection.execute(f"attach ':memory:' as \"{node['database']}\"")
    connection.execute(f'create schema if not exists "{node["database"]}"."{node["schema"]}"')
    for kinds in (columns, dict.fromkeys(columns, "VARCHAR")):
        listed = ", ".join(f'"{column}" {kind}' for column, kind in kinds.items())
        with contextlib.suppress(duckdb.Error):
            connection.execute(
                f'create table if not exists "{node["database"]}"."{node["schema"]}"."{name}" ({listed})'
            )
            return


def measure(folder: Path, *, sample: int, seed: int) -> None:
    """Trace, compare, print."""
    manifest = json.loads((folder / "target" / "manifest.json").read_text(encoding="utf-8"))
    real = columns_in(folder / "warehouse.duckdb")
    # Of sources only what is documented is known, which may not be all: they are left to the manifest.
    seeds = {relation_name(n) for n in manifest["nodes"].values() if n["resource_type"] == "seed"}
    schemas = {name: real[name.lower()] for name in seeds if name.lower() in real}
    started = time.perf_counter()
    lineage = trace_project(manifest, schemas)
    seconds = time.perf_counter() - started
    report(lineage, real, seconds)
    code = {
        relation_name(n): n.get("compiled_code") for n in manifest["nodes"].values() if n["resource_type"] == "model"
    }
    edges = [e for e in lineage.edges if e.via != "filter" and e.target_column != ALL]
    random.Random(seed).shuffle(edges)
    for number, edge in enumerate(edges[:sample], 1):
        print(f"{number}. {edge.target}.{edge.target_column} <- {edge.source}.{edge.source_column} ({edge.via})")
    if sample:
        targets = {edge.target for edge in edges[:sample]}
        (folder / "sample.sql").write_text(
            "\n".join(f"-- ## {name}\n{code[name]}\n" for name in sorted(targets)), encoding="utf-8"
        )


def columns_in(database: Path) -> dict[str, dict[str, str | None]]:
    """Columns of every table and view in a DuckDB file."""
    found: dict[str, dict[str, str | None]] = {}
    with duckdb.connect(str(database), read_only=True) as connection:
        query = "select concat_ws('.', database_name, schema_name, table_name), column_name, data_type"
        for table, column, kind in connection.execute(
            query + " from duckdb_columns() order by table_oid, column_index"
        ).fetchall():
            found.setdefault(table.lower(), {})[column] = kind
    return found


def report(lineage: Lineage, real: dict[str, dict[str, str | None]], seconds: float) -> None:
    """Print the shares."""
    unknown = {(e.target, e.target_column) for e in lineage.edges if e.via == "unknown"}
    total = resolved = confirmed = compared = 0
    wrong = []
    for name, columns in lineage.columns.items():
        truth = real.get(name.lower())
        mine = {column.lower() for column in columns}
        total += len({c.lower() for c in truth} | mine) if truth else max(len(columns), 1)
        resolved += sum((name, column) not in unknown for column in columns)
        if truth is not None:
            compared += 1
            confirmed += mine == {c.lower() for c in truth}
            if mine != {c.lower() for c in truth}:
                wrong.append(
                    f"{name}: too many {sorted(mine - {c.lower() for c in truth})[:4]}, "
                    f"missing {sorted({c.lower() for c in truth} - mine)[:4]}"
                )
    kinds = Counter(edge.via for edge in lineage.edges)
    print(f"{len(lineage.columns)} models traced in {seconds:.2f} s; {total:,} columns, {resolved:,} resolved")
    print(f"share resolved {resolved / max(total, 1):.2%}; edges {dict(kinds)}")
    print(f"of {compared} models that DuckDB could make, {confirmed} have exactly the columns that DuckDB gives them")
    for line in (wrong + lineage.notices)[:25]:
        print("  ", line[:300])


if __name__ == "__main__":
    main()
