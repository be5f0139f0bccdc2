"""What services and code servers print, by their names here instead of their containers'."""

from __future__ import annotations

from dml_infra import engine
from dml_infra.checks.host import services
from dml_infra.errors import ConfigError
from dml_infra.installation import Installation


def show_logs(
    installation: Installation, name: str | None, *, follow: bool = False, lines: int = 200, since: str = ""
) -> int:
    """Print to this terminal; with ``follow`` until Ctrl-C.

    Args:
        installation: whose.
        name: a service or a project; None: all services.
        follow: go on with what comes.
        lines: only the last ones of each container.
        since: a time or an age, as Docker takes it.

    Returns: Docker's exit code.
    Raises: ConfigError: there is no such service or project.
    """
    options = ["--tail", str(lines), *(["--follow"] if follow else []), *(["--since", since] if since else [])]
    if name is None or name in services(installation):
        wanted = [name] if name else []
        return engine.docker_live("compose", "--project-name", installation.stack, "logs", *options, *wanted)
    own = engine.containers(f"dml.stack={installation.stack}", f"dml.project={name}", "dml.role=code-location")
    if not own:
        known = sorted(services(installation))
        raise ConfigError(
            f"cannot show the log of {name!r}",
            "there is no such service, and no project of that name runs",
            f"Give a project, or one of {', '.join(known)}.",
        )
    newest = max(own, key=lambda details: str(details["Created"]))
    return engine.docker_live("logs", *options, newest["Id"])
