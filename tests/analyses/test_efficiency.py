"""Cost to convergence: from a run's own history, against the full run beside it, in words that follow from the figures."""

import pytest

from tests.analyses.conftest import disturb
from workbench.analyses.efficiency import NOTHING, best, partner, per_example, same
from workbench.analyses.efficiency import efficiency as analysis
from workbench.core.errors import WorkbenchError
from workbench.tasks import find

TEXT, LM = find("text_classification"), find("causal_lm")


def curve(*values, metric="accuracy", seconds=1.0, every=2):
    """A history with these validation values, one every so many steps of 4 examples."""
    steps = [every * (i + 1) for i in range(len(values))]
    return [
        {"step": s, "seconds": seconds * s, "examples": 4 * s, "metrics": {metric: v}} for s, v in zip(steps, values, strict=True)
    ]


@pytest.fixture
def versus(plant):
    """versus(history of lora, history of full, **row of lora) -> the result for the two."""

    def make(mine, full, **row):
        sizes = {"adapter_bytes": 10, "metrics": {"accuracy": 0.8}, "neighbours": False}
        runs = [
            plant("bert", "lora", history=mine, **{**sizes, **row}),
            plant("bert", "full", history=full, **{**sizes, "adapter_bytes": 1000}),
        ]
        return analysis(runs, {"batches": 1})

    return make


def of(result, label="lora"):
    return next(r for r in result.tables["runs"].to_dict("records") if r["label"] == label)


def ratios(result, label="lora"):
    return {r["figure"]: r["ratio"] for r in result.tables["ratios"].to_dict("records") if r["label"] == label}


@pytest.mark.parametrize(("task", "values", "step"), [
    (TEXT, (0.5, 0.9, 0.7), 4), (TEXT, (0.5, 0.9, 0.9), 4), (TEXT, (0.3,), 2),
    (LM, (9.0, 4.0, 5.0), 4), (LM, (9.0, 4.0, 4.0), 4),
])  # fmt: skip
def test_the_best_validation_is_the_first_best_one_in_the_metrics_direction(task, values, step):
    assert best(curve(*values, metric=task.metric), task)["step"] == step
    assert best([], task) is None


def test_the_same_quality_is_reached_when_the_goal_is_met_up_to_the_tolerance():
    points = curve(0.5, 0.795, 0.81)
    assert same(points, TEXT, 0.8, 0.01)["step"] == 4
    assert same(points, TEXT, 0.8, 0.0)["step"] == 6
    assert same(points, TEXT, 0.9, 0.01) is None
    lower = curve(9.0, 5.04, 4.9, metric="perplexity")
    assert same(lower, LM, 5.0, 0.01)["step"] == 4
    assert same(lower, LM, 5.0, 0.0)["step"] == 6


def test_a_cheaper_method_is_worth_it(versus):
    result = versus(curve(0.6, 0.8, 0.8, seconds=0.5), curve(0.5, 0.7, 0.8))
    row = of(result)
    assert (row["steps_to_best"], row["seconds_to_best"], row["steps_to_same"], row["seconds_to_same"]) == (4, 2.0, 4, 2.0)
    assert ratios(result)["seconds_to_same"] == pytest.approx(2 / 6)
    assert result.sentences == [
        "lora: it is worth it: it reaches full fine-tuning's best validation accuracy (within 1%) at 0.33 times the seconds; "
        "a task takes 1.00% of its stored bytes."
    ]


def test_a_dearer_method_is_not(versus):
    result = versus(curve(0.6, 0.7, 0.8, seconds=2), curve(0.8, 0.7, 0.7))
    assert "not worth it for the training alone" in result.sentences[0]
    assert "at 6.00 times the seconds" in result.sentences[0]


def test_one_that_never_gets_there_is_not(versus):
    result = versus(curve(0.6, 0.7), curve(0.8))
    assert "does not reach full fine-tuning's best validation accuracy (within 1%) in any of 1 run" in result.sentences[0]
    assert of(result)["seconds_to_same"] is None
    assert "seconds_to_same" not in ratios(result)


