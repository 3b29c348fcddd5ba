"""Dynamic LoRA against its equation, its threshold, and a planted rank.

Of the catalogue's acceptance checks, the start and merging are contract tests; export of what is alive is
`tests/operations/test_cut_rank.py`. The self-supervised stereo recipe is not built yet, so its check is not here.
"""

import pytest
import torch
from torch import Tensor

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.types import Site
from workbench.kernel import registry, state
from workbench.methods.low_rank.dynamic_lora import DynamicLoRA, DynamicLoRAConfig

WEIGHT = torch.zeros(5, 7)


def part(d_out: int = 5, d_in: int = 7, seed: int = 0, **values: object) -> DynamicLoRA:
    site = Site("layer", "attn.q", 0, (d_out, d_in))
    cfg = DynamicLoRAConfig(**{"rank": 4, **values})  # type: ignore[arg-type]
    return DynamicLoRA(cfg, site, None, torch.Generator().manual_seed(seed), torch.zeros(d_out, d_in))


def planted(values: list[float], **config: object) -> DynamicLoRA:
    """One with these weights and a B that is not zero."""
    one = part(**config)
    one.B.data.normal_(generator=torch.Generator().manual_seed(1))
    one.w.data = torch.tensor(values)
    return one


def test_equation_in_float64() -> None:
    """B diag(s) A entry by entry, with the soft threshold written out, through delta and through the cheaper order."""
    one, x = planted([0.3, -0.2, 0.05, -0.01]), torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(2))
    one.kappa.fill_(0.1)
    s = [0.3 - 0.1, -0.2 + 0.1, 0.0, 0.0]
    A, B = one.A.double(), one.B.double()
    change = sum(s[k] * torch.outer(B[:, k], A[k]) for k in range(4))
    torch.testing.assert_close(one.delta(WEIGHT, {}).double(), change, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, WEIGHT, {}).double(), x.double() @ change.T, atol=1e-5, rtol=1e-5)


def test_first_values() -> None:
    """B at zero; w within ten times the threshold, either side."""
    one = part(rank=400, kappa_max=0.01)
    assert not one.B.any()
    assert 0.09 < one.w.max() <= 0.1
    assert -0.1 <= one.w.min() < -0.09


def test_threshold_waits_rises_and_ends_at_kappa_max() -> None:
    """Nothing in the dense phase; then linearly up; zeros are exact and survivors lose kappa as they act."""
    one = planted([0.3, -0.2, 0.02, -0.001], kappa_max=0.1, dense_ratio=0.5)
    start = one.w.detach().clone()
    for step in range(1, 6):
        one.on_step(step, 10)
    assert torch.equal(one.w.detach(), start)
    assert torch.equal(one.weights(), start)
    kappas = []
    for step in range(6, 11):
        one.on_step(step, 10)
        kappas.append(float(one.kappa))
    torch.testing.assert_close(torch.tensor(kappas), torch.tensor([0.02, 0.04, 0.06, 0.08, 0.1]))
    torch.testing.assert_close(one.weights().detach(), torch.tensor([0.2, -0.1, 0.0, 0.0]))
    assert one.weights()[2:].tolist() == [0.0, 0.0]
    assert one.w[2:].tolist() == [0.0, 0.0]
    assert one.in_use() == 2 * (5 + 7 + 1)


def test_a_removed_rank_stays_removed_whatever_the_optimizer_does() -> None:
    """Left-over momentum moves w, but the rank neither acts nor gets a gradient; what it holds does not matter."""
    one = planted([0.3, -0.2, 0.02, -0.001], kappa_max=0.1, dense_ratio=0.0)
    one.on_step(10, 10)
    kept = one.delta(WEIGHT, {}).detach()
    with torch.no_grad():
        one.w[2:] = 5.0
        one.A[2:], one.B[:, 2:] = 9.0, -9.0
    assert torch.equal(one.delta(WEIGHT, {}), kept)
    w, A, B = torch.autograd.grad(one.apply_to(None, torch.randn(3, 7), WEIGHT, {}).sum(), (one.w, one.A, one.B))
    assert not any(g.any() for g in (w[2:], A[2:], B[:, 2:]))
    assert w[:2].all()
    one.on_step(11, 10)
    assert one.w[2:].tolist() == [0.0, 0.0]


