"""A project's alerts put together: its channels here, what is told, what waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dml_platform.alerts.config import AlertsConfig, Channel, load_alerts, missing_secrets, usable_channels
from dml_platform.alerts.ledger import Ledger
from dml_platform.alerts.outbox import Outbox
from dml_platform.core.config import load_project_config
from dml_platform.core.project import Project
from dml_platform.core.settings import Settings
from dml_platform.core.storage import open_storage

AREA = "alerts"


@dataclass(frozen=True)
class Desk:
    """What alerts of one project need. ``lacking`` names channels without a secret here, and what they lack."""

    config: AlertsConfig
    channels: Mapping[str, Channel]
    lacking: Mapping[str, str]
    owner: str | None
    outbox: Outbox
    ledger: Ledger


def open_desk(project: Project, settings: Settings) -> Desk | None:
    """A project's alerts, or None where it has none set.

    Raises:
        ConfigError: the section is wrong, or a server lacks a channel's secret.
    """
    config = load_project_config(project.root)
    alerts = load_alerts(config)
    if alerts is None:
        return None
    channels = usable_channels(alerts, is_server=settings.profile == "server")
    storage = open_storage(settings, project.name, AREA)
    outbox = Outbox(storage, channels, owner=config.owner)
    return Desk(
        config=alerts,
        channels=channels,
        lacking=missing_secrets(alerts.channels),
        owner=config.owner,
        outbox=outbox,
        ledger=Ledger(
            storage,
            outbox.post,
            project=project.name,
            owner=config.owner,
            repeat_after_hours=alerts.repeat_after_hours,
        ),
    )
