"""The sum of changes: task and language, in any order, and back."""

import itertools
from typing import Any

import pytest
import torch

from tests.train import planted
from workbench import operations, tasks
from workbench.core.errors import WorkbenchError
from workbench.kernel import state
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored

SPARSE = {"recipe": {"recipe": "lt_sft", "keep": 0.02}}


@pytest.fixture
def host(bench):
    return tasks.find("text_classification")(bench.base("bert"), ("neg", "pos"), 24).host(0)


def add(adapters: list[Stored], host: torch.nn.Module, **options: Any) -> Stored:
    return operations.find("add")(adapters, host, options)


def dense(stored: Stored, host: torch.nn.Module) -> dict[str, torch.Tensor]:
    """theta - theta_0 in float64, by the base tensors' names."""
    adapter = state.restore(host, stored, "reader")
    found = {n: own.detach().double() - base.detach().double() for n, (base, own, _) in adapter.originals().items()}
    adapters_of(host).release()
    return found


def test_it_is_the_sum_of_the_changes_in_any_order(bench, host):
    some = [planted.stored(bench.run("bert", "full", seed=s, **SPARSE)[0]) for s in range(3)]
    weights = (1.0, 0.5, -2.0)
    changes = [dense(one, host) for one in some]
    sums = [
        dense(add([some[i] for i in order], host, weights=[weights[i] for i in order]), host)
        for order in itertools.permutations(range(3))
    ]
    for name in changes[0]:
        by_hand = sum(w * change[name] for w, change in zip(weights, changes, strict=True))
        torch.testing.assert_close(sums[0][name], by_hand, atol=1e-6, rtol=0)
        assert all(torch.equal(one[name], sums[0][name]) for one in sums[1:])
        together = torch.stack([change[name] != 0 for change in changes]).any(0)
        assert not sums[0][name][~together].any(), "what nobody changed is bitwise the base"


def test_of_one_it_is_that_one_and_weights_of_zero_are_the_base(bench, host):
    one = planted.stored(bench.run("bert", "full", **SPARSE)[0])
    assert all(torch.equal(a, b) for a, b in zip(dense(add([one], host), host).values(), dense(one, host).values(), strict=True))
    assert not any(change.any() for change in dense(add([one], host, weights=[0.0]), host).values())
    back = add([one, one], host, weights=[1.0, -1.0])
    assert not any(change.any() for change in dense(back, host).values()), "apply, then revert"


def test_the_head_is_that_of_the_adapter_asked_for(bench, host):
    a, b = (planted.stored(bench.run("bert", "full", seed=s, **SPARSE)[0]) for s in (0, 1))
    assert all(torch.equal(v, a.head[k]) for k, v in add([a, b], host).head.items())
    assert all(torch.equal(v, b.head[k]) for k, v in add([a, b], host, head=2).head.items())


def test_what_cannot_be_summed_is_refused(bench, host):
    full, lora, bitfit = (planted.stored(bench.run("bert", method)[0]) for method in ("full", "lora", "bitfit"))
    for adapters, options, sentence in (
        ([full, lora], {}, "lora has a tensor of its own"),
        ([full, bitfit], {}, "same method; got 'full' and 'bitfit'"),
        ([full], {"weights": [1, 2]}, "got 2 and head 1 for 1"),
        ([full], {"head": 2}, "head 2 for 1"),
    ):
        with pytest.raises(WorkbenchError, match=sentence):
            add(adapters, host, **options)
