"""The catalogue: what the screens and `methods --json` show, and when it is rebuilt."""

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.core.errors import WorkbenchError
from workbench.kernel import registry
from workbench.services import catalogue

ROOT = Path(__file__).parents[2]


@pytest.fixture
def found(home):
    """Everything."""
    return catalogue.everything()


def test_every_method_and_preset_has_an_entry(found):
    assert sorted(m["key"] for m in found["methods"]) == sorted(registry.keys())
    for m in found["methods"]:
        assert m["title"], m["key"]
        assert m["formula"], m["key"]
        assert m["trainable_params_formula"], m["key"]
        assert m["paper"], m["key"]
        assert m["url"].startswith("http"), m["key"]
        assert m["default_lr"]["rate"] > 0
        assert m["default_lr"]["source"]


def test_every_field_of_every_form_is_described(found):
    for entry in [*found["methods"], *found["modifiers"], *found["recipes"]]:
        for name, field in entry["schema"].get("properties", {}).items():
            assert field.get("description"), f"{entry['key']}.{name}"


def test_presets_stand_beside_their_method(found):
    by_key = {m["key"]: m for m in found["methods"]}
    pfeiffer = by_key["pfeiffer_adapter"]
    assert pfeiffer["preset_of"] == "bottleneck"
    assert pfeiffer["values"] == dict(registry.methods()["bottleneck"].presets["pfeiffer_adapter"].values)
    assert "houlsby_adapter" in by_key["bottleneck"]["presets"]


def test_tasks_modifiers_recipes_and_operations_are_listed(found):
    assert {"text_classification", "causal_lm", "image_classification"} <= {t["key"] for t in found["tasks"]}
    task = next(t for t in found["tasks"] if t["key"] == "text_classification")
    assert task["parts"] == [{"text": "required", "text_pair": "optional", "label": "required"}]
    assert [m["key"] for m in found["modifiers"]] == ["sparse"]
    assert "lt_sft" in [r["key"] for r in found["recipes"]]
    assert {"average", "phlora"} <= {o["key"] for o in found["operations"]}


def test_it_is_read_from_the_file_until_the_code_changes(home, monkeypatch):
    first = catalogue.everything()
    monkeypatch.setattr(catalogue, "rebuild", lambda: pytest.fail("rebuilt although nothing changed"))
    assert catalogue.everything() == first
    monkeypatch.setattr(catalogue, "code_hash", lambda: "another")
    monkeypatch.setattr(catalogue, "rebuild", lambda: "rebuilt")
    assert catalogue.everything() == "rebuilt"


def test_a_process_without_torch_stays_without(home):
    code = "import sys; from workbench.services import catalogue; print(len(catalogue.catalogue()) > 20, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_broken_method_file_is_named(home, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(
        catalogue.detach, "python", lambda *_: [sys.executable, "-c", "raise ImportError('lorra.py must define one Method')"]
    )
    with pytest.raises(WorkbenchError, match=r"lorra.py must define one Method"):
        catalogue.everything()


def test_the_readme_is_current(found):
    assert catalogue.README.read_text() == catalogue.readme(found["methods"]), "run python -m workbench.services.catalogue"
