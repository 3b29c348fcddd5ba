"""Statistics against scipy, closed forms, brute force and simulation."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workbench.compare import bands, frame, interval, pareto, records, summaries, summary, table
from workbench.core.errors import WorkbenchError


@pytest.fixture
def rows() -> pd.DataFrame:
    """Two methods, five runs, one of them failed and one measured beside others."""
    finished = [
        ("lora", 0, 0.7, 10.0, False),
        ("lora", 1, 0.8, 12.0, False),
        ("lora", 2, 0.9, 99.0, True),
        ("head_only", 0, 0.5, 4.0, False),
    ]
    usual = {"state": "finished", "trainable_params": 64, "predicted": {"train_seconds": 1.0}}
    made: list[dict] = [
        usual
        | {"label": label, "method": label.upper(), "seed": seed, "train_seconds": seconds, "neighbours": near}
        | {"metrics": {"accuracy": accuracy}}
        for label, seed, accuracy, seconds, near in finished
    ]
    made.append({"label": "lora", "method": "LORA", "seed": 3, "state": "failed", "metrics": None})
    return frame(made)


def test_interval_equals_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert interval(values, 0.9) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_interval_of_two_values_in_closed_form() -> None:
    # for n = 2: t = tan(pi * 0.95 / 2) and s / sqrt(2) = |a - b| / 2
    half = math.tan(math.pi * 0.95 / 2) * 0.5
    assert interval(np.array([1.0, 2.0])) == pytest.approx((1.5 - half, 1.5 + half), rel=1e-9)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_one_run_has_no_interval(values: list[float]) -> None:
    assert all(math.isnan(bound) for bound in interval(np.array(values)))


def test_interval_covers_as_often_as_it_says() -> None:
    samples = np.random.default_rng(1).normal(0.8, 0.02, (2000, 5))
    bounds = np.array([interval(sample) for sample in samples])
    covered = ((bounds[:, 0] <= 0.8) & (bounds[:, 1] >= 0.8)).mean()
    assert 0.93 <= covered <= 0.97


def test_summary_uses_finished_runs(rows: pd.DataFrame) -> None:
    lora, head = records(summary(rows, "accuracy"))
    low, high = interval(np.array([0.7, 0.8, 0.9]), bounds=(0, 1))
    assert list(lora) == ["label", "method", "metric", "n", "mean", "ci_low", "ci_high"]
    assert list(lora.values()) == ["lora", "LORA", "accuracy", 3, pytest.approx(0.8), pytest.approx(low), pytest.approx(high)]
    assert (head["n"], head["mean"], head["ci_low"], head["ci_high"]) == (1, 0.5, None, None)


def test_timings_beside_other_runs_do_not_count(rows: pd.DataFrame) -> None:
    lora = summary(rows, "train_seconds").iloc[0]
    assert (lora["n"], lora["mean"]) == (2, 11.0)
    assert summary(rows, "trainable_params").iloc[0]["n"] == 3


def test_a_method_without_finished_runs_has_a_line(rows: pd.DataFrame) -> None:
    only = rows[rows["state"] == "failed"]
    assert records(summary(only, "accuracy")) == [
        {"label": "lora", "method": "LORA", "metric": "accuracy", "n": 0, "mean": None, "ci_low": None, "ci_high": None}
    ]


def test_values_that_are_not_finite_are_left_out(rows: pd.DataFrame) -> None:
    rows.loc[0, "metrics.accuracy"] = math.inf
    assert summary(rows, "accuracy").iloc[0]["n"] == 2


def test_unknown_metric_is_one_sentence(rows: pd.DataFrame) -> None:
    with pytest.raises(WorkbenchError, match="no metric is called 'acuracy'; closest: accuracy"):
        summary(rows, "acuracy")


def test_summaries_are_valid_json(rows: pd.DataFrame) -> None:
    found = json.loads(json.dumps(records(summaries(rows)), allow_nan=False))
    assert {(r["label"], r["metric"]) for r in found} == {
        (label, metric) for label in ("lora", "head_only") for metric in ("accuracy", "trainable_params", "train_seconds")
    }
    assert summaries(frame([])).empty


def test_table_has_a_line_per_label(rows: pd.DataFrame) -> None:
    found = table(rows).set_index("label")
    assert list(found.index) == ["lora", "head_only"]
    assert found.loc["lora", ["runs", "n"]].tolist() == [4, 3]
    assert found.loc["lora", "accuracy"] == pytest.approx(0.8)
    assert math.isnan(found.loc["head_only", "accuracy.ci_low"])
    assert table(frame([])).empty


def test_records_hold_plain_values() -> None:
    odd = pd.DataFrame({"a": [np.float32("nan"), 1.0], "b": [pd.NaT, pd.Timestamp(0)], "c": [{"x": np.inf}, [np.int64(1), None]]})
    assert records(odd) == [
        {"a": None, "b": None, "c": {"x": None}},
        {"a": 1.0, "b": "1970-01-01 00:00:00", "c": [1, None]},
    ]
    assert type(records(pd.DataFrame({"n": [1]}))[0]["n"]) is int


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25)


@given(points, st.sampled_from(["higher", "lower"]), st.sampled_from(["higher", "lower"]))
def test_pareto_equals_brute_force(values: list[tuple[int, int]], x_better: str, y_better: str) -> None:
    given_rows = pd.DataFrame(values, columns=["x", "y"], dtype=float, index=[f"row {i}" for i in range(len(values))])
    signs = [1 if better == "higher" else -1 for better in (x_better, y_better)]
    scored = [(x * signs[0], y * signs[1]) for x, y in values]
    expected = [not any(a >= x and b >= y and (a, b) != (x, y) for a, b in scored) for x, y in scored]
    found = pareto(given_rows, "x", "y", x_better, y_better)
    assert found.tolist() == expected
    assert found.index.equals(given_rows.index)


def test_pareto_never_marks_what_is_missing() -> None:
    given_rows = pd.DataFrame({"x": [1.0, None, 3.0], "y": [1.0, 9.0, None]})
    assert pareto(given_rows, "x", "y", "lower", "higher").tolist() == [True, False, False]
    with pytest.raises(WorkbenchError, match="must be higher or lower; got 'up'"):
        pareto(given_rows, "x", "y", "up", "lower")
    with pytest.raises(WorkbenchError, match="no column is called 'z'"):
        pareto(given_rows, "z", "y", "lower", "lower")


def test_bands_agree_with_interval() -> None:
    values = [("b", 1, 0.4), ("b", 1, 0.6), ("b", 2, 0.7), ("a", 1, 0.1), ("a", 1, 0.2), ("a", 1, 0.6), ("a", 1, math.nan)]
    found = bands(pd.DataFrame(values, columns=["label", "step", "value"]))
    assert found[["label", "step", "n"]].to_numpy().tolist() == [["b", 1, 2], ["b", 2, 1], ["a", 1, 3]]
    assert found.loc[2, ["ci_low", "ci_high"]].tolist() == pytest.approx(interval(np.array([0.1, 0.2, 0.6])))
    assert found.loc[1, ["ci_low", "ci_high"]].isna().all()
    assert bands(pd.DataFrame(columns=["label", "step", "value"])).empty
