"""The commands `dml infra …`: thin calls; what they do is in the modules that they name."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The server: preflight, up, deploy, back up.",
)


@app.callback()
def _root() -> None:
    """Keep `dml infra` a group of commands."""
