"""LoSiA against a dense reference that masks its gradient, planted importance, the rank of its change and its counts.

All acceptance checks of the catalogue are here; merging is the contract's as well. Training latency on a GPU is not tested.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract import hosts
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.selection.losia import LoSiA, LoSiAConfig, Turns, best

WEIGHT = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
X = torch.randn(64, 12, generator=torch.Generator().manual_seed(1))
GOALS = [X @ torch.randn(8, 12, generator=torch.Generator().manual_seed(s)).T for s in (2, 3, 4)]
GOAL = GOALS[0]


def part(weight: torch.Tensor = WEIGHT, **options: object) -> LoSiA:
    cfg = LoSiAConfig.model_validate({"share": 0.25, "period": 5, **options})
    site = Site("l", "attn.q", 0, tuple(weight.shape))
    return LoSiA(cfg, site, Turns([site]), torch.Generator().manual_seed(3), weight)


def trained(one: LoSiA, steps: int, lr: float = 0.01, x: torch.Tensor = X, goals: Any = (GOAL,), see: Any = None) -> None:
    """AdamW on the block as the loop drives it: moments of returned tensors are forgotten; every five steps the next goal."""
    optimizer = torch.optim.AdamW([one.block], lr=lr, weight_decay=0.0)
    weight = WEIGHT if one.site.shape == (8, 12) else torch.zeros(one.site.shape)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        goal = goals[(step - 1) // 5 % len(goals)]
        (x @ weight.T + one.apply_to(None, x, weight, {}) - goal).square().mean().backward()
        optimizer.step()
        forgotten = list(one.on_step(step, steps))
        for p in forgotten:
            optimizer.state.pop(p)
        if see is not None:
            see(step, forgotten, optimizer)


class Dense:
    """The same training on the whole weight in float64: full gradient, Adam by hand on the chosen entries, in plain loops."""

    def __init__(self, one: LoSiA, lr: float) -> None:
        self.cfg, self.lr = one.cfg, lr
        self.w = WEIGHT.double().clone()
        self.rows, self.columns = one.rows.tolist(), one.columns.tolist()
        self.mean = self.spread = torch.zeros_like(self.w)
        self.moments: dict[tuple[int, int], tuple[float, float]] = {}
        self.t, self.warm = 0, self.cfg.period

    def step(self, number: int) -> None:
        """One optimizer step, and the reselection at the end of a period."""
        w = self.w.clone().requires_grad_()
        loss = (X.double() @ w.T - GOALS[(number - 1) // 5 % 3].double()).square().mean()
        (slope,) = torch.autograd.grad(loss, w)
        wg = w.detach() * slope
        i = (wg - 0.5 * wg**2).abs()
        self.mean = 0.85 * self.mean + 0.15 * i
        self.spread = 0.85 * self.spread + 0.15 * (i - self.mean).abs()
        self.t, self.warm = self.t + 1, self.warm + 1
        rate = self.lr * min(1.0, self.warm / self.cfg.period)
        for at in itertools.product(self.rows, self.columns):
            g = slope[at].item()
            m, v = self.moments.get(at, (0.0, 0.0))
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            self.moments[at] = (m, v)
            self.w[at] -= rate * (m / (1 - 0.9**self.t)) / ((v / (1 - 0.999**self.t)) ** 0.5 + 1e-8)
        if number % self.cfg.period == 0:
            self.rows, self.columns = self.chosen(self.mean * self.spread)
            self.mean = self.spread = torch.zeros_like(self.w)
            self.moments, self.t, self.warm = {}, 0, 0

    def chosen(self, score: torch.Tensor) -> tuple[list[int], list[int]]:
        """The best of three choices, from sorted Python lists."""
        n, m = len(self.rows), len(self.columns)

        def largest(sums: list[float], count: int) -> list[int]:
            return sorted(sorted(range(len(sums)), key=lambda k: -sums[k])[:count])

        x = largest([sum(row) for row in score.tolist()], n)
        y = largest([sum(column) for column in score.T.tolist()], m)
        y_of_x = largest([sum(score[i, j].item() for i in x) for j in range(score.shape[1])], m)
        x_of_y = largest([sum(score[i, j].item() for j in y) for i in range(score.shape[0])], n)
        found = [(x, y), (x, y_of_x), (x_of_y, y)]
        return max(found, key=lambda c: sum(score[i, j].item() for i in c[0] for j in c[1]))


def test_equals_a_dense_training_with_a_masked_gradient() -> None:
    """Weights, rows and columns over four reselections, to 1e-5."""
    one, lr = part(), 0.01
    dense, picks = Dense(one, lr), []

    def compare(step: int, forgotten: list, optimizer: Any) -> None:
        dense.step(step)
        torch.testing.assert_close((WEIGHT + one.delta(WEIGHT, {})).detach().double(), dense.w, atol=1e-5, rtol=1e-5)
        assert (one.rows.tolist(), one.columns.tolist()) == (dense.rows, dense.columns)
        picks.append(tuple(dense.rows + dense.columns))

    trained(one, 22, lr, goals=GOALS, see=compare)
    assert len(set(picks)) > 2


def test_forward_and_merge_in_float64() -> None:
    """(D + E_X B E_Y^T) x in plain loops."""
    one, gen = part(), torch.Generator().manual_seed(4)
    with torch.no_grad():
        one.block.normal_(generator=gen)
        one.moved.normal_(generator=gen)
    wanted = one.moved.double().clone()
    for a, i in enumerate(one.rows.tolist()):
        for b, j in enumerate(one.columns.tolist()):
            wanted[i, j] += one.block[a, b].item()
    torch.testing.assert_close(one.delta(WEIGHT, {}).double(), wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(one.apply_to(None, X, WEIGHT, {}).double(), X.double() @ wanted.T, atol=1e-5, rtol=1e-5)


def test_outside_the_block_nothing_moves_between_reselections() -> None:
    """Bit for bit; and right after a reselection the change is what it was."""
    one, last = part(), {}

    def compare(step: int, forgotten: list, optimizer: Any) -> None:
        now = one.delta(WEIGHT, {}).detach().clone()
        if "change" in last:
            outside = torch.ones(8, 12, dtype=torch.bool)
            outside[last["rows"][:, None], last["columns"]] = False
            assert torch.equal(now[outside], last["change"][outside])
            assert not torch.equal(now[~outside], last["change"][~outside])
        last.update(change=now, rows=one.rows.clone(), columns=one.columns.clone())

    trained(one, 17, goals=GOALS, see=compare)


def test_planted_importance_is_found_exactly() -> None:
    """The loss depends on rows 1 and 6 and columns 2, 3 and 11 alone."""
    one = part()
    x = torch.zeros_like(X)
    x[:, [2, 3, 11]] = X[:, [2, 3, 11]]
    goal = x @ WEIGHT.T
    goal[:, [1, 6]] += x @ torch.ones(12, 2)
    trained(one, 5, x=x, goals=[goal])
    assert one.rows.tolist() == [1, 6]
    assert one.columns.tolist() == [2, 3, 11]


def test_the_three_choices() -> None:
    """Each rule is best somewhere, and the result is never worse than any of them."""
    gen, winners = torch.Generator().manual_seed(5), set()
    for _ in range(60):
        score = torch.rand(6, 7, generator=gen) ** 6
        x, y = score.sum(1).topk(2).indices, score.sum(0).topk(3).indices
        rules = [(x, y), (x, score[x].sum(0).topk(3).indices), (score[:, y].sum(1).topk(2).indices, y)]
        sums = [score[r[:, None], c].sum().item() for r, c in rules]
        rows, columns = best(score, 2, 3)
        assert score[rows[:, None], columns].sum().item() == pytest.approx(max(sums))
        assert rows.tolist() == sorted(rows.tolist())
        winners.add(max(range(3), key=sums.__getitem__))
    assert winners >= {1, 2}


def test_rank_exceeds_that_of_one_block_and_of_lora_with_its_size() -> None:
    """After several reselections the change has a higher rank than any block, p min(n, m), can have."""
    one = part(torch.zeros(32, 32), share=0.25)
    gen = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for _ in range(8):
            one.block.normal_(generator=gen)
            one._move(torch.rand(32, 32, generator=gen))
    rank = int(torch.linalg.matrix_rank(one.delta(torch.zeros(32, 32), {}).double()))
    assert rank > 2 * 0.25 * 32
    assert one.block.numel() == 64 == 1 * (32 + 32)  # LoRA of rank 1


def test_moments_have_the_blocks_shape_and_the_rate_starts_anew() -> None:
    """Adam's first step has size lr whatever the gradient: after a reselection it is lr / T, then it grows to lr."""
    one, sizes, before = part(), [], {}

    def look(step: int, forgotten: list, optimizer: Any) -> None:
        if forgotten:
            assert forgotten == [one.block]
            assert not one.block.any()
            assert one.block not in optimizer.state
        else:
            assert optimizer.state[one.block]["exp_avg"].shape == (2, 3)
            sizes.append((step, float((one.block.detach() - before["block"]).abs().max())))
        before["block"] = one.block.detach().clone()

    before["block"] = one.block.detach().clone()
    trained(one, 9, lr=1e-3, see=look)
    assert dict(sizes)[1] == pytest.approx(1e-3, rel=1e-3)
    assert dict(sizes)[6] == pytest.approx(1e-3 / 5, rel=1e-3)
    assert dict(sizes)[8] > 2 * dict(sizes)[6]


