"""How long a pull request waits: the whole project-ci for a change of one model, against a build of everything.

    python benchmarks/pull_request.py PROJECT [--models 300] [--rows 200000] [--json FILE]

PROJECT is the folder of a project; a project of generated models takes its noxfile and settings. The full build is
`dml run --force`, timed after a first run, so that nothing is installed or parsed for the first time in it. The pull
request is run by act on this machine: cold (the published state is remembered, nothing else), warm (with all that the
jobs of the main branch leave in the workflow's caches; a pull request finds no other's), and warm once more with one
job after the other. The first two are what one machine needs for all jobs at once. On GitHub each job has a machine of
its own: there a person waits for the longest of those that ran alone, and for comment and result. Setting up Python is
not in any of it.
`cpu_s` is the work of a core, which says more than the clock where others use the machine too; `load` is the machine's
load average when a step began, which the step before has a part in.
Goals: 15 % of the full build, and two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import acting  # noqa: E402
import projects  # noqa: E402
from conftest import program  # noqa: E402

DEPTH = 10  # models from a chain's first to its last
_AFTER = ("comment", "result")
TAKEN = ("noxfile.py", ".pre-commit-config.yaml", ".yamllint.yaml", ".gitignore", "dbt/.sqlfluff")

PYPROJECT = """
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"
[project]
name = "project-bench"
version = "0.1.0"
dependencies = ["dml-platform>=0.1"]
[tool.dml]
project = "bench"
[tool.ruff]
line-length = 120
[tool.mypy]
packages = ["project_bench"]
ignore_missing_imports = true
[tool.pytest.ini_options]
markers = ["integration: slow"]
testpaths = ["tests"]
"""
PROFILES = """
bench:
  target: local
  outputs:
    local:
      type: duckdb
      path: ":memory:"
      attach: [{path: ":memory:", alias: bench}]
      database: bench
      schema: staging
      threads: 2
      plugins: [{module: dml_platform.dbt.plugin, alias: lake}]
"""
DBT_PROJECT = """
name: bench
profile: bench
version: "1.0"
flags: {send_anonymous_usage_stats: false}
models:
  bench:
    staging: {+materialized: view, +schema: staging}
    marts: {+materialized: lake, +schema: marts}
