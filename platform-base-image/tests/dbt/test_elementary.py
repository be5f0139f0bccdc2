"""Elementary itself, from the mirror that ``TEST_DBT_PACKAGES_MIRROR`` names: 30 quiet days, then each fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from elementary_shop import KINDS, MIRROR, Shop, open_shop, rows_of

from dml_platform.alerts.watch import Freshness, find_late
from dml_platform.core.runrecord import read_records
from dml_platform.dbt.freshness import source_limits
from dml_platform.dbt.manifest import ensure_manifest

DAYS = 30

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),
    # Of strings in Elementary's own macros, and of what Jinja makes of them.
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),
    pytest.mark.skipif(not MIRROR, reason="no mirror of dbt packages: set TEST_DBT_PACKAGES_MIRROR"),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """After 30 clean days, of which each was quiet."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        shop = open_shop(tmp_path_factory.mktemp("elementary") / "project-shop", monkeypatch)
        found = {}
        for shop.day in range(DAYS):
            shop.land(rows_of(shop.day))
            found[shop.day] = shop.build()
        assert {day: kinds for day, kinds in found.items() if kinds} == {}
        yield shop


def test_clean_days_are_quiet_and_all_of_their_results_are_kept(shop: Shop) -> None:
    counted = shop.lake.sql(
        "SELECT count(DISTINCT invocation_id), count(*), count(DISTINCT id)"
        " FROM shop.elementary.elementary_test_results"
    ).fetchone()
    assert counted is not None
    runs, results, ids = counted
    assert runs >= DAYS
    assert results == ids >= DAYS * len(KINDS)


def test_a_run_uploads_its_results_once(shop: Shop) -> None:
    records = [record for record in read_records(shop.lake.settings, "shop") if "elementary_rows" in record.details]
    assert len(records) >= DAYS
    doubled = shop.lake.sql(
        "SELECT invocation_id, unique_id, count(*) FROM shop.elementary.dbt_run_results GROUP BY ALL"
        " HAVING count(*) > 1"
    ).fetchall()
    assert doubled == []
    invocations = shop.lake.df("shop.elementary.dbt_invocations")
    assert invocations["invocation_id"].is_unique
    # One a build: what makes the empty tables before the first uploads nothing.
    assert len(invocations) == len(records)


def test_a_source_that_is_late_is_found_however_late_somebody_looks(shop: Shop) -> None:
    """Nobody looked meanwhile. dbt's own freshness, of which alerts tell, has no limit; Elementary's test has one."""
    [limit] = [Freshness(*found) for found in source_limits(ensure_manifest(shop.project))]
    shop.day = DAYS - 1
    assert find_late(shop.lake, [limit], shop.now(36), {})[0] == []
    for days, is_found in ((1.5, True), (3, True), (6, True), (12, False)):
        assert ("freshness_anomalies" in shop.build(hours_later=days * 24)) == is_found, days
        faults, _ = find_late(shop.lake, [limit], shop.now(days * 24), {})
        assert [fault.key for fault in faults] == (["late:shop.raw.web__orders"] if days > 2 else [])
    assert "its newest row is 12 days old, more than 2 days" in faults[0].text


def test_each_fault_is_found_by_its_test(shop: Shop) -> None:
    shop.day = DAYS + 30
    for shop.day in range(DAYS, DAYS + 30):  # it went on, and nobody built
        shop.land(rows_of(shop.day))
    assert shop.build() == []
    shop.day += 1
    shop.land(20)
    assert "volume_anomalies" in shop.build()
    shop.day += 1
    shop.land(rows_of(shop.day), amount="CASE WHEN i % 2 = 0 THEN 1000 + hash(i) % 400 END")
    assert "column_anomalies" in shop.build()
    shop.day += 1
    shop.land(rows_of(shop.day), extra=", 'de' AS country")
    assert "schema_changes" in shop.build()
    assert "freshness_anomalies" in shop.build(hours_later=36)
