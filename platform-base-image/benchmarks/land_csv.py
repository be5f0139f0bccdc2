"""Landing one CSV file against DuckDB's own ``COPY (FROM read_csv(…)) TO parquet``: seconds and peak memory.

    python benchmarks/land_csv.py [--rows 5000000] [--pairs 5]

Each measurement is a process of its own and the two kinds alternate, so that what else the machine does reaches both.
Seconds are those of the copy and of the landing (hashing, reading, writing, committing, publishing) in a process that
has done the same with ten rows before, so without imports; the peak is the whole process's. Exits 1 when the
ratio of the medians or the landing's peak is over its bound.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MAX_RATIO = 1.3
MAX_PEAK_MB = 512
COLUMNS = {
    "order_id": "BIGINT",
    "customer_id": "BIGINT",
    "ordered_at": "TIMESTAMP",
    "shipped_date": "DATE",
    "units": "INTEGER",
    "amount": "DECIMAL(10,2)",
    "product": "VARCHAR",
    "is_gift": "BOOLEAN",
}


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.child:
        _CHILDREN[arguments.child](arguments.file, arguments.folder)
        return 0
    with tempfile.TemporaryDirectory(prefix="dml-land-csv-", dir=arguments.folder) as folder:
        file = Path(folder) / "orders.csv"
        _run("generate", file, folder, rows=arguments.rows)
        print(f"{arguments.rows:,} rows, {file.stat().st_size / 1e6:,.0f} MB, {arguments.pairs} pairs")
        taken: dict[str, list[dict[str, float]]] = {"copy": [], "land": []}
        for pair in range(arguments.pairs):
            for kind in ("copy", "land") if pair % 2 == 0 else ("land", "copy"):
                taken[kind].append(_run(kind, file, folder))
    medians = {kind: statistics.median(one["seconds"] for one in runs) for kind, runs in taken.items()}
    peaks = {kind: max(one["peak_mb"] for one in runs) for kind, runs in taken.items()}
    cpu = {kind: statistics.median(one["cpu_s"] for one in runs) for kind, runs in taken.items()}
    ratio = medians["land"] / medians["copy"]
    for kind, label in (("copy", "DuckDB COPY to Parquet"), ("land", "land_files")):
        times = ", ".join(f"{one['seconds']:.2f}" for one in taken[kind])
        print(
            f"{label:<23} median {medians[kind]:6.2f} s, CPU {cpu[kind]:6.2f} s, peak {peaks[kind]:4.0f} MB   ({times})"
        )
    good = ratio <= MAX_RATIO and peaks["land"] <= MAX_PEAK_MB
    print(f"ratio {ratio:.2f} (bound {MAX_RATIO}), peak {peaks['land']:.0f} MB (bound {MAX_PEAK_MB})", end="")
    print(": ok" if good else ": TOO MUCH")
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Landing a CSV file against DuckDB's own copy.")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; default: the temporary folder")
    parser.add_argument("--child", choices=list(_CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser


def _run(kind: str, file: Path, folder: str, rows: int = 0) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", kind, "--file", str(file), "--folder", folder, "--rows", str(rows)]
    if kind == "generate":
        generate(file, rows)
        return {}
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def generate(file: Path, rows: int) -> None:
    """The same rows on every machine."""
    import duckdb

    query = f"""
        SELECT i AS order_id, (hash(i) % 200000)::BIGINT AS customer_id,
            TIMESTAMP '2020-01-01' + to_seconds((hash(i + 1) % 100000000)::BIGINT) AS ordered_at,
            DATE '2020-01-01' + (hash(i + 2) % 1500)::INTEGER AS shipped_date,
            (1 + hash(i + 3) % 9)::INTEGER AS units,
            ((hash(i + 4) % 1000000) / 100.0)::DECIMAL(10,2) AS amount,
            'product-' || hash(i + 5) % 5000 || '-description' AS product,
            hash(i + 6) % 2 = 0 AS is_gift
        FROM range({rows}) AS numbers(i)"""
    connection = duckdb.connect()
    connection.execute("SET memory_limit = '1GiB'")
    connection.execute(f"COPY ({query}) TO '{file}' (FORMAT csv, HEADER)")


def copy(file: Path, folder: Path) -> None:
    import duckdb

    types = ", ".join(f"'{name}': '{kind}'" for name, kind in COLUMNS.items())
    target = folder / "copy.parquet"
    generate(folder / "warm.csv", 10)
    for source in (folder / "warm.csv", file):
        started = _now()
        connection = duckdb.connect()
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"COPY (FROM read_csv('{source}', header = true, columns = {{{types}}})) TO '{target}' (FORMAT parquet)"
        )
        taken = _now() - started
    _report(taken)
    target.unlink()


def land(file: Path, folder: Path) -> None:
    from dml_platform.core.naming import TableRef
    from dml_platform.core.settings import Settings
    from dml_platform.files import FileTable, land_files
    from dml_platform.lake import Lake

    with tempfile.TemporaryDirectory(dir=folder) as home:
        lake = Lake(Settings(home=Path(home)))
        generate(folder / "warm.csv", 10)
        for name in ("warm.csv", file.name):
            source = FileTable(path=name, format="csv", columns=COLUMNS)
            ref = TableRef("bench", "raw", f"shop__{Path(name).stem}")
            started = _now()
            landing = land_files(lake, ref, source, root=folder, run_id="bench")
            taken = _now() - started
        _report(taken)
        assert (landing.files_landed, landing.rejects) == (1, 0), landing


@dataclass(frozen=True)
class _Taken:
    wall: float
    cpu: float

    def __sub__(self, other: _Taken) -> _Taken:
        return _Taken(self.wall - other.wall, self.cpu - other.cpu)


def _now() -> _Taken:
    return _Taken(time.monotonic(), time.process_time())


def _report(taken: _Taken) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": taken.wall, "cpu_s": taken.cpu, "peak_mb": peak}))


_CHILDREN = {"copy": copy, "land": land}

if __name__ == "__main__":
    sys.exit(main())
