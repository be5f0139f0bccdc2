"""What readers see after landing from a connector that behaves."""

from __future__ import annotations

import json

import pytest
from fake_connector import PROPERTIES
from fake_source import Land, fake_source, ids

from dml_platform.airbyte import land_streams
from dml_platform.core.errors import ConfigError, SchemaMismatchError, TooManyRejectsError
from dml_platform.core.naming import TableRef
from dml_platform.lake import Lake

USERS = TableRef("test", "raw", "fake__users")


def test_landed_rows_have_the_streams_types_and_the_platforms_columns(lake: Lake) -> None:
    (landing,) = land_streams(lake, "test", "fake", fake_source(), run_id="r1")

    assert (landing.ref, landing.rows, landing.rejects) == (USERS, 100, 0)
    row = lake.sql(
        "SELECT id, name, amount, updated_at::VARCHAR, _emitted_at::VARCHAR, _run_id, typeof(updated_at), "
        "_loaded_at > '2026-01-01' FROM test.raw.fake__users WHERE id = 3"
    ).fetchone()
    assert row == (
        *(3, "n3", 1.5, "2026-01-01 00:00:00+00", "2026-01-01 00:00:00+00", "r1"),
        *("TIMESTAMP WITH TIME ZONE", True),
    )
    assert "_extra" not in lake.sql("FROM test.raw.fake__users").columns
    published = lake.published(USERS)
    assert published is not None
    assert published.snapshot_id == landing.snapshot_id


def test_state_is_in_the_snapshot_of_its_rows_and_the_next_run_starts_there(lake: Lake) -> None:
    first = land_streams(lake, "test", "fake", fake_source(), run_id="r1")[0]
    again = land_streams(lake, "test", "fake", fake_source(), run_id="r2")[0]
    grown = fake_source(streams={"users": {"rows": 130}})
    more = land_streams(lake, "test", "fake", grown, run_id="r3")[0]

    assert [landing.rows for landing in (first, again, more)] == [100, 0, 30]
    assert again.snapshot_id == first.snapshot_id
    assert ids(lake) == list(range(1, 131))
    newest = next(iter(lake.history(USERS)))
    assert json.loads(newest.summary["airbyte_state"])["stream"]["stream_state"] == {"seen": 130}
    assert newest.summary["rows"] == "30"


def test_windows_are_published_one_by_one(land: Land, small_lake: Lake) -> None:
    land(streams={"users": {"rows": 12_000}}, padding=300, state_every=500)

    assert ids(small_lake) == list(range(1, 12_001))
    states = [json.loads(s.summary["airbyte_state"]) for s in small_lake.history(USERS)]
    assert len(states) > 2
    seen = [s["stream"]["stream_state"]["seen"] for s in reversed(states)]
    rows = [s.rows_total for s in reversed(list(small_lake.history(USERS)))]
    assert rows == seen


def test_a_stream_without_states_between_is_landed_once_at_the_end(land: Land, small_lake: Lake) -> None:
    land(streams={"users": {"rows": 12_000}}, padding=300, state_every=10**9)

    assert ids(small_lake) == list(range(1, 12_001))
    assert land(streams={"users": {"rows": 12_000}})["users"].rows == 0


def test_a_connector_without_any_state_replaces_its_rows(land: Land, small_lake: Lake) -> None:
    land(state="none")
    assert land(state="none")["users"].rows == 100
    assert ids(small_lake) == list(range(1, 101))


def test_a_refresh_that_sends_no_state_is_not_gone_on_from_the_state_before_it(land: Land, small_lake: Lake) -> None:
    land(streams={"users": {"rows": 100}})
    land(streams={"users": {"rows": 40}}, state="none", full_refresh=True)
    assert ids(small_lake) == list(range(1, 41))

    assert land(streams={"users": {"rows": 130}})["users"].rows == 130
    assert ids(small_lake) == list(range(1, 131))
    assert land(streams={"users": {"rows": 140}})["users"].rows == 10
    assert ids(small_lake) == list(range(1, 141))


def test_full_refresh_replaces_the_rows_in_one_publish(land: Land, small_lake: Lake) -> None:
    modes = {"users": "full_refresh"}
    land(modes, streams={"users": {"rows": 12_000}}, padding=300)
    before = small_lake.published(USERS)
    landed = land(modes, streams={"users": {"rows": 50}})["users"]

    assert ids(small_lake) == list(range(1, 51))
    assert (landed.rows, landed.state) == (50, None)
    assert before is not None
    # Readers had all of the windows at once: none of these snapshots was ever `main` alone.
    assert before.rows == 12_000


def test_full_refresh_of_a_stream_that_became_empty_empties_the_table(land: Land, small_lake: Lake) -> None:
    modes = {"users": "full_refresh"}
    land(modes)
    land(modes, streams={"users": {"rows": 0}})
    assert ids(small_lake) == []


def test_an_empty_stream_gets_its_table(land: Land, small_lake: Lake) -> None:
    landed = land(streams={"users": {"rows": 0}})["users"]
    assert landed.snapshot_id is not None
    assert small_lake.sql("FROM test.raw.fake__users").columns[:2] == ["id", "name"]


def test_changing_from_full_refresh_to_incremental_doubles_nothing(land: Land, small_lake: Lake) -> None:
    for mode in ("incremental", "full_refresh", "incremental", "incremental"):
        land({"users": mode})
        assert ids(small_lake) == list(range(1, 101)), mode


