"""Run records hold what DVC wrote down, read from its files alone."""

from __future__ import annotations

from pathlib import Path

from dml_platform.core.dvcfiles import read_hashes

LOCK = """
schema: '2.0'
stages:
  prepare:
    cmd: python -m x
    deps:
    - path: ../drop/raw.csv.gz
      hash: md5
      md5: 11111111111111111111111111111111
      size: 3
    outs:
    - path: out/purchases.csv
      hash: md5
      md5: 22222222222222222222222222222222
      size: 5
"""


def test_hashes_come_from_locks_and_dvc_files_by_their_path_from_the_root(tmp_path: Path) -> None:
    for name, text in {
        ".dvc/config": "",
        "pipeline/dvc.lock": LOCK,
        "models/model.pkl.dvc": "outs:\n- md5: 3333.dir\n  path: model.pkl\n",
        ".venv/other.dvc": "outs:\n- md5: 4\n  path: other\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_hashes(tmp_path) == {
        "drop/raw.csv.gz": "1" * 32,
        "models/model.pkl": "3333.dir",
        "pipeline/out/purchases.csv": "2" * 32,
    }


def test_a_project_without_dvc_and_damaged_files_have_no_hashes(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(LOCK)
    assert read_hashes(tmp_path) == {}
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    (tmp_path / "dvc.lock").write_text("stages: [")
    (tmp_path / "a.dvc").write_text("outs: 3")
    assert read_hashes(tmp_path) == {}
