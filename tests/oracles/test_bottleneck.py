"""Bottleneck adapters against their equations, the published counts, LoRA as their linear case, and the base as their start."""

import math

import pytest
import torch
from torch import nn

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.bottleneck.bottleneck import Bottleneck, BottleneckConfig, BottleneckPart

SITE = Site("layer", "ffn.block", 0, (5, 5), "point")


def part(site: Site = SITE, **options: object) -> BottleneckPart:
    """A part with every tensor drawn at random."""
    gen = torch.Generator().manual_seed(0)
    one = BottleneckPart(BottleneckConfig(bottleneck=3, **options), site, None, gen, None)
    for p in one.parameters():
        p.data.normal_(generator=gen)
    return one


def scalar(name: str, v: float) -> float:
    """The non-linearities of one number."""
    return {
        "gelu": lambda: v * 0.5 * (1 + math.erf(v / math.sqrt(2))),
        "relu": lambda: max(v, 0.0),
        "silu": lambda: v / (1 + math.exp(-v)),
        "tanh": lambda: math.tanh(v),
        "identity": lambda: v,
    }[name]()


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh", "identity"])
@pytest.mark.parametrize("position", ["serial", "parallel"])
def test_equation_in_float64(activation: str, position: str) -> None:
    """h + s (U f(D z + b_D) + b_U) with z = h or x, number by number."""
    one = part(activation=activation, position=position, scale=4.0)
    h, x = torch.randn(5), torch.randn(5)
    z = (h if position == "serial" else x).double()
    inner = [scalar(activation, (sum(one.D[i].double() * z) + one.b_D[i].double()).item()) for i in range(3)]
    up = [h[j].item() + 4 * (sum(one.U[j, i].item() * inner[i] for i in range(3)) + one.b_U[j].item()) for j in range(5)]
    ours = one.edit(h[None], x[None], {})[0]
    torch.testing.assert_close(ours.double(), torch.tensor(up, dtype=torch.float64), atol=1e-5, rtol=1e-5)


