"""GLoRA against explicitly built weights and biases, its counts, and peft.

Acceptance: all 432 combinations, the identity at the start, peft on copied tensors and the difference on a layer without a bias
are here; merging and back is the contract's (bitwise here, the base is kept); the budget and the gain of the evolution are in
tests/recipes/test_search.py.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.elastic import WHOLE_STEPS, Draws
from workbench.methods.low_rank.glora import GLoRA, GLoRAConfig, forms

GEN = torch.Generator().manual_seed(3)
WEIGHT, BIAS, X = (torch.randn(*shape, generator=GEN) for shape in ((5, 7), (5,), (2, 4, 7)))
ALL = list(itertools.product(range(4), range(4), (0, 2, 3), range(3), range(3)))


def part(moved: bool = True, bias: bool = True, **options: Any) -> GLoRA:
    site = Site("layer", "attn.q", 0, (5, 7), bias=bias)
    cfg = GLoRAConfig.model_validate({"rank": 2, **options})
    one = GLoRA(cfg, site, Draws(0), torch.Generator().manual_seed(0), WEIGHT).eval()
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in one.parameters() if moved else ():
            p.normal_(generator=gen)
    return one


def output(one: GLoRA) -> Tensor:
    """The adapted layer, as the kernel computes it."""
    y = X @ WEIGHT.T
    added = y + one.apply_to(y, X, WEIGHT, {})
    return added + BIAS + one.delta_bias(BIAS, WEIGHT, {}) if one.site.bias else added


def paths(one: GLoRA) -> dict[tuple[str, int], Tensor]:
    """A, B (5, 7), C (7,), D and E (5,) in each of their forms, in float64, entry by entry."""
    t, rank = {n: p.detach().double() for n, p in one.named_parameters()}, one.cfg.rank
    found = {}
    for path, rows, columns in (("A", 5, 7), ("B", 5, 7), ("C", 7, 1)):
        for form in range(4):
            values = torch.zeros(rows, columns, dtype=torch.float64)
            for i, j in itertools.product(range(rows), range(columns)):
                low = sum(t[f"{path}d"][i, k] * t[f"{path}u"][k, j] for k in range(rank))
                values[i, j] = (0.0, t[f"{path}d"][0, 0], t[f"{path}d"][i, 0], low)[form]
            found[path, form] = values[:, 0] if path == "C" else values
    for path in "DE":
        for form in range(3):
            found[path, form] = torch.stack([(torch.zeros(()).double(), t[path][0], t[path][i])[form] for i in range(5)])
    return found


def test_all_432_combinations_follow_the_equation() -> None:
    """Output and merged weight and bias, for every choice of one supernet."""
    one = part()
    known, base, shift = paths(one), WEIGHT.double(), BIAS.double()
    assert len(ALL) == math.prod(len(v) for v in one.choices()) == 432
    for choice in ALL:
        one.choose(choice)
        A, B, C, D, E = (known[pair] for pair in zip("ABCDE", choice, strict=True))
        weight, bias = base + base * A + B, shift + shift * D + E + base @ C
        wanted = X.double() @ weight.T + bias
        torch.testing.assert_close(output(one).double(), wanted, atol=1e-5, rtol=1e-5, msg=str(choice))
        torch.testing.assert_close((WEIGHT + one.delta(WEIGHT, {})).double(), weight, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close((BIAS + one.delta_bias(BIAS, WEIGHT, {})).double(), bias, atol=1e-5, rtol=1e-5)


def test_every_combination_starts_as_the_base() -> None:
    """X_d, D and E are zero, so nothing is added at all."""
    one = part(moved=False)
    for choice in ALL:
        one.choose(choice)
        assert not one.delta(WEIGHT, {}).any()
        assert not one.delta_bias(BIAS, WEIGHT, {}).any()
    assert one.Au.abs().max() <= math.sqrt(6 / 9)
    assert one.Au.any()


def test_a_choice_counts_what_it_reads() -> None:
    """The formula counts exactly the scalars that get a gradient from a choice."""
    one = part()
    for choice in ALL[::7]:
        one.choose(choice)
        one.zero_grad()
        if any(choice):
            (one.delta(WEIGHT, {}).square().sum() + one.delta_bias(BIAS, WEIGHT, {}).square().sum()).backward()
        reached = sum(int(p.grad.count_nonzero()) for p in one.parameters() if p.grad is not None)
        assert one.in_use() == one.size(choice) == reached, choice
    assert part().size((3, 3, 3, 2, 2)) == 2 * 2 * (5 + 7) + 2 * (7 + 1) + 2 * 5


def test_the_papers_count() -> None:
    """ViT-B/16, rank 4, qkv, proj, fc1 and fc2 of 12 blocks: 1,603,776 scalars in the supernet."""
    shapes = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
    sites = [Site(f"{b}.{i}", "attn.q", b, s, bias=True) for b in range(12) for i, s in enumerate(shapes)]
    assert GLoRA.n_params(GLoRAConfig(), sites) == 1_603_776


@pytest.mark.parametrize("form", ["none", "scalar", "vector", "low_rank"])
def test_fixed_forms_hold_only_their_own_tensors(form: str) -> None:
    """A fixed form is the same slice of the supernet, with nothing else stored and nothing to choose."""
    rest = {"prompt": form if form != "scalar" else "none", "scale_bias": form if form != "low_rank" else "vector"}
    fixed = part(elastic=False, scale_weight=form, shift_weight="vector", shift_bias="none", **rest)
    assert not fixed.elastic
    assert "choice" not in fixed.state_dict()
    assert sum(p.numel() for p in fixed.parameters()) == fixed.in_use() == GLoRA.n_params(fixed.cfg, [fixed.site])
    supernet = part()
    with torch.no_grad():
        for name, p in fixed.named_parameters():
            whole = dict(supernet.named_parameters())[name]
            p.copy_(whole[tuple(slice(n) for n in p.shape)])
    supernet.choose(forms(fixed.cfg, fixed.site))
    torch.testing.assert_close(output(fixed), output(supernet))


def test_training_draws_every_form_and_nothing_but_the_draw_moves() -> None:
    """The first steps are whole; then each path takes each of its forms, equal for equal seeds; unused tensors rest."""
    one, same, other = part(), part(), part()
    object.__setattr__(other, "shared", Draws(1))
    seen = []
    for step in range(1, 80):
        for p in (one, same, other):
            p.train().on_step(step, 80)
        assert one.drawn == same.drawn
        seen.append(one.drawn)
    assert set(seen[: WHOLE_STEPS - 1]) == {one.largest()}
    assert [set(column) for column in zip(*seen, strict=True)] == [set(values) for values in one.choices()]
    assert all(map(any, seen))
    assert one.drawn != other.drawn or one._draw(81) != other._draw(81)
    one.drawn = (2, 0, 0, 1, 0)
    output(one).sum().backward()
    assert {n for n, p in one.named_parameters() if p.grad is not None} == {"Ad", "D"}
    one.eval()
    assert one.now() == one.largest()


@pytest.mark.parametrize("new_bias", [False, True])
def test_on_a_layer_without_a_bias(new_bias: bool) -> None:
    """By default C, D and E are left out and it merges; `new_bias` adds exactly E + W C, which no bias-free weight can hold."""
    one = part(bias=False, new_bias=new_bias)
    assert GLoRA.mergeable(one.cfg) is not new_bias
    assert {n[0] for n, _ in one.named_parameters()} == ({"A", "B", "C", "E"} if new_bias else {"A", "B"})
    extra = output(one) - X @ (WEIGHT + one.delta(WEIGHT, {})).T
    wanted = one.E + WEIGHT @ (one.Cd @ one.Cu)[:, 0] if new_bias else torch.zeros(5)
    torch.testing.assert_close(extra, wanted.expand_as(extra), atol=1e-5, rtol=1e-5)


def as_peft(one: GLoRA, a_b: str, c: str, d_e: str) -> nn.Module:
    """peft's own layer with the tensors of one of ours."""
    from peft import GloraConfig
    from peft.tuners.glora.layer import GloraLinear

    base = nn.Linear(7, 5, bias=one.site.bias)
    with torch.no_grad():
        base.weight.copy_(WEIGHT)
        if base.bias is not None:
            base.bias.copy_(BIAS)
    layer = GloraLinear(base, "default", GloraConfig(r=2, config_A_B=a_b, config_C=c, config_D_E=d_e)).eval()
    ours = dict(one.named_parameters())
    with torch.no_grad():
        for path in "ABCDE":
            for name, p in getattr(layer, f"glora_{path}")["default"].named_parameters():
                own = ours[path + name[1:] if len(name) > 1 else path if path in ours else f"{path}d"]
                p.copy_(own[tuple(slice(n) for n in p.shape)] if own.dim() == p.dim() else own[:1, 0])
    return layer


