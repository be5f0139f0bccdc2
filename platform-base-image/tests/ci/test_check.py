"""A change is built and tested on what is published, compared with it, and nothing of it is written to the lake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dml_platform.ci import CheckedChange, check_change, columns
from dml_platform.ci.check import TRACED
from dml_platform.ci.columns import compile_both
from dml_platform.ci.markdown import comment
from dml_platform.cli.app import app, console, errors
from dml_platform.cli.ci import _show, check
from dml_platform.core.errors import ChecksFailedError, ConfigError, PermanentError, PlatformError
from dml_platform.core.project import Project
from dml_platform.dbt import baseline as module
from dml_platform.dbt import plugin
from dml_platform.dbt.baseline import find_modified, open_baseline
from dml_platform.dbt.compiled import compile_models
from dml_platform.dbt.manifest import target_dir
from dml_platform.dbt.messages import without_values
from dml_platform.dbt.runner import build
from dml_platform.lake import Lake, PinnedTable, create_view
from dml_platform.lineage.memory import Memory

FCT = "shop.marts.fct_orders"


def edit(project: Project, name: str, old: str, new: str) -> None:
    path = project.dbt_dir / "models" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def heads(lake: Lake) -> dict[str, object]:
    """Every reference of every table: a branch would be one more."""
    return {ref.dotted: lake.catalog.load_table(ref.identifier).refs() for ref in lake.tables()}


def checked(project: Project, lake: Lake) -> CheckedChange:
    before = heads(lake)
    found = check_change(project, lake, "main")
    assert heads(lake) == before, "something was written to the lake"
    return found


def test_what_differs_and_what_is_downstream_is_found(
    project: Project, published: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project, "staging/stg_orders.sql", "select *", "select * exclude (country_code), 'de' as country_code")
    with open_baseline(project, "main") as baseline:
        found = find_modified(project, baseline)
    assert found.own == ("model.shop.stg_orders",)
    below = {f"model.shop.{name}" for name in ("stg_orders", "fct_orders", "fct_latest", "fct_log")}
    assert {key for key in found.all if key.startswith("model.")} == below
    assert any(key.startswith("test.") for key in found.all)
    assert "unique_id" not in capsys.readouterr().out, "dbt's list is shown to people"


def test_what_reads_a_changed_source_is_downstream_of_it(project: Project, published: Lake) -> None:
    edit(project, "schema.yml", "{name: web__orders}", "{name: web__orders, identifier: web__others}")
    with open_baseline(project, "main") as baseline:
        found = find_modified(project, baseline)
    assert found.own == ()
    assert "model.shop.stg_orders" in found.all
    assert "model.shop.fct_orders" in found.all


@pytest.mark.parametrize("fault", [None, "of another base", "cut short", "not there"])
def test_what_was_parsed_of_the_base_is_taken_again_only_if_it_is_of_that_base(
    project: Project, published: Lake, git: Callable[..., str], monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    edit(project, "marts/fct_orders.sql", "orders.amount_cents, ", "")
    git("commit", "--quiet", "--all", "--message=change")
    first = checked(project, published).as_dict()
    manifest = target_dir(project) / "base" / "manifest.json"
    if fault == "of another base":
        git("branch", "--force", "main", "HEAD")
        edit(project, "marts/fct_orders.sql", "select", "select 1 as one,")
    elif fault == "cut short":
        manifest.write_bytes(manifest.read_bytes()[:-50])
    elif fault == "not there":
        manifest.unlink()
    kept: list[Path] = []
    monkeypatch.setattr(module, "keep_parsed", lambda _project, folder: kept.append(folder))

    second = checked(project, published).as_dict()

    assert len(kept) == (fault is not None), "parsed without need, or taken although it is not this base's"
    if fault == "of another base":
        assert [change["column"] for change in second["columns"]] == ["one"]
        return
    for result in (first, second):
        result["tests"].sort(key=lambda test: test["id"])  # they run at the same time
    for name in ("modified", "tests", "tables", "columns", "impacts", "needs_full_refresh"):
        assert second[name] == first[name], name
    assert first["columns"]


def test_models_that_nobody_touched_are_compiled_anew_where_a_variable_changed(
    project: Project, published: Lake, git: Callable[..., str]
) -> None:
    edit(project, "marts/fct_log.sql", "select", "select {{ var('number', 1) }} as number,")
    git("commit", "--quiet", "--all", "--message=base")
    git("branch", "--force", "main", "HEAD")
    assert build(project, published, run_id="r2", full_refresh=True).error is None
    with (project.dbt_dir / "dbt_project.yml").open("a") as file:
        file.write("\nvars: {number: 2}\n")
    with open_baseline(project, "main") as baseline:
        assert baseline is not None
        modified = find_modified(project, baseline)
        found = compile_both(project, published, baseline, modified)
    assert "select 2 as number" in found.after["model.shop.fct_log"]


def test_only_what_is_downstream_is_compiled_and_the_rest_is_as_the_build_left_it(
    project: Project, published: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(project, "marts/fct_orders.sql", "orders.amount_cents, ", "")
    with open_baseline(project, "main") as baseline:
        assert baseline is not None
        modified = find_modified(project, baseline)
        everything = compile_models(project, published)
        selected: list[set[str]] = []

        def spy(of: Project, lake: Lake, *, select: Iterable[str] = ()) -> dict[str, str]:
            selected.append(set(select))
            return compile_models(of, lake, select=select)

        monkeypatch.setattr(columns, "compile_models", spy)
        found = compile_both(project, published, baseline, modified)
    assert found.after.keys() == {key for key in everything if key.startswith("model.")}
    for key in found.after.keys() & set(modified.all):
        assert found.after[key] == everything[key], key
    assert found.before["model.shop.fct_orders"] != found.after["model.shop.fct_orders"]
    assert len(selected) == 2
    assert all(selected), "everything was compiled"


def test_a_change_is_told_in_rows_and_columns(
    project: Project, published: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project, "marts/fct_orders.sql", "orders.amount_cents", "orders.amount_cents + (orders.order_id = 2)::int")
    edit(project, "marts/fct_orders.sql", "(orders.order_id = 2)::int", "(orders.order_id = 2)::int as amount_cents")

    found = checked(project, published)

    assert found.error is None
    assert found.modified.own == ("model.shop.fct_orders",)
    assert found.trial is not None
    (diff,) = found.trial.diffs
    assert (diff.table, diff.key, diff.added, diff.removed, diff.changed) == (FCT, ("order_id",), 0, 0, 1)
    assert [(c.name, c.what, c.rows) for c in diff.columns] == [("amount_cents", "changed", 1)]
    assert {n.name for n in found.tests} == {"unique_fct_orders_order_id", "not_null_fct_orders_order_id"}
    text = comment(found)
    assert "## shop: good" in text
    said = "1 model differs from `main`, with what is downstream 1 model and 2 tests; 2 of 2 tests passed."
    assert f"{said} Nothing of it is published." in text
    _show(found, Console(width=300))
    assert said.replace("`", "") in capsys.readouterr().out
    assert f"| `{FCT}` | 3 | 3 | 0 | 0 | 1 | `amount_cents` differs in 1 rows |" in text
    assert json.dumps(found.as_dict())


def test_a_failing_test_stops_the_change_and_the_comment_says_how_to_look(project: Project, published: Lake) -> None:
    (project.dbt_dir / "tests").mkdir()
    (project.dbt_dir / "tests" / "assert_planted.sql").write_text("select * from {{ ref('fct_orders') }}")

    found = checked(project, published)

    assert isinstance(found.error, ChecksFailedError)
    assert "1 blocking check failed: assert_planted" in found.error.why
    assert found.trial is not None
    assert f"dml sql --run {found.trial.run_id} " in found.error.fix
    # A comment is read where that run's file is not.
    text = comment(found)
    assert found.trial.run_id not in text
    assert "On a laptop, first `nox -s change -- main`: it names a RUN there. Look at the failing rows with:" in text
    assert "dml sql --run RUN --test assert_planted" in text
    assert "| `assert_planted` | test |" in text


def test_the_command_that_shows_the_failing_rows_works_when_it_is_pasted(project: Project, published: Lake) -> None:
    (project.dbt_dir / "tests").mkdir()
    query = "-- Nobody orders for nothing: it's free.\nselect order_id, country\nfrom {{ ref('fct_orders') }} -- all\n"
    (project.dbt_dir / "tests" / "assert_planted.sql").write_text(query)

    found = checked(project, published)

    assert found.error is not None
    command = found.error.fix.partition("Look at the failing rows with: ")[2]
    assert command.endswith(" --test assert_planted")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        f"{command} --format csv",
        shell=True,
        cwd=project.root,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert sorted(done.stdout.splitlines()) == ["1,Germany", "2,France", "3,Germany", "order_id,country"], done.stderr
    text = comment(found)
    assert "`nox -s change -- main`" in text, "the run's file is not on the reader's machine"
    wrong = command.replace("assert_planted", "another").split()[1:]
    with pytest.raises(ConfigError, match="no test of that name found rows in the run") as caught:
        app(args=wrong, standalone_mode=False)
    assert caught.value.fix == "These did: assert_planted."


def test_no_value_of_a_row_is_in_what_many_read(
    project: Project,
    published: Lake,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit(project, "marts/fct_orders.sql", "orders.amount_cents", "cast(countries.name as integer) as amount_cents")
    edit(project, "marts/fct_log.sql", "select", "select error(min(country_code) || ' is odd') as odd,")

    with pytest.raises(PermanentError) as caught:
        check(None, console, errors, base="main", output=tmp_path)

    printed = "".join(capfd.readouterr())
    text, result = ((tmp_path / name).read_text() for name in ("comment.md", "change.json"))
    for told in (text, result, printed, str(caught.value)):
        assert "Conversion Error: Could not convert string" in " ".join(told.split()), told
        assert "Germany" not in told
        assert "France" not in told
        assert "is odd" not in told
    assert "`nox -s change -- main` in a terminal shows them" in text

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(PermanentError, match=r"Could not convert string '(Germany|France)' to INT32"):
        check(None, console, errors, base="main", output=None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "Runtime Error in model m (a.sql)\n  Conversion Error: Could not convert string 'it's \"x\"\n5' to INT32 "
            "when casting from source column a\n\n  LINE 1: select 'x'",
            "Runtime Error in model m (a.sql)\n  Conversion Error: Could not convert string '…' to INT32 when casting "
            "from source column a",
        ),
        (
            "Conversion Error: Type INT32 with value 300 can't be cast",
            "Conversion Error: Type INT32 with value … can't be cast",
        ),
        ("Constraint Error: Duplicate key id: 5", "Constraint Error: …"),
        ('Binder Error: Referenced column "a" not found', 'Binder Error: Referenced column "a" not found'),
        ("cannot merge: 'a@example.com' and 'b' are one", "cannot merge: '…' are one"),
    ],
)
def test_values_are_left_out_of_a_message_and_names_are_kept(text: str, told: str) -> None:
    assert without_values(text) == told


UNIT_TEST = """
unit_tests:
  - name: countries_are_named
    model: fct_orders
    given:
      - {input: ref('stg_orders'), rows: [{order_id: 1, amount_cents: 5, country_code: de}]}
      - {input: ref('countries'), rows: [{code: de, name: Germany}]}
    expect: {rows: [{order_id: 1, amount_cents: 5, country: "`France`"}]}
