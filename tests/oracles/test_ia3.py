"""(IA)3 against its equations, the published counts and peft.

Acceptance of catalogue 2: start, merging and counts on decoders here, on encoder-decoders and from the shapes of T0 in
tests/backbones/test_t5.py; the terms of T-Few by hand in tests/recipes/test_tfew.py; the miniature is the paper file.
"""

import pytest
import torch

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.structured.ia3 import IA3, IA3Config


def part(role: str) -> IA3:
    gen = torch.Generator().manual_seed(0)
    one = IA3(IA3Config(), Site("layer", role, 0, (5, 7)), None, gen, torch.randn(5, 7))
    one.l.data.normal_(generator=gen)
    return one


@pytest.mark.parametrize("role", ["attn.k", "attn.v", "cross.k", "ffn.up"])
def test_output_scaling_in_float64(role: str) -> None:
    """l * (W x + b), entry by entry."""
    one, gen = part(role), torch.Generator().manual_seed(1)
    weight, bias, x = torch.randn(5, 7, generator=gen), torch.randn(5, generator=gen), torch.randn(3, 7, generator=gen)
    expected = one.l.flatten().double() * (x.double() @ weight.double().T + bias.double())
    y = x @ weight.T
    applied = y + bias + one.apply_to(y, x, weight, {}) + one.delta_bias(bias, None, {})
    merged = x @ (weight + one.delta(weight, {})).T + bias + one.delta_bias(bias, None, {})
    for ours in (applied, merged):
        torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)


def test_input_scaling_in_float64() -> None:
    """W (l * x) + b at ffn.down; the bias stays."""
    one, gen = part("ffn.down"), torch.Generator().manual_seed(1)
    weight, bias, x = torch.randn(5, 7, generator=gen), torch.randn(5, generator=gen), torch.randn(3, 7, generator=gen)
    expected = (one.l.flatten().double() * x.double()) @ weight.double().T
    for ours in (x @ weight.T + one.apply_to(None, x, weight, {}), x @ (weight + one.delta(weight, {})).T):
        torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    assert one.delta_bias(bias, None, {}) is None


@pytest.mark.parametrize(("d", "ff", "expected"), [(2048, 5120, 540_672), (4096, 10240, 1_081_344)])
def test_published_counts(d: int, ff: int, expected: int) -> None:
    """T0-3B and T0-11B: 24 encoder and 24 decoder blocks, the decoder with vectors for cross-attention too."""
    encoder = [("attn.k", d, d), ("attn.v", d, d), ("ffn.down", d, ff)]
    decoder = [*encoder, ("cross.k", d, d), ("cross.v", d, d)]
    sites = [
        Site(f"{t}.{i}.{r}", r, i, (out, into))
        for t, rows in (("e", encoder), ("d", decoder))
        for i in range(24)
        for r, out, into in rows
    ]
    assert IA3.n_params(IA3Config(), sites) == expected


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_start_and_merge(family: str) -> None:
    """Ones change nothing; merged weights give the unmerged logits."""
    model = hosts.host(family)
    with torch.no_grad():
        base = hosts.logits(model, family)
        adapter = hosts.adapters(model).attach("a", "ia3", IA3Config())
        assert (hosts.logits(model, family) - base).abs().max() <= 1e-6
        disturb(adapter)
        apart = hosts.logits(model, family)
        model.workbench.merge()
        assert (hosts.logits(model, family) - apart).abs().max() <= 1e-5
        assert (apart - base).abs().max() > 1e-3


def test_gated_blocks_may_scale_the_up_projection() -> None:
    """Scaling the linear branch of a gated block (as T-Few's code does) equals scaling the input of ffn.down."""
    logits = []
    for role in ("ffn.up", "ffn.down"):
        model = hosts.host("llama")
        adapter = hosts.adapters(model).attach("a", "ia3", IA3Config(roles=(role,)))
        gen = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, one in adapter.named_parts():
                one.l.copy_(torch.randn(one.l.numel(), generator=gen).view_as(one.l))
            logits.append(hosts.logits(model, "llama"))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_peft_twin(family: str, as_peft) -> None:
    """The same vectors in a real peft model, ffn.down as its feedforward module, give the same logits."""
    model = hosts.host(family)
    adapter = hosts.adapters(model).attach("a", "ia3", registry.configure("ia3", {}))
    disturb(adapter)
    with torch.no_grad():
        ours, theirs = hosts.logits(model, family), hosts.logits(as_peft(adapter, hosts.host(family)), family)
        assert (ours - theirs).abs().max() <= 1e-5
        assert (ours - hosts.logits(hosts.host(family), family)).abs().max() > 1e-3
