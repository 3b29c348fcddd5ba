"""Encoder-decoders: (IA)3 with the published count, merging in both towers, and what has no place there."""

import pytest
import torch
from torch import Tensor, nn

from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.kernel import registry
from workbench.kernel.host import adapters_of, attach

FAMILY = backbones.families()["t5"]


def logits(model: nn.Module) -> Tensor:
    """Of two questions, one padded, and their answers."""
    gen = torch.Generator().manual_seed(3)
    asked, said = torch.randint(3, 99, (2, 7), generator=gen), torch.randint(3, 99, (2, 4), generator=gen)
    mask = torch.ones_like(asked)
    mask[1, 5:] = 0
    return model(input_ids=asked, attention_mask=mask, decoder_input_ids=said).logits


def large(**sizes: int) -> nn.Module:
    """A T5 1.1 of 24 and 24 blocks on the meta device."""
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.device("meta"):
        config = T5Config(num_layers=24, num_decoder_layers=24, d_kv=64, feed_forward_proj="gated-gelu", **sizes)
        return T5ForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({"d_model": 2048, "d_ff": 5120, "num_heads": 32}, 540_672),
        ({"d_model": 4096, "d_ff": 10240, "num_heads": 64}, 1_081_344),
    ],
    ids=["T0-3B", "T0-11B"],
)
def test_the_published_counts(sizes: dict[str, int], count: int) -> None:
    """Keys and values of self- and cross-attention and the inner activations, from shapes alone."""
    model = large(**sizes)
    key, method, _ = registry.find("ia3")
    cfg = registry.configure("ia3", {})
    sites = backbones.chosen(FAMILY.sites(model), cfg, registry.default_roles(method, cfg), 24, key)
    assert method.n_params(cfg, sites) == count
    assert {(s.tower, s.role) for s in sites} == {
        *((tower, role) for tower in ("encoder", "decoder") for role in ("attn.k", "attn.v", "ffn.down")),
        *(("decoder", role) for role in ("cross.k", "cross.v")),
    }


@pytest.mark.parametrize("kind", FAMILY.model_types)
@pytest.mark.parametrize("method", ["ia3", "lora"])
def test_the_start_is_the_base_and_merging_changes_nothing(kind: str, method: str) -> None:
    """Ones leave the logits alone; any vectors give the same logits merged and apart, and the base comes back bitwise."""
    model = FAMILY.tiny(kind)
    with torch.no_grad():
        base = logits(model)
        adapter = attach(model, method)
        assert (logits(model) - base).abs().max() <= 1e-6
        gen = torch.Generator().manual_seed(1)
        for p in adapter.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=gen))
        apart = logits(model)
        assert (apart - base).abs().max() > 1e-3
        adapters_of(model).merge()
        assert (logits(model) - apart).abs().max() <= 1e-5 * max(1.0, float(apart.abs().max()))
        adapters_of(model).release()
        assert torch.equal(logits(model), base)


def test_the_gate_may_be_scaled_in_place_of_the_inner_activation() -> None:
    """gate(x) * (l * up(x)) = (l * gate(x)) * up(x) before the down projection: scaling up or the input of down is one."""
    found = []
    for role in ("ffn.up", "ffn.down"):
        model = FAMILY.tiny("t5")
        adapter = attach(model, "ia3", roles=[role])
        gen = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, part in adapter.named_parts():
                part.l.copy_(torch.randn(part.l.numel(), generator=gen).view_as(part.l))
            found.append(logits(model))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_a_tower_can_be_chosen() -> None:
    """Depths count from 0 in each tower."""
    paths = [s.path for s in attach(FAMILY.tiny("t5"), "lora", roles=["attn.q"], tower="decoder", depths=[1]).sites]
    assert paths == ["decoder.block.1.layer.0.SelfAttention.q"]
    both = [s.path for s in attach(FAMILY.tiny("t5"), "lora", roles=["attn.q"], depths=[-1]).sites]
    assert both == [f"{tower}.block.1.layer.0.SelfAttention.q" for tower in ("encoder", "decoder")]


@pytest.mark.parametrize(
    ("method", "words"),
    [("prompt_tuning", "no virtual tokens before its input"), ("prefix_tuning", "into its layers"), ("read_rnn", "model.out")],
)
def test_what_has_no_place_is_one_sentence(method: str, words: str) -> None:
    """Virtual tokens and side networks."""
    with pytest.raises(WorkbenchError, match=words):
        attach(FAMILY.tiny("t5"), method)
