"""Every notebook runs from its first cell to its last."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NOTEBOOK_ROWS", "48")
    monkeypatch.setenv("NOTEBOOK_SEEDS", "2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    try:
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    finally:
        subprocess.run([sys.executable, "-m", "workbench", "daemon", "stop"], cwd=ROOT, check=True, capture_output=True)
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs), "no figure was drawn"
    assert any("finished" in str(o.get("data", {}).get("text/html", "")) for o in outputs), "no run finished"
