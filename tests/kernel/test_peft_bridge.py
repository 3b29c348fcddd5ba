"""The bridge to peft: beside the host, never in it; several on one site; folders that plain peft loads."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import save_file

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.errors import WorkbenchError
from workbench.kernel import peft_bridge, registry
from workbench.kernel.adapter import Adapter

KEYS = [key for key, cls in registry.methods().items() if cls.engine == "peft"]


def attach(model: torch.nn.Module, key: str, name: str = "adapter", seed: int = 0, **config: object) -> Adapter:
    cls = registry.methods()[key]
    cfg = cls.Config.model_validate({**cls.tiny.model_dump(exclude_unset=True), **config})
    adapter = hosts.adapters(model).attach(name, key, cfg, seed)
    disturb(adapter, seed)
    return adapter


def run(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return hosts.logits(model, "bert")


def test_there_are_methods_to_bridge() -> None:
    """The tests below are about something."""
    assert len(KEYS) >= 16


@pytest.mark.parametrize("key", KEYS)
def test_names_and_modules_of_the_host_never_change(key: str) -> None:
    """While attached, the host has the same modules, the same parameter objects under the same names, all frozen."""
    model = hosts.host("bert")
    modules, params = dict(model.named_modules()), dict(model.named_parameters())
    attach(model, key)
    run(model)
    assert {n: m for n, m in model.named_modules() if not n.startswith("workbench")} == modules
    now = {n: p for n, p in model.named_parameters() if not n.startswith("workbench")}
    assert now.keys() == params.keys()
    assert all(now[n] is p and not p.requires_grad for n, p in params.items())
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize("key", KEYS)
def test_folder_is_loaded_by_plain_peft_with_equal_outputs(key: str, tmp_path: Path) -> None:
    """`PeftModel.from_pretrained` on the bare base gives the same logits, with no tensor missing or left over."""
    model = hosts.host("bert")
    adapter = attach(model, key, seed=3)
    config, tensors = peft_bridge.peft_folder(adapter)
    assert config["target_modules"] == sorted(s.path for s in adapter.sites)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    base = hosts.host("bert")
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert peft.get_peft_model_state_dict(loaded, save_embedding_layers=False).keys() == tensors.keys()
    with torch.no_grad():
        theirs = loaded(**hosts.inputs("bert")).logits
    torch.testing.assert_close(theirs, run(model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(theirs, run(hosts.host("bert")), atol=1e-4)


@pytest.mark.parametrize("key", KEYS)
def test_trainable_tensors_are_fp32_over_bf16(key: str) -> None:
    """The adapter trains in fp32; the output keeps the host's dtype and every tensor gets a gradient."""
    model = hosts.host("bert").to(torch.bfloat16)
    adapter = attach(model, key)
    assert {p.dtype for p in adapter.named_trainable().values()} == {torch.float32}
    out = model(**hosts.inputs("bert")).logits
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(p.grad is not None for p in adapter.named_trainable().values())
    assert not [n for n, p in model.named_parameters() if not n.startswith("workbench") and p.grad is not None]


