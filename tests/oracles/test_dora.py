"""DoRA against its equation with the norm held constant, its limits and peft."""

import math

import pytest
import torch
from torch import Tensor

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.low_rank.dora import DoRA, DoRAConfig

WEIGHT = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))


def part() -> DoRA:
    one = DoRA(DoRAConfig(rank=3, alpha=6.0), Site("layer", "attn.q", 0, (5, 7)), None, torch.Generator().manual_seed(0), WEIGHT)
    gen = torch.Generator().manual_seed(1)
    one.B.data.normal_(generator=gen)
    one.magnitude.data.add_(torch.randn(5, generator=gen))
    return one


def adapted(one: DoRA, constant_norm: bool) -> tuple[Tensor, list[Tensor]]:
    """W' in float64, row by row, and the tensors it was made from."""
    A, B, m = (t.detach().double().requires_grad_() for t in (one.A, one.B, one.magnitude))
    rows = []
    for i in range(5):
        row = WEIGHT[i].double() + 2.0 * sum(B[i, k] * A[k] for k in range(3))
        norm = (row * row).sum().sqrt()
        rows.append(m[i] * row / (norm.detach() if constant_norm else norm))
    return torch.stack(rows), [A, B, m]


def test_equation_in_float64() -> None:
    """W' x = m (W + s B A) x / n, through delta and through the cheaper order."""
    one, x = part(), torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(4))
    expected = adapted(one, True)[0].detach()
    torch.testing.assert_close((WEIGHT + one.delta(WEIGHT, {})).double(), expected, atol=1e-6, rtol=1e-5)
    y = x @ WEIGHT.T
    torch.testing.assert_close((y + one.apply_to(y, x, WEIGHT, {})).double(), x.double() @ expected.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["delta", "apply_to"])
def test_norm_gets_no_gradient(way: str) -> None:
    """Gradients of A, B and m are those of the equation with n constant, and not those of the full one."""
    one, x = part(), torch.randn(6, 7, generator=torch.Generator().manual_seed(4))
    pull = torch.randn(6, 5, generator=torch.Generator().manual_seed(5))
    y = x @ WEIGHT.T
    added = one.apply_to(y, x, WEIGHT, {}) if way == "apply_to" else x @ one.delta(WEIGHT, {}).T
    ((y + added) * pull).sum().backward()
    for constant in (True, False):
        weight, tensors = adapted(one, constant)
        grads = torch.autograd.grad((x.double() @ weight.T * pull).sum(), tensors)
        for name, ours, theirs in zip("ABm", (one.A.grad, one.B.grad, one.magnitude.grad), grads, strict=True):
            if constant or name == "m":
                torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-4)
            else:
                assert (ours.double() - theirs).abs().max() > 1e-2


def test_row_norms_are_the_magnitudes() -> None:
    """Every row of W' has the length |m|."""
    one = part()
    torch.testing.assert_close(torch.linalg.norm(WEIGHT + one.delta(WEIGHT, {}), dim=1), one.magnitude.abs())


def test_equals_lora_when_magnitudes_follow() -> None:
    """With m = ||W + s B A|| the method is LoRA."""
    one = part()
    one.magnitude.data = torch.linalg.norm(WEIGHT + one.scale * one.B @ one.A, dim=1).detach()
    torch.testing.assert_close(one.delta(WEIGHT, {}), one.scale * one.B @ one.A)


def test_start_is_the_base_bit_for_bit() -> None:
    """m = n at the start, so nothing is added at all."""
    one = DoRA(DoRAConfig(), Site("l", "attn.q", 0, (5, 7)), None, torch.Generator().manual_seed(0), WEIGHT)
    assert not one.delta(WEIGHT, {}).any()
    assert one.A.abs().max() <= 1 / math.sqrt(7)


def test_a_row_of_zeros_stays_finite() -> None:
    """Pruned bases have rows of zeros; they must not give NaN."""
    weight = WEIGHT.clone()
    weight[2] = 0
    one = DoRA(DoRAConfig(), Site("l", "attn.q", 0, (5, 7)), None, torch.Generator().manual_seed(0), weight)
    assert torch.isfinite(one.delta(weight, {})).all()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_peft_twin(family: str, as_peft) -> None:
    """The same tensors in a real peft model with use_dora give the same logits."""
    model = hosts.host(family)
    adapter = hosts.adapters(model).attach(
        "a", "dora", registry.configure("dora", {"rank": 4, "roles": ["attn.q", "attn.v", "ffn.down"]})
    )
    disturb(adapter)
    with torch.no_grad():
        ours, theirs = hosts.logits(model, family), hosts.logits(as_peft(adapter, hosts.host(family)), family)
        assert (ours - theirs).abs().max() <= 1e-5
        assert (ours - hosts.logits(hosts.host(family), family)).abs().max() > 1e-3
