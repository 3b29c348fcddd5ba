"""DyLoRA against a plain LoRA cut to each rank, its draws, and which ranks a step may move.

Of the catalogue's acceptance checks, merging is a contract test; that cut adapters stay above a cut LoRA is the paper file
`014-dylora.yaml`; export of any rank is `tests/operations/test_cut_rank.py`.
"""

import pytest
import torch
from scipy import stats

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter
from workbench.methods.low_rank.dylora import SHARED_STEPS, Draw, DyLoRA, DyLoRAConfig
from workbench.methods.low_rank.lora import LoRA, LoRAConfig

WEIGHT = torch.zeros(5, 7)
SITE = Site("layer", "attn.q", 0, (5, 7))


def part(**values: object) -> DyLoRA:
    cfg, gen = DyLoRAConfig(rank=4, **values), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    made = DyLoRA(cfg, SITE, DyLoRA.build_shared(cfg, [SITE], gen), gen, WEIGHT)
    made.B.data.normal_(generator=torch.Generator().manual_seed(1))
    return made.eval()


def on_host(**values: object) -> tuple[torch.nn.Module, Adapter]:
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "dylora", registry.configure("dylora", {"rank": 4, **values}), seed=3)
    disturb(adapter)
    return model, adapter


@pytest.mark.parametrize("b", [1, 2, 3, 4])
def test_equation_in_float64(b: int) -> None:
    """alpha / b times the sum of the first b outer products, through delta and through the cheaper order."""
    one, x = part(alpha=12.0, evaluate_at=b), torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(2))
    A, B = one.A.double(), one.B.double()
    change = 12.0 / b * sum(torch.outer(B[:, k], A[k]) for k in range(b))
    torch.testing.assert_close(one.delta(WEIGHT, {}).double(), change, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, WEIGHT, {}).double(), x.double() @ change.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("b", [1, 3, 4])
def test_at_rank_b_it_is_a_lora_with_the_cut_tensors(b: int) -> None:
    """In training and in evaluation, to 1e-6."""
    one, x = part(evaluate_at=b), torch.randn(3, 7, generator=torch.Generator().manual_seed(2))
    lora = LoRA(LoRAConfig(rank=b), SITE, None, torch.Generator().manual_seed(0), WEIGHT).eval()
    lora.A.data, lora.B.data = one.A.detach()[:b].clone(), one.B.detach()[:, :b].clone()
    wanted = lora.apply_to(None, x, WEIGHT, {})
    assert (one.apply_to(None, x, WEIGHT, {}) - wanted).abs().max() <= 1e-6
    one.shared.rank = b
    assert (one.train().apply_to(None, x, WEIGHT, {}) - wanted).abs().max() <= 1e-6


@pytest.mark.parametrize("update", ["frozen", "all"])
def test_only_the_drawn_ranks_get_gradients_the_same_in_every_layer(update: str) -> None:
    """Rows of A and columns of B that move: exactly the drawn rank, or all up to it."""
    model, adapter = on_host(update=update)
    model.train()
    parts: list[DyLoRA] = [one for _, one in adapter.named_parts()]  # type: ignore[misc]
    seen = set()
    for step in range(SHARED_STEPS, SHARED_STEPS + 12):
        model.zero_grad()
        hosts.loss(model, "bert").backward()
        b = parts[0].shared.rank
        wanted = [k == b - 1 if update == "frozen" else k < b for k in range(4)]
        for one in parts:
            assert (one.A.grad != 0).any(1).tolist() == wanted
            assert (one.B.grad != 0).any(0).tolist() == wanted
        seen.add(b)
        adapter.on_step(step, 100)
    assert len(seen) > 1


def test_frozen_ranks_still_pass_gradients_on_to_the_input() -> None:
    """Held constant means without gradient of their own, not out of the way."""
    one = part(update="frozen").train()
    one.shared.rank = 3
    x = torch.randn(2, 7, requires_grad=True)
    (grad,) = torch.autograd.grad(one.apply_to(None, x, WEIGHT, {}).sum(), x)
    torch.testing.assert_close(grad, (16.0 / 3 * one.B[:, :3] @ one.A[:3]).sum(0).expand(2, 7))


@pytest.mark.parametrize("stop", [0.0, 0.15, 0.6])
def test_draws_follow_their_distribution(stop: float) -> None:
    """10,000 draws against p(b) prop. to (1 - stop)^(b - 1)."""
    draw = Draw(DyLoRAConfig(rank=8, stop=stop), seed=11)
    counts = torch.zeros(8)
    for step in range(SHARED_STEPS, SHARED_STEPS + 10_000):
        counts[draw.drawn(step) - 1] += 1
    expected = torch.tensor([(1 - stop) ** k for k in range(8)])
    assert stats.chisquare(counts.numpy(), (10_000 * expected / expected.sum()).numpy()).pvalue > 0.01


def test_draws_belong_to_the_seed_and_the_step() -> None:
    """The global generator plays no part, and a training that goes on at a step draws what it would have drawn."""

    def ranks(seed: int, first: int = 1) -> list[int]:
        draw, found = Draw(DyLoRAConfig(), seed), []
        for step in range(first, 30):
            draw.after(step)
            found.append(draw.rank)
        return found

    before = torch.get_rng_state()
    whole = ranks(5)
    assert torch.equal(before, torch.get_rng_state())
    assert whole == ranks(5)
    assert whole[10:] == ranks(5, first=11)
    assert whole != ranks(6)
    assert len({Draw(DyLoRAConfig(), 5).rank, *whole[: SHARED_STEPS - 1]}) == 1


def test_evaluation_has_a_fixed_rank() -> None:
    """Whatever was drawn meanwhile, evaluation computes bitwise the same."""
    for values, b in (({}, 4), ({"evaluate_at": 2}, 2)):
        model, adapter = on_host(**values)
        found = []
        for step in (1, 50, 51):
            adapter.on_step(step, 100)
            with torch.no_grad():
                found.append(hosts.logits(model, "bert"))
        assert all(torch.equal(found[0], one) for one in found)
        assert all(len(one.factors()[0]) == b for _, one in adapter.named_parts())  # type: ignore[operator]


def test_published_count() -> None:
    """RoBERTa-base, q and v, r_max 8: 294,912."""
    sites = [Site(f"{i}.{r}", r, i, (768, 768)) for i in range(12) for r in ("attn.q", "attn.v")]
    assert DyLoRA.n_params(DyLoRAConfig(), sites) == 294_912


def test_a_rank_for_evaluation_that_was_never_trained_is_refused() -> None:
    with pytest.raises(WorkbenchError, match=r"evaluate_at must be at most rank = 4; got 5"):
        on_host(evaluate_at=5)
