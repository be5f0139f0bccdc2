"""The notebooks: stored clean, and running from top to bottom on a published lake."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_stored_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.integration
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_on_the_published_lake(path: Path, published_lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DML_HOME", str(published_lake))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # the kernel finds the package also where it is not installed
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    drawn = [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    plots = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "draw_" in cell.source]
    plots = [source for source in plots if not source.startswith(("%", "from ", "import "))]
    assert plots
    assert drawn == plots
