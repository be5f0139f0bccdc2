"""The commands and how they end: an error is a sentence and a fix, and the exit code says what kind it is.

0 done · 1 failed · 2 wrong usage or configuration · 3 a check failed or too many rows were rejected ·
75 worth trying again · 130 interrupted.
"""

from __future__ import annotations

import gc
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from dml_platform import __version__
from dml_platform.cli.faults import explain
from dml_platform.core.errors import ConfigError, PlatformError
from dml_platform.core.plugins import find_plugins, load_plugin


class _GroupWithPlugins(TyperGroup):
    """Our commands, then those of installed plug-ins; a plug-in cannot replace one of ours."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in find_plugins() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None and (point := find_plugins().get(cmd_name)):
            command = typer.main.get_command(load_plugin(point))
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for name in find_plugins():
            try:
                self.get_command(ctx, name)
            except ConfigError as error:  # listed with its fault, so that the others stay usable
                self.add_command(TyperGroup(name=name, help=f"(cannot load: {error.why})"), name)
        super().format_commands(ctx, formatter)


app = typer.Typer(
    cls=_GroupWithPlugins,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The data platform's command line.",
)
# A pipe or a log has no width: lines stay whole there.
console = Console() if sys.stdout.isatty() else Console(width=200)
errors = Console(stderr=True)

ProjectOption = Annotated[
    str | None,
    typer.Option("--project", "-p", help="Which project; needed only where several are side by side."),
]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    context.obj = {"debug": debug}
    if version:
        console.print(f"dml {__version__}")
        raise typer.Exit


@app.command()
def demo(project: ProjectOption = None) -> None:
    """Run the whole pipeline on real data and show what came out. No Docker, no server."""
    from dml_platform.cli import run as runs

    runs.demo(project, console)


@app.command()
def run(
    project: ProjectOption = None,
    select: Annotated[
        str, typer.Option("--select", "-s", help="Dagster asset selection, e.g. 'sales/marts/fct_purchases+'.")
    ] = "*",
    force: Annotated[
        bool, typer.Option("--force", help="Build the models although neither files nor inputs changed.")
    ] = False,
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Replace rows and columns of dbt's tables and of selected sources.")
    ] = False,
    alert: Annotated[
        bool, typer.Option("--alert", help="Send the project's alerts of this run; without it nobody is told.")
    ] = False,
) -> None:
    """Run the project's pipeline: ingest, land, transform, test, publish."""
    from dml_platform.cli import run as runs

    runs.run(project, console, select=select, force=force, full_refresh=full_refresh, alert=alert)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The project's name: its folder is project-<name>.")],
    owner: Annotated[str | None, typer.Option(help="E-mail address or team:<name>.")] = None,
    alerts: Annotated[str | None, typer.Option(help="E-mail address that is told when something breaks.")] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--source", help="files, connector or connection; may be given several times.")
    ] = None,
    connection_id: Annotated[str | None, typer.Option(help="Id of the Airbyte connection.")] = None,
    sample_model: Annotated[bool | None, typer.Option(help="Models, plots and figures on the sample data.")] = None,
    notebooks: Annotated[bool | None, typer.Option(help="A folder of notebooks.")] = None,
    dvc_remote: Annotated[str | None, typer.Option(help="Where DVC keeps files: none, local or s3.")] = None,
    dvc_url: Annotated[str | None, typer.Option(help="With s3: s3://bucket/folder.")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", "-y", help="Ask nothing; take the usual answers.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where its folder is made; default: beside the other projects.")
    ] = None,
    first_run: Annotated[bool, typer.Option("--run/--no-run", help="Run its pipeline once.")] = True,
) -> None:
    """Make a project from the template: asks, renders, commits, runs it once and says what to do next."""
    from dml_platform.cli import new as projects

    answers: dict[str, Any] = {"owner": owner, "alerts": alerts, "sources": sources or None}
    answers |= {"connection_id": connection_id}
    answers |= {"sample_model": sample_model, "notebooks": notebooks, "dvc_remote": dvc_remote, "dvc_url": dvc_url}
    raise typer.Exit(projects.new(name, console, answers=answers, folder=folder, ask=not defaults, first_run=first_run))


class _AllWords(TyperCommand):
    """Keeps the ``--`` among the arguments of another program, which is that program's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            args = [*args[:place], "--", *args[place:]]
        return super().parse_args(ctx, args)


@app.command("test", cls=_AllWords, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_tests(
    context: typer.Context,
    stack: Annotated[bool, typer.Option("--stack", help="Only the tests of the whole server, with Docker.")] = False,
) -> None:
    """Run all tests that this machine can run. Arguments go to nox, e.g. `dml test -s tests -- -k name`."""
    from dml_platform.cli import test

    raise typer.Exit(test.run_tests([*(["-s", "stack"] if stack else []), *context.args]))


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of Dagster's UI on this machine.")] = 3000,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when ready and keep running.")] = False,
) -> None:
    """Start Dagster's UI and daemon and a code server per project; Ctrl-C stops them all."""
    from dml_platform.cli import services

    services.up(console, port=port, detach=detach)