@pytest.mark.parametrize("kind", ["GLOBAL", "LEGACY"])
def test_a_state_for_all_streams_is_published_with_all_of_them(kind: str, land: Land, small_lake: Lake) -> None:
    modes = {"users": "incremental", "orders": "incremental"}
    sizes = {"users": {"rows": 7000}, "orders": {"rows": 40}}
    land(modes, streams=sizes, state=kind, padding=300)

    newest = [
        next(iter(small_lake.history(TableRef("test", "raw", f"fake__{name}")))).summary["airbyte_state"]
        for name in modes
    ]
    assert newest[0] == newest[1]
    assert json.loads(newest[0])["type"] == kind
    sizes["orders"]["rows"] = 45
    landed = land(modes, streams=sizes, state=kind)
    assert {name: landing.rows for name, landing in landed.items()} == {"users": 0, "orders": 5}
    assert (len(ids(small_lake)), ids(small_lake, "orders")) == (7000, list(range(1, 46)))


def test_a_state_for_all_streams_that_is_older_for_one_of_them_is_refused(land: Land) -> None:
    modes = {"users": "incremental", "orders": "incremental"}
    land(modes, state="GLOBAL")
    land({"users": "incremental"}, streams={"users": {"rows": 120}}, state="GLOBAL")
    with pytest.raises(ConfigError, match="one state for all streams"):
        land(modes, state="GLOBAL")
    land(modes, state="GLOBAL", full_refresh=True)


def test_stream_names_become_table_names(land: Land, small_lake: Lake) -> None:
    land({"Order Items (v2)": "incremental", "userEvents": "full_refresh"})
    assert [ref.name for ref in small_lake.tables()] == ["fake__order_items_v2", "fake__user_events"]


def test_only_some_streams(small_lake: Lake) -> None:
    source = fake_source({"users": "incremental", "orders": "incremental"})
    landed = land_streams(small_lake, "test", "fake", source, run_id="r1", streams=["orders"])
    assert [landing.stream for landing in landed] == ["orders"]
    with pytest.raises(ConfigError, match="'payments'"):
        land_streams(small_lake, "test", "fake", source, run_id="r2", streams=["payments"])


def test_an_added_column_is_added_to_the_table(land: Land, small_lake: Lake) -> None:
    land()
    properties = {**PROPERTIES, "age": {"type": "integer"}}
    land(streams={"users": {"rows": 110, "properties": properties, "extra": {"age": 7}}})
    rows = small_lake.sql("SELECT age, count(*) FROM test.raw.fake__users GROUP BY ALL ORDER BY ALL").fetchall()
    assert rows == [(7, 10), (None, 100)]


def test_a_dropped_column_is_refused_by_name_and_nothing_is_published(land: Land, small_lake: Lake) -> None:
    land()
    fewer = {k: v for k, v in PROPERTIES.items() if k != "amount"}
    with pytest.raises(SchemaMismatchError, match="amount: DOUBLE in the table, missing"):
        land(streams={"users": {"rows": 110, "properties": fewer}})
    assert ids(small_lake) == list(range(1, 101))
    landed = land(streams={"users": {"rows": 110, "properties": fewer}}, full_refresh=True)["users"]
    assert landed.rows == 110
    assert "amount" not in small_lake.sql("FROM test.raw.fake__users").columns


def test_a_changed_type_is_refused_by_name(land: Land, small_lake: Lake) -> None:
    land()
    changed = {**PROPERTIES, "amount": {"type": "string"}}
    with pytest.raises(SchemaMismatchError, match="amount: DOUBLE in the table, VARCHAR in the rows"):
        land(streams={"users": {"rows": 110, "properties": changed}})
    assert ids(small_lake) == list(range(1, 101))


def test_undeclared_fields_are_kept_as_json(land: Land, small_lake: Lake) -> None:
    land()
    land(streams={"users": {"rows": 110, "extra": {"colour": "red", "tags": [1, None]}}})
    land(streams={"users": {"rows": 120}})
    rows = small_lake.sql("SELECT _extra, count(*) FROM test.raw.fake__users GROUP BY ALL ORDER BY 2").fetchall()
    assert [(json.loads(text) if text else None, count) for text, count in rows] == [
        ({"colour": "red", "tags": [1, None]}, 10),
        (None, 110),
    ]


def test_records_that_do_not_fit_go_to_the_rejects_table(land: Land, small_lake: Lake) -> None:
    bad = {"users": {"rows": 100, "bad_at": 42, "bad": {"id": 41.5, "updated_at": "soon"}}}
    landed = land(streams=bad, share=0.02)["users"]

    assert (landed.rows, landed.rejects) == (99, 1)
    assert 42 not in ids(small_lake)
    rows = small_lake.sql(
        "SELECT record_number, column_name, reason, raw_record, _run_id FROM test.raw.fake__users__rejects"
    ).fetchall()
    assert sorted(row[:3] for row in rows) == [
        (42, "id", "41.5 is no BIGINT"),
        (42, "updated_at", "soon is no TIMESTAMPTZ"),
    ]
    assert json.loads(rows[0][3])["name"] == "n42"


def test_more_rejects_than_allowed_publish_nothing(land: Land, small_lake: Lake) -> None:
    bad = {"users": {"rows": 100, "bad_at": 42, "bad": {"id": "forty-two"}}}
    with pytest.raises(TooManyRejectsError, match=r"1 of 100 records.*record 42, column 'id': forty-two is no BIGINT"):
        land(streams=bad)
    assert small_lake.published(USERS) is None
    assert land()["users"].rows == 100


def test_nothing_is_left_in_the_temporary_folder(land: Land, small_lake: Lake) -> None:
    land({"users": "incremental", "orders": "full_refresh"})
    assert [p.name for p in small_lake.settings.temp_dir.iterdir() if p.name.startswith("airbyte")] == []
