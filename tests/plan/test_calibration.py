"""What past predictions teach: a planted bias is found and taken back, whatever was corrected before."""

import random
import statistics

import pytest

from tests.train import planted
from workbench.plan import ENOUGH, FORMULA, Factor, Past, Plan, learn


def test_no_run_teaches_nothing():
    assert learn([]) == Factor()
    assert learn([Past(0.0, 0.0, 5.0), Past(3.0, 3.0, 0.0)]).n == 0
    assert Factor().by == 1.0


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_a_planted_factor_is_found_and_used_from_three_runs_on(n):
    found = learn([Past(10.0, 10.0, 15.0)] * n)
    assert (found.n, found.factor) == (n, 1.5)
    assert found.error == pytest.approx(1 / 3)
    assert found.used == (n >= ENOUGH)
    assert found.by == (1.5 if n >= ENOUGH else 1.0)
    assert (found.low is None) == (n < 2)


def test_a_corrected_prediction_is_not_corrected_twice():
    rng, truth, past = random.Random(0), 1.8, []
    for _ in range(40):  # each prediction is shown with what was known by then
        raw = rng.uniform(5, 50)
        past.append(Past(raw, raw * learn(past).by, raw * truth * rng.uniform(0.95, 1.05)))
    found = learn(past)
    assert found.factor == pytest.approx(truth, rel=0.02)
    assert found.low < found.factor < found.high
    late = statistics.median(abs(p.said - p.measured) / p.measured for p in past[10:])
    assert late < 0.06
    assert learn(past[:3]).error > 0.4


def test_a_wild_run_hardly_moves_the_factor():
    found = learn([Past(10.0, 10.0, 12.0)] * 6 + [Past(10.0, 10.0, 900.0)])
    assert found.factor == 1.2


def test_a_plan_shows_calibrated_figures_and_remembers_both():
    plan = Plan(new_params=7, peak_memory_bytes=1000, train_seconds=2.0, steps=4, memory_factor=1.5, seconds_factor=0.5)
    assert plan.predicted() == {"trainable_params": 7, "peak_memory_bytes": 1500, "train_seconds": 1.0}
    assert plan.raw() == {"trainable_params": 7, "peak_memory_bytes": 1000, "train_seconds": 2.0}
    assert plan.seconds_per_step() == 0.25
    kept = plan.remembered()
    assert kept.items() >= plan.predicted().items()
    assert (kept["raw_peak_memory_bytes"], kept["raw_train_seconds"], kept["steps"], kept["formula"]) == (1000, 2.0, 4, FORMULA)


def test_a_run_leaves_its_prediction_beside_what_was_measured(tmp_path):
    spec = planted.spec(planted.base("bert", tmp_path / "base"), planted.TASKS["bert"], planted.rows("bert", tmp_path / "rows"))
    kept = Plan(new_params=7, peak_memory_bytes=1000, train_seconds=2.0, steps=4).remembered()
    result = planted.go(spec.model_copy(update={"predicted": kept}), tmp_path / "run")
    assert result["predicted"] == kept
    assert result["steps"] == kept["steps"]
    assert {"peak_memory_bytes", "memory_kind", "precision", "base_sha256", "neighbours"} <= result.keys()
