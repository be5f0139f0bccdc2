"""How fast a connector's output is landed, beside other ways of taking the same output on the same machine.

The connector is this file itself: it prints ready-made blocks of Airbyte messages as fast as a pipe takes them, a state
after every 10,000 records. All ways run one after the other with the producer on the same cores.

    python benchmarks/land_connector.py [--records N] [--bound RECORDS_PER_SECOND]

Exits non-zero when landing is slower than the bound.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BLOCK = 10_000
BOUND = 150_000
STREAM = {
    "name": "orders",
    "json_schema": {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "customer_id": {"type": "integer"},
            "amount": {"type": ["null", "number"]},
            "status": {"type": "string"},
            "email": {"type": "string"},
            "is_gift": {"type": "boolean"},
            "updated_at": {"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"},
        },
    },
    "supported_sync_modes": ["full_refresh", "incremental"],
    "source_defined_cursor": True,
    "default_cursor_field": ["updated_at"],
    "source_defined_primary_key": [["id"]],
}


def produce(arguments: list[str]) -> None:
    """Be an Airbyte source."""
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    if arguments[0] == "discover":
        print(json.dumps({"type": "CATALOG", "catalog": {"streams": [STREAM]}}))
        return
    records = json.loads(Path(options["--config"]).read_text(encoding="utf-8"))["records"]
    statuses = ("paid", "shipped", "returned")
    lines = []
    for i in range(BLOCK):
        data = {
            "id": 0,
            "customer_id": i * 7919 % 50_000,
            "amount": i % 90_000 / 100,
            "status": statuses[i % 3],
            "email": f"user{i * 31 % 70_000}@example.com",
            "is_gift": i % 9 == 0,
            "updated_at": f"2026-01-{i % 28 + 1:02}T{i % 24:02}:{i % 60:02}:00Z",
        }
        record = {"stream": "orders", "data": data, "emitted_at": 1767225600000}
        line = json.dumps({"type": "RECORD", "record": record}, separators=(",", ":"))
        lines.append(line.replace('"id":0', f'"id":1@@@@@{i:04}') + "\n")
    block = "".join(lines).encode()
    out = sys.stdout.buffer
    for number in range(records // BLOCK):
        out.write(block.replace(b"@@@@@", b"%05d" % number))
        state = {"stream_descriptor": {"name": "orders"}, "stream_state": {"block": number}}
        out.write(json.dumps({"type": "STATE", "state": {"type": "STREAM", "stream": state}}).encode() + b"\n")
    out.flush()


def run_producer(records: int, folder: Path, target: Any) -> subprocess.Popen[bytes]:
    """Start the producer without the platform."""
    config = folder / "producer.json"
    config.write_text(json.dumps({"records": records}), encoding="utf-8")
    return subprocess.Popen([sys.executable, __file__, "read", "--config", str(config)], stdout=target)


def discard(records: int, folder: Path) -> None:
    """The producer alone."""
    assert run_producer(records, folder, subprocess.DEVNULL).wait() == 0


def land(records: int, folder: Path) -> None:
    """Through the platform, into an Iceberg table."""
    from dml_platform.airbyte import land_streams, parse_source
    from dml_platform.core.settings import Settings
    from dml_platform.lake import open_lake

    lake = open_lake(Settings(home=folder / "home"))
    source = parse_source(
        "bench",
        {
            "kind": "airbyte",
            "connector": {"command": [sys.executable, __file__]},
            "config": {"records": records},
            "streams": {"orders": {"sync_mode": "incremental"}},
        },
    )
    (landing,) = land_streams(lake, "bench", "bench", source, run_id="bench")
    assert landing.rows == records


def verify(records: int, folder: Path) -> None:
    """Every record is in the table, once."""
    from dml_platform.core.settings import Settings
    from dml_platform.lake import open_lake

    lake = open_lake(Settings(home=folder / "home"))
    query = "SELECT count(*), count(DISTINCT id) FROM bench.raw.bench__orders"
    assert lake.sql(query).fetchall() == [(records, records)], "rows were lost or doubled"


def duckdb_file(records: int, folder: Path) -> None:
    """The producer into a file, then DuckDB's own reader and COPY to Parquet: no checks, no state, no table."""
    import duckdb

    path = folder / "all.jsonl"
    with path.open("wb") as file:
        assert run_producer(records, folder, file).wait() == 0
    columns = (
        "{type: 'VARCHAR', record: 'STRUCT(data STRUCT(id BIGINT, customer_id BIGINT, amount DOUBLE, status VARCHAR, "
        "email VARCHAR, is_gift BOOLEAN, updated_at TIMESTAMPTZ), emitted_at BIGINT)'}"
    )
    with duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order=false")
        connection.execute(
            f"COPY (SELECT unnest(record.data), record.emitted_at FROM read_json('{path}', "
            f"format='newline_delimited', columns={columns}) WHERE type = 'RECORD') "
            f"TO '{folder / 'all.parquet'}' (FORMAT parquet)"
        )
    path.unlink()


