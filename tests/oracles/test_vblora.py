"""VB-LoRA against a slow reference, piece by piece, and the published counts and rates."""

from pathlib import Path

import pytest
import torch

from tests.contract import hosts
from tests.oracles import bridged
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import state
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


def test_a_file_of_the_top_answers_alike_and_is_smaller(tmp_path: Path) -> None:
    """k numbers and k - 1 differences of every piece: the same logits, about k / h of the size, and nothing to train on."""
    sizes, answers = {}, {}
    for stored in ("all", "top"):
        model, adapter = bridged.attached("vblora", stored=stored, vectors=90, rank=8)
        state.save(tmp_path / stored, adapter, {})
        sizes[stored] = sum(
            t.numel() * t.element_size() for n, t in state.read(tmp_path / stored).tensors.items() if "logits" in n
        )
        fresh = hosts.host("bert")
        state.restore(fresh, state.read(tmp_path / stored))
        with torch.no_grad():
            answers[stored] = fresh(**hosts.inputs("bert")).logits
            torch.testing.assert_close(answers[stored], model(**hosts.inputs("bert")).logits, atol=1e-6, rtol=0)
    assert sizes["top"] * 90 * 4 == sizes["all"] * (1 * 4 + 2)  # one difference of four bytes and two numbers of one byte


def test_what_a_file_of_the_top_holds_is_the_published_figure() -> None:
    """RoBERTa-base, q and v, r 4, b 256, h 90, k 2: 23,904 numbers of four bytes, counting one byte per vector's number."""
    pieces = 2 * 12 * 4 * (768 + 768) // 256
    tensors = {"shared.bank": torch.zeros(90, 256), "site.vblora_logits_A": torch.randn(pieces, 90)}
    held = VBLoRA.packed(VBLoRAConfig(length=256, vectors=90, stored="top"), tensors)
    assert sum(t.numel() * t.element_size() for t in held.values()) == 4 * 23_904


@pytest.mark.parametrize("damage", ["beyond", "narrow", "alone"])
def test_a_damaged_choice_is_refused(damage: str) -> None:
    """Numbers beyond the bank, too few of them, or numbers without differences."""
    cfg = VBLoRAConfig(vectors=12, stored="top")
    held = VBLoRA.packed(cfg, {"site.vblora_logits_A": torch.randn(5, 12)})
    at = "site.vblora_logits_A#at"
    held |= {"beyond": {at: held[at] + 12}, "narrow": {at: held[at][:, :1]}, "alone": {}}[damage]
    if damage == "alone":
        del held["site.vblora_logits_A#below"]
    with pytest.raises(WorkbenchError, match="must name 2 of 12 vectors"):
        VBLoRA.unpacked(cfg, held)
