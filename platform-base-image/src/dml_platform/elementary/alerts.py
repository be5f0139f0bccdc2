"""Elementary's own alerts: ``edr`` sends them to a Slack webhook, where a setting names one.

What was sent is kept with the history in the lake, so that it is sent once; what could not be sent stays pending there
and goes along with the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import duckdb

from dml_platform.core.config import load_project_config
from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.project import Project
from dml_platform.core.settings import Settings
from dml_platform.dbt.history import ALERTS, save_history
from dml_platform.elementary.edr import Workplace, last_words, run_edr, workplace
from dml_platform.lake import Lake
from dml_platform.lake.engine import quote, quote_name

# Elementary forgets what waits for longer.
_DAYS_BACK = 30
# From so many on they come in one message.
_GROUP_FROM = 5


@dataclass(frozen=True)
class Sent:
    """How many alerts ``edr`` sent, and how many could not be sent and wait."""

    sent: int
    waiting: int


def are_switched_on(settings: Settings) -> bool:
    """Whether a webhook is set; it need not be readable."""
    return settings.elementary.slack_webhook is not None or settings.elementary.slack_webhook_file is not None


def send_alerts(project: Project, lake: Lake, *, run_id: str, progress: Callable[[str], None] | None = None) -> Sent:
    """Have ``edr`` send what its tests found and nobody was told of.

    Raises:
        ConfigError: no webhook is set or it cannot be read, or the dbt package is not installed.
        RetryableError: not all was taken; it waits.
    """
    what = f"cannot send Elementary's alerts of project {project.name!r}"
    webhook = _webhook(lake.settings, what)
    slack = {"slack": {"notification_webhook": webhook, "group_alerts_threshold": _GROUP_FROM}}
    options = [f"--days-back={_DAYS_BACK}", f"--env={lake.settings.profile}"]
    if load_project_config(project.root).alerts is not None:  # which tells of what failed
        options.append("--filters=statuses:warn")
    with workplace(project, lake, what=what, config=slack, progress=progress) as place:
        before = _states(place, project)
        done = run_edr(place, "monitor", *options, what=what)
        after = _states(place, project)
        save_history(lake, project.name, place.database, run_id=run_id, loaded=place.loaded, only={ALERTS})
    sent = sum(state == "sent" and before.get(alert) != "sent" for alert, state in after.items())
    waiting = sum(state == "pending" for state in after.values())
    if done.returncode != 0:
        why = f"{sent} sent, {waiting} wait; edr ended with {done.returncode}: {_without(last_words(done), webhook)}"
        raise RetryableError(what, why, "They are sent after the next run; 'dml elementary alerts' does it now.")
    return Sent(sent, waiting)


def _webhook(settings: Settings, what: str) -> str:
    """Read anew each time: a file may be replaced."""
    given, path = settings.elementary.slack_webhook, settings.elementary.slack_webhook_file
    if given is not None:
        address = given.get_secret_value().strip()
    elif path is not None:
        try:
            address = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(what, f"{path}: {why}", "Put the webhook's address there.") from None
    else:
        why = "neither DML_ELEMENTARY__SLACK_WEBHOOK nor DML_ELEMENTARY__SLACK_WEBHOOK_FILE is set"
        raise ConfigError(what, why, "Set one of them.")
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise ConfigError(what, "the webhook's address is no http(s) URL", "Correct the secret.")
    return address


def _states(place: Workplace, project: Project) -> dict[str, str]:
    """The state of each alert by its id: pending, sent or skipped, which is told along with a newer one."""
    with duckdb.connect(":memory:") as connection:
        name = quote_name(project.name)
        connection.execute(f"ATTACH {quote(str(place.database))} AS {name} (READ_ONLY)")
        there = connection.execute(
            "SELECT 1 FROM duckdb_tables() WHERE database_name = ? AND schema_name = 'elementary' AND table_name = ?",
            [project.name, ALERTS],
        ).fetchone()
        if there is None:
            return {}
        return dict(connection.execute(f"SELECT alert_id, status FROM {name}.elementary.{ALERTS}").fetchall())


def _without(text: str, address: str) -> str:
    """``edr`` repeats the address where it fails."""
    for part in (address, urlsplit(address).path.strip("/")):
        if part:
            text = text.replace(part, "***")
    return text
