"""Figures, tested on the data they hold."""

import json
import math

import pandas as pd
import pytest

from workbench import compare
from workbench.ui import charts, tables, theme, words

ROWS = [
    {"label": label, "method": label, "seed": seed, "state": "finished", "trainable_params": size,
     "peak_memory_bytes": 2e8 + 1e7 * seed,
     "metrics": {"accuracy": base + 0.01 * seed}}
    for label, size, base in (("head_only", 0, 0.6), ("lora", 73_728, 0.8))
    for seed in (0, 1, 2)
]  # fmt: skip
LOST = {
    "label": "lora",
    "method": "lora",
    "seed": 3,
    "state": "failed",
    "trainable_params": None,
    "peak_memory_bytes": None,
    "metrics": {},
}


def holds_nan(figure):
    """Whether any number of a figure is not finite (null is allowed in JSON only where a trace leaves a gap)."""
    return any(
        isinstance(v, float) and not math.isfinite(v)
        for trace in figure.data
        for axis in (trace.x, trace.y)
        for v in (() if axis is None else axis)
    )


@pytest.fixture
def frames():
    frame = compare.frame([*ROWS, LOST])
    return frame, compare.table(frame)


@pytest.mark.parametrize("draw", [charts.parameters_quality, charts.memory_quality])
def test_a_dot_per_run_a_mean_per_method_and_its_interval(draw, frames):
    figure = draw(*frames, "accuracy")
    dots, means = figure.data[0::2], figure.data[1::2]
    assert [len(t.y) for t in dots] == [3, 3]
    assert [t.name for t in means] == ["head_only", "lora"]
    assert [t.y[0] for t in means] == pytest.approx([0.61, 0.81])
    low, high = compare.interval([0.8, 0.81, 0.82])
    assert means[1].error_y.array[0] == pytest.approx(high - 0.81)
    assert means[1].error_y.arrayminus[0] == pytest.approx(0.81 - low)
    assert not holds_nan(figure)
    assert "NaN" not in figure.to_json()
    assert figure.layout.yaxis.range[0] < 0.6
    assert figure.layout.yaxis.range[1] > 0.82


def test_parameters_are_on_a_log_axis_with_a_place_for_zero(frames):
    figure = charts.parameters_quality(*frames, "accuracy")
    assert figure.layout.xaxis.type == "log"
    zero = figure.data[1].x[0]
    assert 0 < zero < 73_728 / 10
    assert dict(zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext))[zero] == "0"
    assert "Trainable parameters" in figure.layout.xaxis.title.text
    assert "73,728" in figure.data[3].hovertext[0]


def test_memory_is_in_megabytes(frames):
    figure = charts.memory_quality(*frames, "accuracy")
    assert "(MB)" in figure.layout.xaxis.title.text
    assert list(figure.data[0].x) == pytest.approx([200, 210, 220])


def test_one_seed_has_no_bars_and_nothing_finished_no_traces():
    one = compare.frame(ROWS[:1])
    figure = charts.memory_quality(one, compare.table(one), "accuracy")
    assert figure.data[1].error_y.array is None
    none = compare.frame([LOST])
    assert charts.parameters_quality(none, compare.table(none), "accuracy").data == ()


def test_bands_have_a_line_per_label_and_an_area_where_seeds_allow():
    points = [{"label": "lora", "step": s, "value": v + s} for s in (1, 2) for v in (0.0, 0.2)] + [
        {"label": "full", "step": 1, "value": 3.0}
    ]
    figure = charts.bands(compare.bands(pd.DataFrame(points)), "Accuracy")
    area = [t for t in figure.data if t.fill == "toself"]
    lines = [t for t in figure.data if t.fill is None]
    assert [t.name for t in lines] == ["lora", "full"]
    assert list(lines[0].y) == pytest.approx([1.1, 2.1])
    assert len(area) == 1
    assert len(area[0].x) == 4
    assert not holds_nan(figure)
    assert charts.bands(pd.DataFrame(columns=["label", "step", "mean", "ci_low", "ci_high", "n"]), "Loss").data == ()


def test_live_curves_leave_gaps_out():
    steps = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0}]
    figure = charts.live_loss(steps, "lora")
    assert list(figure.data[0].x) == [1, 3]
    evaluations = [
        {"step": 2, "split": "validation", "metrics": {"accuracy": 0.5}},
        {"step": 3, "split": "test", "metrics": {"accuracy": 0.6}},
    ]
    figure = charts.live_metric(evaluations, "accuracy", "lora")
    assert [(t.name, list(t.y)) for t in figure.data] == [("validation", [0.5]), ("test", [0.6])]


def test_confusion_and_balance_show_counts():
    figure = charts.confusion(["a", "b"], [[3, 1], [0, 2]])
    assert [list(row) for row in figure.data[0].z] == [[3, 1], [0, 2]]
    assert list(zip(figure.data[1].y, figure.data[1].x, figure.data[1].text)) == [
        ("a", "a", "3"),
        ("a", "b", "1"),
        ("b", "b", "2"),
    ]
    bars = charts.balance({"a": {"train": 5, "test": 1}, "b": {"train": 2}})
    assert [t.name for t in bars.data] == ["train", "validation", "test"]
    assert list(bars.data[0].y) == ["b", "a"]


def test_a_label_keeps_its_colour_and_eight_labels_differ():
    labels = ["lora", "dora", "full", "bitfit", "ia3", "head_only", "houlsby_adapter", "loreft"]
    assert len(set(theme.colours(labels).values())) == len(labels)
    assert theme.colours(["lora"])["lora"] == theme.colours(["lora"])["lora"]
    assert theme.colours(labels) == theme.colours(reversed(labels))


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (words.count(73_728), "73,728"),
        (words.short(73_728), "73.7 k"),
        (words.size(211_996_672), "212 MB"),
        (words.duration(5.25), "5.2 s"),
        (words.duration(125), "2 min 05 s"),
        (words.duration(3725), "1 h 02 min"),
        (words.score(0.8125), "0.812"),
        (words.score(float("nan")), "–"),
        (words.title("macro_f1"), "Macro F1"),
        (words.rate(2e-3), "0.002"),
    ],
)
def test_numbers_for_people(said, text):
    assert said == text


def test_the_comparison_table_has_no_bare_numbers_and_csv_no_formulas(frames):
    table = tables.comparison(frames[1], ["accuracy"], "accuracy")
    assert list(table["Runs"]) == ["3 of 3", "3 of 4"]
    assert table["95 % interval"][0].startswith("0.5")
    assert table["Memory"][0] == "210 MB"
    text = tables.to_csv([{**ROWS[0], "label": "=1+1"}])
    assert "'=1+1" in text
    assert "metrics.accuracy" in text.splitlines()[0]
    assert json.loads(charts.confusion(["a"], [[1]]).to_json())


def test_a_selection_never_outlives_its_rows():
    assert tables.fingerprint([3, 2, 1]) == tables.fingerprint([3, 2, 1])
    assert len({tables.fingerprint(jobs) for jobs in ([3, 2, 1], [4, 3, 2, 1], [3, 1], [1, 2, 3])}) == 4
