"""Group-by over a 10-million-row table: through the library against DuckDB on the bare Parquet files.

In one process, after the imports: the library opens the catalogue anew, pins, plans and reads each time. The
pairs alternate and the medians are compared. Ends with 1 when the ratio is over the bound.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake

BOUND = 1.2
REF = TableRef("bench", "marts", "fct_orders")
QUERY = "SELECT customer_id % 1000 AS k, count(*), sum(amount_cents), max(ordered_at) FROM {} GROUP BY ALL"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--pairs", type=int, default=7)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="dml-bench-") as folder:
        settings = Settings(home=Path(folder))
        files = fill(Lake(settings), options.rows)
        library, bare = [], []
        for pair in range(options.pairs + 1):
            timed = [(library, through_library, settings), (bare, on_bare_files, (settings, files))]
            for figures, run, argument in timed if pair % 2 else reversed(timed):
                started = time.perf_counter()
                run(argument)
                if pair:  # the first pair warms the page cache
                    figures.append(time.perf_counter() - started)
    ratio = statistics.median(library) / statistics.median(bare)
    print(
        f"scan of {options.rows:,} rows: library {statistics.median(library):.3f} s, "
        f"bare Parquet {statistics.median(bare):.3f} s, ratio {ratio:.2f} (bound {BOUND})"
    )
    return int(ratio > BOUND)


def fill(lake: Lake, rows: int) -> list[str]:
    step = lake.step("bench", "fill")
    step.write_query(
        REF,
        lake.connect(),
        f"""SELECT range AS order_id, hash(range) % 1000000 AS customer_id, hash(range + 1) % 10000 AS amount_cents,
        TIMESTAMP '2026-01-01' + INTERVAL (range % 31536000) SECOND AS ordered_at FROM range({rows})""",
    )
    step.publish()
    return lake.pin(REF).files()[0]


def through_library(settings: Settings) -> None:
    Lake(settings).sql(QUERY.format(REF.dotted)).fetchall()


def on_bare_files(argument: tuple[Settings, list[str]]) -> None:
    settings, files = argument
    connection = Lake(settings).connect()
    connection.execute(QUERY.format(f"read_parquet({files!r})")).fetchall()


if __name__ == "__main__":
    sys.exit(main())