@pytest.mark.parametrize("a_b", ["lora", "vector", "constant", "none"])
@pytest.mark.parametrize("c", ["lora", "vector", "none"])
def test_peft_twin_of_one_layer(a_b: str, c: str) -> None:
    """Every set of forms that peft knows, with and without a bias; without one peft drops C, D and E as ours does by default."""
    number = {"none": 0, "constant": 1, "vector": 2, "lora": 3}
    for d_e, bias in itertools.product(("vector", "constant", "none"), (True, False)):
        one = part(bias=bias)
        one.choose((number[a_b],) * 2 + ((number[c],) + (number[d_e],) * 2 if bias else (0, 0, 0)))
        torch.testing.assert_close(output(one), as_peft(one, a_b, c, d_e)(X), atol=1e-5, rtol=1e-5)
    official = part(bias=False, new_bias=True)
    official.choose((number[a_b],) * 2 + (3, 0, 2))
    extra = output(official) - as_peft(official, a_b, "lora", "vector")(X)
    wanted = official.E + WEIGHT @ (official.Cd @ official.Cu)[:, 0]
    torch.testing.assert_close(extra, wanted.expand_as(extra), atol=1e-5, rtol=1e-5)


def test_peft_twin_of_a_model(as_peft) -> None:
    """The same tensors in a real peft model give the same logits; what peft cannot say is refused."""
    model = hosts.host("bert")
    options = {"rank": 2, "elastic": False, "roles": ["attn.q", "ffn.up"]}
    adapter = hosts.adapters(model).attach("a", "glora", registry.configure("glora", options))
    disturb(adapter)
    with torch.no_grad():
        ours, theirs = hosts.logits(model, "bert"), hosts.logits(as_peft(adapter, hosts.host("bert")), "bert")
        assert (ours - theirs).abs().max() <= 1e-5
        assert (ours - hosts.logits(hosts.host("bert"), "bert")).abs().max() > 1e-3
    twin = GLoRA.peft
    assert twin is not None
    for wrong in ({"elastic": True}, {"elastic": False, "prompt": "none"}):
        with pytest.raises(WorkbenchError, match="peft's GLORA here means"):
            twin.config(GLoRAConfig.model_validate(wrong), adapter.sites)
    with pytest.raises(WorkbenchError, match="peft's GLORA here means"):
        twin.config(adapter.cfg, [Site("l", "attn.q", 0, (5, 7))])


def test_what_does_not_fit_is_one_sentence() -> None:
    site = Site("layer", "attn.q", 0, (5, 7))
    off = dict.fromkeys(("scale_weight", "shift_weight"), "none")
    assert GLoRA.problem(GLoRAConfig(), [site]) == ""
    assert GLoRA.problem(GLoRAConfig.model_validate(off), [site]) == "glora needs a path; all forms are none here: choose one."
    wrong = Site("words", "embed", -1, (5, 7), kind="embedding")
    assert GLoRA.problem(GLoRAConfig(), [wrong]) == "glora changes linear layers; words is none: choose other roles."
