"""LoRETTA against an einsum of its cores, the published counts, TT-SVD as its full-rank limit, and LoRA as its wide limit.

Of the catalogue's acceptance checks, base logits at the start and merged logits are the contract's; accuracy beside LoRA is the
paper file's. The count of the weight form is not published core by core, so it is checked against the formula alone.
"""

import math
import string

import pytest
import torch
from torch import Tensor

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.structured.loretta import (
    AdapterFormPart,
    LoRETTA,
    LoRETTAConfig,
    Train,
    WeightFormPart,
    core_shapes,
    factors,
)


def train(left: list[int], right: list[int], bond: int, last_zero: bool = False) -> Train:
    return Train(left, right, bond, last_zero, torch.Generator().manual_seed(0))


def einsum(one: Train) -> Tensor:
    """The matrix in float64 by one einsum over all cores."""
    cores = [c.detach().double() for c in one.cores]
    bonds, sides = string.ascii_lowercase[: len(cores) + 1], string.ascii_uppercase[: len(cores)]
    terms = ",".join(bonds[i] + sides[i] + bonds[i + 1] for i in range(len(cores)))
    full = torch.einsum(f"{terms}->{sides}", *cores)
    return full.reshape(math.prod(full.shape[: one.split]), -1)


@pytest.mark.parametrize(
    ("left", "right", "bond"), [([2, 3, 2], [2, 4], 3), ([5], [3], 4), ([4, 4], [2], 2), ([3], [2, 2, 2], 5)]
)
def test_train_equals_the_einsum_of_its_cores(left: list[int], right: list[int], bond: int) -> None:
    """x (G_1 .. G_D) with the matrix built, and with the two sides contracted first."""
    one = train(left, right, bond)
    x = torch.randn(2, 5, math.prod(left), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one(x).double(), x.double() @ einsum(one), atol=1e-5, rtol=1e-5)


def test_forms_in_float64() -> None:
    """W + s (TT_A TT_B)^T, and y + s (TT_U^T relu(TT_D^T y + b_D) + b_U)."""
    gen, cfg = torch.Generator().manual_seed(1), {"inner": (2, 3), "bond": 4, "scale": 1.5}
    site = Site("l", "attn.q", 0, (12, 20))
    one = WeightFormPart(LoRETTAConfig(form="weight", **cfg), site, None, gen, torch.zeros(12, 20))
    two = AdapterFormPart(LoRETTAConfig(**cfg), Site("l", "ffn.block", 0, (12, 12), "point"), None, gen, None)
    for p in [*one.parameters(), *two.parameters()]:
        p.data.normal_(generator=gen)
    x, y = torch.randn(3, 20, generator=gen), torch.randn(3, 12, generator=gen)
    change = 1.5 * (einsum(one.A) @ einsum(one.B)).T
    near = {"atol": 1e-5 * float(change.abs().max()), "rtol": 1e-5}
    torch.testing.assert_close(one.delta(torch.zeros(12, 20), {}).double(), change, **near)
    torch.testing.assert_close(
        one.apply_to(None, x, torch.zeros(12, 20), {}).double(), x.double() @ change.T, atol=1e-2, rtol=1e-4
    )
    low = torch.relu(y.double() @ einsum(two.down) + two.b_down)
    wanted = y.double() + 1.5 * (low @ einsum(two.up) + two.b_up)
    torch.testing.assert_close(two.edit(y, y, {}).double(), wanted, atol=1e-2, rtol=1e-4)


def test_first_values() -> None:
    """The entries of a fresh train have standard deviation sqrt(1 / (M + N)); with a last core of zero it is zero."""
    drawn = [Train([8, 8], [8, 8], 5, False, torch.Generator().manual_seed(i)) for i in range(40)]
    spread = torch.stack([einsum(one) for one in drawn]).std().item()
    assert spread == pytest.approx(math.sqrt(1 / 128), rel=0.15)
    assert not einsum(train([8, 8], [8, 8], 5, last_zero=True)).any()


@pytest.mark.parametrize("name", ["loretta", "loretta_rep"])
def test_gradient_reaches_the_zero_core_first_and_then_every_core(name: str) -> None:
    """At the start only the last core (and a bias) of the second train moves; after one step all do."""
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "loretta", registry.configure(name, {"inner": [4, 2], "train_norms": False}))
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.5)
    for step in range(2):
        optimizer.zero_grad()
        hosts.loss(model, "bert").backward()
        moving = {n.split(".", 2)[2] for n, p in adapter.named_trainable().items() if p.grad is not None and p.grad.any()}
        second = "up" if name == "loretta" else "B"
        expected = {f"{second}.cores.3"} | ({"b_up"} if name == "loretta" else set())
        assert (moving == expected) == (step == 0), (step, moving)
        optimizer.step()
    assert len(moving) == len({n.split(".", 2)[2] for n in adapter.named_trainable()})


