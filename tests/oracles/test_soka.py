"""SoKA against sums of Kronecker products, Eckart-Young in the rearranged space, and planted spectra.

Of the catalogue's acceptance checks, base logits at the start and merged logits are the contract's; that training beats a
Kronecker adapter with a random start did not show in miniature (`007-soka.yaml` says by how much), so no test asks for it; the
rest is here. The paper's count of 0.99 M follows from ranks that only its own weights have, so it is not checked.
"""

import pytest
import torch
from torch import Tensor

from tests.contract import hosts
from tests.contract.checks import disturb
from tests.oracles.peak import peak_bytes
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.structured.soka import SoKA, SoKAConfig, spectrum_rank, splits

SHAPES = [(12, 20), (16, 16), (7, 10), (24, 6)]


def part(shape: tuple[int, int] = (12, 20), weight: Tensor | None = None, **options: object) -> tuple[SoKA, Tensor]:
    """A part as it starts, and its weight; every term unless told otherwise."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) if weight is None else weight
    cfg = SoKAConfig.model_validate({"cap": 1024, "energy": 1.0, **options})
    return SoKA(cfg, Site("l", "attn.q", 0, shape), None, torch.Generator(), weight), weight


def moved(shape: tuple[int, int], **options: object) -> tuple[SoKA, Tensor]:
    one, weight = part(shape, **options)
    gen = torch.Generator().manual_seed(1)
    for p in one.parameters():
        p.data += torch.randn(p.shape, generator=gen)
    return one, weight


def planted(shape: tuple[int, int], values: Tensor) -> Tensor:
    """A weight of this shape whose Kronecker terms have these sizes; a straight line of them has no elbow."""
    (m1, m2), (n1, n2) = splits(Site("l", "attn.q", 0, shape))
    U, _, V = torch.linalg.svd(torch.randn(m1 * n1, m2 * n2, generator=torch.Generator().manual_seed(3)), full_matrices=False)
    return torch.einsum("ijkl->ikjl", ((U * values) @ V).reshape(m1, n1, m2, n2)).reshape(shape)


def terms(A: Tensor, B: Tensor) -> Tensor:
    """sum_k A_k (x) B_k in float64."""
    return sum(torch.kron(a, b) for a, b in zip(A.detach().double(), B.detach().double(), strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_equation_in_float64(shape: tuple[int, int]) -> None:
    """The change is the sum of trained Kronecker products less that of the first ones, merged and applied."""
    one, weight = moved(shape)
    wanted = terms(one.A, one.B) - terms(one.A0, one.B0)
    assert wanted.shape == shape
    x = torch.randn(2, 3, shape[1], generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(one.delta(weight, {}).double(), wanted, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, weight, {}).double(), x.double() @ wanted.T, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_term_gives_the_weight_back(shape: tuple[int, int]) -> None:
    """With nothing left out the first Kronecker sum is W."""
    (m1, m2), (n1, n2) = splits(Site("l", "attn.q", 0, shape))
    count = min(m1 * n1, m2 * n2)
    one, weight = part(shape, planted(shape, torch.linspace(2, 1, count)))
    assert len(one.A) == count
    torch.testing.assert_close(terms(one.A0, one.B0), weight.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_no_other_sum_of_as_many_terms_is_nearer(shape: tuple[int, int], rank: int) -> None:
    """The error of r terms is the root of the discarded squared singular values (Eckart and Young)."""
    (m1, m2), (n1, n2) = splits(Site("l", "attn.q", 0, shape))
    values = torch.linspace(2, 1, min(m1 * n1, m2 * n2))
    one, weight = part(shape, planted(shape, values), cap=rank)
    assert len(one.A) == rank
    error = (weight - terms(one.A0, one.B0)).norm().item()
    assert error == pytest.approx(values[rank:].square().sum().sqrt().item(), abs=1e-4)


def test_start_is_the_base_and_both_factors_share_the_size() -> None:
    """Nothing is added at the start, and A_k and B_k have the norm sqrt(s_k)."""
    one, weight = part()
    assert not one.delta(weight, {}).any()
    assert not one.apply_to(None, torch.randn(3, 20), weight, {}).any()
    torch.testing.assert_close(one.A.flatten(1).norm(dim=1), one.B.flatten(1).norm(dim=1))


def test_a_small_change_survives_half_precision() -> None:
    """A change a thousand times smaller than the trained terms is still right to bf16's own rounding."""
    one, weight = part((64, 64), torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), cap=4)
    gen = torch.Generator().manual_seed(1)
    for p in one.parameters():
        p.data += 1e-3 * torch.randn(p.shape, generator=gen)
    x = torch.randn(8, 64, generator=gen)
    wanted = one.apply_to(None, x, weight, {})
    with torch.autocast("cpu", torch.bfloat16):
        got = one.apply_to(None, x.bfloat16(), weight, {}).float()
    assert (got - wanted).norm() < 0.02 * wanted.norm()


