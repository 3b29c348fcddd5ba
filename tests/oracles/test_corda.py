"""CorDA, PiSSA and URAE's adapter against the decompositions they name, peft, plain LoRA, and the published counts.

Of the catalogue's acceptance checks, base logits at the start and merged logits are the contract's, the LoRA of rank 2r that an
export writes is in `tests/export`, and IPM beside PiSSA and LoRA in training is the paper file's (`086-corda.yaml`); forgetting
after KPM is shown here on one layer. The rest is here. Of URAE only the adapter is meant: teacher data, guidance and attention
scales belong to its recipe.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.calibrating import calibrate
from workbench.methods.low_rank.corda import CorDA, CorDAConfig

SHAPES = [(12, 12), (20, 12), (12, 20)]


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def anisotropic(count: int, width: int, seed: int = 3) -> Tensor:
    """Inputs (count, width) whose directions have very different sizes."""
    turn, _ = torch.linalg.qr(randn(width, width, seed=7))
    return randn(count, width, seed=seed) * torch.logspace(1, -2, width) @ turn.t()


def part(shape: tuple[int, int], x: Tensor | None = None, **options: Any) -> tuple[CorDA, Tensor]:
    """A part as it starts, after it has seen x (in two batches), and its weight."""
    weight = randn(*shape, seed=0)
    cfg = CorDAConfig.model_validate({"rank": 3, **options})
    one = CorDA(cfg, Site("l", "attn.q", 0, shape), None, torch.Generator(), weight)
    if x is not None:
        one.observe(x[: len(x) // 2])
        one.observe(x[len(x) // 2 :])
        one.prepare(weight)
    return one, weight


def trained_part(one: CorDA) -> Tensor:
    """s B0 A0 in float64."""
    return one.cfg.scale * one.B0.double() @ one.A0.double()


def covariance(x: Tensor, damping: float) -> Tensor:
    """The damped covariance as the released code has it, in float64: C + d mean(diag C) I."""
    C = sum(torch.outer(row, row) for row in x.double()) / len(x)
    return C + damping * C.diagonal().mean() * torch.eye(len(C), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["pissa", "urae", "corda", "corda_kpm"])
def test_equation_in_float64(name: str, shape: tuple[int, int]) -> None:
    """W + s (B A - B0 A0) on moved factors, merged and applied; without rows and with them."""
    cfg = registry.configure(name, {"rank": 3, "scale": 1.7})
    one, weight = part(shape, anisotropic(64, shape[1]) if cfg.rows else None, **cfg.model_dump())
    for p, seed in zip(one.parameters(), (1, 2), strict=True):
        p.data += randn(*p.shape, seed=seed)
    A, B, A0, B0 = (t.detach().double() for t in (one.A, one.B, one.A0, one.B0))
    wanted = sum(1.7 * (torch.outer(B[:, k], A[k]) - torch.outer(B0[:, k], A0[k])) for k in range(3))
    x = randn(2, 4, shape[1], seed=5)
    torch.testing.assert_close(one.delta(weight, {}).double(), wanted, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(one.apply_to(None, x, weight, {}).double(), x.double() @ wanted.T, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "some"), [("pissa", slice(3)), ("urae", slice(-3, None))])
def test_without_rows_the_components_are_the_weights_own(name: str, some: slice, shape: tuple[int, int]) -> None:
    """s B0 A0 has the r largest (PiSSA) or smallest (URAE) singular values of W and no others, and W less it the rest."""
    one, weight = part(shape, **registry.configure(name, {"rank": 3, "scale": 0.5}).model_dump())
    values = torch.linalg.svdvals(weight.double())
    torch.testing.assert_close(torch.linalg.svdvals(trained_part(one))[:3], values[some], atol=1e-5, rtol=1e-5)
    rest = torch.linalg.svdvals(weight.double() - trained_part(one))
    kept = values[3:] if name == "pissa" else values[:-3]
    torch.testing.assert_close(rest[: len(kept)], kept, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.A.norm(dim=1), one.B.norm(dim=0))


@pytest.mark.parametrize("shape", SHAPES)
def test_components_of_both_ends_rebuild_the_weight(shape: tuple[int, int]) -> None:
    """U S V^T C^-1 is W for the damped C: what IPM takes with r components and KPM with the others adds up to W."""
    x = anisotropic(64, shape[1])
    first, weight = part(shape, x, rank=5)
    last, _ = part(shape, x, rank=min(shape) - 5, components="smallest")
    torch.testing.assert_close(trained_part(first) + trained_part(last), weight.double(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("components", ["largest", "smallest"])
def test_rows_weigh_the_components(components: str, shape: tuple[int, int]) -> None:
    """s B0 A0 = U_r U_r^T W for the eigenvectors U of W C C W^T, whatever the size of the inputs."""
    x, sizes = anisotropic(64, shape[1]), []
    for size in (1.0, 100.0):
        one, weight = part(shape, size * x, components=components, damping=0.05)
        WC = weight.double() @ covariance(x, 0.05)
        _, U = torch.linalg.eigh(WC @ WC.T)  # in rising order
        ranked = U.flip(1)[:, : min(shape)]
        Ur = ranked[:, :3] if components == "largest" else ranked[:, -3:]
        torch.testing.assert_close(trained_part(one), Ur @ Ur.T @ weight.double(), atol=1e-4, rtol=1e-4)
        sizes.append(one.A0.norm(dim=1))
    torch.testing.assert_close(*sizes, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("name", "without"), [("corda", "pissa"), ("corda_kpm", "urae")])
def test_white_inputs_give_the_plain_decomposition(name: str, without: str) -> None:
    """With C = I exactly, IPM is PiSSA and KPM is URAE's adapter."""
    x = 3.0 * torch.eye(12).repeat(2, 1)
    one, _ = part((20, 12), x, **registry.configure(name, {"rank": 3}).model_dump())
    plain, _ = part((20, 12), **registry.configure(without, {"rank": 3}).model_dump())
    torch.testing.assert_close(trained_part(one), trained_part(plain), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.A0.abs(), plain.A0.abs(), atol=1e-4, rtol=1e-4)


