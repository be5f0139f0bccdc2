"""Commands that other distributions add to ``dml``: entry points of the group ``dml.commands``.

An entry point's name is the command, e.g. ``infra``; its object is a Typer application. Variables that begin with
``DML_<COMMAND>__`` are the plug-in's own. Looking for them costs milliseconds, so it is done only where a plug-in could
be the answer: the list of commands, a command that is not ours, a variable that is not ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dml_platform.core.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "dml.commands"


def find_plugins() -> dict[str, EntryPoint]:
    """The installed plug-ins by command name, sorted."""
    from importlib.metadata import entry_points

    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def load_plugin(point: EntryPoint) -> Any:
    """Import a plug-in's application.

    Raises:
        ConfigError: it cannot be imported; the message says from which distribution it is and why.
    """
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        owner = point.dist.name if point.dist else point.value
        raise ConfigError(
            f"cannot load the command {point.name!r} of {owner}", str(error), f"Install {owner} again, or remove it."
        ) from error


def own_prefixes() -> tuple[str, ...]:
    """What the names of the plug-ins' variables begin with, e.g. ``DML_INFRA__``."""
    return tuple(f"DML_{name.upper().replace('-', '_')}__" for name in find_plugins())
