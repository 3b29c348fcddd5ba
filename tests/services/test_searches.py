"""A list of learning rates from the spec to the plan and the RunSpecs; the trainings themselves are in tests/train."""

import pytest

from workbench.core.spec import parse_spec
from workbench.services import experiments, plans, tables


@pytest.fixture
def asked(spec, home):
    """A common list, an entry with its own list, one with its own number, and one that wants the default."""
    own = [[1e-3, 2e-3, 3e-3], 0.5, "auto", [7e-3]]
    methods = [{"method": "lora"}, *({"method": "lora", "training": {"learning_rate": rate}} for rate in own)]
    training = {**spec["training"], "learning_rate": [1e-2, 1e-3]}
    return parse_spec({**spec, "methods": methods, "training": training, "baseline": False})


def test_a_plan_shows_what_the_search_costs_beside_one_training(asked):
    found = plans.plan(asked)
    searches = [m["search"] for m in found["methods"]]
    assert [s and s["rates"] for s in searches] == [[1e-2, 1e-3], [1e-3, 2e-3, 3e-3], None, None, None]
    assert [m["learning_rate_source"] for m in found["methods"]][:3] == ["search over 2 rates", "search over 3 rates", "given"]
    one = found["methods"][0]["predicted"]["train_seconds"]
    assert searches[0]["seconds"] == pytest.approx(2 * one)
    assert "2 rates" in tables.plan(found)
    without = {**found, "methods": [m for m in found["methods"] if m["search"] is None]}
    assert "search" not in tables.plan(without)


def test_each_run_holds_all_its_rates(asked):
    runs = experiments.resolve(asked)
    assert len(runs) == 10  # methods x seeds; a search is no further run
    rates = [r.training.learning_rate for r in runs[::2]]
    assert rates == [(1e-2, 1e-3), (1e-3, 2e-3, 3e-3), 0.5, rates[3], 7e-3]
    assert isinstance(rates[3], float)
    assert runs[0].predicted == runs[1].predicted
    again = type(runs[0]).model_validate(runs[0].model_dump(mode="json"))
    assert again == runs[0]


def test_an_entry_may_not_mix_auto_into_its_list(spec, home):
    entry = {"method": "lora", "training": {"learning_rate": [1e-3, "auto"]}}
    (problem,) = plans.plan(parse_spec({**spec, "methods": [entry]}))["methods"][0]["problems"]
    assert problem == "training of lora.learning_rate: a list of learning rates must hold numbers only; got 'auto'."
