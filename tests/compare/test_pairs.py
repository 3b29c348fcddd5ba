"""Pairs, their sentences, the front and the guard, against scikit-learn, scipy and by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from tests.compare.simulated import answers, frames
from workbench.compare import FRONT, PAIRS, frame, front, guard, pairs, records, telling
from workbench.compare.crossed import Parts, half_width, p_values, parts
from workbench.compare.pairs import holm
from workbench.compare.rowwise import HIGHER, contributions
from workbench.compare.single import mcnemar
from workbench.core.errors import WorkbenchError


@pytest.fixture(scope="module")
def three():
    """Three labels, four seeds, 300 rows; the first is clearly better than the others."""
    world = answers(1, 4, 300, rng=0, gap=0.12, seed_sd=0.03)[0]
    return frames([world[0], world[1], answers(1, 4, 300, rng=1, seed_sd=0.03)[0][1]])


def predictions(seed=0, rows=200):
    rng = np.random.default_rng(seed)
    names = np.array(["cat", "dog", "eel"], dtype=object)
    true = rng.integers(0, 3, rows)
    said = np.where(rng.random(rows) < 0.7, true, rng.integers(0, 3, rows))
    said = {"id": np.arange(rows), "label": names[true], "prediction": names[said]}
    return pd.DataFrame({**said, "score": rng.random(rows), "loss": rng.random(rows), "weight": rng.integers(1, 9, rows)})


def measured(table):
    """The metrics as the tasks compute them."""
    weight = table["weight"]
    loss = (table["loss"] * weight).sum() / weight.sum()
    return {
        "accuracy": (table["label"] == table["prediction"]).mean(),
        "macro_f1": f1_score(table["label"], table["prediction"], average="macro", zero_division=0.0),
        "token_accuracy": (table["score"] * weight).sum() / weight.sum(),
        "exact_match": (table["label"] == table["prediction"]).mean(),
        "loss": loss,
        "perplexity": math.exp(loss),
    }


@pytest.mark.parametrize("metric", HIGHER)
def test_contributions_average_to_the_metric_and_vary_as_it_does(metric):
    table = predictions()
    rows = contributions(table, metric)
    assert rows.mean() == pytest.approx(measured(table)[metric], rel=1e-9)
    rng = np.random.default_rng(1)
    again = [measured(table.iloc[rng.integers(0, len(table), len(table))])[metric] for _ in range(400)]
    assert rows.std() / math.sqrt(len(rows)) == pytest.approx(np.std(again), rel=0.12)


def test_macro_f1_counts_classes_that_are_only_said():
    table = pd.DataFrame({"label": ["a", "a", "b"], "prediction": ["a", "c", "b"], "score": 1.0, "loss": 0.0})
    assert contributions(table, "macro_f1").mean() == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert contributions(table, "bleu") is None
    assert contributions(table.drop(columns="loss"), "accuracy") is None


def test_an_entrys_own_metric_counts_its_rows_only():
    table = predictions().assign(task=["x", "y"] * 100)
    rows, said = [], {}
    for label in "ab":
        for seed in (0, 1, 2):
            one = predictions(hash_of(label, seed)).assign(task=table["task"], label=table["label"])
            own = one[one["task"] == "x"]
            said[f"{label}{seed}"] = one
            rows.append({"label": label, "seed": seed, "run_id": f"{label}{seed}", "state": "finished"}
                        | {"metrics.accuracy/x": (own["label"] == own["prediction"]).mean()})  # fmt: skip
    found = pairs(pd.DataFrame(rows), "accuracy/x", said).iloc[0]
    assert (found.test, found.examples) == ("crossed", 100)
    assert "points of accuracy on x" in found.sentence


def hash_of(label, seed):
    return ord(label) * 10 + seed


def test_variance_parts_by_hand():
    values = np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 5.0]])
    found = parts(values)
    by_seed, by_row = values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_row + values.mean()
    ms_rest = (rest**2).sum() / 2
    assert float(found.mean) == pytest.approx(2.0)
    assert float(found.v_seeds) == pytest.approx(by_seed.var(ddof=1) / 2)
    assert float(found.v_rows) == pytest.approx((2 * by_row.var(ddof=1) - ms_rest) / 6)


def test_without_rows_it_is_students_t():
    values = np.array([0.02, 0.05, 0.01, 0.04])
    found = Parts(*(np.array([v]) for v in (values.mean(), values.var(ddof=1) / 4, 0.0, 4, 0)))
    expected = stats.ttest_1samp(values, 0)
    assert p_values(found)[0] == pytest.approx(expected.pvalue, rel=1e-6)
    assert half_width(found, 0.05)[0] == pytest.approx(values.mean() - expected.confidence_interval(0.95).low)


def test_interval_and_p_value_agree(three):
    found = pairs(three[0], "accuracy", three[1])
    for row in records(found):
        assert (row["ci_low"] > 0 or row["ci_high"] < 0) == (row["p"] < 0.05)


def test_pairs_have_the_promised_shape(three):
    found = pairs(three[0], "accuracy", three[1])
    assert list(found.columns) == list(PAIRS)
    assert found[["a", "b", "n", "examples", "test"]].to_numpy().tolist() == [
        ["a", "b", 4, 300, "crossed"], ["a", "c", 4, 300, "crossed"], ["b", "c", 4, 300, "crossed"]
    ]  # fmt: skip
    assert found.verdict.tolist() == ["better", "better", "cannot tell"]
    assert "a is better." in found.sentence[0]
    assert "NaN" not in json.dumps(records(found), allow_nan=False)


def test_exchanging_the_labels_mirrors_the_answer(three):
    rows = three[0]
    there = pairs(rows[rows.label != "c"], "accuracy", three[1]).iloc[0]
    back = pairs(pd.concat([rows[rows.label == "b"], rows[rows.label == "a"]]), "accuracy", three[1]).iloc[0]
    assert (back.difference, back.ci_low, back.p, back.verdict) == (-there.difference, -there.ci_high, there.p, "worse")


def test_lower_is_better(three):
    found = pairs(three[0], "loss", three[1], higher=False)
    assert found.verdict[0] == "better"
    assert found.difference[0] < 0
    assert found.sentence[0].endswith("a is better (lower is better).")


def test_holm_against_the_definition():
    p = np.array([0.04, 0.01, 0.03])
    adjusted, levels = holm(p)
    assert adjusted.tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert levels.tolist() == pytest.approx([0.05, 0.05 / 3, 0.025])


@pytest.mark.parametrize(("wins", "losses"), [(12, 3), (3, 12), (40, 22), (1, 0), (5, 5)])
def test_mcnemar_against_the_binomial(wins, losses):
    exact = stats.binomtest(wins, wins + losses).pvalue
    mid = exact - stats.binom.pmf(wins, wins + losses, 0.5)
    assert mcnemar(wins, losses) == pytest.approx(1.0 if wins == losses else mid)


def test_one_common_seed_is_about_these_adapters(three):
    rows = three[0][(three[0].seed == 0) | (three[0].label == "b")]
    for metric, test in (("accuracy", "mcnemar"), ("loss", "permutation")):
        found = pairs(rows, metric, three[1], metric == "accuracy").iloc[0]
        assert (found.n, found.test, found.verdict) == (1, test, "better")
        assert found.ci_low < found.difference < found.ci_high
        assert found.sentence.endswith("this is about these two trained adapters only, not about the methods.")


def test_only_common_seeds_count(three):
    rows = three[0][~((three[0].label == "a") & (three[0].seed == 3))]
    found = pairs(rows, "accuracy", three[1])
    assert found.n.tolist() == [3, 3, 4]
    assert "Judged on the 3 seeds they share." in found.sentence[0]


def test_without_predictions_seeds_alone_are_judged(three):
    found = pairs(three[0], "accuracy").iloc[0]
    assert (found.examples, found.test) == (0, "seeds")
    assert "predictions that give this metric are not stored" in found.sentence
    one = pairs(three[0][three[0].seed == 0], "accuracy").iloc[0]
    assert (one.test, one.verdict) == ("none", "cannot tell")
    assert math.isnan(one.p)


def test_predictions_that_do_not_give_the_metric_are_not_used(three):
    rows = three[0].assign(**{"metrics.accuracy": three[0]["metrics.accuracy"] + 0.01})
    assert set(pairs(rows, "accuracy", three[1]).test) == {"seeds"}


def test_other_test_rows_and_other_groups_are_never_paired(three):
    moved = {run: table.assign(id=table["id"] + run.startswith("c")) for run, table in three[1].items()}
    assert pairs(three[0], "accuracy", moved)[["a", "b"]].to_numpy().tolist() == [["a", "b"]]
    grouped = pairs(three[0], "accuracy", three[1], groups={"a": 0, "b": 1, "c": 0})
    assert grouped[["a", "b"]].to_numpy().tolist() == [["a", "c"]]


def test_no_common_seed_equal_answers_and_unknown_metrics(three):
    rows = three[0].copy()
    rows.loc[rows.label == "b", "seed"] += 10
    assert "no seed in common" in pairs(rows[rows.label != "c"], "accuracy", three[1]).sentence[0]
    same = pd.concat([rows[rows.label == "a"], rows[rows.label == "a"].assign(label="twin")])
    found = pairs(same, "accuracy", three[1]).iloc[0]
    assert (found.p, found.difference, found.verdict) == (1.0, 0.0, "cannot tell")
    assert "the same on every test row" in found.sentence
    ties = pd.DataFrame({"label": list("aabb"), "seed": [0, 1, 0, 1], "metrics.accuracy": [0.75, 0.625, 0.5, 0.375]})
    assert "cannot be judged" in pairs(ties, "accuracy").sentence[0]
    with pytest.raises(WorkbenchError, match="closest: accuracy"):
        pairs(rows, "acuracy")
    assert pairs(rows[rows.label == "a"], "accuracy").empty


def test_the_sentence_of_the_issue():
    rng = np.random.default_rng(3)
    values = {"DoRA": 0.8 + 0.004 + 0.006 * rng.standard_normal(5), "LoRA": np.full(5, 0.8)}
    rows = [{"label": k, "seed": s, "metrics.accuracy": v} for k, many in values.items() for s, v in enumerate(many)]
    said = pairs(pd.DataFrame(rows), "accuracy").sentence[0]
    assert said.startswith("DoRA − LoRA = +0.")
    assert " points (−" in said
    assert "): cannot tell; about " in said
    assert " more seeds would." in said
    few = pairs(pd.DataFrame([row for row in rows if row["seed"] < 3]), "accuracy").sentence[0]
    assert "would (a rough guess from 3 seeds)." in few


def test_estimates_of_test_rows_are_rounded_up():
    assert [telling._rounded_up(n) for n in (7, 99, 101, 1326, 20_400)] == [7, 99, 110, 1400, 21_000]


def sizes(three, **params):
    rows = three[0].copy()
    return rows.assign(method=rows.label, trainable_params=rows.label.map(params))


def test_front_says_who_stands_there_and_how_surely(three):
    rows = sizes(three, a=300, b=100, c=200)
    found = front(rows, "trainable_params", "accuracy", "lower", "higher", three[1])
    assert list(found.columns) == list(FRONT)
    found = found.set_index("label")
    assert found.probability["a"] > 0.99
    assert found.probability["b"] == 1.0  # nobody is smaller
    assert 0.02 < found.probability["c"] < 0.98  # larger than b, of the same ability
    assert found.x_low["a"] == found.x["a"] == 300
    assert found.y_low["a"] < found.y["a"] < found.y_high["a"] <= 1
    assert set(found.over) == {"seeds and rows"}


def test_front_of_one_seed_has_no_crosses_and_says_so(three):
    rows = sizes(three, a=300, b=100, c=200)
    one = rows[rows.seed == 0]
    found = front(one, "trainable_params", "accuracy", "lower", "higher", three[1])
    assert set(found.over) == {"rows"}
    assert found[["x_low", "y_low", "y_high"]].isna().all(axis=None)
    assert found.probability.notna().all()
    bare = front(one, "trainable_params", "accuracy", "lower", "higher")
    assert bare.probability.isna().all()
    assert bare.pareto.any()


def test_equal_methods_share_the_front():
    hits = []
    for number in range(60):
        rows, said = frames(answers(1, 3, 200, rng=number)[0])
        found = front(rows.assign(method=rows.label, train_seconds=1.0), "train_seconds", "accuracy", "lower", "higher", said)
        hits.append(found.probability[0])
    assert 0.4 < np.mean(hits) < 0.6


def row(label, experiment="a-1f0000", seed=0, **fields):
    usual = {"task": "text_classification", "data.source": "reviews.csv", "data.files": "aa", "data.limit": 1000,
             "model.source": "bundled/minilm", "model.sha256": "ff", "training.epochs": 1.0, "training.batch_size": 16,
             "training.learning_rate": 0.001, "training.max_steps": None}  # fmt: skip
    return {"label": label, "experiment": experiment, "seed": seed, "test_rows": "t", "fields": {**usual, **fields}}


def test_the_guard_names_the_field_that_differs():
    found = guard([row("x"), row("y"), row("z", "b-770000", **{"data.limit": 2000})])
    assert found.of() == {"x": 0, "y": 0, "z": 1}
    assert found.sentences == ("These runs are not overlaid: data.limit is 1,000 in a-1f0000 and 2,000 in b-770000.",)
    assert found.notes == ()


def test_methods_may_differ_in_their_rate_and_say_so_if_in_length():
    found = guard([row("x"), row("y", **{"training.learning_rate": 0.1}), row("z", **{"training.epochs": 3.0})])
    assert found.of() == {"x": 0, "y": 0, "z": 0}
    assert found.notes == ("The methods were not trained equally long: training.epochs is 1 for x and y and 3 for z.",)
    apart = guard([row("x"), row("z", "b-770000", **{"training.epochs": 3.0})])
    assert apart.of() == {"x": 0, "z": 1}
    assert apart.sentences == ("These runs are not overlaid: training.epochs is 1 in a-1f0000 and 3 in b-770000.",)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("training.batch_size", 32, "training.batch_size is 16 in x and 32 in y"),
        ("data.files", "bb", "the data files of x and y are not the same"),
        ("model.sha256", "ee", "the base weights of x and y are not the same"),
        ("task", "causal_lm", "task is text_classification in x and causal_lm in y"),
    ],
)
def test_every_other_field_keeps_runs_apart(field, value, words):
    found = guard([row("x"), row("y", **{field: value})])
    assert found.of() == {"x": 0, "y": 1}
    assert words in found.sentences[0]


def test_the_same_bytes_in_another_place_are_the_same():
    moved = row("y", "b-770000", **{"data.source": "/elsewhere/copy.csv", "model.source": "/models/minilm"})
    assert guard([row("x"), moved]).sentences == ()
    other = row("y") | {"test_rows": "u"}
    assert guard([row("x"), other]).sentences == ("These runs are not overlaid: the test rows of x and y are not the same.",)
    assert guard([row("x"), {"label": "y", "experiment": "c", "fields": {}}]).of() == {"x": 0, "y": 0}


def test_a_search_for_some_methods_only_is_said():
    found = guard([row("x") | {"search": [{"rate": 1}]}, row("y")])
    assert found.notes == ("The learning rate was searched for x but not for y.",)


def test_fields_become_columns():
    assert frame([row("x")])["fields.data.limit"][0] == 1000
