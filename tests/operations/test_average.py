"""The weighted mean of adapters."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.train import planted
from workbench import operations, tasks
from workbench.core.errors import WorkbenchError
from workbench.kernel import state
from workbench.kernel.state import Stored

SPARSE = {"recipe": {"recipe": "lt_sft", "keep": 0.02}}


@pytest.fixture
def host(bench):
    return tasks.find("text_classification")(bench.base("bert"), ("neg", "pos"), 24).host(0)


def trio(bench: Any, method: str = "lora", **more: Any) -> list[Stored]:
    return [planted.stored(bench.run("bert", method, seed=s, **more)[0]) for s in range(3)]


def average(adapters: list[Stored], host: torch.nn.Module, weights: Any = None) -> Stored:
    return operations.find("average")(adapters, host, {} if weights is None else {"weights": weights})


def close(a: Stored, b: Stored, atol: float = 1e-6) -> bool:
    pairs = ((a.tensors, b.tensors), (a.head, b.head))
    return all(x.keys() == y.keys() and all(torch.allclose(x[k], y[k], atol=atol) for k in x) for x, y in pairs)


def test_of_one_it_is_that_one_and_of_equal_ones_too(bench, host):
    one = trio(bench)[0]
    assert planted.equal(average([one], host), one)
    assert planted.equal(average([one, one], host), one)
    assert planted.equal(average([one, one], host, [3, 5]), one)


def test_it_is_the_weighted_mean_of_every_tensor_and_of_the_head(bench, host):
    some, weights = trio(bench), (0.5, 2.0, 1.5)
    mean = average(some, host, weights)
    for part in ("tensors", "head"):
        for key, value in getattr(mean, part).items():
            by_hand = sum(w * getattr(a, part)[key].double() for w, a in zip(weights, some)) / 4.0
            assert value.dtype == getattr(some[0], part)[key].dtype
            assert torch.allclose(value.double(), by_hand, atol=1e-7)
    assert mean.meta["method"] == "lora"


def test_the_order_does_not_matter(bench, host):
    some, weights = trio(bench), (0.2, 0.3, 0.5)
    found = [average([some[i] for i in o], host, [weights[i] for i in o]) for o in itertools.permutations(range(3))]
    assert all(close(found[0], other, 1e-7) for other in found[1:])


def test_weight_zero_is_neutral(bench, host):
    some = trio(bench)
    assert planted.equal(average(some, host, (1, 1, 0)), average(some[:2], host))
    assert planted.equal(average(some[:2], host, (1, 0)), some[0])


def test_the_host_is_left_clean(bench, host):
    before = {n: (p, p.clone()) for n, p in host.named_parameters() if "classifier" not in n}
    average(trio(bench, "full"), host)
    assert not hasattr(host, "workbench")
    assert all(dict(host.named_parameters())[n] is p and torch.equal(p, v) for n, (p, v) in before.items())


def test_full_adapters_average_to_the_mean_of_the_models(bench, host):
    some = trio(bench, "full")[:2]
    mean = average(some, host)
    key = next(k for k in mean.tensors if k.endswith("query.weight"))
    assert torch.allclose(mean.tensors[key], (some[0].tensors[key] + some[1].tensors[key]) / 2, atol=1e-7)


def test_sparse_storage_is_filled_in_from_the_base(bench, host, tmp_path):
    some = trio(bench, "full", **SPARSE)
    base = {n: p.detach().clone() for n, p in host.named_parameters()}
    mean = average(some, host)
    for key, at in ((k, v) for k, v in some[0].tensors.items() if k.endswith("#at")):
        path = key.removeprefix("base.").removesuffix("#at")
        wanted = torch.zeros(base[path].numel(), dtype=torch.float64)
        for one in some:
            full = base[path].flatten().clone()
            full[one.tensors[f"base.{path}#at"].long()] = one.tensors[f"base.{path}#to"]
            wanted += full.double() / 3
        assert at.numel() <= base[path].numel()
        assert torch.allclose(mean.tensors[f"base.{path}"].flatten().double(), wanted, atol=1e-7)
    adapter = state.restore(host, mean)
    state.save(tmp_path / "mean", adapter, mean.meta, mean.head)
    assert any(k.endswith("#at") for k in state.read(tmp_path / "mean").tensors)  # the union of the places is still sparse


def test_one_sparse_and_one_dense_adapter_have_a_mean(bench, host):
    sparse, dense = trio(bench, "full", **SPARSE)[0], trio(bench, "full")[1]
    mean = average([sparse, dense], host)
    key = next(k for k in dense.tensors if "layernorm" in k.lower())  # frozen in the sparse one
    base = dict(host.named_parameters())[key.removeprefix("base.")]
    assert torch.allclose(mean.tensors[key], (base + dense.tensors[key]) / 2, atol=1e-7)


def test_mismatches_are_one_sentence(bench, host):
    one, two = trio(bench)[:2]
    other = planted.stored(bench.run("bert", "full")[0])
    wider = planted.stored(bench.run("bert", config={"rank": 3})[0])
    renamed = replace(two, meta={**two.meta, "labels": ["a", "b"]})
    elsewhere = replace(two, meta={**two.meta, "base": {"sha256": "0" * 64}})
    cases = [
        ([one, other], None, "average needs adapters with the same method; got 'lora' and 'full'."),
        ([one, wider], None, "average needs adapters with the same config; got "),
        ([one, renamed], None, "average needs adapters with the same labels; got ['neg', 'pos'] and ['a', 'b']."),
        ([one, elsewhere], None, "average needs adapters of one base model; these belong to 2."),
        ([one, two], (1,), "average needs one weight per adapter that do not add up to 0; got [1.0] for 2."),
        ([one, two], (1, -1), "average needs one weight per adapter that do not add up to 0; got [1.0, -1.0] for 2."),
        ([], None, "average takes 1 or more adapters; got 0."),
    ]
    for adapters, weights, sentence in cases:
        with pytest.raises(WorkbenchError) as caught:
            average(adapters, host, weights)
        assert str(caught.value).startswith(sentence)
    with pytest.raises(WorkbenchError, match=r"average\.weights\.0 must be a number"):
        average([one], host, ["x"])
    with pytest.raises(WorkbenchError, match=r"average\.wieghts is not a known key; closest: weights"):
        operations.find("average")([one], host, {"wieghts": [1]})


def test_weights_that_are_no_finite_numbers_are_one_sentence(bench, host):
    some = trio(bench)[:2]
    for bad in ((float("nan"), 1.0), (float("inf"), 1.0)):
        with pytest.raises(WorkbenchError, match=r"^average\.weights\.0 must be a finite number"):
            average(some, host, bad)


# --- the registry -------------------------------------------------------------------------------------------------


def test_schemas_come_from_the_signatures():
    assert set(operations.names()) >= {"average", "phlora"}
    found = operations.schema("phlora")["properties"]
    assert (found["rank"]["minimum"], found["rank"]["maximum"], found["rank"]["default"]) == (1, 4096, 32)
    assert found["energy"]["default"] is None
    assert "weights" in operations.schema("average")["properties"]
    listed = {o["key"]: o for o in operations.listing()}
    assert listed["phlora"]["paper"]["url"].startswith("https://arxiv.org/")
    assert (listed["phlora"]["least"], listed["phlora"]["most"]) == (1, 1)
    assert listed["average"]["title"].startswith("Average: ")


def test_an_unknown_operation_gets_the_closest():
    with pytest.raises(WorkbenchError, match=r"no operation is called 'averge'; closest: average"):
        operations.find("averge")


def test_an_option_without_annotation_is_refused_at_import():
    from workbench.operations.contract import operation

    def careless(adapters, host, *, much=1):  # type: ignore[no-untyped-def]
        return adapters[0]

    with pytest.raises(TypeError, match="the option much of the operation careless must be annotated"):
        operation()(careless)
