"""``edr`` itself, in its own environment, on the history of a real build: its page, and alerts to a real receiver.

Its environment is installed on first use, from the package index.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest
from elementary_shop import MIRROR, Shop, open_shop, rows_of
from pydantic import SecretStr
from receivers import webhook

from dml_platform.after_run import finish_run
from dml_platform.cli.app import console
from dml_platform.cli.ci import check
from dml_platform.core.errors import ConfigError, RetryableError
from dml_platform.core.settings import ElementarySettings
from dml_platform.elementary.alerts import send_alerts
from dml_platform.elementary.assets import build_report_assets
from dml_platform.lake import Lake
from dml_platform.lake.resource import LakeResource

SECRET = "very-secret-token"  # pragma: allowlist secret

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    # Of strings in Elementary's own macros, and of what Jinja makes of them.
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),
    pytest.mark.skipif(not MIRROR, reason="no mirror of dbt packages: set TEST_DBT_PACKAGES_MIRROR"),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """After two builds of these days, of which the second found a new column."""
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = tmp_path_factory.mktemp("edr") / "project-shop"
        shop = open_shop(root, monkeypatch, first_day=today - timedelta(days=2))
        shop.land(rows_of(0))
        assert shop.build() == []
        shop.day = 1
        shop.land(rows_of(1), extra=", 'de' AS country")
        assert shop.build() == ["schema_changes"]
        yield shop


def lake_with(shop: Shop, address: str) -> Lake:
    """The shop's lake, with the webhook set."""
    elementary = ElementarySettings(slack_webhook=SecretStr(address))
    return Lake(shop.lake.settings.model_copy(update={"elementary": elementary}), shop.project.root)


def test_its_page_is_an_asset_and_is_kept_beside_the_tables(shop: Shop) -> None:
    [asset] = build_report_assets(shop.project, [], owner="shop@example.com")
    assert asset.key.path == ["shop", "reports", "elementary"]
    with dg.DagsterInstance.ephemeral(tempdir=str(shop.project.root)) as instance:
        resources = {"lake": LakeResource(project_root=str(shop.project.root))}
        done = dg.materialize([asset], instance=instance, resources=resources)
    [made] = done.asset_materializations_for_node(asset.node_def.name)
    page = Path(str(made.metadata["report"].value))
    text = page.read_text(encoding="utf-8")
    assert "schema_changes" in text
    assert len(text) > 1_000_000


def test_without_a_webhook_nothing_is_sent_and_that_is_an_error_only_when_asked_for(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="neither DML_ELEMENTARY__SLACK_WEBHOOK nor"):
        send_alerts(shop.project, shop.lake, run_id="edr0")


def test_what_a_dead_webhook_did_not_take_is_sent_later_and_once(shop: Shop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    address = f"http://127.0.0.1:{port}/services/T000/{SECRET}"
    with pytest.raises(RetryableError, match="0 sent, 1 wait; edr ended with") as caught:
        send_alerts(shop.project, lake_with(shop, address), run_id="edr1")
    assert SECRET not in str(caught.value)
    with webhook(port=port) as hook:
        # Another process, as on another day: all that it knows is in the lake.
        done = send_alerts(shop.project, lake_with(shop, address), run_id="edr2")
        assert (done.sent, done.waiting) == (1, 0)
        again = send_alerts(shop.project, lake_with(shop, address), run_id="edr3")
        assert (again.sent, again.waiting) == (0, 0)
    [message] = hook.got
    assert "schema_changes" in str(message)
    assert {"blocks", "attachments"} & message.keys()


def test_a_run_sends_them_when_it_built_something(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as hook, dg.DagsterInstance.ephemeral(tempdir=str(shop.project.root)) as instance:
        monkeypatch.setenv("DML_ELEMENTARY__SLACK_WEBHOOK", hook.url())
        shop.day = 2
        shop.land(rows_of(2), extra=", 'de' AS country, 1 AS one_more")
        shop.build(hours_later=2)
        [run_id] = {f"day{shop.day}after2h"}
        said = finish_run(shop.project, instance=instance, dagster_run_id=run_id, failed={})
        assert any(text.startswith("Catalogue document: ") for text in said), said
        assert said[-1] == "Elementary's alerts: 1 sent"
        assert len(hook.got) == 1
        said = finish_run(shop.project, instance=instance, dagster_run_id="another", failed={})
        assert not any("Elementary's alerts" in text for text in said)


def test_a_change_that_is_tried_gets_a_page_of_its_own_and_the_lake_none(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shop.project.root
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"], ["commit", "--quiet", "-m", "a"]):
        subprocess.run(["git", *identity, *command], cwd=root, check=True)
    model = shop.project.dbt_dir / "models/fct_orders.sql"
    before = model.read_text()
    model.write_text(before + "-- Looked at again.\n")
    monkeypatch.chdir(root)
    heads = {ref.dotted: shop.lake.catalog.load_table(ref.identifier).refs() for ref in shop.lake.tables()}
    try:
        check(None, console, console, base="main", output=tmp_path / "out", with_elementary=True)
    finally:
        model.write_text(before)

    page = (tmp_path / "out" / "elementary.html").read_text()
    packed = re.search(r"elementaryData = JSON.parse\(atob\('([^']+)'\)\)", page)
    assert packed, "the page has no data"
    data = json.loads(base64.b64decode(packed[1]))
    [results] = [found for found in data["test_results"].values() if found]
    shown = {found["metadata"]["test_name"]: found["metadata"]["latest_run_status"] for found in results}
    assert shown.keys() == {"volume_anomalies", "freshness_anomalies", "column_anomalies"}
    assert set(shown.values()) == {"pass"}
    assert "`elementary.html`, beside the comment" in (tmp_path / "out" / "comment.md").read_text()
    assert heads == {ref.dotted: shop.lake.catalog.load_table(ref.identifier).refs() for ref in shop.lake.tables()}
