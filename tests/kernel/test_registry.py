"""Finding and describing methods: names, presets, errors with the closest name, and what a docstring says."""

import sys
import types

import pytest

from workbench.core.errors import WorkbenchError
from workbench.kernel import registry
from workbench.kernel.contract import Method
from workbench.methods.low_rank.lora import LoRA


def test_names() -> None:
    """A method by its key, a preset by its own name or beside its method."""
    assert registry.find("lora")[:2] == ("lora", LoRA)
    assert registry.find("rslora") == ("lora", LoRA, LoRA.presets["rslora"])
    assert registry.find("lora", "rslora") == registry.find("rslora")
    assert registry.configure("rslora", {"rank": 2}).model_dump(exclude_unset=True) == {"rank": 2, "rank_stabilised": True}
    assert registry.configure("rslora", {"rank_stabilised": False}).rank_stabilised is False
    assert set(registry.keys()) == {*registry.methods(), *registry.aliases()}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: registry.find("lorra"), "no method is called 'lorra'; closest: .*lora"),
        (lambda: registry.find("lora", "rslorra"), "no preset of lora is called 'rslorra'; closest: rslora"),
        (lambda: registry.configure("lora", {"rnak": 4}), "lora.rnak is not a known key; closest: rank"),
        (lambda: registry.configure("lora", {"rank": 0}), "lora.rank must be at least 1; got 0"),
        (lambda: registry.configure("lora", {"rank": "many"}), "lora.rank must be a whole number"),
        (lambda: registry.configure("lora", {"alpha": float("nan")}), "lora.alpha must be"),
    ],
)
def test_wrong_names_and_values(call: object, sentence: str) -> None:
    """One sentence each, with the closest name."""
    with pytest.raises(WorkbenchError, match=sentence):
        call()  # type: ignore[operator]


def test_family_and_description() -> None:
    """The folder is the family; the docstring gives title, equation, text and parameters."""
    assert registry.family(LoRA) == "low_rank"
    words = registry.describe(LoRA)
    assert words["title"] == "LoRA: a trained low-rank matrix is added to a frozen weight"
    assert words["formula"].startswith("W' = W + s B A")
    assert words["parameters"] == "r (d_in + d_out)."
    assert words["text"].startswith("B starts at zero")
    assert words["deviates"] == ""


def test_one_final_class_per_file() -> None:
    """Parts of a composite end in Part and do not count; none or two classes are an error."""
    module = types.ModuleType("made_up")

    def add(name: str) -> None:
        setattr(module, name, type(name, (LoRA,), {"__module__": "made_up"}))

    with pytest.raises(ImportError, match="exactly one Method"):
        registry.final_class(module, Method)
    add("Thing")
    add("ThingPart")
    assert registry.final_class(module, Method).__name__ == "Thing"
    add("Other")
    with pytest.raises(ImportError, match=r"it has \['Other', 'Thing'\]"):
        registry.final_class(module, Method)


def test_two_files_of_one_name_are_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are unique over all families."""
    for family in ("one", "two"):
        (tmp_path / "made" / family).mkdir(parents=True)
        (tmp_path / "made" / family / "__init__.py").write_text('"""Made."""\n')
        (tmp_path / "made" / family / "same.py").write_text("x = 1\n")
    (tmp_path / "made" / "__init__.py").write_text('"""Made."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match="have the same key 'same'"):
        registry.modules("made")
    for name in [n for n in sys.modules if n == "made" or n.startswith("made.")]:
        monkeypatch.delitem(sys.modules, name)
