"""The taxonomy covers every method, the plan counts exactly, and mixed batches serve what single ones do."""

import json
import subprocess
import sys

import pytest
import torch

from tests.analyses.conftest import disturb
from tests.contract import hosts
from tests.services.test_plan import entry, planned
from workbench.analyses import survey as module
from workbench.analyses.survey import CATEGORIES, placed, taxonomy
from workbench.analyses.survey import survey as analysis
from workbench.core import safe_yaml
from workbench.core.spec import ExperimentSpec
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.contract import TokenPart
from workbench.services import experiments

RECORD = {"category", "group", "family", "kind", "engine", "mergeable", "hooks", "adds_tokens", "trains_base"}


@pytest.mark.parametrize("name", registry.keys())
def test_every_method_has_one_category_and_a_whole_record(name):
    _, cls, preset = registry.find(name)
    found = placed(cls, cls.Config.model_validate(dict(preset.values)))
    assert found.keys() == RECORD
    assert found["category"] in CATEGORIES
    assert found["group"]
    assert all(isinstance(found[k], bool) for k in ("mergeable", "hooks", "adds_tokens", "trains_base"))
    assert not (found["mergeable"] and (found["hooks"] or found["adds_tokens"])), "what merges needs nothing beside the base"


def test_a_method_of_an_unknown_folder_is_missed(monkeypatch):
    assert [m["method"] for m in taxonomy()] == list(registry.methods())
    monkeypatch.setattr(module, "family", lambda cls: "new_folder")
    with pytest.raises(KeyError, match="new_folder"):
        taxonomy()


@pytest.mark.parametrize(
    ("name", "category", "group"),
    [
        ("lora", "reparameterised", "low rank"),
        ("lokr", "reparameterised", "Kronecker, Hadamard and spectral forms"),
        ("ia3", "additive", "rescaling vectors"),
        ("bottleneck", "additive", "adapters"),
        ("prompt_tuning", "additive", "soft prompts at the input"),
        ("prefix_tuning", "additive", "soft prompts in every layer"),
        ("bitfit", "selective", "whole tensors"),
        ("shira", "selective", "entries of tensors"),
        ("full", "selective", "whole tensors"),
    ],
)
def test_well_known_methods_stand_where_the_field_puts_them(name, category, group):
    found = placed(registry.methods()[name])
    assert (found["category"], found["group"]) == (category, group)


def test_capabilities_are_those_of_the_parts():
    by = {m["method"]: m for m in taxonomy()}
    assert {k for k, m in by.items() if m["adds_tokens"]} == {"prompt_tuning", "prefix_tuning"}
    assert {"bottleneck", "loreft", "read_rnn"} <= {k for k, m in by.items() if m["hooks"]}
    assert {"full", "bitfit", "norm_tuning"} <= {k for k, m in by.items() if m["trains_base"]}
    _, cls, houlsby = registry.find("houlsby_adapter")
    assert placed(cls, cls.Config.model_validate(dict(houlsby.values)))["trains_base"], "as published it trains the norms"


def test_parts_of_several_kinds_make_a_hybrid(monkeypatch):
    kinds = [registry.methods()["lora"], registry.methods()["loreft"]]
    monkeypatch.setattr(registry, "part_classes", lambda cls, cfg: [(k, ()) for k in kinds])
    found = placed(registry.methods()["bottleneck"])
    assert (found["category"], found["group"]) == ("hybrid", "activation and weight")


def test_lora_on_one_matrix_has_rank_times_both_sides():
    _, cls, _ = registry.find("lora")
    assert cls.n_params(cls.Config(rank=5), [Site("m", "attn.q", 0, (48, 80))]) == 5 * (48 + 80)


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
@pytest.mark.parametrize("key", registry.methods())
def test_the_calculator_counts_exactly_on_three_backbones(key, family):
    """What cannot go on a backbone is refused by both, in the plan with a sentence."""
    real = hosts.host(family)
    one = entry(key)
    plan = planned(real, one)
    adapters = hosts.adapters(real)
    if plan.problems:
        with pytest.raises(Exception, match=r"\w"):
            adapters.attach("a", key, one.cfg)
        return
    adapter = adapters.attach("a", key, one.cfg)
    built = adapter.new_params() + adapter.base_params()
    if not plan.exact:
        assert plan.trainable_params >= built > 0, "it says the most it can be"
    else:
        assert plan.trainable_params == built


