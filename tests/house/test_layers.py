"""Who may import whom, and what the screens' process never loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imports(path):
    """Top-level names of every module a file imports."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_import_contracts_are_kept():
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.parametrize("path", [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py"))], ids=lambda p: p.name)
def test_pages_import_only_streamlit_services_and_ui(path):
    allowed = ("streamlit", "workbench.ui", "workbench.services")
    assert [n for n in imports(path) if not n.startswith(allowed)] == []


@pytest.mark.parametrize("entry", ["import app_check", "from workbench.ui import boot", "import workbench.cli"])
def test_heavy_libraries_are_not_loaded_at_start(entry):
    code = "import sys; " + entry.replace(
        "import app_check", "import workbench.ui.plots, workbench.ui.forms, workbench.ui.tables"
    )
    code += "; print([m for m in ('torch', 'transformers', 'peft', 'mlflow') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "workbench" / "core").glob("*.py")), ids=lambda p: p.name)
def test_core_knows_nothing_of_ours_and_no_torch(path):
    assert [
        n
        for n in imports(path)
        if n.startswith(("torch", "transformers", "tracking"))
        or (n.startswith("workbench") and not n.startswith("workbench.core"))
    ] == []
