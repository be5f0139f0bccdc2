"""The stages of dvc.yaml: the lock is up to date, and DVC's commands work on them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dml_platform.core.errors import ConfigError

from project_sales import pipeline
from project_sales.params import PARAMS, read_params

ROOT = Path(__file__).parents[1]


def test_the_lock_names_the_code_and_the_raw_file_as_they_are() -> None:
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    results = "results/"
    for stage in stages.values():
        for entry in stage["deps"]:
            if not entry["path"].startswith(results):
                found = hashlib.md5((ROOT / entry["path"]).read_bytes()).hexdigest()
                assert entry["md5"] == found, f"{entry['path']} changed: dml dvc repro, then commit dvc.lock"
    locked = stages["forecast"]["params"]["params.yaml"]
    params = read_params()
    assert locked == {
        "forecast.calibration_weeks": params.forecast.calibration_weeks,
        "forecast.horizon_weeks": params.forecast.horizon_weeks,
    }


def test_purchases_are_those_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PURCHASES", tmp_path / "results" / "purchases.csv")
    pipeline.prepare()
    rows = pd.read_csv(tmp_path / "results" / "purchases.csv")
    assert len(rows) == 69_659
    assert rows["customer_id"].nunique() == 23_570
    assert rows["amount_cents"].sum() == 250_031_563


@pytest.mark.parametrize(
    ("old", "new"), [("horizon_weeks: 12", "horizon_weeks: 0"), ("horizon_weeks:", "weeks:"), ("export:", "other:")]
)
def test_wrong_params_are_refused_in_a_sentence(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=r"cannot read .*params\.yaml"):
        read_params(tmp_path / "params.yaml")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """This project, committed to a repository of its own, with nothing made yet; gives a way to call `dml dvc`."""
    folder = tmp_path / "project-sales"
    ignored = shutil.ignore_patterns(
        ".dml", ".venv", ".nox", ".*_cache", "dist", "target", "logs", "cache", "tmp", ".dvc-storage", "__pycache__"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    for name in ("purchases.csv", "customer_forecast.csv", "model.json", "forecast_sample.csv"):
        (folder / "results" / name).unlink(missing_ok=True)
    for name, value in {"user.name": "Test", "user.email": "test@example.com", "init.defaultBranch": "main"}.items():
        key = f"GIT_CONFIG_KEY_{('user.name', 'user.email', 'init.defaultBranch').index(name)}"
        monkeypatch.setenv(key, name)
        monkeypatch.setenv(key.replace("KEY", "VALUE"), value)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "3")
    monkeypatch.setenv("DML_HOME", str(tmp_path / "home"))
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)

    def call(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "dml_platform.cli", "dvc", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.mark.integration
def test_the_stages_give_what_the_lock_says_and_experiments_work(clone: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "project-sales"
    lock = (folder / "dvc.lock").read_text()
    assert "neither here nor in remote 'local'" in clone("check", code=3)

    clone("repro")
    assert (folder / "dvc.lock").read_text() == lock
    assert "purchases.csv: not in remote 'local' → dml dvc push" in clone("check", code=3)
    clone("push")
    assert "agree" in clone("check")

    # The check of the forecast with fewer weeks to learn from.
    clone("exp", "run", "--set-param", "forecast.calibration_weeks=26")
    changed = json.loads(clone("metrics", "diff", "--json"))["results/metrics.json"]["total_error_pct"]
    assert changed["old"] == pytest.approx(-14.2769)
    assert changed["new"] == pytest.approx(-10.8401)
    changed = json.loads(clone("params", "diff", "--json"))["params.yaml"]
    assert changed == {"forecast.calibration_weeks": {"old": 39, "new": 26, "diff": -13}}
    clone("plots", "show", "--out", str(tmp_path / "plots"))
    assert "Cumulative repeat purchases" in (tmp_path / "plots" / "index.html").read_text()

    # The sample alone follows its own parameters.
    clone("exp", "run", "--force", "--single-item", "export", "--set-param", "export.sample_customers=7")
    assert len(pd.read_csv(folder / "results" / "forecast_sample.csv")) == 7