def test_times_of_a_run_with_neighbours_are_not_used(versus):
    result = versus(curve(0.9), curve(0.8), neighbours=True)
    assert of(result)["seconds_to_best"] is None
    assert "its seconds are not known or were shared" in result.sentences[0]
    assert ratios(result)["flops_to_same"] < 1


def test_operations_follow_from_the_examples_seen_and_what_trains(versus):
    result = versus(curve(0.5, 0.8), curve(0.5, 0.8))
    mine, full = of(result), of(result, "full")
    for row in (mine, full):
        assert row["flops_to_best"] == row["flops_per_example"] * 4 * row["steps_to_best"]
    assert 1 / 3 < mine["flops_per_example"] / full["flops_per_example"] < 1
    assert ratios(result)["flops_to_best"] == pytest.approx(mine["flops_per_example"] / full["flops_per_example"])
    assert ratios(result, "full") == pytest.approx(dict.fromkeys(ratios(result, "full"), 1.0))


def test_without_a_full_run_there_is_one_sentence(plant):
    alone = [plant("bert", "lora"), plant("bert", "full", experiment="another")]
    result = analysis(alone[:1], {})
    assert result.sentences == [NOTHING]
    assert result.tables["runs"].empty
    assert partner(alone[0], alone) is None


def test_the_partner_is_the_full_run_of_the_same_seed(plant):
    full = [plant("bert", "full", seed=seed) for seed in (0, 1)]
    runs = [*full, plant("bert", "lora", seed=1), plant("bert", "lora", seed=7)]
    assert [partner(run, runs).seed for run in runs] == [0, 1, 1, 0]


def test_an_interval_needs_seeds(plant):
    runs = [plant("bert", m, seed=s, history=curve(0.8, seconds=t)) for m, s, t in (
        ("full", 0, 1.0), ("full", 1, 1.0), ("lora", 0, 0.5), ("lora", 1, 0.7), ("bitfit", 0, 0.5),
    )]  # fmt: skip
    result = analysis(runs, {"batches": 1})
    rows = {(r["label"], r["figure"]): r for r in result.tables["ratios"].to_dict("records")}
    several, one = rows["lora", "seconds_to_best"], rows["bitfit", "seconds_to_best"]
    assert (several["n"], several["ratio"]) == (2, pytest.approx(0.6))
    assert several["ci_low"] == pytest.approx(0.6 - 12.706 * 0.1, abs=1e-3)
    assert (one["n"], one["ci_low"], one["ci_high"]) == (1, None, None)
    assert [s["name"] for s in result.figures["cost_quality"]["series"]] == ["full", "lora", "bitfit"]
    assert result.figures["ratios"]["reference"] == 1.0


def test_operations_are_null_with_a_sentence_where_the_data_is_gone(plant, monkeypatch):
    runs = [plant("bert", m, history=curve(0.8)) for m in ("lora", "full")]
    (runs[0].adapter.parent / "spec.yaml").unlink()
    with pytest.raises(WorkbenchError, match="the run is not here any more"):
        per_example(runs[0], 1)
    result = analysis(runs, {})
    assert of(result)["flops_to_best"] is None
    assert "the operations of lora s0 are not known: the run is not here any more." in result.sentences


def test_a_run_that_trains_nothing_costs_nothing(plant):
    assert per_example(plant("llama", "head_only"), 1) == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "vit"])
def test_every_task_is_counted(plant, family):
    lora, full = (per_example(plant(family, m, disturb()), 1) for m in ("lora", "full"))
    assert 0 < lora < full


@pytest.mark.parametrize(
    ("change", "words"),
    [({"row": {}}, "adapter without a run"), ({"row": {"task": "causal_lm"}}, "runs of one task; these are of causal_lm, text_")],
)
def test_what_has_no_history_to_compare_is_refused(plant, change, words):
    from dataclasses import replace

    with pytest.raises(WorkbenchError, match=words):
        analysis([plant("bert", "full"), replace(plant("bert", "lora"), **change)], {})
