"""Latency: what is timed against what, and the statistics; never a time itself (tests/bench/latency.py measures those)."""

import numpy as np
import pytest
import torch

from tests.analyses.conftest import disturb
from workbench.analyses.latency import inputs, variants
from workbench.analyses.latency import latency as analysis
from workbench.evaluate import evaluation, saved
from workbench.evaluate.latency import WARM_UP, in_turns, ratio


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "vit"])
def test_the_merged_model_is_a_plain_one_that_computes_what_the_adapter_does(plant, family):
    run = plant(family, "lora", disturb(0.1))
    _, models, reason = variants(run)
    assert list(models) == ["base", "unmerged", "merged"]
    assert reason == ""
    batch = inputs(models["base"], 3, 9)
    with torch.inference_mode():
        base, unmerged, merged = (evaluation.forward(m, batch).logits for m in models.values())
        _, untouched = run.base("cpu")
        own = evaluation.forward(untouched, batch)
    assert torch.allclose(unmerged, merged, atol=1e-4)
    assert not torch.allclose(base, unmerged, atol=1e-2)
    if family in ("llama", "gpt2"):  # elsewhere the head is the run's, not the fresh one
        assert torch.equal(base, own.logits)
    for name in ("base", "merged"):
        assert not hasattr(models[name], "workbench")
        assert not any("forward" in m.__dict__ for m in models[name].modules())


def test_equal_tensors_are_shared(plant):
    _, models, _ = variants(plant("bert", "lora", disturb()))
    places = [{n: t.data_ptr() for n, t in m.state_dict().items() if not n.startswith("workbench")} for m in models.values()]
    base, unmerged, merged = places
    assert base == unmerged
    assert {n for n in base if base[n] != merged[n]} == {
        f"bert.encoder.layer.{i}.attention.self.{role}.weight" for i in (0, 1) for role in ("query", "value")
    }


def test_base_tensors_that_trained_stand_in_the_merged_model(plant):
    run = plant("bert", "full", disturb())
    _, models, _ = variants(run)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(models["merged"].state_dict()[name], run.stored.tensors[f"base.{name}"])
    assert not torch.equal(models["base"].state_dict()[name], models["merged"].state_dict()[name])


@pytest.mark.parametrize("method", ["bottleneck", "prompt_tuning", "read_rnn"])
def test_what_cannot_be_merged_says_so_and_has_two_rows_a_batch(plant, method):
    run = plant("bert", method)
    result = analysis([run], {"batch_sizes": [1, 2], "tokens": 8})
    rows = result.tables["latency"].to_dict("records")
    assert [(r["batch_size"], r["variant"]) for r in rows] == [(1, "base"), (1, "unmerged"), (2, "base"), (2, "unmerged")]
    assert f"{method} cannot be merged" in result.sentences[0]
    assert result.per_run[run.reference]["latency_merged"] is None


def test_a_report_has_a_row_per_batch_and_variant(plant):
    run = plant("llama", "lora", disturb())
    result = analysis([run], {"batch_sizes": [2, 1], "tokens": 8})
    rows = result.tables["latency"].to_dict("records")
    assert [(r["batch_size"], r["variant"]) for r in rows] == [(b, v) for b in (2, 1) for v in ("base", "unmerged", "merged")]
    for row in rows:
        assert row["seconds"] > 0
        assert row["rounds"] == 30
        if row["variant"] == "base":
            assert row["ratio"] is None
        else:
            assert row["ci_low"] <= row["ratio"] <= row["ci_high"]
    first = {f"latency_{r['variant']}": r["seconds"] for r in rows if r["batch_size"] == 2}
    assert result.per_run == {run.reference: first}
    assert [s["name"] for s in result.figures["latency"]["series"]] == [f"lora s0 {v}" for v in ("base", "unmerged", "merged")]
    assert result.figures["latency"]["series"][0]["x"] == [2, 1]
    assert [s["name"] for s in result.figures["ratio"]["series"]] == ["unmerged", "merged"]
    assert result.figures["ratio"]["reference"] == 1.0


def test_variants_are_timed_in_turns():
    order = []
    found = in_turns({name: lambda name=name: order.append(name) for name in "abc"}, 30)
    assert order == list("abc") * (30 + WARM_UP)
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys("abc", 30)


def test_the_ratio_is_the_median_of_the_rounds_and_its_interval_covers_it():
    rng = np.random.default_rng(1)
    base = rng.gamma(9, 1e-3, 200)
    assert ratio(2 * base, base) == pytest.approx((2, 2, 2))
    middle, low, high = ratio(1.3 * base * rng.lognormal(0, 0.1, 200), base)
    assert low < middle < high
    assert low < 1.3 < high
    assert high - low < 0.1
    middle, low, high = ratio(rng.gamma(9, 1e-3, 400), rng.gamma(9, 1e-3, 400))
    assert low < 1 < high, "an A/A comparison is no difference"


def test_inputs_hold_no_padding(plant):
    run = plant("bert", "lora")
    host = saved.revive(run.stored, run.adapter).host
    batch = inputs(host, 3, 11)
    assert batch.inputs["input_ids"].shape == (3, 11)
    assert (batch.inputs["input_ids"] != host.config.pad_token_id).all()
    assert batch.inputs["attention_mask"].all()
