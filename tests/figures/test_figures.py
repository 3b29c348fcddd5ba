"""Figures, tested on the data they hold; nothing is drawn."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from workbench import compare
from workbench.figures import axes, counts, curves, depth, drawn, front, many, pairs, quality, style

EVIL = "<script>alert(1)</script>"
ROWS = [
    {"label": label, "method": label, "seed": seed, "state": "finished", "run_id": f"{label}-{seed}", "trainable_params": size,
     "adapter_bytes": 10_000 + size, "peak_memory_bytes": 2e8 + 1e7 * seed, "train_seconds": 10.0 + seed,
     "metrics": {"accuracy": base + wobble[seed]}}
    for label, size, base, wobble in (
        ("head_only", 0, 0.6, (0, 0.01, 0.02)), ("lora", 73_728, 0.8, (0, 0.02, 0.01)), ("bitfit", 30_000, 0.7, (0.01, 0, 0.02)))
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


def frames(*rows):
    frame = compare.frame(rows or [*ROWS, LOST])
    return frame, compare.table(frame)


def judged(*rows):
    return compare.pairs(frames(*rows)[0], "accuracy")


def walk(value):
    """Every number and text of a figure as the browser gets it."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)
    else:
        yield value


def all_figures(label="lora"):
    """One of each figure, with a label of one's choice."""
    rows = [{**row, "label": label if row["label"] == "lora" else row["label"]} for row in ROWS]
    runs, table = frames(*rows)
    x, y = axes.axis("trainable_params"), axes.axis("accuracy")
    found = compare.front(runs, x.name, y.name, x.better, y.better)
    bands = compare.bands(pd.DataFrame({"label": [label] * 4, "step": [1, 1, 2, 2], "value": [0.1, 0.2, 0.3, 0.5]}))
    moved = [{"label": label, "seed": 0, "depth": d, "role": "attn.q", "value": 0.1 * d, "kind": "weight"} for d in (0, 1)]
    series = [{"name": label, "x": [label, "b"], "y": [1.0, 2.0], "low": [0.5, None], "high": [1.5, None], "text": None}]
    plain = {"title": "T", "x": "run", "y": "ms", "series": series, "reference": 1.0, "log_x": False, "log_y": True}
    heat = {
        "type": "heat",
        "title": "T",
        "x": "role",
        "y": "depth",
        "columns": [label],
        "rows": [0],
        "values": [[0.5]],
        "value": "v",
    }
    found_pairs = judged(*rows)
    return {
        "quality": quality.by_label(runs, table, "accuracy"),
        "forest": pairs.forest(found_pairs, runs, "points"),
        "verdicts": pairs.verdicts(found_pairs, "points"),
        "front": front.front(runs, found, x, y),
        "bands": curves.bands(bands, "Accuracy"),
        "live_loss": curves.live_loss([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], label),
        "live_metric": curves.live_metric([{"step": 2, "split": "test", "metrics": {"accuracy": 0.6}}], "accuracy", label),
        "confusion": counts.confusion([label, "b"], [[3, 1], [0, 2]]),
        "balance": counts.balance({label: {"train": 5, "test": 1}, "b": {"train": 2}}),
        "parallel": many.parallel(runs, [axes.axis("trainable_params"), axes.axis("peak_memory_bytes")], axes.axis("accuracy")),
        "movement": depth.movement(pd.DataFrame(moved), "weight"),
        "bars": drawn.drawn({"type": "bars", **plain}),
        "points": drawn.drawn({"type": "points", **plain}),
        "lines": drawn.drawn({"type": "lines", **plain}),
        "heat": drawn.drawn(heat),
    }


@pytest.mark.parametrize("name", all_figures())
def test_every_figure_describes_itself_and_holds_no_nan_and_no_markup(name):
    figure = all_figures(EVIL)[name]
    values = list(walk(json.loads(figure.to_json())))
    assert not any(isinstance(v, float) and not math.isfinite(v) for v in values)
    assert len(style.alt(figure)) > 12
    shown = [v for v in values if isinstance(v, str) and v not in (EVIL, style.alt(figure))]  # those two are never markup
    assert not any("<script" in v for v in shown)
    json.loads(figure.to_json(), parse_constant=lambda text: pytest.fail(text))