def test_penalty_is_the_sum_of_the_weights_sizes() -> None:
    """Of those that are left; none without a factor."""
    one = planted([0.3, -0.2, 0.02, -0.001], kappa_max=0.1, dense_ratio=0.0, l1=0.5)
    before = one.penalty()
    one.on_step(10, 10)
    after = one.penalty()
    assert before is not None
    assert after is not None
    torch.testing.assert_close((before.detach(), after.detach()), (torch.tensor(0.5 * 0.521), torch.tensor(0.5 * 0.5)))
    assert part(l1=0.0).penalty() is None


def fitted(seed: int, **values: object) -> tuple[float, int]:
    """(mean squared error on fresh rows, ranks left) after fitting noisy rows of a rank-2 matrix; the rate falls linearly."""
    gen = torch.Generator().manual_seed(seed)
    target = torch.randn(32, 2, generator=gen) @ torch.randn(2, 32, generator=gen) / 32**0.5
    one, steps = part(32, 32, seed, rank=16, **values), 400
    adam = torch.optim.Adam(one.param_groups(2e-2))
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 1 / steps, steps)

    def loss(rows: int) -> Tensor:
        x = torch.randn(rows, 32, generator=gen)
        wanted = x @ target.T + 0.1 * torch.randn(rows, 32, generator=gen)
        return (one.apply_to(None, x, WEIGHT, {}) - wanted).square().mean()

    for step in range(1, steps + 1):
        adam.zero_grad()
        penalty = one.penalty()
        (loss(64) if penalty is None else loss(64) + penalty).backward()
        adam.step()
        falling.step()
        one.on_step(step, steps)
    with torch.no_grad():
        return float(loss(4000)), int(one.weights().count_nonzero())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_rank_of_two_is_found(seed: int) -> None:
    """From 16 ranks to at most 4, and the loss is within 5 % of a training that removes none."""
    dense, all_ranks = fitted(seed, l1=0.0, dense_ratio=0.999)
    pruned, left = fitted(seed, l1=0.05)
    assert all_ranks == 16
    assert 2 <= left <= 4
    assert pruned <= 1.05 * dense


def test_stored_with_its_threshold(tmp_path) -> None:
    """A loaded adapter has the same ranks alive, and the count of the run follows them."""
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "dynamic_lora", registry.configure("dynamic_lora", {"rank": 4}))
    disturb(adapter)
    whole = adapter.new_params()
    assert whole == DynamicLoRA.n_params(adapter.cfg, adapter.sites)
    for _, one in adapter.named_parts():
        assert isinstance(one, DynamicLoRA)
        one.w.data[1] = 0.001
    adapter.on_step(10, 10)
    fewer = adapter.new_params()
    assert fewer <= whole - sum(s.d_in + s.d_out + 1 for s in adapter.sites)
    state.save(tmp_path / "adapter", adapter, {"label": "test"})
    other = hosts.host("bert")
    loaded = state.restore(other, state.read(tmp_path / "adapter"), "b", hosts.head(other))
    assert loaded.new_params() == fewer
    assert torch.equal(hosts.logits(other, "bert"), hosts.logits(model, "bert"))


def test_published_count() -> None:
    """Rank 16 on the six linear layers of twelve blocks of width 768: 2,655,360 before pruning."""
    square, wide = (768, 768), (3072, 768)
    shapes = {"attn.q": square, "attn.k": square, "attn.v": square, "attn.out": square, "ffn.up": wide, "ffn.down": wide[::-1]}
    sites = [Site(f"{i}.{role}", role, i, shape) for i in range(12) for role, shape in shapes.items()]
    assert DynamicLoRA.n_params(registry.configure("stereo_adapter", {}), sites) == 2_655_360