def test_kpm_touches_what_the_rows_use_least() -> None:
    """On anisotropic inputs |B0 A0 X| of KPM is below that of the plain smallest components, and IPM's above PiSSA's."""
    x = anisotropic(200, 20)
    taken = {}
    for name in ("corda", "corda_kpm", "pissa", "urae"):
        cfg = registry.configure(name, {"rank": 3})
        one, _ = part((12, 20), x if cfg.rows else None, **cfg.model_dump())
        taken[name] = (x.double() @ trained_part(one).T).norm().item()
    assert taken["corda_kpm"] < 0.5 * taken["urae"]
    assert taken["corda"] > taken["pissa"]


def forgotten(one: Any, weight: Tensor, old: Tensor, reach: float) -> float:
    """How far outputs on `old` move, relatively, after training on other inputs to lower the loss to `reach` of its start."""
    new, target = randn(64, 20, seed=11), randn(64, 12, seed=12)
    optimizer = torch.optim.SGD(one.parameters(), lr=0.02)
    first = None
    for _ in range(3000):
        loss = (new @ weight.T + one.apply_to(None, new, weight, {}) - target).square().mean()
        first = loss.item() if first is None else first
        if loss.item() < reach * first:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    else:
        raise AssertionError(f"the loss only fell to {loss.item() / first:.2f} of its start")
    return (one.apply_to(None, old, weight, {}).norm() / (old @ weight.T).norm()).item()


def test_kpm_keeps_the_outputs_on_its_rows() -> None:
    """Trained to the same loss on other inputs, KPM moves the outputs on its calibration rows less than IPM does."""
    old = anisotropic(200, 20)
    moved = {}
    for name in ("corda", "corda_kpm"):
        one, weight = part((12, 20), old, **registry.configure(name, {"rank": 4}).model_dump())
        moved[name] = forgotten(one, weight, old, reach=0.9)
    assert moved["corda_kpm"] < 0.5 * moved["corda"]


def test_a_site_without_inputs_keeps_its_start() -> None:
    """Rows that never reach a site, or reach it as zeros, leave the weight's own components."""
    plain, weight = part((12, 12))
    start = plain.A0.clone()
    plain.prepare(weight)
    assert torch.equal(plain.A0, start)
    zeros, _ = part((12, 12), torch.zeros(4, 12))
    assert torch.equal(zeros.A0, start)


def test_fewer_rows_than_inputs_are_damped() -> None:
    """A covariance of rank 2 still gives a finite start whose components rebuild the weight."""
    one, weight = part((12, 20), anisotropic(2, 20), rank=12)
    torch.testing.assert_close(trained_part(one), weight.double(), atol=1e-4, rtol=1e-4)


