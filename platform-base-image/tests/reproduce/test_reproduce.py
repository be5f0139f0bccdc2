"""`dml reproduce`: a run made again from its commit and snapshots gives the same rows, or says which differ and why."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dbt_shop import ORDERS, land_orders

from dml_platform.core.errors import PermanentError
from dml_platform.core.naming import TableRef
from dml_platform.core.project import Project
from dml_platform.core.runrecord import RunRecord, git_commit, read_records
from dml_platform.core.settings import DvcSettings, Settings
from dml_platform.dbt.runner import build
from dml_platform.dvc import Dvc
from dml_platform.lake import Lake
from dml_platform.lake.io_manager import LakeIOManager
from dml_platform.reproduce import Reproduction, reproduce
from dml_platform.reproduce.checkout import check_out, clone, folder_name

FCT_ORDERS = "shop.marts.fct_orders"


def commit(root: Path) -> str:
    """Commit everything. Returns: the commit."""
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    for command in (["add", "--all"], [*who, "commit", "--quiet", "--message=work"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    git_commit.cache_clear()
    return git_commit(root)


@pytest.fixture
def repository(project: Project) -> Project:
    """The project, committed."""
    (project.root / ".gitignore").write_text("target/\nlogs/\n.user.yml\n")
    subprocess.run(["git", "init", "--quiet", "."], cwd=project.root, check=True)
    commit(project.root)
    return project


def built(project: Project, lake: Lake, run_id: str, **options: object) -> RunRecord:
    result = build(project, lake, run_id=run_id, **options)  # type: ignore[arg-type]
    assert result.error is None, result.error
    (record,) = read_records(lake.settings, project.name, run_id)
    return record


@pytest.fixture
def again(repository: Project, shop_lake: Lake, tmp_path: Path) -> Callable[..., Reproduction]:
    """Make records again in a clone of the repository."""

    def make(*records: RunRecord, defs: dg.Definitions | None = None) -> Reproduction:
        folder = tmp_path / f"again{len(list(tmp_path.glob('again*')))}"
        (folder / "made").mkdir(parents=True)
        code = folder / folder_name(repository.root)
        clone(repository.root, code)
        project = check_out(code, records[0].git_commit, "shop")
        settings = shop_lake.settings.model_copy(update={"home": folder / "home"})
        where = {"catalog_uri": shop_lake.settings.catalog_uri, "warehouse": shop_lake.settings.warehouse}
        settings = settings.model_copy(update={"lake": type(settings.lake)(**where)})
        (folder / "home").mkdir()
        lake = Lake(settings, project.root)
        return reproduce(project, lake, records, folder=folder / "made", load=lambda _project: defs or dg.Definitions())

    return make


def test_a_build_comes_out_the_same_whatever_happened_since(
    repository: Project, shop_lake: Lake, again: Callable[..., Reproduction]
) -> None:
    first = built(repository, shop_lake, "run1")
    land_orders(shop_lake, "values (4, 1100, 'fr'), (6, 950, 'de')", run_id="land2")
    second = built(repository, shop_lake, "run2")
    # Since then: more rows, other code, another build.
    land_orders(shop_lake, "values (5, 1, 'fr')", run_id="land3")
    (repository.dbt_dir / "models/marts/fct_orders.sql").write_text("select 1 as other\n")
    commit(repository.root)
    before = {ref: list(shop_lake.pin(ref).table.refs()) for ref in shop_lake.tables()}

    for record in (first, second):
        result = again(record)
        # One that replaces, one that merges, one that appends: each on what it found then.
        assert {t.table: t.status for t in result.tables} == {
            "shop.marts.fct_latest": "same",
            "shop.marts.fct_log": "same",
            FCT_ORDERS: "same",
        }
        assert result.is_same
        assert result.notes == []
    assert {ref: list(shop_lake.pin(ref).table.refs()) for ref in shop_lake.tables()} == before


def test_rows_that_differ_are_counted_and_shown_by_their_key(
    repository: Project, shop_lake: Lake, again: Callable[..., Reproduction]
) -> None:
    first = built(repository, shop_lake, "run1")
    land_orders(shop_lake, "values (4, 1100, 'fr'), (6, 701, 'fr')", run_id="land2")
    second = built(repository, shop_lake, "run2", select=["model.shop.fct_orders"])
    # As if the second had read what the first read.
    wrong = dataclasses.replace(second, inputs=first.inputs)
    (found,) = again(wrong).tables
    assert (found.table, found.status) == (FCT_ORDERS, "differs")
    assert found.reason == "2 rows only then, 0 only now"
    assert (found.comparison.rows_then, found.comparison.rows_now) == (5, 3)
    assert found.comparison.columns == ("order_id", "amount_cents", "country")
    assert found.comparison.examples == (("then", (4, 1100, "France")), ("then", (6, 701, "France")))


def test_sql_that_depends_on_the_moment_is_named(
    repository: Project, shop_lake: Lake, again: Callable[..., Reproduction]
) -> None:
    (repository.dbt_dir / "macros").mkdir()
    (repository.dbt_dir / "macros/moment.sql").write_text("{% macro moment() %}now(){% endmacro %}\n")
    (repository.dbt_dir / "models/marts/fct_log.sql").write_text("select {{ moment() }} as made_at\n")
    commit(repository.root)
    result = again(built(repository, shop_lake, "run1"))
    status = {t.table: (t.status, t.reason) for t in result.tables}
    assert status["shop.marts.fct_log"] == ("depends on the moment", "its SQL has now: another result each time")
    assert status[FCT_ORDERS] == ("same", "")
    assert not result.is_same


def test_what_is_gone_or_was_not_recorded_is_said_in_a_sentence(
    repository: Project, shop_lake: Lake, again: Callable[..., Reproduction], tmp_path: Path
) -> None:
    record = built(repository, shop_lake, "run1")
    code = tmp_path / "code"
    clone(repository.root, code)
    for stated, sentence in {
        record.git_commit + "-dirty": "files were changed and not committed when it ran",
        "unknown": "started outside of a git repository",
        "0" * 40: "git says: .*0{40}",
    }.items():
        with pytest.raises(PermanentError, match=sentence):
            check_out(code, stated, "shop")
    assert check_out(code, record.git_commit + "-dirty", "shop", allow_dirty=True).name == "shop"

    with pytest.raises(PermanentError, match="step 'dbt' did not succeed"):
        again(dataclasses.replace(record, status="failed"))
    with pytest.raises(PermanentError, match="it only landed data"):
        again(dataclasses.replace(record, outputs={ORDERS.dotted: 1}))
    land_orders(shop_lake, "values (4, 1100, 'fr')", run_id="land2")
    shop_lake.pin(ORDERS).table.maintenance.expire_snapshots().by_id(record.inputs[ORDERS.dotted]).commit()
    with pytest.raises(PermanentError, match=r"no longer has the snapshots of shop\.raw\.web__orders"):
        again(record)


def test_another_image_and_changed_files_are_noted(
    repository: Project, shop_lake: Lake, again: Callable[..., Reproduction]
) -> None:
    (repository.root / ".dvc").mkdir()
    (repository.root / ".dvc/config").write_text("")
    (repository.root / "model.bin.dvc").write_text("outs:\n- {md5: aaaa, path: model.bin}\n")
    commit(repository.root)
    record = built(repository, shop_lake, "run1", select=["model.shop.fct_orders"])
    assert record.dvc == {"model.bin": "aaaa"}
    result = again(dataclasses.replace(record, image="shop@sha256:1", dvc={"model.bin": "bbbb"}))
    assert result.is_same
    assert result.notes == [
        "the run was in image shop@sha256:1, here is none: packages may differ",
        "the commit's lock names other contents than the run had: model.bin",
    ]


def test_an_asset_is_given_the_snapshots_that_it_was_given_then(
    repository: Project, shop_lake: Lake, again: Callable[..., Reproduction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DML_HOME", str(shop_lake.settings.home))
    sums = TableRef("shop", "marts", "order_sums")

    @dg.asset(
        key=dg.AssetKey(sums.asset_key),
        ins={"orders": dg.AssetIn(key=dg.AssetKey(ORDERS.asset_key))},
        metadata={"write_mode": "merge", "unique_key": "country_code"},
    )
    def order_sums(orders: pd.DataFrame) -> pd.DataFrame:
        return orders.groupby("country_code", as_index=False)["amount_cents"].sum()

    def run() -> RunRecord:
        with dg.DagsterInstance.ephemeral() as instance:
            done = dg.materialize(
                [order_sums, dg.AssetSpec(dg.AssetKey(ORDERS.asset_key))],
                selection=[order_sums],
                instance=instance,
                resources={"io_manager": LakeIOManager(project_root=str(repository.root))},
            )
        (record,) = read_records(shop_lake.settings, "shop", done.run_id.split("-")[0])
        return record

    defs = dg.Definitions(assets=[order_sums])
    first = run()
    land_orders(shop_lake, "values (4, 1100, 'fr')", run_id="land2")
    second = run()
    land_orders(shop_lake, "values (5, 1, 'fr')", run_id="land3")
    for record in (first, second):
        result = again(record, defs=defs)
        assert [(t.table, t.status) for t in result.tables] == [(sums.dotted, "same")]
    with pytest.raises(PermanentError, match="its record does not say which snapshots it read"):
        again(dataclasses.replace(second, inputs={}), defs=defs)


@pytest.mark.parametrize(
    "source", ["https://git.example/team/project-shop.git", "git@git.example:project-shop", "/srv/project-shop/"]
)
def test_a_clone_is_named_as_its_repository(source: str) -> None:
    assert folder_name(source) == "project-shop"


@pytest.mark.integration
@pytest.mark.parametrize("settings", ["server"], indirect=True)
def test_a_machine_that_never_saw_the_project_needs_the_remotes_only(
    repository: Project, settings: Settings, tmp_path: Path
) -> None:
    remote = DvcSettings(remote_url=f"{settings.warehouse}/dvc")
    (repository.root / ".dvc").mkdir()
    (repository.root / ".dvc/config").touch()
    (repository.root / "model.bin").write_text("a model")
    dvc = Dvc(repository.root, settings.model_copy(update={"dvc": remote}))
    dvc.run("add", "model.bin")
    dvc.run("push")
    commit(repository.root)
    lake = Lake(settings, repository.root)
    land_orders(lake, "values (1, 500, 'de'), (2, 700, 'fr'), (3, 900, 'de')", run_id="land1")
    built(repository, lake, "run1")
    land_orders(lake, "values (4, 1100, 'fr')", run_id="land2")

    where, key = settings.lake, settings.lake.s3_secret_access_key
    assert where.catalog_uri is not None
    assert key is not None
    (tmp_path / "fresh" / "empty").mkdir(parents=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "fresh"),
        "DML_HOME": str(tmp_path / "fresh" / "state"),
        "DML_LAKE__CATALOG_URI": where.catalog_uri.get_secret_value(),
        "DML_LAKE__WAREHOUSE": settings.warehouse,
        "DML_LAKE__S3_ENDPOINT": str(where.s3_endpoint),
        "DML_LAKE__S3_ACCESS_KEY_ID": str(where.s3_access_key_id),
        "DML_LAKE__S3_SECRET_ACCESS_KEY": key.get_secret_value(),
        "DML_DVC__REMOTE_URL": str(remote.remote_url),
        "DML_DVC__CACHE_DIR": str(remote.cache_dir),
    }
    command = [sys.executable, "-m", "dml_platform.cli", "reproduce", "run1", "--json"]
    command += ["--repo", repository.root.as_uri()]
    done = subprocess.run(
        command, cwd=tmp_path / "fresh" / "empty", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["is_same"]
    assert [table["status"] for table in result["tables"]] == ["same"] * 3
    assert result["files"] == {"model.bin": hashlib.md5(b"a model").hexdigest()}
    assert result["notes"] == []
    assert not list((tmp_path / "fresh" / "state").rglob("*.duckdb"))

    missing = subprocess.run(
        [*command[:-3], "norun", *command[-2:]],
        cwd=tmp_path / "fresh" / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 2
    lake.catalog.close()