def test_layer_norm_and_learned_scale() -> None:
    """The adapter's own LayerNorm acts on its input; the scale is one more trained number."""
    one = part(layer_norm=True, learned_scale=True, scale=2.0)
    fresh = BottleneckPart(BottleneckConfig(learned_scale=True, scale=2.0), SITE, None, torch.Generator(), None)
    assert fresh.s.item() == 2.0
    h = torch.randn(2, 5)
    z = (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt() * one.norm.weight + one.norm.bias
    expected = h + one.s * (nn.functional.gelu(z @ one.D.T + one.b_D) @ one.U.T + one.b_U)
    torch.testing.assert_close(one.edit(h, h, {}), expected)
    assert Bottleneck.n_params(one.cfg, [SITE]) == sum(p.numel() for p in one.parameters()) == 2 * 5 * 3 + 3 + 5 + 2 * 5 + 1


def test_first_values() -> None:
    """Houlsby: normal of std 1e-3 cut at two deviations, zero biases; LoRA-like: D uniform, U zero."""
    wide = Site("layer", "ffn.block", 0, (400, 400), "point")
    one = BottleneckPart(BottleneckConfig(), wide, None, torch.Generator().manual_seed(0), None)
    for tensor in (one.D, one.U):
        assert 1.98e-3 < tensor.abs().max() <= 2e-3
        assert abs(tensor.std().item() - 0.88e-3) < 2e-5  # a normal cut at two deviations keeps 0.88 of its own
    assert not one.b_D.any()
    assert not one.b_U.any()
    one = BottleneckPart(BottleneckConfig(init="lora"), wide, None, torch.Generator().manual_seed(0), None)
    assert not one.U.any()
    assert 0.049 < one.D.abs().max() <= 1 / math.sqrt(400)


def large_sites() -> list[Site]:
    """Every site of BERT-large, nothing allocated."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096))
    return backbones.of(model).sites(model)


def test_houlsby_counts_of_bert_large() -> None:
    """6,343,680 adapter parameters with m = 64 and 100,352 of the LayerNorms."""
    sites = large_sites()
    places = [s for s in sites if s.role in ("attn.block", "ffn.block")]
    assert len(places) == 48
    assert Bottleneck.n_params(registry.configure("houlsby_adapter", {}), places) == 6_343_680
    assert sum(math.prod(shape) for s in sites if s.role == "norms" for _, shape in s.tensors) == 100_352


def test_houlsby_start_is_near_the_base_but_not_the_base() -> None:
    """Logits move by less than 1e-3 and are not identical; with U = 0 they agree to 1e-6."""
    model = hosts.host("bert")
    with torch.no_grad():
        base = hosts.logits(model, "bert")
        adapter = hosts.adapters(model).attach("a", "bottleneck", registry.configure("houlsby_adapter", {}))
        moved = (hosts.logits(model, "bert") - base).abs().max()
        assert 0 < moved < 1e-3
        for _, one in adapter.named_parts():
            one.U.zero_()
        assert (hosts.logits(model, "bert") - base).abs().max() <= 1e-6
    assert not Bottleneck.starts_as_base(adapter.cfg)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_houlsby_trains_adapters_and_every_norm(family: str) -> None:
    """Counts follow the formula; only adapters and norms get gradients, and every norm does."""
    model = hosts.host(family)
    norms = {n for n, _ in model.named_parameters() if "norm" in n.lower()}
    adapter = hosts.adapters(model).attach("a", "bottleneck", registry.configure("houlsby_adapter", {"bottleneck": 8}))
    assert adapter.new_params() == 2 * 2 * (2 * 32 * 8 + 8 + 32)
    assert adapter.originals().keys() == norms
    assert adapter.base_params() == sum(o.numel() for o, _, _ in adapter.originals().values())
    hosts.loss(model, family).backward()
    assert all(own.grad is not None and own.grad.any() for _, own, _ in adapter.originals().values())
    trained = {id(p) for p in adapter.parameters()}
    assert all(id(p) in trained for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for _, one in adapter.named_parts() for p in one.parameters())


def test_two_tasks_on_one_base() -> None:
    """Tasks trained in turn on one base: going back to the first adapter restores its logits bit for bit."""
    model = hosts.host("bert")
    adapters = hosts.adapters(model)
    cfg = registry.configure("houlsby_adapter", {"bottleneck": 8})
    after: dict[str, torch.Tensor] = {}
    for seed, name in enumerate(("first", "second")):
        adapter = adapters.attach(name, "bottleneck", cfg, seed)
        adapters.activate({name: 1.0})
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            (hosts.loss(model, "bert") * (-1) ** seed).backward()
            optimizer.step()
        with torch.no_grad():
            after[name] = hosts.logits(model, "bert")
    assert not torch.allclose(after["first"], after["second"], atol=1e-3)
    adapters.activate({"first": 1.0})
    with torch.no_grad():
        assert torch.equal(hosts.logits(model, "bert"), after["first"])


def test_merge_is_refused_with_the_reason() -> None:
    """The message names the non-linearity."""
    model = hosts.host("bert")
    hosts.adapters(model).attach("a", "bottleneck", Bottleneck.tiny)
    with pytest.raises(WorkbenchError, match="non-linearity"):
        model.workbench.merge()


@pytest.mark.parametrize("preset", ["pfeiffer_adapter", "parallel_adapter"])
def test_presets_adapt_the_feed_forward_alone(preset: str) -> None:
    """One adapter a block, norms frozen; the parallel one reads what the feed-forward sublayer reads."""
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "bottleneck", registry.configure(preset, {"bottleneck": 4}))
    disturb(adapter)
    assert [s.role for s in adapter.sites] == ["ffn.block"] * 2
    assert not adapter.originals()
    layer, one = model.bert.encoder.layer[0], next(iter(adapter.named_parts()))[1]
    z = torch.randn(1, 3, 32)
    seen: dict[str, torch.Tensor] = {}
    layer.intermediate.register_forward_hook(lambda m, args, out: seen.update(x=args[0]))
    layer.output.dense.register_forward_hook(lambda m, args, out: seen.update(y=out))
    with torch.no_grad():
        model.workbench.begin((), {})
        ours = layer(z)
        reads = seen["x"] if preset == "parallel_adapter" else seen["y"]
        added = one.s * (torch.relu(reads @ one.D.T + one.b_D) @ one.U.T + one.b_U)
        expected = layer.output.LayerNorm(seen["y"] + added + seen["x"])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert one.s == {"pfeiffer_adapter": 1.0, "parallel_adapter": 4.0}[preset]


@pytest.mark.parametrize(("preset", "expected"), [("llm_series_adapter", 67_108_864), ("llm_parallel_adapter", 247_463_936)])
def test_llm_adapters_counts_of_llama_7b(preset: str, expected: int) -> None:
    """The published parameter counts, on a model that is not allocated."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32))
    cfg = registry.configure(preset, {})
    sites = backbones.chosen(backbones.of(model).sites(model), cfg, (), 32, preset)
    assert Bottleneck.n_params(cfg, sites) == expected


@pytest.mark.parametrize("preset", ["llm_series_adapter", "llm_parallel_adapter", "parallel_adapter"])
def test_lora_like_starts_are_the_base_and_normal_ones_are_not(preset: str) -> None:
    """U = 0 is exactly the base; N(0, 0.02) measurably is not."""
    for values, same in (({}, True), ({"init": "normal", "init_std": 0.02}, False)):
        model = hosts.host("llama")
        cfg = registry.configure(preset, {"bottleneck": 16, **values})
        with torch.no_grad():
            base = hosts.logits(model, "llama")
            hosts.adapters(model).attach("a", "bottleneck", cfg)
            moved = (hosts.logits(model, "llama") - base).abs().max()
        assert (moved.item() == 0) is same
        assert Bottleneck.starts_as_base(cfg) is same


def test_parallel_identity_is_lora() -> None:
    """Parallel at a linear layer with the identity as activation and m = r is LoRA with alpha = r on the same weights."""
    logits = []
    for method, values in (
        ("llm_parallel_adapter", {"bottleneck": 4, "activation": "identity", "roles": ["ffn.up", "ffn.down"]}),
        ("lora", {"rank": 4, "alpha": 4.0, "roles": ["ffn.up", "ffn.down"]}),
    ):
        model, gen = hosts.host("llama"), torch.Generator().manual_seed(0)
        adapter = hosts.adapters(model).attach("a", registry.find(method)[0], registry.configure(method, values))
        with torch.no_grad():
            for _, one in adapter.named_parts():
                for tensor in (one.D, one.U) if method != "lora" else (one.A, one.B):
                    tensor.copy_(torch.randn(tensor.shape, generator=gen) * 0.1)
            logits.append(hosts.logits(model, "llama"))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_series_leaves_the_attention_path_alone() -> None:
    """Everything up to the first adapted down projection is bit-identical to the base."""
    model, seen = hosts.host("llama"), []
    layer = model.model.layers[0]
    for module in (layer.self_attn.o_proj, layer.mlp.up_proj, layer.mlp.down_proj):
        module.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
    with torch.no_grad():
        hosts.logits(model, "llama")
        disturb(hosts.adapters(model).attach("a", "bottleneck", registry.configure("llm_series_adapter", {"bottleneck": 4})))
        hosts.logits(model, "llama")
    base, now = seen[:3], seen[3:]
    assert torch.equal(base[0], now[0])
    assert torch.equal(base[1], now[1])
    assert not torch.equal(base[2], now[2])