def test_published_counts() -> None:
    """780 for one projection; 0.10 M for DeBERTa-base and 0.88 M for LLaMA2-7B in the adapter form."""
    down = core_shapes([8, 8, 12], [8, 8], 5)
    assert sum(map(math.prod, down)) == 780
    sites = [Site(f"{i}", "ffn.block", i // 2, (768, 768), "point") for i in range(24)]
    norms, classifier = 25 * 2 * 768, sum(map(math.prod, core_shapes([8, 8, 12], [12, 8, 8], 5))) + 768
    assert LoRETTA.n_params(LoRETTAConfig(), sites) + norms + classifier == 97_656
    sites = [Site(f"{i}", "ffn.block", i // 2, (4096, 4096), "point") for i in range(64)]
    cfg = LoRETTAConfig(inner=(4, 4, 4), bond=8)
    assert LoRETTA.n_params(cfg, sites) + 65 * 4096 == 880_640


def test_count_of_the_weight_form() -> None:
    """768 x 768 at m = 8, bond 5: factors [8, 8, 12, 8], the second train in reverse."""
    site = Site("l", "attn.q", 0, (768, 768))
    cfg = registry.configure("loretta_rep", {})
    assert LoRETTA.n_params(cfg, [site]) == 2 * (8 * 5 + 8 * 25 + 12 * 25 + 8 * 5)


def test_full_bonds_represent_any_matrix() -> None:
    """TT-SVD of an arbitrary matrix, put into the cores, gives the matrix back."""
    target = torch.randn(12, 8, generator=torch.Generator().manual_seed(2)).double()
    one, rest = train([3, 4], [4, 2], bond=12).double(), target.reshape(1, -1)
    for core in one.cores:
        core.data.zero_()
    for core in list(one.cores)[:-1]:
        U, S, V = torch.linalg.svd(rest.reshape(len(rest) * core.shape[1], -1), full_matrices=False)
        core.data[: len(rest), :, : len(S)] = U.reshape(len(rest), core.shape[1], len(S))
        rest = S[:, None] * V
    one.cores[-1].data[: len(rest), :, 0] = rest
    assert (one(torch.eye(12).double()) - target).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("width", "wanted"),
    [
        (768, [8, 8, 12]),
        (4096, [16, 16, 16]),
        (64, [8, 8]),
        (96, [8, 12]),
        (100, [10, 10]),
        (131, [131]),
        (2 * 131, [2, 131]),
        (32, [4, 8]),
        (16, [16]),
        (1, [1]),
    ],
)
def test_factors(width: int, wanted: list[int]) -> None:
    """Balanced factors of usual and awkward widths; a large prime stays whole."""
    assert factors(width) == wanted


def test_factors_multiply_to_the_width() -> None:
    """Whatever the width."""
    assert [math.prod(factors(width)) for width in range(1, 400)] == [*range(1, 400)]


def test_training_never_keeps_a_dense_matrix() -> None:
    """On a wide layer autograd saves far less than one (d_out, d_in) matrix."""
    site, sizes = Site("l", "attn.q", 0, (512, 512)), {}
    one = WeightFormPart(LoRETTAConfig(form="weight"), site, None, torch.Generator().manual_seed(0), torch.zeros(1))

    def pack(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        assert one.apply_to(None, torch.randn(4, 512), torch.zeros(1), {}).requires_grad
    assert sum(sizes.values()) < 512 * 512 / 4


def test_ten_times_fewer_parameters_than_lora_and_adapters() -> None:
    """On the bundled base's width, each form has less than a tenth of what it compresses."""
    block, query = Site("b", "ffn.block", 0, (384, 384), "point"), Site("q", "attn.q", 0, (384, 384))
    assert 10 * LoRETTA.n_params(LoRETTAConfig(), [block]) < registry.methods()["bottleneck"].n_params(
        registry.configure("houlsby_adapter", {"bottleneck": 64}), [block]
    )
    assert 5 * LoRETTA.n_params(registry.configure("loretta_rep", {}), [query]) < registry.methods()["lora"].n_params(
        registry.configure("lora", {"rank": 8}), [query]
    )


def test_merging_is_for_the_weight_form() -> None:
    """The adapter form has a non-linearity; the norms train in both unless switched off."""
    assert LoRETTA.mergeable(LoRETTAConfig(form="weight"))
    assert not LoRETTA.mergeable(LoRETTAConfig())
    assert LoRETTA.also_trains(LoRETTAConfig(train_norms=False)) == ()
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "loretta", LoRETTAConfig())
    disturb(adapter)
    assert adapter.base_params() == sum(
        p.numel() for n, p in model.named_parameters() if "LayerNorm" in n and "base." not in n and not n.startswith("workbench.")
    )


def test_many_cores_in_mixed_precision() -> None:
    """Three cores a side, where the second product already meets a result in half precision."""
    gen = torch.Generator().manual_seed(0)
    train = Train((8, 8, 6), (4, 4, 4), 5, False, gen)
    x = torch.randn(3, 384, generator=gen)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = train(x).float()
    exact = train(x).detach()
    assert (rough - exact).abs().max() <= 0.05 * exact.abs().max()
