"""What was traced before saves work and changes no result: other SQL, tables or code, or a bad file, trace anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dml_platform.lineage import memory as module
from dml_platform.lineage import trace_project
from dml_platform.lineage.memory import Memory

RAW = {
    "shop.raw.orders": {
        "id": "BIGINT",
        "amount": "DECIMAL(10,2)",
        "tags": "VARCHAR[]",
        "address": "STRUCT(city VARCHAR, zip INTEGER)",
    }
}
STG = 'select id, amount * 100 as cents, address, tags from "shop"."raw"."orders" where id > 0'
FCT = "with o as (select * from shop.marts.stg) select *, address.city, sum(cents) over () as all_cents from o"
LOG = "select * from shop.marts.fct union all select * from shop.marts.log"


def manifest(**sql: str) -> dict[str, Any]:
    models, before = {}, None
    for name, text in sql.items():
        models[f"model.shop.{name}"] = {
            "resource_type": "model",
            "database": "shop",
            "schema": "marts",
            "name": name,
            "config": {"materialized": "lake"},
            "depends_on": {"nodes": [before] if before else []},
            "columns": {},
            "compiled_code": text,
        }
        before = f"model.shop.{name}"
    return {"nodes": models, "sources": {}}


def again(path: Path, found: dict[str, Any], raw: dict[str, Any] | None = None) -> int:
    """Trace with what the file holds, compare with a trace without, keep. Returns: how often a query was traced."""
    memory = Memory.load(path)
    schemas = RAW if raw is None else raw
    assert trace_project(found, schemas, memory=memory) == trace_project(found, schemas)
    memory.save(path)
    return memory.traced


def test_a_second_trace_of_the_same_models_traces_nothing_and_finds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "traced.json"
    models = manifest(stg=STG, fct=FCT, log=LOG)  # the last reads itself, so it is traced twice
    assert again(path, models) == 4
    assert again(path, models) == 0


def test_changed_sql_is_traced_anew_and_what_reads_it_only_where_its_columns_changed(tmp_path: Path) -> None:
    path = tmp_path / "traced.json"
    again(path, manifest(stg=STG, fct=FCT, log=LOG))
    assert again(path, manifest(stg=STG.replace("* 100", "* 10"), fct=FCT, log=LOG)) == 1
    assert again(path, manifest(stg=STG.replace("id,", "id, id as other,"), fct=FCT, log=LOG)) == 4


def test_other_columns_or_types_of_a_table_that_is_read_are_traced_anew(tmp_path: Path) -> None:
    path = tmp_path / "traced.json"
    models = manifest(all="select * from shop.raw.orders")
    again(path, models)
    retyped = {"shop.raw.orders": {**RAW["shop.raw.orders"], "id": "VARCHAR"}}
    assert again(path, models, retyped) == 1
    assert again(path, models, {}) == 1
    assert again(path, models, {}) == 0


@pytest.mark.parametrize("fault", ["cut short", "another entry", "no JSON", "empty", "a folder"])
def test_a_file_that_is_not_as_it_was_written_counts_for_nothing(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "traced.json"
    models = manifest(stg=STG, fct=FCT)
    again(path, models)
    content = path.read_bytes()
    if fault == "a folder":
        path.unlink()
        path.mkdir()
        memory = Memory.load(path)
        assert trace_project(models, RAW, memory=memory) == trace_project(models, RAW)
        assert memory.traced == 2
        return
    wrong = content.replace(b'"cents"', b'"pence"')
    assert wrong != content
    path.write_bytes({"cut short": content[:-9], "another entry": wrong, "no JSON": b"{", "empty": b""}[fault])
    assert again(path, models) == 2
    assert again(path, models) == 0


def test_a_file_of_other_code_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "traced.json"
    models = manifest(stg=STG, fct=FCT)
    again(path, models)
    with monkeypatch.context() as other:
        other.setattr(module, "version", lambda _name: "0.0.1")
        module._code.cache_clear()
        assert again(path, models) == 2
    module._code.cache_clear()
    assert again(path, models) == 2, "what other code wrote was taken"


def test_where_nothing_can_be_written_the_trace_is_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert again(tmp_path / "file" / "traced.json", manifest(stg=STG)) == 1
    assert "what was traced could not be kept" in caplog.text


def test_a_type_that_does_not_survive_being_written_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "traced.json"
    monkeypatch.setattr(module, "parse_type", lambda _text: None)
    again(path, manifest(stg=STG))
    assert json.loads(path.read_bytes().partition(b"\n")[2]) == {}