@app.command()
def down() -> None:
    """Stop everything that `dml up` started."""
    from dml_platform.cli import services

    services.down(console)


@app.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="SQL; without it a prompt opens.")] = None,
    run_id: Annotated[
        str | None,
        typer.Option("--run", help="Open the private DuckDB file that a failed run left behind."),
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", help="With --run: the rows that this test of the run found.")
    ] = None,
    output: Annotated[str, typer.Option("--format", "-f", help="table, csv or json.")] = "table",
    max_rows: Annotated[int, typer.Option(help="Rows that a table shows.", min=1)] = 40,
) -> None:
    """Query published tables by their name, e.g. `dml sql "from sales.marts.fct_daily_revenue"`."""
    from dml_platform.cli import lake

    lake.sql(console, query, run_id=run_id, test=test, output=output, max_rows=max_rows)


@app.command()
def tables(project: ProjectOption = None) -> None:
    """List the lake's tables with rows, age and the run that published them."""
    from dml_platform.cli import lake

    lake.tables(console, project)


@app.command()
def history(
    table: Annotated[str | None, typer.Argument(help="project.layer.name; without it: the runs.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 20,
) -> None:
    """List a table's published states, or the last runs."""
    from dml_platform.cli import lake

    lake.history(console, table, limit=limit)


alerts_app = typer.Typer(no_args_is_help=True, help="Try the channels of alerts; see what is wrong and what waits.")
app.add_typer(alerts_app, name="alerts")


@alerts_app.command("test")
def alerts_test(project: ProjectOption = None) -> None:
    """Send a test message to every channel and say what happened."""
    from dml_platform.cli import alerts

    alerts.send_test(project, console)


@alerts_app.command("show")
def alerts_show(project: ProjectOption = None) -> None:
    """List what is wrong, and what each channel still has to take."""
    from dml_platform.cli import alerts

    alerts.show(project, console)


@app.command()
def report(
    project: ProjectOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the page.")] = None,
    document: Annotated[
        Path | None, typer.Option(help="A catalogue document to draw instead of looking at the lake.")
    ] = None,
    open_page: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Show it in a browser; default: where there is a screen.")
    ] = None,
) -> None:
    """Write one page that explains every table, test, run and number, and open it. It needs no server."""
    from dml_platform.cli import report as reports

    reports.report(console, project, output=output, document_file=document, open_page=open_page)


@app.command()
def impact(
    subject: Annotated[
        str | None, typer.Argument(help="A model, table, table.column or the path of a file; or else --changed.")
    ] = None,
    project: ProjectOption = None,
    changed: Annotated[bool, typer.Option("--changed", help="What the working tree changes since --base.")] = False,
    base: Annotated[str, typer.Option("--base", help="Branch, tag or commit to compare with.")] = "origin/main",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="For a comment on a pull request.")] = False,
) -> None:
    """Say what breaks downstream of a table, column or file, and who owns it."""
    from dml_platform.cli import impact as impacts

    impacts.impact(console, subject, project=project, changed=changed, base=base, as_json=as_json, markdown=markdown)


@app.command()
def diff(
    table: Annotated[str, typer.Argument(help="project.layer.name.")],
    was: Annotated[int | None, typer.Option("--from", help="Snapshot; default: the state before.")] = None,
    now: Annotated[int | None, typer.Option("--to", help="Snapshot; default: what is published.")] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Column that identifies a row; default: as the model says.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="For a comment.")] = False,
) -> None:
    """Count the rows and columns in which two published states of a table differ."""
    from dml_platform.cli import diff as diffs

    diffs.diff(console, table, was=was, now=now, key=key or [], as_json=as_json, markdown=markdown)


