"""EigenLoRAx against its equation, its limits and its counts; the subspace itself is tests/operations/test_lora_subspace.py.

Of the catalogue's acceptance checks, merging and the count on a model are the contract's; exact reconstruction, monotone error
and orthonormality after adding columns belong to the operation; the accuracy beside LoRA is the paper file's.
"""

import pytest
import torch

from tests.contract import hosts
from tests.contract.checks import train
from tests.contract.test_methods import cases
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.low_rank.eigenlorax import EigenLoRAx, EigenLoRAxConfig, orthonormal
from workbench.methods.low_rank.lora import LoRA, LoRAConfig


def part(shape: tuple[int, int] = (5, 7), **options: object) -> EigenLoRAx:
    cfg = EigenLoRAxConfig.model_validate({"rank": 2, "components": 4, **options})
    return EigenLoRAx(cfg, Site("l", "attn.q", 0, shape), None, torch.Generator().manual_seed(0), torch.zeros(shape))


def test_equation_in_float64() -> None:
    """(V_B C_B)(V_A C_A)^T x, entry by entry."""
    one, x = part(), torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))
    va, vb, ca, cb = (getattr(one, n).detach().double() for n in ("V_A", "V_B", "C_A", "C_B"))
    change = torch.zeros(5, 7, dtype=torch.float64)
    for i in range(5):
        for j in range(7):
            for k in range(2):
                change[i, j] += sum(vb[i, m] * cb[m, k] for m in range(4)) * sum(va[j, m] * ca[m, k] for m in range(4))
    torch.testing.assert_close(one.delta(torch.zeros(5, 7), {}).double(), change, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, torch.zeros(1), {}).double(), x.double() @ change.T, atol=1e-5, rtol=1e-5)


def test_start_values() -> None:
    """Orthonormal bases, loadings within half a unit; `zero_b` starts at the base with a gradient for C_B."""
    one = part((40, 60), components=32, rank=8)
    for basis in (one.V_A, one.V_B):
        torch.testing.assert_close(basis.T @ basis, torch.eye(32), atol=1e-5, rtol=0)
    assert 0.45 < one.C_A.abs().max() <= 0.5
    assert 0.45 < one.C_B.abs().max() <= 0.5
    zero = part(zero_b=True)
    assert not zero.delta(torch.zeros(5, 7), {}).any()
    zero.apply_to(None, torch.ones(1, 7), torch.zeros(1), {}).sum().backward()
    assert zero.C_B.grad.any()


def test_columns_beside_others_are_orthogonal_to_them() -> None:
    gen = torch.Generator().manual_seed(2)
    first = orthonormal(50, 30, gen)
    both = torch.cat([first, orthonormal(50, 20, gen, first)], 1)
    torch.testing.assert_close(both.T @ both, torch.eye(50), atol=1e-5, rtol=0)


def test_whole_bases_reach_any_lora() -> None:
    """With K = d the change is any B A: C_A = V_A^T A^T and C_B = V_B^T B."""
    one, gen = part((6, 6), components=6, rank=3), torch.Generator().manual_seed(3)
    A, B = torch.randn(3, 6, generator=gen), torch.randn(6, 3, generator=gen)
    with torch.no_grad():
        one.C_A.copy_(one.V_A.T @ A.T)
        one.C_B.copy_(one.V_B.T @ B)
    torch.testing.assert_close(one.delta(torch.zeros(6, 6), {}), B @ A, atol=1e-5, rtol=1e-5)


def test_only_loadings_train_and_the_bases_stay_bitwise() -> None:
    case = next(c for c in cases("eigenlorax", "") if c.family == "bert")
    model, adapter = case.fresh()
    before = {n: t.clone() for n, t in adapter.tensors().items()}
    train(case, model, adapter, steps=3)
    moved = {n.rpartition(".")[2] for n, t in adapter.tensors().items() if not torch.equal(t, before[n])}
    assert moved == {"C_A", "C_B"}
    assert sum(p.numel() for p in adapter.named_trainable().values()) == len(adapter.sites) * 2 * 16 * 4


def test_counts() -> None:
    """RoBERTa-base, q and v, r = 8: 12,288 with K = 32 and 24,576 with K = 64; an ordinary LoRA has 294,912."""
    sites = [Site(f"{i}.{r}", r, i, (768, 768)) for i in range(12) for r in ("attn.q", "attn.v")]
    assert EigenLoRAx.n_params(EigenLoRAxConfig(), sites) == 12_288
    assert EigenLoRAx.n_params(EigenLoRAxConfig(components=64), sites) == 24_576
    assert LoRA.n_params(LoRAConfig(rank=8), sites) == 294_912


def test_the_backward_pass_keeps_k_numbers_per_token() -> None:
    """Neither the input nor a (d_out, d_in) matrix is kept: x V_A, its two products and the small matrices are."""
    one, sizes = part((512, 512), components=16), {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // 4
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        assert one.apply_to(None, torch.randn(1000, 512, requires_grad=True), torch.zeros(1), {}).requires_grad
    assert sum(sizes.values()) <= 2 * 512 * 16 + 2 * 16 * 2 + 1000 * (16 + 2)


def test_refuses_more_columns_than_dimensions() -> None:
    site = Site("l", "attn.q", 0, (12, 40))
    assert "at most 12" in EigenLoRAx.problem(EigenLoRAxConfig(), [site])
    assert EigenLoRAx.problem(EigenLoRAxConfig(components=12), [site]) == ""


@pytest.mark.parametrize("zero", [False, True])
def test_starts_as_base_exactly_where_it_says(zero: bool) -> None:
    cfg = registry.configure("eigenlorax", {"zero_b": zero, "components": 16})
    model = hosts.host("llama")
    base = hosts.logits(model, "llama")
    hosts.adapters(model).attach("a", "eigenlorax", cfg)
    assert torch.equal(hosts.logits(model, "llama"), base) == zero
    assert EigenLoRAx.starts_as_base(cfg) == zero