def test_quality_has_a_dot_per_run_a_mean_per_method_and_its_interval_best_on_top():
    figure = quality.by_label(*frames(), "accuracy")
    dots, *means = figure.data
    assert [t.name for t in means] == ["head_only", "bitfit", "lora"]
    assert list(figure.layout.yaxis.categoryarray) == ["head_only", "bitfit", "lora"]
    assert [list(dots.y).count(name) for name in ("head_only", "bitfit", "lora")] == [3, 3, 3]
    assert len(set(dots.marker.color)) == 3
    low, high = compare.interval(np.array([0.8, 0.82, 0.81]))
    assert means[2].error_x.array[0] == pytest.approx(high - 0.81)
    assert means[2].error_x.arrayminus[0] == pytest.approx(0.81 - low)
    assert "over 3 seeds" in means[2].hovertext[0]
    assert figure.layout.xaxis.range[0] < 0.6
    assert figure.layout.xaxis.range[1] > 0.82
    assert "lora 0.810" in style.alt(figure)


def test_one_seed_has_no_interval_and_nothing_finished_no_traces():
    figure = quality.by_label(*frames(ROWS[0]), "accuracy")
    assert figure.data[1].error_x.array is None
    assert "one seed, no interval" in figure.data[1].hovertext[0]
    assert quality.by_label(*frames(LOST), "accuracy").data == ()


def test_where_less_is_better_the_least_stands_on_top():
    figure = quality.by_label(*frames(), "accuracy", higher=False)
    assert figure.data[-1].name == "head_only"


def test_the_headline_says_what_is_known_and_what_rests_on_one_seed():
    table = frames()[1]
    said = quality.headline(table, judged(), "accuracy")
    assert said.startswith("lora has the highest mean accuracy: 0.810")
    assert "really better than head_only" in said
    few = [row for row in ROWS if row["seed"] == 0]
    once = {"a": "lora", "b": "bitfit", "n": 1, "verdict": "better"}
    single = pd.DataFrame([once, {"a": "head_only", "b": "lora", "n": 2, "verdict": "cannot tell"}])
    said = quality.headline(compare.table(compare.frame(few)), single, "accuracy")
    assert "one seed they share it is better than bitfit, which is about these adapters only" in said
    assert "cannot be told apart from head_only" in said
    assert "really better" not in said
    assert quality.headline(frames(LOST)[1], single.iloc[:0], "accuracy") == "No run has finished yet."


def test_the_forest_is_sorted_in_points_with_a_dot_per_common_seed():
    figure = pairs.forest(judged(), frames()[0], "points")
    seeds, better, worse, unsure = figure.data
    assert list(figure.layout.yaxis.categoryarray) == ["head_only − lora", "head_only − bitfit", "lora − bitfit"]
    assert len(seeds.x) == 9
    drawn_pairs = {y: x for t in (better, worse, unsure) for x, y in zip(t.x, t.y)}
    assert drawn_pairs["head_only − lora"] == pytest.approx(-20.0)
    assert "head_only − lora" in worse.y
    assert figure.layout.shapes[0].x0 == 0
    assert "(points)" in figure.layout.xaxis.title.text


def test_a_pair_without_an_interval_is_hollow_and_one_without_a_difference_is_left_out():
    made = judged()
    made.loc[0, ["ci_low", "ci_high"]] = np.nan
    made.loc[1, "difference"] = np.nan
    figure = pairs.forest(made, frames()[0])
    symbols = [s for t in figure.data[1:] for s in t.marker.symbol or ()]
    assert sum(s.endswith("-open") for s in symbols) == 1
    assert sum(len(t.x) for t in figure.data[1:]) == 2


