"""Publish of 20 tables in one catalogue transaction, against 20 separate commits by pyiceberg.

In one process; the pairs alternate and the medians are compared. Ends with 1 when a publish takes
longer than the bound.
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
from dml_platform.lake import Lake, Step

BOUND_S = 2.0


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tables", type=int, default=20)
    arguments.add_argument("--pairs", type=int, default=5)
    options = arguments.parse_args()
    refs = [TableRef("bench", "marts", f"t{number:02}") for number in range(options.tables)]
    together, apart = [], []
    with tempfile.TemporaryDirectory(prefix="dml-bench-") as folder:
        lake = Lake(Settings(home=Path(folder)))
        stage(lake, refs, 0).publish()
        for pair in range(1, options.pairs + 1):
            step = stage(lake, refs, 2 * pair)
            together.append(seconds(step.publish))
            step = stage(lake, refs, 2 * pair + 1)
            apart.append(seconds(lambda step=step: publish_apart(lake, step)))  # type: ignore[misc]
            assert all(lake.pin(ref).rows == 2 * pair + 1 for ref in refs)
    took, peer = statistics.median(together), statistics.median(apart)
    print(
        f"publish of {options.tables} tables: together {took:.3f} s (bound {BOUND_S} s), "
        f"{options.tables} pyiceberg commits {peer:.3f} s, ratio {took / peer:.2f}"
    )
    return int(took > BOUND_S)


def stage(lake: Lake, refs: list[TableRef], number: int) -> Step:
    step, connection = lake.step(f"r{number}", "bench"), lake.connect()
    for ref in refs:
        step.write_query(ref, connection, f"SELECT {number} AS n, 'x' AS name")
    return step


def publish_apart(lake: Lake, step: Step) -> None:
    """What a step would do without one transaction: no check, and half of it visible in between."""
    for staged in step.staged.values():
        table = lake.catalog.load_table(staged.ref.identifier)
        table.manage_snapshots().set_current_snapshot(ref_name=step.branch).remove_branch(step.branch).commit()


def seconds(call: object) -> float:
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