@app.command()
def rollback(
    subject: Annotated[str, typer.Argument(metavar="TABLE|RUN", help="project.layer.name, or a run's id.")],
    to: Annotated[
        str | None, typer.Option("--to", help="A snapshot or run; default: what was there before the last run.")
    ] = None,
    project: ProjectOption = None,
    why: Annotated[str, typer.Option("--why", help="Kept with the roll-back.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Take back what was published: of one table, or of all tables of a run in one transaction; nothing is deleted."""
    from dml_platform.cli import rollback

    rollback.rollback(console, subject, project=project, to=to, why=why, yes=yes, dry_run=dry_run, as_json=as_json)


@app.command()
def maintain(
    project: ProjectOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs, with every snapshot and file.")] = False,
    keep_days: Annotated[
        float | None, typer.Option("--keep-days", help="Keep what was published in these days; default: 30.")
    ] = None,
    keep_snapshots: Annotated[
        int | None, typer.Option("--keep-snapshots", help="Keep that many last states anyway; default: 10.")
    ] = None,
    keep_runs: Annotated[
        int | None, typer.Option("--keep-runs", help="Keep what that many last runs read and wrote; default: 20.")
    ] = None,
    branch_days: Annotated[
        float | None, typer.Option("--branch-days", help="Days after which a run's branch is dead; default: 7.")
    ] = None,
    orphan_days: Annotated[
        float | None,
        typer.Option("--orphan-days", "--orphan-age", help="Days after which a file without a name goes; default: 3."),
    ] = None,
) -> None:
    """Make small files one; remove dead branches, old snapshots and files that nothing names.

    Defaults are those of 'maintenance:' in config/project.yaml.
    """
    from dml_platform.cli import maintain

    maintain.run(
        console,
        errors,
        project,
        dry_run=dry_run,
        as_json=as_json,
        keep_days=keep_days,
        keep_snapshots=keep_snapshots,
        keep_runs=keep_runs,
        branch_days=branch_days,
        orphan_days=orphan_days,
    )


ci_app = typer.Typer(no_args_is_help=True, help="What a pull request has to pass, the same here as in the workflows.")
app.add_typer(ci_app, name="ci")
BaseOption = Annotated[str, typer.Option("--base", help="Branch, tag or commit that the change goes to.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for comment.md and change.json.")]


@ci_app.command("parse")
def ci_parse(project: ProjectOption = None) -> None:
    """Let dbt read the project, if a file of it changed since it last did; what it read serves all commands."""
    from dml_platform.core.project import get_project
    from dml_platform.dbt.manifest import count_nodes, ensure_manifest

    console.print(count_nodes(ensure_manifest(get_project(project))), markup=False)


@ci_app.command("changed")
def ci_changed(
    project: ProjectOption = None,
    base: BaseOption = "origin/main",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the models, seeds and tests that a change touches, and what is downstream."""
    from dml_platform.cli import ci

    ci.changed(project, console, base=base, as_json=as_json)


@ci_app.command("check")
def ci_check(
    project: ProjectOption = None,
    base: BaseOption = "origin/main",
    output: OutputOption = None,
    with_prepare: Annotated[bool, typer.Option("--prepare", help="Do 'dml ci prepare' before.")] = False,
    with_elementary: Annotated[
        bool, typer.Option("--elementary", help="Also write elementary.html, where its dbt package is installed.")
    ] = False,
) -> None:
    """Build and test what a change touches on the published tables, compare the data, publish nothing."""
    from dml_platform.cli import ci

    if with_prepare:
        ci.prepare(project, console, base=base, output=output)
    ci.check(project, console, errors, base=base, output=output, with_elementary=with_elementary)


@ci_app.command("prepare")
def ci_prepare(project: ProjectOption = None, base: BaseOption = "origin/main", output: OutputOption = None) -> None:
    """Make the published state to compare with, where the settings name no server: run the project as it was."""
    from dml_platform.cli import ci

    ci.prepare(project, console, base=base, output=output)


@ci_app.command("image")
def ci_image(tag: Annotated[str, typer.Argument(help="A project's image that was built here.")]) -> None:
    """Start an image as the server does, and see that it loads its definitions and is nobody's root."""
    from dml_platform.ci.image import check_image

    with errors.status("starting the image"):
        found = check_image(tag)
    console.print(found, markup=False)


@ci_app.command("vulnerabilities")
def ci_vulnerabilities(
    report: Annotated[Path, typer.Argument(help="What `nox -s sbom` wrote: pip-audit's JSON.")],
    accepted: Annotated[Path, typer.Option("--accepted", help="List of what is accepted, until when and why.")] = Path(
        ".vulnerabilities.yaml"
    ),
) -> None:
    """Refuse an image with known vulnerabilities that nobody has accepted; exit code 3."""
    from datetime import datetime, timezone

    from dml_platform.ci.image import check_vulnerabilities

    console.print(check_vulnerabilities(report, accepted, today=datetime.now(timezone.utc).date()), markup=False)


catalog_app = typer.Typer(no_args_is_help=True, help="What is known of a project: tables, tests, lineage, runs.")
app.add_typer(catalog_app, name="catalog")


@catalog_app.command("show")
def catalog_show(
    project: ProjectOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole document.")] = False,
) -> None:
    """Show the document that the last run wrote, in short."""
    from dml_platform.cli import catalog

    catalog.show(console, project, as_json=as_json)


@catalog_app.command("write")
def catalog_write(project: ProjectOption = None) -> None:
    """Write the document anew, as after a run."""
    from dml_platform.cli import catalog

    catalog.write(console, project)


@catalog_app.command("push")
def catalog_push(
    project: ProjectOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the difference.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Send the document, and what waits before it, to OpenMetadata: what it lacks, has otherwise, has too much."""
    from dml_platform.cli import openmetadata

    openmetadata.push(console, errors, project, dry_run=dry_run, as_json=as_json)


@catalog_app.command("install")
def catalog_install() -> None:
    """Install the publisher to OpenMetadata now, e.g. into an image, and not on its first use."""
    from dml_platform.cli import openmetadata

    openmetadata.install(errors)


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Its id, as `dml history` shows it.")],
    project: ProjectOption = None,
    repo: Annotated[
        str | None, typer.Option("--repo", help="Address of the git repository, where it is not the one around you.")
    ] = None,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Try the commit although files had been changed since.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a run's tables again from its commit and inputs, and compare; exit code 3: not the same."""
    from dml_platform.cli import reproduce

    raise typer.Exit(
        reproduce.run(
            run_id,
            console,
            errors,
            project_name=project,
            repo=repo,
            allow_dirty=allow_dirty,
            as_json=as_json,
        )
    )


# All words after it are DVC's, its options and --help included.
@app.command(
    "dvc",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    },
)
def run_dvc(context: typer.Context) -> None:
    """Check the files that DVC tracks (`dml dvc check`), or give DVC a command (`dml dvc repro`)."""
    from dml_platform.cli import dvc

    raise typer.Exit(dvc.run(context.args, console, errors))


elementary_app = typer.Typer(no_args_is_help=True, help="Elementary's anomaly tests: install what they need.")
app.add_typer(elementary_app, name="elementary")


@elementary_app.command("report")
def elementary_report(project: ProjectOption = None) -> None:
    """Make Elementary's own page from what its tests found."""
    from dml_platform.cli import elementary

    elementary.report(project, console)


@elementary_app.command("alerts")
def elementary_alerts(project: ProjectOption = None) -> None:
    """Send Elementary's alerts that wait to DML_ELEMENTARY__SLACK_WEBHOOK; each run does it too."""
    from dml_platform.cli import elementary

    elementary.alerts(project, console)


@elementary_app.command("install")
def elementary_install(
    project: ProjectOption = None,
    edr: Annotated[bool, typer.Option("--edr", help="Also its program, as an image's build does.")] = False,
) -> None:
    """Install Elementary's dbt package into the project, from DML_DBT_PACKAGES_MIRROR."""
    from dml_platform.cli import elementary

    elementary.install(project, console, with_edr=edr)


@app.command()
def doctor(
    settings: Annotated[bool, typer.Option("--settings", help="List every variable that is read.")] = False,
) -> None:
    """Check this machine and say what to mend."""
    from dml_platform.cli.doctor import check, list_settings

    if settings:
        list_settings(console)
    elif not check(console, Path.cwd()):
        raise typer.Exit(1)


def _heed_signals() -> None:
    """Be ended by a signal also where a shell started this in its background, which has it ignore Ctrl-C.

    Dagster does with SIGTERM as it finds it done with Ctrl-C, and connectors inherit both: their own processes, which
    end each other by SIGTERM, then wait for one another for ever.
    """
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


def main() -> None:
    """Run the command line and exit."""
    _heed_signals()
    # Dagster and dbt make millions of objects that live on; collecting as often as Python does costs 6 % of a run.
    gc.set_threshold(200_000, 20, 100)
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    # --debug is welcome anywhere on the line, also after the command, where people think of it.
    if debug and arguments[:1] != ["test"]:
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C, in silence
            raise KeyboardInterrupt
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        errors.print("interrupted")
        code = 130
    except PlatformError as error:
        if debug:
            traceback.print_exc()
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        code = error.exit_code
    except Exception as error:  # noqa: BLE001 - the process's edge
        # A plug-in's errors have the same form without being of the same class.
        known = error if hasattr(error, "fix") and hasattr(error, "exit_code") else explain(error)
        text = f"{type(error).__name__}: {error}\nRun it again with --debug to see where it came from."
        if debug:
            traceback.print_exc()
        if known or not debug:
            errors.print(str(known or text), style="red", markup=False, highlight=False, soft_wrap=True)
        code = getattr(known, "exit_code", 1)
    sys.exit(code or 0)
