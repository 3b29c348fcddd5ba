"""MoKA against explicit Kronecker products, its gate, its reachable rank, and the blocks of MoKA_s.

Of the catalogue's acceptance checks, the start and merging are contract tests as well; MoKA beside LoRA is the paper file
`032-moka.yaml`. The published parameter counts are not tested: the paper's list of shapes is not known here.
"""

import math

import pytest
import torch
from torch import Tensor

from tests.contract import hosts
from tests.oracles.peak import peak_bytes
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.low_rank.lora import LoRA, LoRAConfig
from workbench.methods.structured.moka import MoKA, MoKAConfig, chosen_shapes

SIZES = [(12, 12), (12, 30), (64, 96), (96, 24)]


def part(shape: tuple[int, int], **options: object) -> MoKA:
    """A part away from its start."""
    site, gen = Site("layer", "attn.q", 0, shape), torch.Generator().manual_seed(0)
    one = MoKA(MoKAConfig(**options), site, None, gen, torch.zeros(shape))
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=gen))
    return one


def explicit(one: MoKA) -> Tensor:
    """s sum_i alpha_i kron(A_i, B_i) in float64, the gate by its definition."""
    weights = [math.exp(g) for g in one.g.tolist()]
    total, number, copies = torch.zeros(one.site.shape, dtype=torch.float64), 0, one.copies
    for j, (m_a, n_a, m_b, n_b) in enumerate(one.shapes):
        for k in range(copies):
            A = one.A[j][k].double() if len(one.A) else torch.eye(m_a, n_a, dtype=torch.float64)
            B = one.B[j][k].double() if len(one.B) else torch.eye(m_b, n_b, dtype=torch.float64)
            total += weights[number] / sum(weights) * torch.kron(A, B)
            number += 1
    return one.cfg.scale * total


@pytest.mark.parametrize("identity", ["none", "A", "B"])
@pytest.mark.parametrize("shape", SIZES)
def test_equation_in_float64(shape: tuple[int, int], identity: str) -> None:
    """Both orders of the forward pass and the merged change equal the explicit sum, for weights that are not square too."""
    one = part(shape, identity=identity, scale=1.3)
    x, weight, wanted = torch.randn(2, 3, shape[1]), torch.zeros(shape), explicit(one).detach()
    torch.testing.assert_close(one.delta(weight, {}).double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, weight, {}).double(), x.double() @ wanted.T, atol=1e-5, rtol=1e-5)


def test_shapes_multiply_to_the_weight_and_differ() -> None:
    """m_a m_b = d_out, n_a n_b = d_in; a larger stretch makes A wider and lower; five shapes on a 64 x 96 layer."""
    shapes = chosen_shapes(MoKAConfig(), Site("l", "attn.q", 0, (64, 96)))
    assert all(a * c == 64 and b * d == 96 for a, b, c, d in shapes)
    assert len(set(shapes)) == 5
    assert [a for a, _, _, _ in shapes] == sorted((a for a, _, _, _ in shapes), reverse=True)
    assert [b for _, b, _, _ in shapes] == sorted(b for _, b, _, _ in shapes)


def test_gate_sums_to_one_and_can_choose_one_product() -> None:
    """alpha is a softmax; with g = (30, 0, 0, ...) only the first product is left."""
    one = part((12, 30))
    alphas = torch.cat([alpha for _, alpha, _, _ in one.products()])
    assert len(alphas) == 10
    torch.testing.assert_close(alphas.sum(), torch.tensor(1.0))
    with torch.no_grad():
        one.g.zero_()[0] = 30.0
    only = torch.kron(one.A[0][0], one.B[0][0])
    torch.testing.assert_close(one.delta(torch.zeros(12, 30), {}), only, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["moka", "moka_s"])
def test_first_step_reaches_the_factors_that_start_at_zero(name: str) -> None:
    """The start is the base bit for bit, with a uniform gate, yet the first gradient is not zero."""
    model = hosts.host("bert")
    base = hosts.logits(model, "bert")
    adapter = hosts.adapters(model).attach("a", name.removesuffix("_s"), registry.configure(name, {}))
    torch.testing.assert_close(hosts.logits(model, "bert"), base, atol=1e-6, rtol=0)
    hosts.loss(model, "bert").backward()
    for _, one in adapter.named_parts():
        assert not one.g.any()
        assert all(p.grad.any() for n, p in one.named_parameters() if n.startswith("B."))


def test_copies_of_a_shape_start_differently() -> None:
    """Equal starting values would stay equal for ever."""
    site = Site("l", "attn.q", 0, (64, 96))
    fresh = MoKA(MoKAConfig(), site, None, torch.Generator().manual_seed(0), torch.zeros(64, 96))
    for A in fresh.A:
        assert not torch.equal(A[0], A[1])
        assert A.abs().max() <= 1 / math.sqrt(A.shape[-1])