def test_outside_its_turn_only_a_share_of_input_and_output_is_kept() -> None:
    wide, sizes = torch.randn(256, 256), []
    one = part(wide, share=0.125)
    x = torch.randn(50, 256, requires_grad=True)

    def kept() -> int:
        sizes.clear()
        seen: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (seen.update({t.data_ptr(): t.numel()}), t)[1], lambda t: t):
            one.apply_to(None, x, wide, {})
        own = {t.data_ptr() for t in (one.moved, one.block, wide)}
        return sum(n for at, n in seen.items() if at not in own)

    assert kept() > 50 * 256
    one.eval()
    assert kept() <= 2 * 50 * 32 + 2 * 32


def test_blocks_take_turns() -> None:
    """In a host of two blocks the first moves after T steps, the second after 2 T; only the one whose turn it is probes."""
    model = hosts.host("llama")
    adapter = hosts.adapters(model).attach("a", "losia", registry.configure("losia", {"share": 0.25, "period": 5}))
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    model.train()
    moved = {0: [], 1: []}
    for step in range(1, 16):
        optimizer.zero_grad()
        hosts.loss(model, "llama").backward()
        probing = {part.site.depth for _, part in adapter.named_parts() if part.probe is not None}
        assert probing == {(step - 1) // 5 % 2}
        optimizer.step()
        forgotten = {id(p) for p in adapter.on_step(step, 15)}
        for _, one in adapter.named_parts():
            if id(one.block) in forgotten:
                moved[one.site.depth].append(step)
    assert set(moved[0]) == {5, 15}
    assert set(moved[1]) == {10}
    assert adapter.new_params() == sum(int(p.delta(p.moved, {}).count_nonzero()) for _, p in adapter.named_parts())
    assert adapter.new_params() > sum(p.block.numel() for _, p in adapter.named_parts())


def test_published_count() -> None:
    """Llama-2-7B, p = 1/8: 6,476,005,376 weights in the linears, of which 101,187,584 train at a time."""
    shapes = [*[(4096, 4096)] * 4, (11008, 4096), (11008, 4096), (4096, 11008)]
    sites = [Site(f"{i}.{n}", "attn.q", i, s) for i in range(32) for n, s in enumerate(shapes)]
    assert LoSiA.n_params(LoSiAConfig(), sites) == 6_476_005_376
    turns, gen = Turns(sites), torch.Generator().manual_seed(0)
    assert turns.count == 32
    layer = [LoSiA(LoSiAConfig(), s, turns, gen, torch.empty(s.shape, device="meta")).block for s in sites[:7]]
    assert 32 * sum(p.numel() for p in layer) == 101_187_584


def test_importance() -> None:
    """|w g - (w g)^2 / 2|, from the gradient of the whole weight."""
    one, w = part(), WEIGHT.clone().requires_grad_()
    (slope,) = torch.autograd.grad((X @ w.T - GOAL).square().mean(), w)
    product = (w * slope).detach()
    trained(one, 1)
    wanted = (product - product**2 / 2).abs()
    torch.testing.assert_close(one.mean, 0.15 * wanted, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(one.spread, 0.15 * (wanted - 0.15 * wanted).abs(), atol=1e-6, rtol=1e-4)


def test_refuses_modifiers_and_a_share_that_leaves_nothing() -> None:
    one = part()
    nn.utils.parametrize.register_parametrization(one, "block", nn.Dropout(0.5))
    with pytest.raises(WorkbenchError, match="takes no modifier"):
        one.on_step(1, 2)
    assert "1 / 4" in LoSiA.problem(LoSiAConfig(), [Site("l", "attn.q", 0, (4, 40))])
    assert LoSiA.problem(LoSiAConfig(share=0.25), [Site("l", "attn.q", 0, (4, 40))]) == ""
