"""Tables of the screens: readable columns, and files that no spreadsheet runs."""

import pandas as pd

from workbench import compare
from workbench.figures import axes
from workbench.ui import rankings, tables

ROWS = [
    {"label": label, "method": label, "seed": seed, "state": state, "trainable_params": size,
     "peak_memory_bytes": 2e8 + 1e7 * seed,
     "metrics": {"accuracy": base + 0.01 * seed} if state == "finished" else {}}
    for label, size, base, seeds in (("head_only", 0, 0.6, 3), ("lora", 73_728, 0.8, 1))
    for seed in range(3)
    for state in ["finished" if seed < seeds else "failed"]
]  # fmt: skip


def test_the_comparison_table_has_no_bare_numbers_and_one_seed_no_interval():
    table = tables.comparison(compare.table(compare.frame(ROWS)), ["accuracy"], "accuracy")
    assert list(table["Runs"]) == ["3 of 3", "1 of 3"]
    assert table["95 % interval"][0].startswith("0.5")
    assert table["95 % interval"][1] == "one seed, no interval"
    assert table["Memory"][0] == "210 MB"


def test_csv_holds_no_formulas_and_labels_stay_text():
    text = tables.to_csv([{**ROWS[0], "label": "=1+1"}, {**ROWS[0], "label": "<script>alert(1)</script>"}])
    assert "'=1+1" in text
    assert "<script>alert(1)</script>" in text
    assert "metrics.accuracy" in text.splitlines()[0]


def test_verdicts_are_sorted_by_how_sure_they_are():
    pairs = pd.DataFrame(
        [
            {"sentence": "a", "verdict": "cannot tell", "p_holm": 0.5, "n": 3, "examples": 0},
            {"sentence": "b", "verdict": "worse", "p_holm": 0.00001, "n": 3, "examples": 500},
            {"sentence": "c", "verdict": "cannot tell", "p_holm": float("nan"), "n": 1, "examples": 0},
        ]
    )
    table = rankings.verdicts(pairs)
    assert list(table["In one sentence"]) == ["b", "a", "c"]
    assert list(table["Verdict"]) == ["▼ worse", "≈ cannot tell", "≈ cannot tell"]
    assert list(table["p (Holm)"]) == ["< 0.001", "0.50", "–"]


def test_standings_put_the_surest_first():
    found = pd.DataFrame(
        [
            {"label": "a", "x": 10.0, "y": 0.8, "pareto": False, "probability": 0.1, "over": "seeds"},
            {"label": "b", "x": 20.0, "y": 0.9, "pareto": True, "probability": float("nan"), "over": ""},
            {"label": "c", "x": 5.0, "y": 0.7, "pareto": True, "probability": 0.9, "over": "seeds"},
        ]
    )
    table = rankings.standings(found, axes.axis("trainable_params"), axes.axis("accuracy"))
    assert list(table["Method"]) == ["c", "b", "a"]
    assert table["On the front"].isna().tolist() == [False, True, False]


def test_disagreements_show_losses_where_nothing_is_right_or_wrong():
    nan = float("nan")
    rows = pd.DataFrame(
        [
            {"id": 1, "label": "x", "a_right": 1.0, "b_right": 0.5, "a_says": "x", "b_says": "y", "a_loss": 0.1, "b_loss": 1.0},
            {"id": 2, "label": "", "a_right": nan, "b_right": nan, "a_says": "", "b_says": "", "a_loss": 0.1, "b_loss": 1.0},
        ]
    )
    first = rankings.disagreements(rows[:1], {1: "the text"}, "lora", "full").iloc[0]
    assert first["Text"] == "the text"
    assert first["full"] == "50 % right, says y"
    assert rankings.disagreements(rows[1:], {}, "lora", "full").iloc[0]["Loss of full"] == 1.0


def test_a_selection_never_outlives_its_rows():
    assert tables.fingerprint([3, 2, 1]) == tables.fingerprint([3, 2, 1])
    assert len({tables.fingerprint(jobs) for jobs in ([3, 2, 1], [4, 3, 2, 1], [3, 1], [1, 2, 3])}) == 4