@pytest.mark.parametrize("identity", ["A", "B"])
def test_products_with_an_identity_are_no_twins(identity: str) -> None:
    """On a narrow layer several stretches give one size; each is there once, and everything that trains moves."""
    site = Site("l", "ffn.up", 0, (448, 160))
    assert len(chosen_shapes(MoKAConfig(identity=identity, shapes=(1.0, 1.01, 4.0)), site)) == 2
    one = MoKA(MoKAConfig(identity=identity, shapes=(1.0, 1.01)), site, None, torch.Generator(), torch.zeros(448, 160))
    assert len(list(one.parameters())) == 1  # one product, no gate
    assert sum(p.numel() for p in one.parameters()) == MoKA.n_params(one.cfg, [site])


def fitted(one: MoKA | LoRA, target: Tensor, steps: int = 300) -> Tensor:
    """The change after least squares on a planted target."""
    optimizer = torch.optim.Adam(one.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        (one.delta(torch.zeros_like(target), {}) - target).square().sum().backward()
        optimizer.step()
    return one.delta(torch.zeros_like(target), {}).detach()


def test_reaches_a_rank_that_lora_of_equal_size_cannot() -> None:
    """On a planted full-rank structured change of a 64 x 96 layer: a higher rank and a smaller error."""
    gen, site = torch.Generator().manual_seed(2), Site("l", "attn.q", 0, (64, 96))
    cfg = MoKAConfig(shapes=(0.5, 1.0, 2.0), copies=1)
    shapes = chosen_shapes(cfg, site)
    target = sum(torch.kron(torch.randn(a, b, generator=gen), torch.randn(c, d, generator=gen)) for a, b, c, d in shapes)
    rank = math.ceil(MoKA.n_params(cfg, [site]) / (64 + 96))
    moka = fitted(MoKA(cfg, site, None, torch.Generator().manual_seed(0), torch.zeros(64, 96)), target)
    lora = fitted(LoRA(LoRAConfig(rank=rank), site, None, torch.Generator().manual_seed(0), torch.zeros(64, 96)), target)
    assert torch.linalg.matrix_rank(moka) == 64 > rank == torch.linalg.matrix_rank(lora)
    assert (moka - target).norm() < 0.5 * (lora - target).norm()


@pytest.mark.parametrize(("identity", "shape"), [("A", (12, 30)), ("B", (12, 30)), ("A", (64, 96))])
def test_moka_s_stays_in_the_places_its_identity_allows(identity: str, shape: tuple[int, int]) -> None:
    """Outside the blocks (A = I) or the strides (B = I) of every product the change is exactly zero, inside it is not."""
    one = part(shape, identity=identity, shapes=(1.0,))
    p = one.shapes[0][0] if identity == "A" else one.shapes[0][2]
    rows, columns = torch.arange(shape[0]), torch.arange(shape[1])
    if identity == "A":
        allowed = (rows // (shape[0] // p))[:, None] == (columns // (shape[1] // p))[None]
    else:
        allowed = (rows % p)[:, None] == (columns % p)[None]
    assert p > 1
    assert torch.equal(one.delta(torch.zeros(shape), {}) != 0, allowed)


def test_single_product_is_a_plain_kronecker_adapter() -> None:
    """One shape, one copy: alpha = 1 and the change is kron(A, B)."""
    one = part((12, 30), shapes=(1.0,), copies=1)
    torch.testing.assert_close(one.delta(torch.zeros(12, 30), {}), torch.kron(one.A[0][0], one.B[0][0]))


@pytest.mark.parametrize("identity", ["none", "A", "B"])
def test_never_as_large_as_the_weight(identity: str) -> None:
    """Forward and backward on a wide layer need a quarter of what the dense change needs."""
    one, x, weight = part((2048, 2048), identity=identity), torch.randn(8, 2048), torch.zeros(2048, 2048)
    lean = peak_bytes(lambda: one.apply_to(None, x, weight, {}).sum().backward())
    dense = peak_bytes(lambda: (x @ one.delta(weight, {}).T).sum().backward())
    assert lean < weight.nbytes / 4 < weight.nbytes < dense


def test_counts_by_hand() -> None:
    """A 4096 x 4096 layer: square factors are 64 x 64, so one product has 8,192 numbers; MoKA_s trains 4,096 of them."""
    site = [Site("l", "attn.q", 0, (4096, 4096))]
    assert MoKA.n_params(MoKAConfig(shapes=(1.0,), copies=1), site) == 8_192
    assert MoKA.n_params(MoKAConfig(), site) == 10 + 2 * 5 * 8192
    assert MoKA.n_params(MoKAConfig(shapes=(1.0,), copies=1, identity="A"), site) == 4_096
