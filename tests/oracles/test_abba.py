"""ABBA against its equation, the Khatri-Rao identity, the SVD start and its rank.

Of the catalogue's acceptance checks, base logits at the start and merged logits are the contract's; LoRA's and LoHa's accuracy
beside it is the paper file's; the rest is here. The published Llama-2 count is checked by the formula, not by loading the model.
"""

import pytest
import torch
from torch import Tensor

from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.low_rank.lora import LoRA, LoRAConfig
from workbench.methods.structured.abba import ABBA, ABBAConfig


def fresh(d_out: int = 12, d_in: int = 15, **options: object) -> tuple[ABBA, Tensor]:
    """A part as it starts, and its base weight."""
    weight = torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(0))
    cfg = ABBAConfig.model_validate({"scale": 2.0, **options})
    return ABBA(cfg, Site("l", "attn.q", 0, (d_out, d_in)), None, torch.Generator().manual_seed(1), weight), weight


def moved(**options: object) -> tuple[ABBA, Tensor]:
    """A part with its zero factor drawn."""
    one, weight = fresh(**options)
    one.B2.data.normal_(generator=torch.Generator().manual_seed(2))
    return one, weight


def test_equation_in_float64() -> None:
    """s (B1 A1)_ij (B2 A2)_ij, entry by entry, through delta and through the cheaper order."""
    one, weight = moved(rank_base=3, rank_free=2)
    B1, A1, B2, A2 = (t.detach().double() for t in (one.B1, one.A1, one.B2, one.A2))
    change = torch.zeros(12, 15, dtype=torch.float64)
    for i in range(12):
        for j in range(15):
            change[i, j] = 2.0 * sum(B1[i, k] * A1[k, j] for k in range(3)) * sum(B2[i, k] * A2[k, j] for k in range(2))
    x = torch.randn(2, 4, 15, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(one.delta(weight, {}).double(), change, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, weight, {}).double(), x.double() @ change.T, atol=1e-5, rtol=1e-5)


def test_start_is_the_best_low_rank_part_of_the_weight() -> None:
    """B1 A1 is W cut to its r1 largest singular values, split evenly; B2 = 0 and A2 is drawn."""
    one, weight = fresh(d_out=40, d_in=32, rank_base=5)
    U, S, V = torch.linalg.svd(weight.double(), full_matrices=False)
    torch.testing.assert_close((one.B1 @ one.A1).double(), (U[:, :5] * S[:5]) @ V[:5], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(one.B1.norm(dim=0), one.A1.norm(dim=1))
    assert not one.B2.any()
    assert one.A2.abs().max() <= 32**-0.5
    assert not one.delta(weight, {}).any()


def test_rank_of_the_change_is_the_product_of_the_ranks() -> None:
    """r1 = r2 = 4 reaches rank 16, twice the limit of LoRA with as many parameters."""
    one, weight = moved(d_out=48, d_in=40, rank_base=4, rank_free=4)
    assert ABBA.n_params(one.cfg, [one.site]) == LoRA.n_params(LoRAConfig(rank=8), [one.site])
    assert torch.linalg.matrix_rank(one.double().delta(weight, {})).item() == 16


def test_published_count() -> None:
    """Llama-2-7B, seven projections, r1 = r2 = 16: 79,953,920."""
    shapes = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
    sites = [Site(f"{i}.{k}", "attn.q", i, shape) for i in range(32) for k, shape in enumerate(shapes)]
    assert ABBA.n_params(ABBAConfig(rank_base=16, rank_free=16), sites) == 79_953_920


def test_training_never_keeps_a_dense_matrix() -> None:
    """What autograd saves on a wide layer stays far below one (d_out, d_in) matrix; the dense form saves two and more."""
    one, weight = moved(d_out=512, d_in=512)
    x = torch.randn(4, 512, requires_grad=True)
    assert saved(lambda: one.apply_to(None, x, weight, {})) < 512 * 512 / 4
    assert saved(lambda: x @ one.delta(weight, {}).T) >= 2 * 512 * 512


def saved(call) -> int:
    """Numbers that autograd keeps for the backward pass, each storage once."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kept = call()
    assert kept.requires_grad
    return sum(sizes.values())


def test_fits_a_block_pattern_better_than_lora() -> None:
    """Fitted by Adam to a matrix of random signs in blocks, the error is below LoRA's with as many parameters."""
    gen = torch.Generator().manual_seed(5)
    target = torch.kron(torch.eye(8), torch.ones(4, 4)) + 0.3 * torch.randn(32, 32, generator=gen)

    def error(part) -> float:
        optimizer = torch.optim.Adam(part.parameters(), lr=0.02)
        for _ in range(400):
            optimizer.zero_grad()
            loss = (part.delta(target, {}) - target).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    site, weight = Site("l", "attn.q", 0, (32, 32)), torch.randn(32, 32, generator=gen)
    abba = ABBA(ABBAConfig(scale=1.0), site, None, torch.Generator().manual_seed(0), weight)
    lora = LoRA(LoRAConfig(rank=8), site, None, torch.Generator().manual_seed(0), weight)
    assert error(abba) < 0.9 * error(lora)


def test_start_does_not_touch_the_global_generator() -> None:
    """The randomised SVD draws from the part's own generator."""
    before = torch.get_rng_state()
    fresh()
    assert torch.equal(before, torch.get_rng_state())


def test_a_rank_above_the_narrowest_side_is_a_problem() -> None:
    """W has no more singular values than its narrowest side."""
    site = Site("l", "attn.q", 0, (8, 16))
    assert "at most 8" in ABBA.problem(registry.configure("abba", {"rank_base": 9}), [site])
    assert ABBA.problem(ABBAConfig(rank_base=8), [site]) == ""


@pytest.mark.parametrize("rank", [1, 12])
def test_narrow_limits(rank: int) -> None:
    """Rank one and full rank start from the weight as well."""
    one, weight = fresh(rank_base=rank)
    best = torch.linalg.matrix_norm(weight - one.B1 @ one.A1).item()
    assert best == pytest.approx(torch.linalg.svdvals(weight)[rank:].square().sum().sqrt().item(), abs=1e-3)