"""


def test_what_a_unit_test_found_is_told_in_its_lines(
    project: Project, published: Lake, capfd: pytest.CaptureFixture[str]
) -> None:
    with (project.dbt_dir / "models" / "schema.yml").open("a") as file:
        file.write(UNIT_TEST)

    found = checked(project, published)

    assert isinstance(found.error, ChecksFailedError)
    assert found.error.why == "1 blocking check failed: countries_are_named (actual differs from expected)"
    assert "dml sql" not in found.error.fix, "there is no table to look at"
    text = comment(found)
    assert "\x1b" not in text + json.dumps(found.as_dict(), ensure_ascii=False) + "".join(capfd.readouterr())
    assert "| `countries_are_named` | unit_test | actual differs from expected: |" in text
    block = text.partition("\n```\n")[2].partition("\n```\n")[0].splitlines()
    assert block[0] == "actual differs from expected:"
    assert [line for line in block if "→" in line], block
    assert all(line.count(",") <= 4 for line in block), "lines were put into one"


def test_a_broken_contract_stops_the_change(project: Project, published: Lake) -> None:
    edit(
        project,
        "schema.yml",
        "  - name: fct_orders\n",
        "  - name: fct_orders\n    config: {contract: {enforced: true}}\n",
    )
    edit(project, "schema.yml", "      - name: order_id\n", "      - name: order_id\n        data_type: varchar\n")

    found = checked(project, published)

    assert isinstance(found.error, PermanentError)
    assert "contract" in found.error.why
    assert "**cannot publish project 'shop'**: model fct_orders: Compilation Error in model fct_orders (" in comment(
        found
    )
    assert "macro" not in comment(found)
    lines = comment(found).partition("\n```\n")[2].partition("\n```\n")[0].splitlines()
    (column,) = [line for line in lines if line.strip().startswith("| order_id")]
    assert [cell.strip() for cell in column.split("|")][2:4] == ["INTEGER", "VARCHAR"]


def test_columns_that_publishing_would_refuse_are_announced(project: Project, published: Lake) -> None:
    edit(project, "marts/fct_orders.sql", "orders.amount_cents, ", "")

    found = checked(project, published)

    assert found.error is None
    assert found.trial is not None
    assert list(found.trial.refused) == [FCT]
    assert "dml run --full-refresh --select key:shop/marts/fct_orders" in comment(found)
    assert "`amount_cents` removed" in comment(found)


def test_a_new_model_a_removed_one_and_nothing_at_all(project: Project, published: Lake) -> None:
    nothing = checked(project, published)
    assert "No model, seed or test of dbt differs from `main`." in comment(nothing)

    marts = project.dbt_dir / "models" / "marts"
    (marts / "fct_new.sql").write_text("select order_id from {{ ref('fct_orders') }}")
    (marts / "fct_log.sql").unlink()
    found = checked(project, published)
    assert found.error is None
    assert found.trial is not None
    notes = {diff.table: (diff.note, diff.added, diff.removed) for diff in found.trial.diffs}
    assert notes == {"shop.marts.fct_new": ("new table", 3, 0), "shop.marts.fct_log": ("removed table", 0, 1)}


def test_a_source_that_nobody_landed_is_named(project: Project, published: Lake) -> None:
    edit(project, "schema.yml", "tables: [{name: web__orders}]", "tables: [{name: web__orders}, {name: web__new}]")
    (project.dbt_dir / "models/marts/fct_new.sql").write_text("select * from {{ source('raw', 'web__new') }}")

    found = checked(project, published)

    assert found.error is not None
    assert "it reads shop.raw.web__new, which the published state does not have" in found.error.why


def test_elementarys_warnings_stop_a_change_although_they_stop_no_run(
    project: Project, published: Lake, git: object
) -> None:
    """A package of Elementary's name, with a test that always warns, stands in for the real one's anomalies."""
    package = project.dbt_dir / "dbt_packages" / "elementary"
    (package / "macros").mkdir(parents=True)
    (package / "dbt_project.yml").write_text("name: elementary\nversion: 1.0.0\n")
    macro = "{% test volume_anomalies(model) %} select 1 {% endtest %}"
    (package / "macros" / "test.sql").write_text(macro)
    anomaly = "    data_tests: [{elementary.volume_anomalies: {config: {severity: warn}}}]\n"
    edit(project, "schema.yml", "  - name: fct_orders\n", f"  - name: fct_orders\n{anomaly}")

    found = checked(project, published)

    assert isinstance(found.error, ChecksFailedError)
    assert "Elementary sees 1 anomaly: elementary_volume_anomalies_fct_orders_" in found.error.why
    assert "change the test's configuration along" in found.error.fix


def test_the_command_writes_the_comment_also_where_nothing_can_be_read(
    project: Project, published: Lake, tmp_path: Path
) -> None:
    edit(project, "marts/fct_orders.sql", "ref('countries')", "ref('nowhere')")
    with pytest.raises(PlatformError, match="cannot parse the dbt project"):
        check(None, console, errors, base="main", output=tmp_path / "out")
    assert "nowhere" in (tmp_path / "out" / "comment.md").read_text()
    assert json.loads((tmp_path / "out" / "change.json").read_text())["is_good"] is False


def test_only_the_last_checks_that_failed_leave_their_files(
    project: Project, published: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DML_DBT__KEEP_FAILED_RUNS", "2")
    runs = published.settings.home / "runs" / "shop"

    def trials() -> set[str]:
        return {path.name for path in runs.glob("ci*")}

    for name, age_s in (("cirunning", 60), ("cikilled", 100_000)):
        (runs / name).mkdir()
        (runs / name / "dbt.duckdb").touch()
        os.utime(runs / name, times=(time.time() - age_s,) * 2)
    edit(project, "marts/fct_log.sql", "count(*)", "count(*) + 1")
    check(None, console, errors, base="main", output=None)
    assert trials() == {"cirunning"}
    (project.dbt_dir / "tests").mkdir()
    (project.dbt_dir / "tests" / "assert_planted.sql").write_text("select * from {{ ref('fct_log') }}")
    failed: list[str] = []
    for _ in range(3):
        with pytest.raises(ChecksFailedError) as caught:
            check(None, console, errors, base="main", output=None)
        failed += re.findall(r"--run (\w+)", caught.value.fix)
        assert trials() == {"cirunning", *failed[-2:]}
    assert len(failed) == 3
    assert (runs / failed[-1] / "dbt.duckdb").is_file()
    assert (runs / "r1").is_dir(), "the records of runs are another's"


def test_a_commit_that_git_does_not_know_is_named(project: Project, published: Lake) -> None:
    with pytest.raises(ConfigError, match="cannot compare with 'nowhere'"):
        check_change(project, published, "nowhere")


def test_compiling_what_asks_nothing_of_the_data_makes_no_view(
    project: Project, published: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def spy(connection: object, pinned: PinnedTable) -> None:
        made.append(pinned.ref.dotted)
        create_view(connection, pinned)  # type: ignore[arg-type]

    monkeypatch.setattr(plugin, "create_view", spy)
    assert "order_id" in compile_models(project, published, select=["model.shop.fct_orders"])["model.shop.fct_orders"]
    assert made == []
    # This one asks whether its table is there: it has to see what is published.
    assert "'True'" in compile_models(project, published, select=["model.shop.fct_latest"])["model.shop.fct_latest"]
    assert FCT in made


def test_a_look_at_the_base_itself_leaves_for_changes_what_is_the_same_for_all_of_them(
    project: Project, published: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(project, published).error is None
    planned: list[str] = []
    plan = PinnedTable._plan

    def spy(pinned: PinnedTable, *arguments: Any) -> Any:
        planned.append(pinned.ref.dotted)
        return plan(pinned, *arguments)

    monkeypatch.setattr(PinnedTable, "_plan", spy)
    edit(project, "marts/fct_orders.sql", "orders.amount_cents, ", "")
    found = checked(project, published)
    assert [change.column for change in found.columns] == ["amount_cents"]
    assert planned == [], "manifests were read again although the base had left what they say"
    memory = Memory.load(target_dir(project) / TRACED)
    assert memory._known, "nothing of the trace was left"


def test_what_was_published_since_is_what_a_change_is_compared_with(project: Project, published: Lake) -> None:
    assert checked(project, published).error is None  # remembers the files of what is published now
    edit(project, "marts/fct_orders.sql", "orders.amount_cents", "orders.amount_cents + 1 as amount_cents")
    assert build(project, published, run_id="r2").error is None
    (diff,) = checked(project, published).trial.diffs  # type: ignore[union-attr]
    assert (diff.table, diff.changed) == (FCT, 0)