def test_a_small_change_survives_half_precision() -> None:
    """A change a thousand times smaller than the trained components is still right to bf16's own rounding."""
    one, weight = part((20, 12))
    for p, seed in zip(one.parameters(), (1, 2), strict=True):
        p.data += 1e-3 * randn(*p.shape, seed=seed)
    x = randn(8, 12, seed=5)
    wanted = one.apply_to(None, x, weight, {})
    with torch.autocast("cpu", torch.bfloat16):
        got = one.apply_to(None, x.bfloat16(), weight, {}).float()
    assert (got - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_calibrated_adapter_starts_as_the_base_and_is_a_lora_of_twice_the_rank(family: str) -> None:
    """Logits stay the base's after `prepare`; after training, a plain LoRA of rank 2r on the untouched base has them too."""
    model = hosts.host(family)
    base = hosts.logits(model, family)
    adapters = hosts.adapters(model)
    adapter = adapters.attach("a", "corda", registry.configure("corda", {"rank": 4, "scale": 2.0}))
    before = {n: t.clone() for n, t in adapter.tensors().items()}
    calibrate(adapters, adapter, [lambda: hosts.logits(model, family)])
    after = adapter.tensors()
    assert not [n for n in before if torch.equal(before[n], after[n])]
    assert (hosts.logits(model, family) - base).abs().max() <= 1e-5
    disturb(adapter)
    wanted = hosts.logits(model, family)
    tensors = {}
    for key, one in adapter.named_parts():
        tensors[f"{key}.B"], tensors[f"{key}.A"] = one.pair()
    model.workbench.detach("a")
    lora = adapters.attach("lora", "lora", registry.configure("lora", {"rank": 8, "alpha": 16.0}))
    lora.load(tensors)
    assert (wanted - base).abs().max() > 1e-2
    assert (hosts.logits(model, family) - wanted).abs().max() <= 1e-4


def in_peft(init: str, x: Tensor | None = None, method: str = "ipm") -> Tensor:
    """s B0 A0 that peft makes of the same weight and inputs."""
    import peft
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    model = nn.Sequential(nn.Linear(20, 12, bias=False))
    model[0].weight.data = randn(12, 20, seed=0)
    more = {"corda_config": CordaConfig(corda_method=method)} if x is not None else {}
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["0"], init_lora_weights=init, **more)
    if x is not None:
        preprocess_corda(model, config, run_model=lambda: model(x))
    layer = peft.get_peft_model(model, config).base_model.model[0]
    return (2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach().double()


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("pissa", lambda x: in_peft("pissa")),
        ("corda", lambda x: in_peft("corda", x, "ipm")),
        ("corda_kpm", lambda x: in_peft("corda", x, "kpm")),
    ],
)
def test_peft_starts_from_the_same_components(name: str, theirs: Callable[[Tensor], Tensor]) -> None:
    """The same inputs in one batch give the same s B0 A0 in peft's own initialisation."""
    x = randn(200, 20, seed=3) * torch.linspace(0.5, 2, 20)
    cfg = registry.configure(name, {"rank": 3, "scale": 2.0})
    one, _ = part((12, 20), x if cfg.rows else None, **cfg.model_dump())
    torch.testing.assert_close(trained_part(one), theirs(x), atol=1e-4, rtol=1e-4)


def test_refusals() -> None:
    """More components than there are, and rows for places that do not read vectors."""
    model = hosts.host("gpt2")
    with pytest.raises(WorkbenchError, match=r"narrowest side, here 32; got rank 40"):
        hosts.adapters(model).attach("a", "corda", registry.configure("corda", {"rank": 40}))
    with pytest.raises(WorkbenchError, match=r"set rows to 0"):
        hosts.adapters(model).attach("a", "corda", registry.configure("corda", {"roles": ["embed"]}))
    assert hosts.adapters(model).attach("a", "corda", registry.configure("pissa", {"roles": ["embed"]})).new_params()


def test_published_counts() -> None:
    """Llama-2-7B, every linear layer, r = 128: 319,815,680; FLUX.1, 190 projections of 3072 x 3072, r = 16: 18,677,760."""
    llama = [*[(4096, 4096)] * 4, *[(11008, 4096)] * 2, (4096, 11008)] * 32
    flux = [(3072, 3072)] * (19 * 4 + 38 * 3)
    for rank, shapes, wanted in ((128, llama, 319_815_680), (16, flux, 18_677_760)):
        assert CorDA.n_params(CorDAConfig(rank=rank), [Site(str(i), "attn.q", 0, s) for i, s in enumerate(shapes)]) == wanted