def test_verdicts_mirror_each_other():
    heat, text = pairs.verdicts(judged(), "points").data
    names = list(heat.x)
    z = {(a, b): heat.z[i][j] for i, a in enumerate(names) for j, b in enumerate(names)}
    assert z["lora", "head_only"] == 1
    assert z["head_only", "lora"] == -1
    assert z["lora", "lora"] is None
    cells = {(y, x): t for x, y, t in zip(text.x, text.y, text.text)}
    assert cells["lora", "head_only"] == "▲ +20.0"
    assert cells["head_only", "lora"] == "▼ −20.0"


def fronts(x="trainable_params", y="accuracy", rows=()):
    runs = frames(*rows)[0]
    left, up = axes.axis(x), axes.axis(y)
    found = compare.front(runs, x, y, left.better, up.better)
    return front.front(runs, found, left, up), found


def test_the_front_has_crosses_rings_and_a_place_for_zero_on_the_log_axis():
    figure, found = fronts()
    means = {t.name: t for t in figure.data if t.marker.size == 13}
    assert means["lora"].error_y.array[0] > 0
    assert means["lora"].marker.line.width == 3
    assert list(found["pareto"]) == [True, True, True]
    zero = means["head_only"].x[0]
    assert 0 < zero < 30_000 / 10
    axis = figure.layout.xaxis
    assert axis.type == "log"
    assert dict(zip(axis.tickvals, axis.ticktext))[zero] == "0"
    assert "73,728" in means["lora"].hovertext[0]
    assert [d[0] for t in figure.data[1:] for d in t.customdata].count("lora") == 4  # three runs and their mean


def test_memory_is_in_megabytes_and_the_beaten_have_no_ring():
    figure, found = fronts("peak_memory_bytes")
    dots = next(t for t in figure.data if t.marker.size == 7)
    assert list(dots.x)[:3] == pytest.approx([200, 210, 220])
    beaten = [label for label, on in zip(found["label"], found["pareto"]) if not on]
    assert beaten
    assert all(t.marker.line.width == 1 for t in figure.data if t.marker.size == 13 and t.name in beaten)
    assert "(MB)" in figure.layout.xaxis.title.text


def test_standing_says_over_what_the_probability_is():
    said = front.standing({"pareto": True, "probability": 0.5, "over": "rows"})
    assert said.endswith("50 % of the draws (over test rows only: one seed)")
    assert "no probability" in front.standing({"pareto": False, "probability": float("nan"), "over": ""})


def test_bands_have_a_line_per_label_and_an_area_where_seeds_allow():
    points = [{"label": "lora", "step": s, "value": v + s} for s in (1, 2) for v in (0.0, 0.2)]
    figure = curves.bands(compare.bands(pd.DataFrame([*points, {"label": "full", "step": 1, "value": 3.0}])), "Accuracy")
    area = [t for t in figure.data if t.fill == "toself"]
    lines = [t for t in figure.data if t.fill is None]
    assert [t.name for t in lines] == ["lora", "full"]
    assert list(lines[0].y) == pytest.approx([1.1, 2.1])
    assert len(area) == 1
    assert len(area[0].x) == 4
    assert lines[0].line.dash != lines[1].line.dash
    assert curves.bands(pd.DataFrame(columns=["label", "step", "mean", "ci_low", "ci_high", "n"]), "Loss").data == ()


def test_long_curves_are_thinned_and_keep_their_last_step():
    points = pd.DataFrame({"label": "lora", "step": range(1, 1001), "value": np.linspace(2, 1, 1000)})
    line = curves.bands(compare.bands(points), "Loss").data[0]
    assert len(line.x) == 100
    assert line.x[-1] == 1000


def test_live_curves_leave_gaps_out():
    steps = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0}]
    assert list(curves.live_loss(steps, "lora").data[0].x) == [1, 3]
    evaluations = [
        {"step": 2, "split": "validation", "metrics": {"accuracy": 0.5}},
        {"step": 3, "split": "test", "metrics": {"accuracy": 0.6}},
    ]
    figure = curves.live_metric(evaluations, "accuracy", "lora")
    assert [(t.name, list(t.y)) for t in figure.data] == [("validation", [0.5]), ("test", [0.6])]


