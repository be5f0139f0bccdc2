"""``dml reproduce``: one command from a run's id to 'same' or 'differs'."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dml_platform.cli.run import load_project_definitions
from dml_platform.core.dvcfiles import uses_dvc
from dml_platform.core.errors import ConfigError, PlatformError
from dml_platform.core.project import Project, find_projects, get_project
from dml_platform.core.runrecord import RunRecord, read_records
from dml_platform.core.settings import Settings, load_settings
from dml_platform.dvc import Dvc
from dml_platform.lake import Lake
from dml_platform.lake.scratch import scratch_folder
from dml_platform.reproduce import Reproduction, reproduce
from dml_platform.reproduce import checkout as checkouts
from dml_platform.reproduce.run import DIFFERS, SAME

DIFFERENT = 3


def run(
    run_id: str,
    console: Console,
    errors: Console,
    *,
    project_name: str | None,
    repo: str | None,
    allow_dirty: bool,
    as_json: bool,
) -> int:
    """Make a run again and show what came out. Returns: the exit code.

    Raises:
        PlatformError: it cannot be made again; why.
    """
    local = get_project(project_name) if repo is None or find_projects() else None
    settings = load_settings(local.root if local else None)
    with scratch_folder(settings) as scratch, errors.status("restoring the commit of the run") as status:
        source = repo if repo is not None else _root(local)
        code = scratch / checkouts.folder_name(source)
        checkouts.clone(source, code)
        name = project_name or (local.name if local else None)
        if name is None:
            checkouts.head(code)
            name = checkouts.find_project(code, None).name
        records = _records(settings, name, run_id)
        project = checkouts.check_out(code, records[0].git_commit, name, allow_dirty=allow_dirty)
        # Whatever the project's own code asks for is in the scratch folder; the lake is where it was.
        lake = Lake(_private(settings, scratch), project.root)
        os.environ["DML_HOME"] = str(lake.settings.home)
        (scratch / "made").mkdir()
        result = reproduce(
            project,
            lake,
            records,
            folder=scratch / "made",
            load=load_project_definitions,
            dvc=_dvc(project, local, settings, errors),
            progress=lambda text: status.update(escape(text)),
        )
        lake.catalog.close()
    if as_json:
        print(json.dumps(result.as_dict(), indent=2, default=str))
    else:
        _show(result, console)
    return 0 if result.is_same else DIFFERENT


def _root(local: Project | None) -> Path:
    assert local is not None
    return local.root


def _records(settings: Settings, project: str, run_id: str) -> list[RunRecord]:
    records = list(read_records(settings, project, run_id))
    if not records:
        raise ConfigError(
            f"cannot find run {run_id!r} of project {project!r}",
            "there is no record of it where the settings say that the lake is",
            "'dml history' lists the runs; on another machine set DML_LAKE__* as there.",
        )
    return records


def _private(settings: Settings, scratch: Path) -> Settings:
    """The same lake, with a state folder that goes away."""
    where = {"catalog_uri": SecretStr(settings.catalog_uri), "warehouse": settings.warehouse}
    home = scratch / "home"
    home.mkdir()
    return settings.model_copy(update={"home": home, "lake": settings.lake.model_copy(update=where)})


def _dvc(project: Project, local: Project | None, settings: Settings, errors: Console) -> Dvc | None:
    """DVC in the checkout; a remote that is a folder of the clone it came from is there, not in the checkout."""
    if not uses_dvc(project.root):
        return None
    remote = None
    if local is not None and uses_dvc(local.root) and not settings.dvc.remote_url:
        try:
            found = Dvc(local.root, settings).default_remote()
        except PlatformError as error:
            errors.print(f"files that DVC tracks are not brought: {error.why}", markup=False)
            return None
        remote = found[1] if found else None
    return Dvc(project.root, settings, remote=remote, progress=lambda text: errors.print(text, markup=False))


def _show(result: Reproduction, console: Console) -> None:
    console.print(f"run {result.run_id} of {result.project!r} at commit {result.git_commit}", markup=False)
    for note in result.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if result.files:
        console.print(f"{len(result.files)} files that DVC tracks are as locked", markup=False)
    table = Table("table", "result", "rows then", "rows now", "hash then", "hash now", box=None, padding=(0, 2, 0, 0))
    for name in result.inputs:
        table.add_row(name, "taken as it was landed", "", "", "", "")
    for found in result.tables:
        style = {SAME: "green", DIFFERS: "red"}.get(found.status, "yellow")
        compared = found.comparison
        table.add_row(
            found.table,
            f"[{style}]{found.status}[/]",
            f"{compared.rows_then:,}",
            f"{compared.rows_now:,}",
            compared.hash_then[:12],
            compared.hash_now[:12],
        )
    console.print(table)
    for found in result.tables:
        if found.status == SAME:
            continue
        console.print(f"\n{found.table}: {found.reason}", markup=False, highlight=False, soft_wrap=True)
        rows = Table("", *found.comparison.columns, box=None, padding=(0, 2, 0, 0))
        for side, values in found.comparison.examples:
            rows.add_row(side, *("" if value is None else escape(str(value)) for value in values))
        if found.comparison.examples:
            console.print(rows)
    console.print("[green]same[/]" if result.is_same else "[red]not the same[/]")
