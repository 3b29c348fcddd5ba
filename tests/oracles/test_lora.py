"""LoRA against its equation, its limits, peft, and the published counts."""

import math

import pytest
import torch

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.low_rank.lora import LoRA, LoRAConfig


def part(rank: int = 3, **options: object) -> LoRA:
    site = Site("layer", "attn.q", 0, (5, 7))
    made = LoRA(LoRAConfig(rank=rank, **options), site, None, torch.Generator().manual_seed(0), torch.randn(5, 7))
    made.B.data.normal_(generator=torch.Generator().manual_seed(1))
    return made


def test_equation_in_float64() -> None:
    """(W + alpha / r B A) x, entry by entry."""
    one, gen = part(alpha=12.0), torch.Generator().manual_seed(2)
    weight, x = torch.randn(5, 7, generator=gen), torch.randn(2, 4, 7, generator=gen)
    A, B = one.A.double(), one.B.double()
    change = torch.zeros(5, 7, dtype=torch.float64)
    for i in range(5):
        for j in range(7):
            change[i, j] = 12.0 / 3 * sum(B[i, k] * A[k, j] for k in range(3))
    torch.testing.assert_close(one.delta(weight, {}).double(), change, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, weight, {}).double(), x.double() @ change.T, atol=1e-5, rtol=1e-5)


def test_rank_stabilised_scale_and_first_values() -> None:
    """rsLoRA divides by sqrt(r); A starts within 1 / sqrt(d_in), B at zero."""
    assert part(rank=4, alpha=8.0, rank_stabilised=True).scale == 4.0
    fresh = LoRA(
        LoRAConfig(rank=64), Site("l", "attn.q", 0, (50, 100)), None, torch.Generator().manual_seed(0), torch.randn(50, 100)
    )
    assert not fresh.B.any()
    assert 0.099 < fresh.A.abs().max() <= 1 / math.sqrt(100)


def test_full_rank_reaches_any_change() -> None:
    """With r = d_in and A = I the change is s B, whatever B is."""
    one = part(rank=7)
    one.A.data = torch.eye(7)
    torch.testing.assert_close(one.delta(torch.randn(5, 7), {}), one.scale * one.B)


def test_lora_plus_trains_b_faster() -> None:
    """LoRA+ gives B sixteen times the rate of A."""
    cfg = registry.configure("lora_plus", {})
    first, second = part(rank=cfg.rank, b_rate=cfg.b_rate).param_groups(1e-3)
    assert (first["lr"], second["lr"]) == (1e-3, 1.6e-2)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("values", [{"rank": 4}, {"rank": 4, "rank_stabilised": True, "roles": ["attn.q", "ffn.down"]}])
def test_peft_twin(family: str, values: dict, as_peft) -> None:
    """The same tensors in a real peft model give the same logits."""
    model = hosts.host(family)
    adapter = hosts.adapters(model).attach("a", "lora", registry.configure("lora", values))
    disturb(adapter)
    with torch.no_grad():
        ours, theirs = hosts.logits(model, family), hosts.logits(as_peft(adapter, hosts.host(family)), family)
        assert (ours - theirs).abs().max() <= 1e-5
        assert (ours - hosts.logits(hosts.host(family), family)).abs().max() > 1e-3


def test_published_count() -> None:
    """LLM-Adapters: rank 32 on q, k, v, up and down of LLaMA-7B is 56,098,816 parameters."""
    shapes = [
        ("attn.q", 4096, 4096),
        ("attn.k", 4096, 4096),
        ("attn.v", 4096, 4096),
        ("ffn.up", 11008, 4096),
        ("ffn.down", 4096, 11008),
    ]
    sites = [Site(f"{i}.{r}", r, i, (out, into)) for i in range(32) for r, out, into in shapes]
    assert LoRA.n_params(LoRAConfig(rank=32), sites) == 56_098_816
