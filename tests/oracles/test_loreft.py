"""LoReFT and its relatives against their equations, the token choice by hand, and what holds while training."""

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.intervention.loreft import LoReFT, LoReFTConfig

SITE = Site("block", "block.out", 0, (6, 6), "point")
VARIANTS = ("loreft", "noreft", "direft", "nodireft", "constant")


def part(**options: object) -> LoReFT:
    """A part with W and b drawn at random; R keeps its first value."""
    gen = torch.Generator().manual_seed(0)
    one = LoReFT(LoReFTConfig(**{"rank": 3, "positions": "all", **options}), SITE, None, gen, None)
    for tensor in (one.W, one.b):
        if tensor is not None:
            tensor.data.normal_(generator=gen)
    return one


def chosen_tokens(one: LoReFT, positions: list[list[int]], tokens: int, new: int | None = None) -> list[list[list[int]]]:
    """Edited token numbers, as [unit][example]; `new`: how many newest tokens the state holds (cached decoding)."""
    held = new or tokens
    ctx = {"positions": torch.tensor(positions), "mask": torch.ones(len(positions), tokens)}
    masks = one._selected(torch.zeros(len(positions), held, 6), ctx)
    return [[[t + tokens - held for t in row.nonzero().flatten().tolist()] for row in mask] for mask in masks]


@pytest.mark.parametrize("variant", VARIANTS)
def test_equation_in_float64(variant: str) -> None:
    """The five edits of one state, entry by entry."""
    one = part(variant=variant)
    h = torch.randn(6, generator=torch.Generator().manual_seed(1)).double()
    R, b = one.R[0].detach().double(), one.b[0].detach().double()
    expected = h.clone()
    for k in range(3):
        wanted = b[k] if one.W is None else (one.W[0, k].double() * h).sum() + b[k]
        if variant in ("loreft", "noreft", "constant"):
            wanted = wanted - (R[k] * h).sum()
        expected = expected + wanted * R[k]
    ours = one.edit(h.float()[None, None], None, {"positions": torch.tensor([[0, 1]])})[0, 0]
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)


def test_projection_property() -> None:
    """R Phi(h) = W h + b: the subspace holds exactly the learned target."""
    one, h = part(), torch.randn(2, 4, 6)
    edited = one.edit(h, h, {"positions": torch.tensor([[0, 4], [0, 4]])})
    torch.testing.assert_close(edited @ one.R[0].T, h @ one.W[0].T + one.b[0], atol=1e-5, rtol=1e-5)


