"""Full fine-tuning against plain training of a copy."""

import pytest
import torch

from tests.contract import hosts
from workbench.methods.selection.full import FullConfig


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_equals_plain_fine_tuning_bit_for_bit(family: str, trained_plainly) -> None:
    """Three steps through the kernel and three steps of plain torch give the same tensors, and every tensor is there."""
    model = hosts.host(family)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    adapter = hosts.adapters(model).attach("a", "full", FullConfig())
    base = {n for n in before if not n.startswith(hosts.head(model))}
    chosen = adapter.originals()
    assert chosen.keys() == base
    assert adapter.base_params() == sum(before[n].numel() for n in base)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        hosts.loss(model, family).backward()
        optimizer.step()
    plain = trained_plainly(family, base)
    assert not [n for n in base if not torch.equal(chosen[n][1], plain[n])]
    assert all(torch.equal(chosen[n][0], before[n]) for n in base), "the base's own tensors were written to"
    assert sum(not torch.equal(plain[n], before[n]) for n in base) > len(base) // 2


def test_a_role_is_all_that_trains() -> None:
    """With roles, only those modules' tensors are taken."""
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "full", FullConfig(roles=("ffn.up",), depths=(-1,)))
    assert set(adapter.originals()) == {f"bert.encoder.layer.1.intermediate.dense.{n}" for n in ("weight", "bias")}
