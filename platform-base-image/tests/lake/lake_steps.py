"""One-line steps for the tests of the lake, and other processes that use the same lake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dml_platform.core.naming import TableRef
from dml_platform.core.settings import Settings
from dml_platform.lake import Lake, Mode

REF = TableRef("sales", "marts", "fct_orders")
OTHER = TableRef("sales", "marts", "dim_customers")


def write(lake: Lake, sql: str, mode: Mode = "append", ref: TableRef = REF, *, run: str = "r1", **options: Any) -> None:
    """Write and publish one query."""
    step = lake.step(run, "write")
    step.write_query(ref, lake.connect(), sql, mode=mode, **options)
    step.publish()


def rows(lake: Lake, ref: TableRef = REF) -> list[tuple[Any, ...]]:
    """What readers see, sorted."""
    return sorted(lake.sql(f"select * from {ref.dotted}").fetchall())


def start_process(settings: Settings, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run code in another process, with ``lake`` open on the same lake."""
    lake = settings.lake
    variables = {
        "DML_PROFILE": settings.profile,
        "DML_HOME": str(settings.home),
        "DML_DUCKDB__MEMORY_LIMIT_MB": str(settings.duckdb.memory_limit_mb),
        "DML_LAKE__CATALOG_URI": settings.catalog_uri,
        "DML_LAKE__WAREHOUSE": settings.warehouse,
        "DML_LAKE__S3_ENDPOINT": lake.s3_endpoint,
        "DML_LAKE__S3_ACCESS_KEY_ID": lake.s3_access_key_id,
        "DML_LAKE__S3_SECRET_ACCESS_KEY": lake.s3_secret_access_key and lake.s3_secret_access_key.get_secret_value(),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    prelude = "import sys\nfrom lake_steps import *\nfrom dml_platform.lake import open_lake\nlake = open_lake()\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *arguments],
        env=os.environ | {name: value for name, value in variables.items() if value},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, timeout_s: float = 120) -> str:
    """What a process printed, once it ended well."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    return out