def test_confusion_and_balance_show_counts():
    figure = counts.confusion(["a", "b"], [[3, 1], [0, 2]])
    assert [list(row) for row in figure.data[0].z] == [[3, 1], [0, 2]]
    weak, strong = figure.data[1:]  # the stronger half is white on blue, the rest takes the page's colour
    assert list(zip(weak.y, weak.x, weak.text)) == [("a", "b", "1")]
    assert list(zip(strong.y, strong.x, strong.text)) == [("a", "a", "3"), ("b", "b", "2")]
    assert (weak.textfont.color, strong.textfont.color) == (None, "white")
    assert "5 of 6 rows are right" in style.alt(figure)
    assert "a taken for b" in style.alt(figure)
    bars = counts.balance({"a": {"train": 5, "test": 1}, "b": {"train": 2}})
    assert [t.name for t in bars.data] == ["train", "validation", "test"]
    assert list(bars.data[0].y) == ["b", "a"]


def test_parallel_coordinates_put_the_best_on_top_and_leave_out_what_no_run_has():
    figure = many.parallel(frames()[0], [axes.axis("trainable_params"), axes.axis("latency_merged")], axes.axis("accuracy"))
    assert list(figure.layout.xaxis.ticktext) == ["Trainable parameters", "<b>Accuracy</b>"]  # no run has a latency
    lines = {t.name: t for t in figure.data if t.mode == "lines"}
    means = {t.name: t for t in figure.data if t.mode == "lines+markers"}
    assert [len(lines[n].y) for n in ("head_only", "lora", "bitfit")] == [9, 9, 9]  # three runs, two axes, a gap each
    assert means["head_only"].y[0] == 1.0  # the fewest parameters are best
    assert means["lora"].y[0] == 0.0
    assert max(v for v in lines["lora"].y[1::3]) == 1.0
    assert "seed 1<br>Trainable parameters 73,728" in lines["lora"].hovertext[3]
    ends = dict(zip(zip(figure.data[-1].x, figure.data[-1].y), figure.data[-1].text))
    assert (ends[0, 0.0], ends[0, 1.0]) == ("<br>73,728", "0<br>")
    assert many.parallel(frames(LOST)[0], [], axes.axis("accuracy")).data == ()


def test_movement_is_a_mean_over_seeds_by_depth_and_role_on_decades():
    rows = [
        {"label": "lora", "seed": s, "depth": d, "role": r, "value": v, "kind": "weight"}
        for s, d, r, v in ((0, 0, "attn.q", 0.1), (1, 0, "attn.q", 0.3), (0, 1, "attn.v", 1.0), (0, -1, "norms", 0.0))
    ]
    heat = depth.movement(pd.DataFrame(rows), "weight").data[0]
    assert list(heat.y) == ["outside", "0", "1"]
    cells = {(y, x): (z, t) for y, zs, ts in zip(heat.y, heat.z, heat.text) for x, z, t in zip(heat.x, zs, ts)}
    assert cells["0", "attn.q"] == (pytest.approx(math.log10(0.2)), "0.2")
    assert cells["1", "attn.q"] == (None, "")
    assert cells["outside", "norms"][1] == "0"
    assert depth.movement(pd.DataFrame(rows), "activation").data == ()


def test_figures_of_analyses_are_drawn_as_described():
    made = all_figures()
    bars = made["bars"].data[0]
    assert list(bars.y) == [1.0, 2.0]
    assert list(bars.error_y.array) == [0.5, 0]
    assert made["bars"].layout.shapes[0].y0 == 1.0
    assert made["bars"].layout.yaxis.type == "log"
    assert made["points"].data[0].mode == "markers"
    assert [list(row) for row in made["heat"].data[0].z] == [[0.5]]


def test_a_label_keeps_its_colour_and_eight_labels_differ():
    labels = ["lora", "dora", "full", "bitfit", "ia3", "head_only", "houlsby_adapter", "loreft"]
    assert len(set(style.colours(labels).values())) == len(labels)
    assert len(set(style.symbols(labels).values())) == len(labels)
    assert style.colours(["lora"])["lora"] == style.colours(["lora"])["lora"]
    assert style.colours(labels) == style.colours(reversed(labels))
