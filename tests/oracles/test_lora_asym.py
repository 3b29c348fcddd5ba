"""LoRA with one trained factor against its equation, its starts, peft, and the paper's theorem on linear least squares.

Of the catalogue's acceptance checks, base logits at the start and merged logits are the contract's, and training on a task is the
paper file's (`067-lora_asym.yaml`); the rest is here. The traps of the released code are covered by name: V is taken from the
rows of V^T, and which factor trains is an option of its own, never read off a string.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract import hosts
from tests.contract.checks import Case, disturb, train
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.low_rank.lora_asym import LoRAAsym, LoRAAsymConfig

NAMES = {"lora_asym": "B", "lora_asym_a": "A", "lora_asym_v": "B", "lora_fa": "B"}


def part(name: str = "lora_asym", shape: tuple[int, int] = (10, 14), seed: int = 0, **options: Any) -> tuple[LoRAAsym, Tensor]:
    """A part as it starts, and its weight."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    cfg = LoRAAsymConfig.model_validate(registry.configure(name, {"rank": 4, **options}).model_dump())
    return LoRAAsym(cfg, Site("l", "attn.q", 0, shape), None, torch.Generator().manual_seed(seed), weight), weight


@pytest.mark.parametrize("name", NAMES)
def test_equation_in_float64(name: str) -> None:
    """(W + alpha / r B A) x with the frozen factor as stored and the other one moved."""
    one, weight = part(name, alpha=6.0)
    for p in one.parameters():
        p.data += torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    B, A = one.B.detach().double(), one.A.detach().double()
    wanted = sum(6.0 / 4 * torch.outer(B[:, k], A[k]) for k in range(4))
    x = torch.randn(2, 3, 14, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(one.delta(weight, {}).double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, weight, {}).double(), x.double() @ wanted.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("init", ["rand", "V"])
def test_frozen_rows_of_a_are_orthonormal(init: str) -> None:
    """A A^T = I; the V start spans the leading right singular vectors of W, and two seeds draw different random ones."""
    one, weight = part(a_init=init)
    torch.testing.assert_close(one.A @ one.A.t(), torch.eye(4), atol=1e-5, rtol=0)
    if init == "V":
        energies, directions = torch.linalg.eigh(weight.double().t() @ weight.double())  # in rising order
        cosines = torch.linalg.svdvals(one.A.double() @ directions[:, -4:])
        assert (1 - cosines**2).clamp_min(0).sqrt().max() < 1e-3
        assert energies[-4] > energies[-5]
    else:
        assert (part(seed=1, a_init=init)[0].A - one.A).abs().max() > 0.1


@pytest.mark.parametrize("init", ["rand", "U"])
def test_frozen_columns_of_b_are_orthonormal(init: str) -> None:
    """B^T B = I; the U start spans the leading left singular vectors of W."""
    one, weight = part("lora_asym_a", b_init=init)
    torch.testing.assert_close(one.B.t() @ one.B, torch.eye(4), atol=1e-5, rtol=0)
    if init == "U":
        _, directions = torch.linalg.eigh(weight.double() @ weight.double().t())
        cosines = torch.linalg.svdvals(one.B.double().t() @ directions[:, -4:])
        assert (1 - cosines**2).clamp_min(0).sqrt().max() < 1e-3


def test_he_is_what_lora_draws() -> None:
    """LoRA-FA starts from the very A of LoRA with the same seed; a B drawn so has entries up to 1 / sqrt(r)."""
    lora = registry.methods()["lora"]
    weight = torch.zeros(10, 14)
    theirs = lora(lora.Config(rank=4), Site("l", "attn.q", 0, (10, 14)), None, torch.Generator().manual_seed(0), weight)
    assert torch.equal(part("lora_fa")[0].A, theirs.A)
    B = part("lora_asym_a", shape=(400, 14), b_init="he")[0].B
    assert 0.49 < B.abs().max() <= 0.5


@pytest.mark.parametrize("name", NAMES)
def test_only_the_named_factor_moves(name: str) -> None:
    """After training the frozen factor is bit for bit what it was; the other one is not, and is all that trains."""
    cls = registry.methods()["lora_asym"]
    cfg = registry.configure(name, {"rank": 4})
    case = Case("lora_asym", cls, cfg, "bert")
    model, adapter = case.fresh()
    before = {n: t.clone() for n, t in adapter.tensors().items()}
    train(case, model, adapter, steps=4)
    moved = {n for n, t in adapter.tensors().items() if not torch.equal(t, before[n])}
    assert moved == {n for n in before if n.endswith(f".{NAMES[name]}")}
    width = sum(s.d_out if NAMES[name] == "B" else s.d_in for s in adapter.sites)
    assert adapter.new_params() == sum(p.numel() for p in adapter.named_trainable().values()) == 4 * width


def test_both_factors_are_lora() -> None:
    """With both trained and LoRA's starts it is LoRA itself, in values and in size."""
    one, weight = part("lora_fa", trains="both")
    assert {n for n, _ in one.named_parameters()} == {"A", "B"}
    lora = registry.methods()["lora"]
    theirs = lora(lora.Config(rank=4), one.site, None, torch.Generator().manual_seed(0), weight)
    one.B.data.normal_()
    theirs.B.data.copy_(one.B)
    assert torch.equal(one.delta(weight, {}), theirs.delta(weight, {}))
    assert LoRAAsym.n_params(one.cfg, [one.site]) == lora.n_params(theirs.cfg, [one.site])


def test_a_start_away_from_zero_says_so() -> None:
    """Singular vectors on both sides: the start is not the base, and the class knows."""
    cfg = LoRAAsymConfig(rank=4, trains="both", a_init="V", b_init="U")
    assert not LoRAAsym.starts_as_base(cfg)
    one, weight = part(**cfg.model_dump(exclude={"rank"}))
    U, _, V = torch.linalg.svd(weight)
    torch.testing.assert_close(one.delta(weight, {}), 4.0 * U[:, :4] @ V[:4], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"a_init": "zero"}, {"trains": "A"}, {"trains": "both", "a_init": "zero"}, {"a_init": "zero", "b_init": "he"}],
)
def test_what_could_never_move_is_refused(options: dict) -> None:
    """A frozen factor of zeros, or two factors of zeros; and more orthonormal directions than there are."""
    adapters = hosts.adapters(hosts.host("bert"))
    with pytest.raises(WorkbenchError, match="let a_init or b_init differ from zero"):
        adapters.attach("a", "lora_asym", registry.configure("lora_asym", {"rank": 4, **options}))
    with pytest.raises(WorkbenchError, match="narrowest side, here 32; got rank 33"):
        adapters.attach("a", "lora_asym", registry.configure("lora_asym", {"rank": 33}))