def orjson_arrow(records: int, folder: Path) -> None:
    """The usual way in Python: parse each line (orjson), Arrow batches, Parquet."""
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches() -> Iterator[list[dict[str, Any]]]:
        assert process.stdout is not None
        rows: list[dict[str, Any]] = []
        for line in process.stdout:
            message = orjson.loads(line)
            if message["type"] == "RECORD":
                rows.append(message["record"]["data"])
            if len(rows) == 50_000:
                yield rows
                rows = []
        if rows:
            yield rows

    kinds = [pa.int64(), pa.int64(), pa.float64(), pa.string(), pa.string(), pa.bool_(), pa.string()]
    schema = pa.schema(list(zip(STREAM["json_schema"]["properties"], kinds, strict=True)))  # type: ignore[index]
    process = run_producer(records, folder, subprocess.PIPE)
    with pq.ParquetWriter(folder / "arrow.parquet", schema) as writer:
        for rows in batches():
            writer.write_table(pa.Table.from_pylist(rows, schema))
    assert process.wait() == 0


WAYS: dict[str, Callable[[int, Path], None]] = {
    "producer": discard,
    "land": land,
    "duckdb": duckdb_file,
    "orjson": orjson_arrow,
}


def measure(way: str, records: int) -> tuple[float, float, float]:
    """Records a second, CPU seconds and peak memory in MB of one way, in its own process, without imports."""
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, "--records", str(records)], stdout=subprocess.PIPE, check=True
    )
    seconds, cpu, peak = map(float, done.stdout.split())
    return records / seconds, cpu, peak


def run_way(way: str, records: int) -> None:
    """Run one way in this process and print seconds, CPU seconds (the producer's too) and peak memory."""
    import duckdb  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import dml_platform.airbyte  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="dml-benchmark-") as folder:
        started, cpu = time.perf_counter(), _cpu_seconds()
        WAYS[way](records, Path(folder))
        seconds, cpu = time.perf_counter() - started, _cpu_seconds() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if way == "land":
            verify(records, Path(folder))
    print(seconds, cpu, peak)


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> int:
    """Measure all ways and compare."""
    if len(sys.argv) > 1 and sys.argv[1] in ("spec", "check", "discover", "read"):
        produce(sys.argv[1:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=3_000_000)
    parser.add_argument("--bound", type=int, default=BOUND, help="records a second that landing must reach")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run_way(options.way, options.records)
        return 0
    print(f"{options.records:,} records")
    landed = 0.0
    speeds: dict[str, float] = {}
    for way, function in WAYS.items():
        speeds[way], cpu, peak = measure(way, options.records)
        landed = speeds.get("land", 0.0)
        ratio = f"{speeds[way] / landed:5.2f} x landing" if landed else ""
        figures = f"{speeds[way]:>10,.0f} records/s  {cpu:>6.1f} s CPU  {peak:>5,.0f} MB  {ratio:15}"
        print(f"{way:9} {figures}  {function.__doc__}", flush=True)
    if landed < options.bound:
        print(f"landing is slower than {options.bound:,} records/s")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
