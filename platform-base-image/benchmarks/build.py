"""Build, test, audit and publish in this process, against the plain `dbt build` program on the same models.

The program publishes nothing: it runs on a copy of the project whose lake models are plain DuckDB tables. Both are
whole processes, in turn; prints medians and their ratio, and exits with 1 above the bound.

    python benchmarks/build.py --project FOLDER [--pairs 5]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOUND = 1.0
OURS = """
import sys
from pathlib import Path
from dml_platform.core.project import read_project
from dml_platform.core.settings import load_settings
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake
root = Path(sys.argv[1])
project = read_project(root)
result = build(project, Lake(load_settings(root)), run_id=sys.argv[2])
assert result.error is None, result.error
assert result.published
"""
PROFILE = """
{name}:
  target: local
  outputs:
    local:
      {{type: duckdb, path: {path}, schema: staging, threads: 2}}
"""
RAW = """
import sys, duckdb
from dml_platform.lake import open_lake
lake = open_lake()
connection = lake.connect(sys.argv[2])
for ref in lake.tables(sys.argv[1]):
    if ref.layer == "raw":
        lake.create_views(connection, [ref])
        connection.execute(f"create schema if not exists {sys.argv[1]}_plain.raw")
        connection.execute(f"create table {sys.argv[1]}_plain.raw.{ref.name} as from {ref.sql}")
"""


def main() -> None:
    """Compare, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, required=True, help="a project whose pipeline ran before")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    root = options.project.resolve()
    with tempfile.TemporaryDirectory() as folder:
        plain, environment = prepare_plain(root, Path(folder))
        dbt = str(Path(sys.executable).parent / "dbt")
        ours, theirs = [], []
        for pair in range(-1, options.pairs):  # the first pair warms caches
            seconds = timed([sys.executable, "-c", OURS, str(root), f"bench{pair + 1}"], root, dict(os.environ))
            other = timed([dbt, "build", "--quiet", "--no-send-anonymous-usage-stats"], plain, environment)
            if pair >= 0:
                ours.append(seconds)
                theirs.append(other)
    mine, other = statistics.median(ours), statistics.median(theirs)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    verdict = "ok" if ratio <= BOUND else "over"
    print(f"build, test, audit and publish in process  {mine:6.2f} s")
    print(f"the dbt build program, publishing nothing  {other:6.2f} s")
    print(f"ratio {ratio:.2f} (bound {BOUND}): {verdict}")
    sys.exit(ratio > BOUND)


def prepare_plain(root: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Copy the dbt project, with plain tables in place of the lake's, and its raw tables in a DuckDB file."""
    plain = folder / "dbt"
    shutil.copytree(root / "dbt", plain, ignore=shutil.ignore_patterns("target", "logs"))
    name = root.name.removeprefix("project-")
    for path in plain.rglob("*"):
        if path.suffix in (".yml", ".sql"):
            text = path.read_text(encoding="utf-8")
            text = text.replace("materialized: lake", "materialized: table")
            text = text.replace(f"database: {name}", f"database: {name}_plain")
            text = text.replace("write_mode='merge'", "materialized='incremental', on_schema_change='fail'")
            path.write_text(text, encoding="utf-8")
    macro = "{% macro generate_schema_name(name, node) %}{{ name or target.schema }}{% endmacro %}"
    (plain / "macros").mkdir(exist_ok=True)
    (plain / "macros" / "generate_schema_name.sql").write_text(macro, encoding="utf-8")
    database = folder / f"{name}_plain.duckdb"
    (plain / "profiles.yml").write_text(PROFILE.format(name=name, path=database), encoding="utf-8")
    subprocess.run([sys.executable, "-c", RAW, name, str(database)], cwd=root, check=True)
    return plain, dict(os.environ)


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Seconds that a whole process takes."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[:3]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