"""
SOURCES = """
sources:
  web:
    kind: files
    tables:
      orders:
        path: data/drop/web/*.csv
        format: csv
        columns: {order_id: BIGINT, customer_id: BIGINT, amount_cents: BIGINT, ordered_date: DATE}
"""
STAGING = """
version: 2
sources:
  - name: raw
    database: bench
    schema: raw
    tables: [{name: web__orders}]
models:
  - {name: stg_orders, description: Orders as they came.}
"""
DEFINITIONS = """
\"\"\"What Dagster loads.\"\"\"

from pathlib import Path

from dml_platform.definitions import build_definitions

defs = build_definitions(Path(__file__).parents[1])
"""
TEST = """
from project_bench.definitions import defs


def test_the_definitions_have_the_marts() -> None:
    assert defs.resolve_asset_graph() is not None
"""


def generate(source: Path, root: Path, *, models: int, rows: int) -> None:
    """Write a project of chains of models, each with a contract and two tests."""
    for name in TAKEN:
        if (source / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, root / name)
    files = {
        "pyproject.toml": PYPROJECT,
        "config/project.yaml": "owner: bench@example.com\n",
        "config/sources.yaml": SOURCES,
        "dbt/dbt_project.yml": DBT_PROJECT,
        "dbt/profiles.yml": PROFILES,
        "dbt/models/staging/_staging.yml": STAGING,
        "dbt/models/staging/stg_orders.sql": "select * from {{ source('raw', 'web__orders') }}\n",
        "project_bench/__init__.py": '"""A generated project."""\n',
        "project_bench/definitions.py": DEFINITIONS.lstrip(),
        "tests/test_definitions.py": TEST.lstrip(),
    }
    for number in range(models):
        below = f"fct_{number - 1:03}" if number % DEPTH else "stg_orders"
        files[f"dbt/models/marts/fct_{number:03}.sql"] = _model(below, number)
        files[f"dbt/models/marts/fct_{number:03}.yml"] = _yaml(number)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.lstrip("\n"))
    chance = random.Random(1)
    drop = root / "data/drop/web"
    drop.mkdir(parents=True)
    with (drop / "orders.csv").open("w") as file:
        file.write("order_id,customer_id,amount_cents,ordered_date\n")
        for row in range(rows):
            day = 1 + row % 28
            file.write(f"{row},{chance.randrange(rows // 10 + 1)},{chance.randrange(100_000)},2026-01-{day:02}\n")


def _model(below: str, number: int) -> str:
    return f"""select
    order_id,
    customer_id,
    ordered_date,
    amount_cents + {number} as amount_cents,
    sum(amount_cents) over (
        partition by customer_id order by ordered_date, order_id
    ) as running_cents_{number}
from {{{{ ref('{below}') }}}}
"""


def _yaml(number: int) -> str:
    types = {"customer_id": "bigint", "ordered_date": "date", "amount_cents": "bigint"}
    listed = "".join(f"      - {{name: {name}, data_type: {kind}}}\n" for name, kind in types.items())
    return f"""version: 2
models:
  - name: fct_{number:03}
    config: {{contract: {{enforced: true}}}}
    columns:
      - name: order_id
        data_type: bigint
        data_tests: [unique, not_null]
{listed}      - {{name: running_cents_{number}, data_type: hugeint}}
"""


def _change_one(root: Path, models: int) -> None:
    """The model before the last of a chain in the middle: one other is downstream."""
    number = (models // 2 // DEPTH) * DEPTH + DEPTH - 2
    path = root / f"dbt/models/marts/fct_{min(number, models - 1):03}.sql"
    path.write_text(path.read_text().replace("amount_cents + ", "amount_cents + 2 + "))


class _Clock:
    """Seconds that have passed, those that a core worked for the programs that ended meanwhile, the load before."""

    def __init__(self) -> None:
        self._started, self._worked, self._load = time.monotonic(), self._work(), os.getloadavg()[0]

    def read(self) -> dict[str, float]:
        found = {"seconds": time.monotonic() - self._started, "cpu_s": self._work() - self._worked, "load": self._load}
        return {name: round(value, 1) for name, value in found.items()}

    @staticmethod
    def _work() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


def _dml(root: Path, state: Path, *arguments: str) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DML_")} | {"DML_HOME": str(state)}
    clock = _Clock()
    command = [sys.executable, "-m", "dml_platform.cli", *arguments]
    subprocess.run(command, cwd=root, env=environment, check=True, stdin=subprocess.DEVNULL)
    return clock.read()


def _main_branch(project: projects.Project, folder: Path) -> Path:
    """A clone in which the main branch was checked, as its own jobs do: what they keep in the workflow's caches."""
    root = folder / project.root.name
    shutil.copytree(project.root, root, symlinks=True)
    projects.git(root, "clean", "-fdxq")
    shutil.copytree(project.state, root / ".dml")
    _dml(root, root / ".dml", "ci", "check", "--prepare", "--base=HEAD")
    return root


def _pull_request(
    project: projects.Project,
    folder: Path,
    models: int,
    *,
    own: Path,
    before: Path | None = None,
    one_by_one: bool = False,
) -> dict[str, Any]:
    """Run project-ci of ``own``, beside which mypy's cache is kept; ``before`` is a clone with what its caches hold."""
    folder.mkdir()
    repository, event = projects.pull_request(project, folder, lambda root: _change_one(root, models))
    left = folder / "left"
    remembered = left / "caches" / f"dml-Linux-{project.base}"
    shutil.copytree(before / ".dml" if before else project.state, remembered / ".dml")
    if before:
        parsed = left / "caches" / f"dbt-Linux-{project.base}"
        for place in (remembered, parsed):
            shutil.copytree(before / "dbt/target/dml", place / "dbt/target/dml")
    clock = _Clock()
    outcome = acting.run(
        program("act"),
        repository,
        "pull_request",
        event,
        workflow="ci.yml",
        folder=left,
        own=own,
        one_by_one=one_by_one,
    )
    took = clock.read()
    if outcome.code:
        sys.exit(f"project-ci failed: {outcome.failed}\n{outcome.text[-5000:]}")
    change = json.loads((left / "artifacts/change/change.json").read_text())
    jobs = {name: seconds for name, seconds in outcome.seconds.items() if name in outcome.passed - {"project"}}
    return {**took, "built": len(change["tables"]), "change": change["seconds"], "jobs": jobs}


def main() -> None:
    """Generate, run, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        source = folder / "source" / "project-bench"
        generate(options.project, source, models=options.models, rows=options.rows)
        workflows = source / ".github/workflows"
        workflows.mkdir(parents=True)
        shutil.copy(HERE.parent / "examples/project/ci.yml", workflows / "ci.yml")
        project = projects.prepare(source, folder, with_files=False)
        _dml(project.root, project.state, "run")
        full = _dml(project.root, project.state, "run", "--force")
        figures: dict[str, Any] = {"models": options.models, "rows": options.rows, "cores": os.cpu_count()}
        figures["full_build"] = full
        own = acting.templates(folder)
        runs = {"cold": _pull_request(project, folder / "cold", options.models, own=own)}
        before = _main_branch(project, folder / "main")
        runs["warm"] = _pull_request(project, folder / "warm", options.models, own=own, before=before)
        alone = _pull_request(project, folder / "alone", options.models, own=own, before=before, one_by_one=True)
        runs["warm_one_by_one"] = alone
        for name, found in runs.items():
            share = {f"share_of_{key}_pct": round(100 * found[key] / full[key], 1) for key in ("seconds", "cpu_s")}
            figures[name] = found | share
        # Each job has a runner of its own: a person waits for the longest one, and for what comes after it.
        jobs = alone["jobs"]
        longest = max((name for name in jobs if name not in _AFTER), key=lambda name: jobs[name])
        waits = jobs[longest] + sum(jobs.get(name, 0) for name in _AFTER)
        share = round(100 * waits / full["seconds"], 1)
        figures["runners_of_their_own"] = {"longest": longest, "seconds": waits, "share_pct": share}
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
