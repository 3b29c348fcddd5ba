"""ETHER and ETHER+ against dense reflections, their fixed and bounded distances, and the published counts.

Of the catalogue's acceptance checks, base logits at the start of ETHER+, changed logits at the start of ETHER and merging are
the contract's, and the sweep over learning rates is the paper file's; the rest is here.
"""

import math

import pytest
import torch
from torch import Tensor

from tests.contract import hosts
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.orthogonal.ether import ETHER, ETHERConfig


def fresh(blocks: int = 3, relaxed: bool = False, shape: tuple[int, int] = (12, 15)) -> tuple[ETHER, Tensor]:
    """A part as it starts, and its base weight."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    cfg, site = ETHERConfig(blocks=blocks, relaxed=relaxed), Site("l", "attn.q", 0, shape)
    return ETHER(cfg, site, None, torch.Generator().manual_seed(1), weight), weight


def moved(blocks: int = 3, relaxed: bool = False, by: float = 0.5) -> tuple[ETHER, Tensor]:
    """A part whose vectors are disturbed."""
    one, weight = fresh(blocks, relaxed)
    gen = torch.Generator().manual_seed(2)
    for p in one.parameters():
        p.data += by * torch.randn(p.shape, generator=gen)
    return one, weight


def dense(u: Tensor, v: Tensor | None = None) -> Tensor:
    """The block matrix H in float64: I - 2 u u^T, or I - u u^T + v v^T, block by block."""
    found = []
    for i in range(len(u)):
        a = (u[i].detach() / u[i].detach().norm()).double()
        block = torch.eye(len(a), dtype=torch.float64) - (2 if v is None else 1) * torch.outer(a, a)
        if v is not None:
            b = (v[i].detach() / v[i].detach().norm()).double()
            block = block + torch.outer(b, b)
        found.append(block)
    return torch.block_diag(*found)


@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("blocks", [1, 3])
def test_equation_in_float64(blocks: int, relaxed: bool) -> None:
    """W H x, or H~ W H x, with dense blocks, through delta and through the cheaper order."""
    one, weight = moved(blocks, relaxed)
    new = weight.double() @ dense(one.u, one.v if relaxed else None)
    if relaxed:
        new = dense(one.u_out, one.v_out) @ new
    x = torch.randn(2, 4, 15, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close((weight + one.delta(weight, {})).double(), new, atol=2e-6, rtol=1e-5)
    y = x @ weight.T
    torch.testing.assert_close((y + one.apply_to(y, x, weight, {})).double(), x.double() @ new.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_a_reflection_keeps_its_distance(blocks: int) -> None:
    """Before and after steps: H H^T = I, det H = (-1)^n, ||H - I|| = 2 sqrt(n)."""
    one, weight = fresh(blocks)
    optimizer = torch.optim.Adam(one.parameters(), lr=0.3)
    identity = torch.eye(15, dtype=torch.float64)
    for _ in range(5):
        H = identity + ETHER.delta(one.double(), identity, {}).detach()
        torch.testing.assert_close(H @ H.T, identity, atol=1e-6, rtol=0)
        assert torch.linalg.det(H).item() == pytest.approx((-1) ** blocks, abs=1e-6)
        assert torch.linalg.matrix_norm(H - identity).item() == pytest.approx(2 * math.sqrt(blocks), abs=1e-6)
        optimizer.zero_grad()
        one.delta(weight.double(), {}).mul(weight).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("blocks", [1, 3])
def test_ether_plus_is_never_farther_than_two_per_block(blocks: int) -> None:
    """||H+_i - I|| = sqrt(2 - 2 (u v)^2) <= 2 for every block, also far from the start; zero at the start."""
    assert not fresh(blocks, relaxed=True)[0].delta(fresh()[1], {}).any()
    one, _ = moved(blocks, relaxed=True, by=50.0)
    unit = [torch.nn.functional.normalize(t.detach().double(), dim=-1) for t in (one.u, one.v)]
    distance = (dense(one.u, one.v) - torch.eye(15)).square().sum().sqrt().item()
    wanted = (2 - 2 * (unit[0] * unit[1]).sum(-1).square()).sum().sqrt().item()
    assert distance == pytest.approx(wanted, abs=1e-6)
    assert distance <= 2 * math.sqrt(blocks)


def test_reflecting_twice_gives_the_base_back() -> None:
    """H H = I: the same adapter on the adapted weight restores W."""
    one, weight = moved()
    once = weight + one.delta(weight, {})
    assert (once - weight).abs().max() > 0.1
    torch.testing.assert_close(once + one.delta(once, {}), weight, atol=1e-5, rtol=0)


def test_merged_twice_the_model_is_the_base_again() -> None:
    """Two copies of one ETHER adapter, one merged into the weights and one on top, compute what the base computes."""
    base = hosts.host("bert")
    model = hosts.host("bert")
    cfg = registry.configure("ether", {"blocks": 4})
    hosts.adapters(model).attach("once", "ether", cfg, seed=3)
    with torch.no_grad():
        changed = hosts.logits(model, "bert")
        model.workbench.merge()
        weights = {s.path: model.get_submodule(s.path).weight.detach().clone() for s in model.workbench.members["once"].sites}
        model.workbench.release()
        for path, weight in weights.items():
            model.get_submodule(path).weight.data.copy_(weight)
        hosts.adapters(model).attach("twice", "ether", cfg, seed=3)
        wanted = hosts.logits(base, "bert")
        assert (changed - wanted).abs().max() > 1e-2
        torch.testing.assert_close(hosts.logits(model, "bert"), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blocks", [1, 4, 32])
def test_published_counts(blocks: int) -> None:
    """Llama-2-7B, queries and values: 262,144 and 1,048,576, whatever the number of blocks."""
    sites = [Site(f"{i}", "attn.q", i, (4096, 4096)) for i in range(64)]
    assert ETHER.n_params(ETHERConfig(blocks=blocks), sites) == 262_144
    assert ETHER.n_params(ETHERConfig(blocks=blocks, relaxed=True), sites) == 1_048_576


@pytest.mark.parametrize("relaxed", [False, True])
def test_training_never_keeps_a_dense_matrix(relaxed: bool) -> None:
    """On a wide layer autograd saves far less than one (d_out, d_in) matrix besides the frozen weight itself."""
    one, weight = fresh(4, relaxed, (512, 512))
    x = torch.randn(4, 512)
    y, kept = x @ weight.T, {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        assert one.apply_to(y, x, weight, {}).requires_grad
    kept.pop(weight.untyped_storage().data_ptr(), None)
    assert sum(kept.values()) < 512 * 512 / 4


def test_a_width_that_the_blocks_do_not_divide_is_a_problem() -> None:
    """ETHER needs whole blocks of the input, ETHER+ of the output too."""
    site = Site("l", "attn.q", 0, (10, 12))
    assert "width 12" in ETHER.problem(ETHERConfig(blocks=5), [site])
    assert "width 10" in ETHER.problem(ETHERConfig(blocks=4, relaxed=True), [site])
    assert ETHER.problem(ETHERConfig(blocks=4), [site]) == ""
