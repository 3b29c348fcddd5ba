"""VB-LoRA against a slow reference, piece by piece, and the published counts and rates."""

import torch

from tests.oracles import bridged
from workbench.core.types import Site
from workbench.methods.shared_bank.vblora import VBLoRA, VBLoRAConfig


def piece(logits, bank, top):
    best = sorted(range(len(logits)), key=lambda j: -logits[j])[:top]
    share = torch.softmax(torch.stack([logits[j] for j in best]), 0)
    return sum(s * bank[j] for s, j in zip(share, best, strict=True))


def naive(t, weight, bias, site):
    bank, a, b = t["shared.vblora_vector_bank"], t["vblora_logits_A"], t["vblora_logits_B"]
    A = torch.stack([torch.cat([piece(p, bank, 3) for p in row]) for row in a])  # (r, d_in)
    columns = [torch.cat([piece(p, bank, 3) for p in b[:, k]]) for k in range(b.shape[1])]
    B = torch.stack(columns, dim=1)  # (d_out, r)
    return weight + B @ A, bias


def test_equation_in_float64() -> None:
    """Every piece is the softmax mix of the bank's vectors with the largest logits."""
    bridged.check("vblora", naive, top=3)


def test_counts_and_rates_of_the_paper() -> None:
    """RoBERTa-base, q and v of 12 layers, r 4, b 256, h 90: 74,880 trained; the bank learns at a tenth."""
    sites = [Site(f"layer.{i}.{role}", role, i, (768, 768)) for i in range(12) for role in ("attn.q", "attn.v")]
    assert VBLoRA.n_params(VBLoRAConfig(rank=4, length=256, vectors=90), sites) == 74_880
    _, adapter = bridged.attached("vblora", bank_rate=0.1)
    rates = {g["lr"]: sum(p.numel() for p in g["params"]) for g in adapter.param_groups(1e-2)}
    assert rates[1e-2 * 0.1] == 12 * 8
    assert rates[1e-2] == adapter.new_params() - 12 * 8
