"""Matched sizes: the count that is solved for is the closest possible, for every method, and what cannot be matched says why."""

import pytest

from tests.contract import hosts
from tests.services.test_plan import WORK, entry, on_meta
from workbench import modifiers
from workbench.kernel import registry
from workbench.plan import Plan, matching
from workbench.plan.planner import count_method

HOSTS = {}


def shapes(family):
    """A tiny host on the meta device, built once."""
    if family not in HOSTS:
        real = hosts.host(family)
        HOSTS[family] = (on_meta(real), hosts.head(real))
    return HOSTS[family]


def count(family, one, field, value):
    """What the entry trains with this value; None where it is refused."""
    try:
        cfg = type(one.cfg).model_validate({**one.cfg.model_dump(), field: value})
    except ValueError:
        return None
    plan = count_method(*shapes(family), entry(one.label, cfg, modifiers=one.modifiers), WORK)
    return None if plan.problems else plan.trainable_params


@pytest.mark.parametrize("budget", [300, 2_000, 9_001])
@pytest.mark.parametrize("name", registry.keys())
def test_no_neighbour_comes_closer(name, budget):
    one = entry(name)
    found = matching.match(*shapes("bert"), one, WORK, budget)
    if found.reason:
        assert found.field is None
        return
    values = matching.sizes(one.cfg)[found.field]
    assert found.value in values
    assert count("bert", one, found.field, found.value) == found.trainable_params
    assert found.off == pytest.approx((found.trainable_params - budget) / budget)
    place = values.index(found.value)
    for step in (-2, -1, 1, 2):
        if 0 <= place + step < len(values) and (near := count("bert", one, found.field, values[place + step])) is not None:
            assert abs(near - budget) >= abs(found.trainable_params - budget)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_low_rank_count_is_solved_by_hand(family):
    one = entry("lora")
    per_rank = count(family, one, "rank", 1)
    found = matching.match(*shapes(family), one, WORK, 5 * per_rank + 1)
    assert (found.field, found.value, found.trainable_params) == ("rank", 5, 5 * per_rank)


@pytest.mark.parametrize("name", ["bitfit", "full", "ia3", "norm_tuning"])
def test_what_has_no_size_stays(name):
    found = matching.match(*shapes("bert"), entry(name), WORK, 100)
    assert found.field is found.value is None
    assert found.reason
    assert found.trainable_params == count_method(*shapes("bert"), entry(name), WORK).trainable_params


def test_what_trains_nothing_says_so():
    assert "nothing besides the head" in matching.match(*shapes("bert"), entry("head_only"), WORK, 100).reason


def test_a_budget_beyond_every_size_ends_at_the_largest_possible():
    found = matching.match(*shapes("bert"), entry("lora"), WORK, 10**9)
    assert found.value == 32  # the narrowest site
    assert found.off == pytest.approx(-1, abs=1e-3)


def test_a_modifier_is_counted_while_matching():
    sparse = (modifiers.resolve({"modifier": "sparse", "keep": 0.5, "score": "random"}),)
    plain, kept = (matching.match(*shapes("bert"), entry("lora", modifiers=m), WORK, 1024) for m in ((), sparse))
    assert kept.value == 2 * plain.value
    assert kept.trainable_params == plain.trainable_params


def test_seeds_and_placements_are_no_sizes():
    for key, cls in registry.methods().items():
        assert not {n for n in matching.sizes(cls.tiny) if n in ("roles", "depths") or n.endswith("seed")}, key


@pytest.mark.parametrize(
    ("seconds", "after", "steps"), [(10.0, 0, 100), (1.0, 0, 10), (0.01, 0, 1), (20.0, 0, 200), (10.0, 3, 40), (5.0, 3, 1)]
)
def test_steps_follow_from_the_predicted_time(seconds, after, steps):
    """A factor of 2 on 0.05 s a step and on the search after them, which no number of steps makes shorter."""
    plan = Plan(train_seconds=5.0 + after, after_seconds=after, steps=100, seconds_factor=2.0)
    assert matching.steps_for(plan, seconds) == steps
    assert plan.seconds_of(steps) == pytest.approx(0.1 * steps + 2 * after)
    assert matching.steps_for(Plan(train_seconds=0.0, steps=0), seconds) is None