@pytest.mark.parametrize("name", ["lora_asym", "lora_asym_a"])
def test_peft_twin(name: str, as_peft) -> None:
    """The same two factors in a real peft LoRA give the same logits."""
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "lora_asym", registry.configure(name, {"rank": 4}))
    disturb(adapter)
    with torch.no_grad():
        ours, theirs = hosts.logits(model, "bert"), hosts.logits(as_peft(adapter, hosts.host("bert")), "bert")
    assert (ours - theirs).abs().max() <= 1e-5
    assert (ours - hosts.logits(hosts.host("bert"), "bert")).abs().max() > 1e-3


def least_squares(name: str, seed: int, decay: float) -> float:
    """The least loss on y = (W + D) x, D random, relative to that of W; covariance of x has eigenvalues i^-decay."""
    gen = torch.Generator().manual_seed(1000 + seed)
    one, weight = part(name, shape=(48, 48), seed=seed, rank=6)
    turn = torch.linalg.qr(torch.randn(48, 48, generator=gen))[0]
    x = torch.randn(400, 48, generator=gen) * torch.arange(1.0, 49.0) ** (-decay / 2) @ turn.t()
    y = x @ torch.randn(48, 48, generator=gen).t()
    if one.cfg.trains == "B":
        one.B.data = torch.linalg.lstsq(x @ one.A.t(), y).solution.t() / one.scale
    else:
        one.A.data = torch.linalg.lstsq(x, y @ one.B).solution.t() / one.scale
    return ((y - one.apply_to(None, x, weight, {})).square().mean() / y.square().mean()).item()


@pytest.mark.parametrize(("decay", "least", "most"), [(0.0, 0.0, 0.03), (1.0, 0.15, 0.25), (2.0, 0.5, 0.8)])
def test_random_features_lose_less_than_random_outputs(decay: float, least: float, most: float) -> None:
    """The theorem, d / r = 8: on white inputs either factor serves; the less white they are, the more B is ahead of A."""
    means = {name: sum(least_squares(name, seed, decay) for seed in range(20)) / 20 for name in ("lora_asym", "lora_asym_a")}
    assert means["lora_asym_a"] == pytest.approx(1 - 6 / 48, abs=0.02)
    assert least <= means["lora_asym_a"] - means["lora_asym"] <= most
