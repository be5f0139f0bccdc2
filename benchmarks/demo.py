"""The demo without installation, and a second run with nothing new: seconds, and the peak of the largest process.

    python benchmarks/demo.py

The ratio is to a bare interpreter that imports Dagster and dbt, run in turn, so that machines can be compared.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BOUNDS = {"demo": (90.0, 1500.0), "second run": (15.0, 1500.0)}


def measure(command: list[str], home: str) -> tuple[float, float]:
    """Run a command in the tree; gives its seconds and the peak memory of its largest process in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"DML_HOME": home}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert process.stderr is not None
    if status:
        sys.exit(f"{command} failed:\n{process.stderr.read().decode()}")
    process.stderr.close()
    process.returncode = 0
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Measure, and judge."""
    dml = str(ROOT / "dml")
    imports = [sys.executable, "-c", "import dagster, dagster_dbt, dbt.cli.main, pyiceberg.catalog.sql, duckdb"]
    with tempfile.TemporaryDirectory() as home:
        demo = measure([dml, "demo"], home)
        pairs = [(measure([dml, "run"], home), measure(imports, home)) for _ in range(3)]
    second = statistics.median(run[0] for run, _ in pairs), max(run[1] for run, _ in pairs)
    bare = statistics.median(seconds for _, (seconds, _) in pairs)
    failed = False
    for name, (seconds, peak) in (("demo", demo), ("second run", second)):
        most_s, most_mb = BOUNDS[name]
        over = seconds > most_s or peak > most_mb
        failed |= over
        print(
            f"{name:10} {seconds:5.1f} s (bound {most_s:.0f}), peak {peak:4.0f} MB (bound {most_mb:.0f}), "
            f"{seconds / bare:.1f} times the imports alone ({bare:.1f} s): {'over' if over else 'ok'}"
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