@pytest.mark.parametrize("key", KEYS)
def test_weights_and_sums_are_sums_of_differences(key: str) -> None:
    """At one linear layer: weight w moves the output w times as far; two adapters move it by the sum; merged alike."""
    model = hosts.host("bert")
    one, two = attach(model, key, "one", 1), attach(model, key, "two", 2)
    adapters, site = model.workbench, one.sites[-1]
    module, x = model.get_submodule(site.path), torch.randn(2, 3, site.d_in, generator=torch.Generator().manual_seed(0))

    def moved(weights: dict[str, float]) -> torch.Tensor:
        with torch.no_grad(), adapters.only({}):
            base = module(x)
            with adapters.only(weights):
                return module(x) - base

    first, second = moved({one.name: 1.0}), moved({two.name: 1.0})
    torch.testing.assert_close(moved({one.name: -0.5}), -0.5 * first, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(moved({one.name: 1.0, two.name: 2.0}), first + 2 * second, atol=5e-5, rtol=1e-4)
    both = {one.name: 1.0, two.name: 2.0}
    adapters.activate(both)
    before = run(model)
    adapters.merge()
    torch.testing.assert_close(run(model), before, atol=1e-4, rtol=1e-4)


def test_per_example_choice_equals_each_alone() -> None:
    """One batch, three choices per row: two adapters of different methods, and none."""
    model = hosts.host("bert")
    attach(model, "vera", "one", 1, roles=("attn.q", "ffn.up"))
    attach(model, "oft", "two", 2)
    choice = ["two", "one", None, "two"]
    with torch.no_grad():
        with model.workbench.per_example(choice):
            mixed = hosts.logits(model, "bert")
        for row, name in enumerate(choice):
            with model.workbench.only({name: 1.0} if name else {}):
                torch.testing.assert_close(mixed[row], hosts.logits(model, "bert")[row], atol=1e-5, rtol=1e-5)


def test_leaves_in_any_order_beside_native_adapters() -> None:
    """Native and bridged adapters on different modules; the first attached leaves first; the base is bitwise back."""
    model = hosts.host("bert")
    before, base = hosts.snapshot(model), run(model)
    attach(model, "hra", "bridged", 1)
    attach(model, "lora", "native", 2, roles=("ffn.up",))
    attach(model, "norm_tuning", "norms", 3)
    attach(model, "vblora", "shared", 4)
    model.workbench.detach("bridged")
    with_three = run(model)
    fresh = hosts.host("bert")
    attach(fresh, "lora", "native", 2, roles=("ffn.up",))
    attach(fresh, "norm_tuning", "norms", 3)
    attach(fresh, "vblora", "shared", 4)
    assert torch.equal(with_three, run(fresh))
    for name in ("norms", "shared", "native"):
        model.workbench.detach(name)
    assert torch.equal(run(model), base)
    model.workbench.release()
    assert not hosts.differences(before, hosts.snapshot(model))


def test_one_engine_per_site() -> None:
    """Native and bridged on one module is refused in one sentence."""
    model = hosts.host("bert")
    attach(model, "lora", "native", roles=("attn.q",))
    with pytest.raises(WorkbenchError, match="one engine per site"):
        attach(model, "vera", "bridged", roles=("attn.q",))


def test_what_peft_cannot_take_is_refused_before_anything_is_built() -> None:
    """Several roles in one weight, another kind of weight, a width that does not divide: one sentence each."""
    gpt2 = hosts.host("gpt2")
    for key, config, words in (
        ("vera", {}, "whole modules"),
        ("miss", {"roles": ("attn.out",)}, "stored as conv1d"),
    ):
        with pytest.raises(WorkbenchError, match=words) as caught:
            attach(gpt2, key, **config)
        assert str(caught.value).count(". ") == 0
    with pytest.raises(WorkbenchError, match="that block = 12 divides"):
        attach(hosts.host("bert"), "oft", block=12)
    assert not gpt2.workbench.members


@pytest.mark.parametrize("key", [k for k in KEYS if "conv1d" in registry.methods()[k].kinds])
def test_transposed_weights_of_gpt2(key: str) -> None:
    """Where the weight is stored as (in, out), merged and unmerged agree and plain peft's orientation is met."""
    model = hosts.host("gpt2")
    attach(model, key, roles=("attn.out", "ffn.up", "ffn.down"))
    with torch.no_grad():
        apart = hosts.logits(model, "gpt2")
        with model.workbench.only({}):
            base = hosts.logits(model, "gpt2")
        model.workbench.merge()
        torch.testing.assert_close(hosts.logits(model, "gpt2"), apart, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(apart, base, atol=1e-4)


def test_a_tuner_that_rewrites_the_base_is_not_bridged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing to the base while building is noticed."""
    from peft.tuners.hra import HRAModel

    build = HRAModel._create_and_replace

    def writes(self: HRAModel, config: object, name: str, target: torch.nn.Module, *args: object, **kwargs: object) -> None:
        target.weight.data = target.weight.data * 2
        build(self, config, name, target, *args, **kwargs)

    monkeypatch.setattr(HRAModel, "_create_and_replace", writes)
    with pytest.raises(RuntimeError, match="rewrites the base"):
        attach(hosts.host("bert"), "hra")


def test_long_lists_of_modules_are_written_whole() -> None:
    """peft shortens 20 names or more to suffixes; the folder names every module in full."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **sizes)).eval()
    adapter = attach(model, "vera", depths=("0-10",))
    config, _ = peft_bridge.peft_folder(adapter)
    assert len(config["target_modules"]) == 22
    assert all(m.startswith("bert.encoder.layer.") for m in config["target_modules"])
