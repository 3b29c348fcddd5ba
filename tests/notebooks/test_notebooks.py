"""Every notebook runs from its first cell to its last, and shows what it promises."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
PROMISED = {
    "compare_honestly": ("application/vnd.plotly.v1+json", "finished", "called different"),
    "own_method": ("rescale", " passed", "finished"),
    "elsewhere": ("PeftModel", "BertForSequenceClassification", "3 predictions written"),
}


def test_every_notebook_is_held_to_a_promise():
    assert {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")} == set(PROMISED)


@pytest.mark.slow  # about a minute each, and more
@pytest.mark.parametrize("name", PROMISED)
def test_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NOTEBOOK_ROWS", "48")
    monkeypatch.setenv("NOTEBOOK_SEEDS", "2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    try:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    finally:
        subprocess.run([sys.executable, "-m", "workbench", "daemon", "stop"], cwd=ROOT, check=True, capture_output=True)
    shown = str([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    assert [words for words in PROMISED[name] if words not in shown] == []