def test_activation_acts_on_the_target_only() -> None:
    """f(W h + b) - R h with another f."""
    one, h = part(activation="relu"), torch.randn(1, 1, 6)
    expected = h + (torch.relu(h @ one.W[0].T + one.b[0]) - h @ one.R[0].T) @ one.R[0]
    torch.testing.assert_close(one.edit(h, h, {"positions": torch.tensor([[0, 1]])}), expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tied", [True, False])
def test_formula_counts(variant: str, tied: bool) -> None:
    """units (2 r d + r); the constant edit has no W; all tokens are one unit."""
    one = part(variant=variant, tied=tied, positions="f2+l2")
    units, matrices = (1 if tied else 2), (1 if variant == "constant" else 2)
    expected = units * (matrices * 3 * 6 + 3)
    assert sum(p.numel() for p in one.parameters()) == LoReFT.n_params(one.cfg, [SITE]) == expected
    assert part(tied=False, positions="l2").cfg.units == 1


def test_published_counts() -> None:
    """LLaMA-7B: one block at rank 4 is 32,772 parameters; all 32 at rank 8, tied, 2,097,408."""
    sites = [Site(f"layers.{i}", "block.out", i, (4096, 4096), "point") for i in range(32)]
    assert LoReFT.n_params(LoReFTConfig(rank=4, positions="l1"), sites[:1]) == 32_772
    assert LoReFT.n_params(LoReFTConfig(rank=8), sites) == 2_097_408


@pytest.mark.parametrize(
    ("positions", "prompt", "expected"),
    [
        ("f2+l3", [0, 9], [0, 1, 6, 7, 8]),
        ("f2+l3", [3, 9], [3, 4, 6, 7, 8]),  # left padding
        ("f2+l3", [0, 3], [0, 1, 2]),  # shorter than f + l: one first, two last, every token once
        ("f2+l3", [0, 1], [0]),
        ("f4", [2, 9], [2, 3, 4, 5]),
        ("l1", [0, 5], [4]),
        ("all", [1, 4], [1, 2, 3]),
    ],
)
def test_chosen_tokens(positions: str, prompt: list[int], expected: list[int]) -> None:
    """First and last prompt tokens in padded coordinates; padding and answers are never among them."""
    assert chosen_tokens(part(positions=positions), [prompt], tokens=9) == [[expected]]


def test_untied_ends_are_apart() -> None:
    """Untied, the first tokens belong to the first edit and the last ones to the second, none to both."""
    assert chosen_tokens(part(positions="f2+l2", tied=False), [[0, 9], [0, 3]], 9) == [[[0, 1], [0]], [[7, 8], [1, 2]]]


def test_new_tokens_of_cached_decoding_are_not_edited() -> None:
    """With a cache the state holds only the newest tokens; their absolute positions lie behind the prompt."""
    assert chosen_tokens(part(positions="f1+l2"), [[0, 5], [2, 5]], tokens=7, new=1) == [[[], []]]
    assert chosen_tokens(part(positions="f1+l2"), [[0, 5], [2, 5]], tokens=5, new=2) == [[[3, 4], [3, 4]]]


def test_generation_with_and_without_cache_agree() -> None:
    """Greedy decoding gives the same tokens with the cache, step by step without it, and other ones than the base."""
    model = hosts.host("llama")
    ids = torch.randint(1, model.config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0  # left padding, as generation needs
    positions = torch.tensor([[0, 6], [2, 6]])
    disturb(hosts.adapters(model).attach("a", "loreft", LoReFTConfig(rank=4, positions="f2+l2")))

    def generate(use_cache: bool) -> Tensor:
        with torch.no_grad(), model.workbench.context(positions=positions):
            return model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=use_cache,
                pad_token_id=0, output_logits=True, return_dict_in_generate=True,
            ).logits  # fmt: skip

    cached, plain = generate(True), generate(False)
    for a, b in zip(cached, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    with model.workbench.only({}):
        assert (generate(True)[0] - cached[0]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_unselected_states_are_bitwise_the_base(family: str) -> None:
    """At the adapted block only the chosen tokens change."""
    model = hosts.host(family)
    block = next(s.path for s in backbones.of(model).sites(model) if s.role == "block.out")
    with torch.no_grad():
        seen: list[Tensor] = []
        disturb(hosts.adapters(model).attach("a", "loreft", LoReFTConfig(rank=2, positions="f1+l1", depths=(0,))))
        parent, _, leaf = block.rpartition(".")
        following = model.get_submodule(parent)[int(leaf) + 1]
        following.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
        hosts.logits(model, family)
        with model.workbench.only({}):
            hosts.logits(model, family)
    changed = (seen[0] != seen[1]).any(-1)
    expected = torch.zeros_like(changed)
    for row, (start, end) in enumerate(hosts.facts(family)["positions"].tolist()):
        expected[row, [start, end - 1]] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_move_the_edit(side: str) -> None:
    """Every example alone gives what it gives inside a padded batch."""
    model = hosts.host("llama")
    disturb(hosts.adapters(model).attach("a", "loreft", LoReFTConfig(rank=2, positions="f2+l2", tied=False)))
    lengths, longest = (7, 4, 5), 7
    rows = [torch.randint(1, 90, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    pads = [(longest - n, 0) if side == "left" else (0, longest - n) for n in lengths]
    ids = torch.stack([nn.functional.pad(r, p) for r, p in zip(rows, pads, strict=True)])
    mask = torch.stack([nn.functional.pad(torch.ones_like(r), p) for r, p in zip(rows, pads, strict=True)])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    positions = torch.tensor([[p[0], p[0] + n] for p, n in zip(pads, lengths, strict=True)])
    with torch.no_grad(), model.workbench.context(positions=positions):
        batch = model(input_ids=ids, attention_mask=mask, position_ids=places).logits
    for i, row in enumerate(rows):
        with torch.no_grad(), model.workbench.context(positions=torch.tensor([[0, lengths[i]]])):
            alone = model(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).logits[0]
        inside = batch[i, pads[i][0] : pads[i][0] + lengths[i]]
        torch.testing.assert_close(inside, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ["loreft", "direft", "constant", "noreft"])
def test_orthonormal_rows_survive_training(variant: str) -> None:
    """R R^T = I to 1e-5 at the start and after 50 steps of AdamW with strong weight decay; NoReFT is free to drift."""
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "loreft", LoReFTConfig(rank=4, positions="f1+l1", variant=variant))
    parts = [one for _, one in adapter.named_parts()]

    def error() -> float:
        return max((one.R @ one.R.mT - torch.eye(4)).abs().max().item() for one in parts)

    assert (error() <= 1e-5) is (variant != "noreft")
    before = [one.R.detach().clone() for one in parts]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2, weight_decay=0.5)
    first = hosts.loss(model, "bert").item()
    for _ in range(50):
        optimizer.zero_grad()
        loss = hosts.loss(model, "bert")
        loss.backward()
        optimizer.step()
    assert loss.item() < first
    assert all((one.R - old).abs().max() > 1e-2 for one, old in zip(parts, before, strict=True))
    assert (error() <= 1e-5) is (variant != "noreft")


@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_tensors_come_back_bit_for_bit(variant: str) -> None:
    """The effective R is stored under its plain name and loads into a fresh adapter exactly, after training too."""
    cfg = LoReFTConfig(rank=4, positions="f1+l1", tied=False, variant=variant)
    model, again = hosts.host("bert"), hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "loreft", cfg, seed=1)
    disturb(adapter)
    stored = {k: v.clone() for k, v in adapter.tensors().items()}
    names = {"R", "b"} if variant == "constant" else {"R", "W", "b"}
    assert {k.rpartition(".")[2] for k in stored} == names
    other = hosts.adapters(again).attach("a", "loreft", cfg, seed=2)
    other.load(stored)
    assert not [k for k, v in other.tensors().items() if not torch.equal(v, stored[k])]
    with torch.no_grad():
        assert torch.equal(hosts.logits(again, "bert"), hosts.logits(model, "bert"))


def test_start_is_not_the_base() -> None:
    """As published, the edit is random at the start."""
    model = hosts.host("bert")
    with torch.no_grad():
        base = hosts.logits(model, "bert")
        hosts.adapters(model).attach("a", "loreft", LoReFT.tiny)
        assert (hosts.logits(model, "bert") - base).abs().max() > 1e-2


def test_gradient_of_orthonormal_rows() -> None:
    """The gradient is that of the QR decomposition, also where the value is passed on bit for bit."""
    from workbench.methods.intervention.loreft import OrthonormalRows

    raw = torch.linalg.qr(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0].T[None]
    pull = torch.randn(1, 3, 6, dtype=torch.float64)
    there = raw.clone().requires_grad_()
    (OrthonormalRows()(there) * pull).sum().backward()
    numeric = torch.zeros_like(raw)
    for index in range(raw.numel()):
        step = torch.zeros(raw.numel(), dtype=torch.float64)
        step[index] = 1e-4  # beyond the tolerance within which rows count as orthonormal
        up, down = (OrthonormalRows()(raw + sign * step.view_as(raw)) for sign in (1, -1))
        numeric.flatten()[index] = ((up - down) * pull).sum() / 2e-4
    torch.testing.assert_close(there.grad, numeric, atol=1e-5, rtol=1e-5)


def test_missing_facts_and_bad_ranks_are_one_sentence() -> None:
    """Without positions, or with a rank beyond the width, the error says what to do."""
    model = hosts.host("bert")
    hosts.adapters(model).attach("a", "loreft", LoReFT.tiny)
    with pytest.raises(WorkbenchError, match="where the prompt lies"):
        model(**hosts.inputs("bert"))
    with pytest.raises(WorkbenchError, match="at most the width of the model, 32; got 64"):
        model.workbench.attach("b", "loreft", LoReFTConfig(rank=64))
    with pytest.raises(WorkbenchError, match="positions"):
        registry.configure("loreft", {"positions": "f0+l2"})