def configured(key):
    """The method's test configuration, without base tensors that stand for the whole batch."""
    cls = registry.methods()[key]
    return cls.tiny.model_copy(update={"train_norms": False}) if key == "bottleneck" else cls.tiny


def single():
    """Methods of which each example of a batch may have its own: those that change single activations."""
    for key, cls in registry.methods().items():
        parts = [part for part, _ in registry.part_classes(cls, cls.tiny)]
        if cls.kind != "select" and not any(issubclass(p, TokenPart) for p in parts) and not cls.also_trains(configured(key)):
            yield key


def test_what_can_be_mixed():
    assert {"lora", "dora", "ia3", "bottleneck", "loreft", "read_rnn", "vera", "oft"} <= set(single())


@pytest.mark.parametrize("key", [*single()])
def test_a_mixed_batch_equals_one_adapter_at_a_time(key):
    model = hosts.host("bert")
    adapters = hosts.adapters(model)
    for seed, name in enumerate("ab"):
        adapter = adapters.attach(name, key, configured(key), seed)
        gen = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in adapter.named_trainable().values():
                p.add_(0.1 * torch.randn(p.shape, generator=gen))
    alone = {}
    with torch.no_grad():
        for name in (None, "a", "b"):
            with adapters.only({name: 1.0} if name else {}):
                alone[name] = hosts.logits(model, "bert")
        choice = ["a", None, "b", "a"]
        with adapters.per_example(choice):
            mixed = hosts.logits(model, "bert")
    expected = torch.stack([alone[name][row] for row, name in enumerate(choice)])
    assert torch.allclose(mixed, expected, atol=1e-5)
    assert not torch.allclose(alone["a"], alone["b"], atol=1e-4), "the two must differ for the test to say anything"


TRAIN = """
import json, sys
from workbench.core import safe_yaml
from workbench.core.events import Silent
from workbench.core.paths import home
from workbench.core.run_spec import Placed, RunSpec
from workbench.train import run
spec = RunSpec.model_validate(safe_yaml.loads(sys.stdin.buffer.read(), "spec"))
folder = home() / "measured" / spec.run_id
folder.mkdir(parents=True)
print(json.dumps(run(spec, Silent(), folder, Placed())["peak_memory_bytes"]))
"""


@pytest.mark.slow
def test_predicted_memory_is_within_a_quarter_of_the_measured(home):
    """Four trainings of 4 x 16 full-length rows on the bundled encoder, each in a process of its own."""
    data = {"source": "bundled/docstrings", "limit": 64, "test": 0.01, "validation": 0.01}
    training = {"max_steps": 4, "batch_size": 16, "max_length": 128, "precision": "fp32"}
    methods = ["lora", "bottleneck", "prompt_tuning", "full"]
    values = {"name": "memory", "model": "bundled/minilm", "task": "text_classification", "data": data, "methods": methods,
              "training": training, "seeds": [0], "baseline": False}  # fmt: skip
    for spec in experiments.resolve(ExperimentSpec.model_validate(values)):
        text = safe_yaml.dumps(spec.model_dump(mode="json")).encode()
        done = subprocess.run([sys.executable, "-P", "-c", TRAIN], input=text, capture_output=True, check=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        assert spec.predicted["peak_memory_bytes"] == pytest.approx(measured, rel=0.25), spec.label


def test_the_report_sets_costs_beside_quality_and_predictions_beside_measurements(plant):
    predicted = {"trainable_params": 1024, "peak_memory_bytes": 110, "train_seconds": None}
    figures = {"trainable_params": 1024, "peak_memory_bytes": 100, "train_seconds": 2.0, "adapter_bytes": 7}
    run = plant("bert", "lora", disturb(), predicted=predicted, **figures)
    result = analysis([run], {})
    (row,) = result.tables["tradeoffs"].to_dict("records")
    assert row["category"] == "reparameterised"
    assert row["mergeable"] is True
    assert (row["quality"], row["adapter_bytes"], row["metric"]) == (0.5, 7, "accuracy")
    errors = {r["figure"]: r["error"] for r in result.tables["calculator"].to_dict("records")}
    assert errors == {"trainable_params": 0, "peak_memory_bytes": pytest.approx(0.1)}
    assert "trainable_params were predicted exactly for 1 of 1 runs." in result.sentences
    assert "peak_memory_bytes was predicted within 10% for half of 1 runs, 10% at worst." in result.sentences
    assert result.figures["tradeoffs"]["series"][0]["x"] == [1024]
    counts = [sum(s["y"]) for s in result.figures["taxonomy"]["series"]]
    assert sum(counts) == len(registry.methods())
