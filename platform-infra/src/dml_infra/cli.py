"""The commands `dml infra …`: thin calls; what they do is in the modules that they name, imported when they run.

With the projects' library installed this is its plug-in ``infra``; on a server without it, the program `dml-infra`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dml_infra import __version__
from dml_infra.cli_backup import add_commands as add_backup_commands
from dml_infra.cli_deploy import add_commands

if TYPE_CHECKING:
    from dml_infra.installation import Installation

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The server: check, start, deploy, roll back, back up.",
)
users = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="People who sign in at the proxy.")
app.add_typer(users, name="users")
# A pipe or a log has no width: lines stay whole there.
console = Console() if sys.stdout.isatty() else Console(width=200)
_chosen: dict[str, Path | None] = {"root": None}

Project = Annotated[str, typer.Argument(help="A project of the registry.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.callback()
def _root(
    root: Annotated[
        Path | None, typer.Option("--root", help="The installation's folder; else DML_INFRA__ROOT, else around here.")
    ] = None,
) -> None:
    _chosen["root"] = root


def _installation() -> Installation:
    from dml_infra.installation import find_installation

    return find_installation(_chosen["root"])


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def preflight(as_json: AsJson = False) -> None:
    """Check host, settings, secrets, registry and images; change nothing. One line a failure, with its fix."""
    from dml_infra import preflight as checks

    if not as_json:
        checks.preflight(_installation(), console)
        return
    results = checks.run_checks(_installation())
    _print(json.dumps([{"check": r.check, **r.finding.to_json()} for r in results], indent=2))
    if any(r.finding.state == "failed" for r in results):
        raise typer.Exit(3)


@app.command()
def up(
    timeout: Annotated[float, typer.Option(help="Seconds until the services have to be ready.", min=1)] = 900,
    no_preflight: Annotated[bool, typer.Option("--no-preflight", help="Do not check first.")] = False,
) -> None:
    """Start the server and wait until it can be used; again: change what differs."""
    from dml_infra import stack

    stack.up(_installation(), console, timeout_s=timeout, check=not no_preflight)


@app.command()
def down(
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete databases, tables, logs and secrets too.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Stop the server and all projects; data stay unless told otherwise."""
    from dml_infra import stack

    installation = _installation()
    if delete_data and not yes:
        typed = typer.prompt(f"This deletes all data of this server. Type its name, {installation.stack}, to go on")
        if typed != installation.stack:
            _print("Nothing was changed.")
            raise typer.Exit(1)
    stack.down(installation, console, delete_data=delete_data)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show every service and code location: digest, age, memory, health, last error."""
    from dml_infra import status as states

    rows = states.read_status(_installation())
    if as_json:
        _print(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        states.show_status(console, rows)
    if not states.is_well(rows):
        raise typer.Exit(1)


@app.command()
def logs(
    name: Annotated[str | None, typer.Argument(help="A service or project; default: all services.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Only the last ones of each.", min=1)] = 200,
    since: Annotated[str, typer.Option(help="E.g. 10m or 2026-01-31T12:00:00.")] = "",
) -> None:
    """Show what services or a project's code server printed."""
    from dml_infra import logs as output

    raise typer.Exit(output.show_logs(_installation(), name, follow=follow, lines=lines, since=since))


@app.command()
def pin(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be written.")] = False,
) -> None:
    """Write the digest of every image to .env, as its registry says now."""
    from dml_infra import pin as images

    installation = _installation()
    pins = images.resolve(installation)
    for found in pins:
        _print(f"{found.variable}={found.pinned}" + (f"  # {found.note}" if found.note else ""))
    if not dry_run:
        changed = images.write_pins(installation, pins)
        _print(f"{len(changed)} changed in {installation.env_file}. 'dml infra up' starts them.")


@app.command()
def secrets() -> None:
    """Make every secret file that is missing; never change one that is there."""
    from dml_infra.registry import load_registry
    from dml_infra.secrets import ensure_secrets
    from dml_infra.stack import first_sign_in

    installation = _installation()
    made = ensure_secrets(installation, [location.name for location in load_registry(installation)])
    for name in made:
        _print(f"made {installation.secrets / name}")
    _print(f"{len(made)} made")
    if first := first_sign_in(installation):
        _print(first)


@app.command()
def rotate(
    name: Annotated[str | None, typer.Argument(help="What to replace; without it, what there is.")] = None,
    retire: Annotated[bool, typer.Option("--retire", help="End the keys that a rotation left valid.")] = False,
) -> None:
    """Replace a password or key while everything keeps running."""
    from dml_infra import rotation
    from dml_infra.registry import load_registry

    installation = _installation()
    if name is None:
        for found in rotation.rotatable(installation, [location.name for location in load_registry(installation)]):
            _print(found)
    elif retire:
        for key in rotation.retire(installation, name):
            _print(f"ended {key}")
    else:
        rotation.rotate(installation, name)
        _print(f"replaced {name}")


@app.command()
def reader(
    project: Project,
    end: Annotated[bool, typer.Option("--end", help="Take the role and the key away.")] = False,
) -> None:
    """Make a role and a key for a project's workflows that only read, and show them once; again makes others."""
    from dml_infra import rotation
    from dml_infra.registry import find_location

    installation = _installation()
    find_location(installation, project)
    if end:
        rotation.end_reader(installation, project)
        _print(f"ended the reader of {project}")
        return
    for name, value in rotation.add_reader(installation, project).items():
        _print(f"{name}={value}")


@users.command("list")
def list_users() -> None:
    """Show everybody who can sign in, with the role."""
    from dml_infra import proxy_users

    for name, role in proxy_users.list_users(_installation()).items():
        _print(f"{name}\t{role}")


@users.command("add")
def add_user(
    name: str, role: Annotated[str, typer.Option(help="admin, or viewer: may look and change nothing.")] = "viewer"
) -> None:
    """Let a person sign in and show the password once."""
    from dml_infra import proxy_users
    from dml_infra.errors import ConfigError

    if role not in {"admin", "viewer"}:
        raise ConfigError(f"cannot add {name!r}", f"there is no role {role!r}", "Give --role admin or --role viewer.")
    _print(f"Password of {name}: {proxy_users.add_user(_installation(), name, role)}")  # type: ignore[arg-type]


@users.command("remove")
def remove_user(name: str) -> None:
    """Let a person no longer sign in."""
    from dml_infra import proxy_users

    proxy_users.remove_user(_installation(), name)


@users.command("password")
def new_password(name: str) -> None:
    """Give a person another password and show it once."""
    from dml_infra import proxy_users

    _print(f"Password of {name}: {proxy_users.set_password(_installation(), name)}")


add_commands(app, _installation, console)
add_backup_commands(app, _installation, console)


def main() -> None:
    """The program `dml-infra`: the same commands and exit codes where the projects' library is not installed."""
    from dml_infra.errors import InfraError

    if "--version" in sys.argv[1:2]:
        _print(f"dml-infra {__version__}")
        sys.exit(0)
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    shown: Any = Console(stderr=True)
    code: Any
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C, in silence
            raise KeyboardInterrupt
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        shown.print("interrupted")
        code = 130
    except InfraError as error:
        if debug:
            shown.print_exception()
        shown.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        code = error.exit_code
    sys.exit(code or 0)
