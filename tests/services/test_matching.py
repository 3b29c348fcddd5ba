"""Matched runs as a person gets them: a spec that can be submitted, and what could not be matched."""

import pytest

from workbench.core.errors import WorkbenchError
from workbench.core.spec import parse_spec
from workbench.services import matching, plans


def entries(found):
    return {one["label"]: one for one in found["entries"]}


def test_equal_parameters(home, spec):
    spec["methods"] = [{"method": "lora", "rank": 16}, {"method": "bottleneck", "label": "wide"}, "bitfit", "dora"]
    found = matching.matched(spec, "lora")
    budget = found["target"]["trainable_params"]
    one = entries(found)
    assert found["target"] == {"label": "lora", "trainable_params": 12 * 16 * 2 * 384}
    assert one["wide"]["field"] == "bottleneck"
    assert abs(one["wide"]["off_by_share"]) < 0.1
    assert one["bitfit"]["reason"]
    assert any("bitfit stays as it is" in note for note in found["notes"])
    assert "head_only" not in one  # the row beside the methods comes by itself
    planned = {m["label"]: m for m in plans.plan(parse_spec(found["spec"]))["methods"]}
    assert list(planned) == ["lora", "wide", "bitfit", "dora", "head_only"]
    for label, entry in one.items():
        assert planned[label]["trainable_params"] == entry["trainable_params"]
        if entry["field"]:
            assert planned[label]["config"][entry["field"]] == entry["value"]
            assert planned[label]["trainable_params"] == pytest.approx(budget, rel=0.1)


def test_a_number_is_a_budget_too(home, spec):
    found = matching.matched(spec, "20000")
    assert found["target"] == {"label": None, "trainable_params": 20000}
    assert entries(found)["lora"]["value"] == 2
    assert matching.matched(spec, 20000) == found


def test_equal_time_is_predicted_and_said(home, spec):
    spec["methods"] = [{"method": "lora", "rank": 4}, {"method": "full", "training": {"max_steps": 5}}]
    spec["training"] = {"batch_size": 4, "max_length": 16, "epochs": 2}
    found = matching.matched(spec, "lora", "seconds")
    assert "predicted" in found["notes"][0]
    planned = {m["label"]: m for m in plans.plan(parse_spec(found["spec"]))["methods"]}
    target = found["target"]["train_seconds"]
    one = entries(found)
    for label in ("full", "head_only"):
        assert one[label]["field"] == "max_steps"
        assert planned[label]["steps"] == one[label]["value"]
        step = planned[label]["seconds_per_step"]
        assert abs(planned[label]["predicted"]["train_seconds"] - target) <= max(step, 0.3)
    assert planned["lora"]["steps"] < planned["head_only"]["steps"]


@pytest.mark.parametrize(
    ("to", "by", "words"),
    [
        ("lorra", "parameters", "closest: lora"),
        ("head_only", "parameters", "nothing besides the head"),
        (0, "parameters", "at least 1; got 0"),
        ("lora", "speed", "no way to match"),
        (100, "seconds", "no entry of methods"),
    ],
)
def test_bad_wishes_are_one_sentence(home, spec, to, by, words):
    with pytest.raises(WorkbenchError, match=words):
        matching.matched(spec, to, by)