def test_rank_rule_on_planted_spectra() -> None:
    """Three large values among tiny ones give three by either criterion; a flat spectrum has no elbow and needs nearly all."""
    planted = torch.cat([torch.tensor([10.0, 9.0, 8.0]), torch.full((61,), 1e-3)])
    assert spectrum_rank(planted, energy=0.9) == 3
    assert spectrum_rank(planted, energy=1.0) == 3, "the elbow alone"
    steep = torch.tensor([10.0, 9.99, 9.98, 0.5, 0.4, 0.3])
    assert spectrum_rank(steep, energy=0.05) == 1, "the energy alone"
    jitter = 1 + 0.01 * torch.linspace(1, -1, 64)
    assert spectrum_rank(jitter, energy=0.9) == pytest.approx(58, abs=2)
    assert spectrum_rank(jitter, energy=1.0) == 64
    assert spectrum_rank(torch.zeros(5), energy=0.9) == 1


@pytest.mark.parametrize(("values", "wanted"), [([10.0, 9.0, 8.0] + [1e-3] * 13, 3), ([1.0] * 16, 5)])
def test_rank_of_a_site_follows_its_weight(values: list[float], wanted: int) -> None:
    """The planted weight gets three terms, the flat one as many as the cap allows."""
    one, _ = part((16, 16), planted((16, 16), torch.tensor(values)), cap=5, energy=0.9)
    assert one.in_use() == wanted * 32 <= SoKA.n_params(one.cfg, [one.site]) == 5 * 32
    for t in (one.A, one.B, one.A0, one.B0):
        assert t.flatten(1).any(1).tolist() == [True] * wanted + [False] * (5 - wanted)


def test_unused_terms_never_move() -> None:
    """After ten steps of AdamW the terms past the rank are zero bit for bit, and the used ones have moved."""
    one, _ = part((16, 16), planted((16, 16), torch.tensor([10.0, 9.0, 8.0] + [1e-3] * 13)), cap=5, energy=0.9)
    gen = torch.Generator().manual_seed(4)
    x, y = torch.randn(32, 16, generator=gen), torch.randn(32, 16, generator=gen)
    optimizer = torch.optim.AdamW(one.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        (one.apply_to(None, x, torch.zeros(16, 16), {}) - y).square().mean().backward()
        optimizer.step()
    assert not one.A[3:].any()
    assert not one.B[3:].any()
    assert (one.A[:3] != one.A0[:3]).all()
    assert (one.B[:3] != one.B0[:3]).all()
    assert one.in_use() == 3 * 32


def test_loaded_ranks_are_the_stored_ones() -> None:
    """Where the decomposition comes out otherwise, as on another machine, a loaded adapter is still the one that was stored."""
    model, other = hosts.host("bert"), hosts.host("bert")
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + 0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(6)))
    mine = hosts.adapters(model).attach("a", "soka", registry.configure("soka", {"energy": 0.5}))
    theirs = hosts.adapters(other).attach("a", "soka", registry.configure("soka", {"energy": 0.5}))
    disturb(mine)
    assert [p.in_use() for _, p in mine.named_parts()] != [p.in_use() for _, p in theirs.named_parts()]
    theirs.load(mine.tensors())
    assert [p.in_use() for _, p in mine.named_parts()] == [p.in_use() for _, p in theirs.named_parts()]
    for (_, a), (_, b) in zip(mine.named_parts(), theirs.named_parts(), strict=True):
        assert torch.equal(a.delta(torch.zeros(32, 32), {}), b.delta(torch.zeros(32, 32), {}))


def test_formula_is_the_most_it_can_be() -> None:
    """cap (m1 n1 + m2 n2) where the rule asks for more, and never less than what is built."""
    assert SoKA.n_params(SoKAConfig(cap=2), [Site("l", "attn.q", 0, (4096, 4096))]) == 2 * 2 * 4096
    for family in ("bert", "gpt2"):
        model = hosts.host(family)
        adapter = hosts.adapters(model).attach("a", "soka", registry.configure("soka", {}))
        assert 0 < adapter.new_params() < SoKA.n_params(adapter.cfg, adapter.sites)
        adapter = hosts.adapters(model).attach("b", "soka", registry.configure("soka", {"cap": 1}))
        assert adapter.new_params() == SoKA.n_params(adapter.cfg, adapter.sites)


def test_never_as_large_as_the_weight() -> None:
    """Forward and backward on a wide layer need a quarter of what the dense change needs."""
    one, weight = part((1024, 1024), torch.randn(1024, 1024), cap=2)
    x = torch.randn(8, 1024)
    lean = peak_bytes(lambda: one.apply_to(None, x, weight, {}).sum().backward())
    dense = peak_bytes(lambda: (x @ one.delta(weight, {}).T).sum().backward())
    assert lean < weight.nbytes / 4 < weight.nbytes < dense


@pytest.mark.parametrize(
    ("shape", "wanted"), [((384, 384), ((16, 24), (24, 16))), ((64, 64), ((8, 8), (8, 8))), ((7, 10), ((1, 7), (5, 2)))]
)
def test_splits(shape: tuple[int, int], wanted: tuple) -> None:
    """Near-square factors, crossed over so that both factors are about as large; a prime splits into 1 and itself."""
    assert splits(Site("l", "attn.q", 0, shape)) == wanted
