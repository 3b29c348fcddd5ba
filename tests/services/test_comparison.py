"""Pairs, guard, front and disagreements of planted runs with predictions, and what is kept between calls."""

import csv
import json
import os

import numpy as np
import pytest

from tests.services.planted import plant, run_spec
from workbench.compare import FRONT, PAIRS
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.core.run_spec import DataRef
from workbench.core.spec import TrainingSpec
from workbench.services import comparison, disagreements, judging, results, stored, tables

ROWS = 200
EXPERIMENT = "first-aaaaaa"


def plant_with_predictions(experiment, label, seed, skill, first_id=0, **more):
    """A finished run whose predictions give its accuracy; rows are hard or easy for all."""
    rng = np.random.default_rng(seed * 100 + len(label))
    right = np.random.default_rng(0).normal(size=ROWS) + 0.3 * rng.normal(size=ROWS) < skill
    spec = run_spec(experiment, label, seed, **more)
    job = plant(spec, accuracy=float(right.mean()), metrics={"accuracy": float(right.mean()), "loss": float((1 - right).mean())})
    path = run_folder(spec.run_id) / "predictions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["id", "split", "label", "prediction", "score", "loss", "weight"])
        for i, hit in enumerate(right):
            truth = ("cat", "NA")[i % 2]
            out.writerow([i + first_id, "test", truth, truth if hit else "eel", 0.7, 0.0 if hit else 1.0, 1])
    return job


@pytest.fixture
def planted(home):
    """Three methods, three seeds: good beats weak; middling lies between."""
    for label, skill in (("good", 1.2), ("middling", 0.5), ("weak", 0.3)):
        for seed in range(3):
            plant_with_predictions(EXPERIMENT, label, seed, skill)
    return home


def test_pairs_are_in_the_json_and_in_the_text(planted):
    found = json.loads(json.dumps(results.results([EXPERIMENT]), allow_nan=False))
    assert [(p["a"], p["b"]) for p in found["pairs"]] == [("good", "middling"), ("good", "weak"), ("middling", "weak")]
    first = found["pairs"][0]
    assert first.keys() == set(PAIRS)
    assert (first["metric"], first["n"], first["examples"], first["test"]) == ("accuracy", 3, ROWS, "crossed")
    assert first["ci_low"] < first["difference"] < first["ci_high"]
    assert first["p"] <= first["p_holm"]
    assert found["guard"] == {
        "groups": [{"label": n, "group": 0} for n in ("good", "middling", "weak")],
        "sentences": [],
        "notes": [],
    }
    assert all(p["sentence"] in tables.comparison(found) for p in found["pairs"])


def test_rows_say_what_they_share(planted):
    rows = results.results([EXPERIMENT])["rows"]
    for name in ("data", "model", "protocol", "test_rows"):
        assert len({row[name] for row in rows}) == 1
        assert len(rows[0][name]) == 12
    assert rows[0]["fields"]["data.source"] == "bundled/docstrings"
    assert rows[0]["fields"]["training.batch_size"] == 16


def test_other_data_is_not_overlaid_and_never_paired(planted):
    plant_with_predictions("second-bbbbbb", "good", 0, 1.2, data=DataRef(source="bundled/docstrings", limit=50))
    plant_with_predictions("second-bbbbbb", "shifted", 0, 1.2, first_id=5)
    found = comparison.comparison([EXPERIMENT, "second-bbbbbb"])
    assert found.groups["weak"] == 0
    assert found.groups["good (second-bbbbbb)"] == 1
    assert found.groups["shifted"] == 2
    assert any("data.limit is not set" in said and "50 in" in said for said in found.guard)
    assert {(p.a, p.b) for p in found.pairs.itertuples()} == {
        ("good (first-aaaaaa)", "middling"), ("good (first-aaaaaa)", "weak"), ("middling", "weak")
    }  # fmt: skip


def test_a_longer_training_of_one_method_is_said(home):
    plant_with_predictions(EXPERIMENT, "good", 0, 1.2)
    plant_with_predictions(EXPERIMENT, "weak", 0, 0.3, training=TrainingSpec(learning_rate=1e-3, epochs=3))
    found = comparison.comparison([EXPERIMENT])
    assert set(found.groups.values()) == {0}
    assert "The methods were not trained equally long: training.epochs is 1 for good and 3 for weak." in found.notes
    assert found.pairs.n.tolist() == [1]


def test_a_selection_is_judged_alone(planted):
    found = comparison.comparison([EXPERIMENT], labels=["good", "weak"])
    assert len(found.rows) == 6
    assert found.pairs.p_holm[0] == found.pairs.p[0]
    one = comparison.comparison([EXPERIMENT], runs=[row["run_id"] for row in found.rows if row["seed"] == 0])
    assert one.pairs.test.tolist() == ["mcnemar"]


def test_other_metrics_have_pairs_too(planted):
    found = comparison.comparison([EXPERIMENT])
    losses = comparison.pairs(found, "loss")
    assert losses.metric.tolist() == ["loss"] * 3
    assert (losses.difference == -found.pairs.difference).all() or np.allclose(losses.difference, -found.pairs.difference)
    assert losses.verdict.tolist() == found.pairs.verdict.tolist()


def test_front_of_a_comparison(planted):
    found = comparison.front(comparison.comparison([EXPERIMENT]), "trainable_params", "accuracy")
    assert list(found.columns) == list(FRONT)
    assert found.set_index("label").probability["good"] > 0.99
    assert comparison.direction(comparison.comparison([EXPERIMENT]), "examples_per_second") == "higher"
    with pytest.raises(WorkbenchError, match="closest: accuracy"):
        comparison.front(comparison.comparison([EXPERIMENT]), "trainable_params", "acuracy")


def test_confusion_counts_all_seeds(planted):
    found = comparison.confusion(comparison.comparison([EXPERIMENT]), "weak")
    assert found["labels"] == ["NA", "cat", "eel"]
    assert np.array(found["counts"]).sum() == 3 * ROWS
    assert found["counts"][2] == [0, 0, 0]  # nothing is an eel
    with pytest.raises(WorkbenchError, match="no label is called"):
        comparison.confusion(comparison.comparison([EXPERIMENT]), "best")


def test_disagreements_come_worst_first(planted):
    found = comparison.disagreements(comparison.comparison([EXPERIMENT]), "good", "weak", 20)
    assert list(found.columns) == list(disagreements.COLUMNS)
    assert len(found) == 20
    assert found.gap.abs().is_monotonic_decreasing
    assert found.gap[0] == found.a_right[0] - found.b_right[0] == 1.0
    assert found.a_says[0] == found.label[0]
    assert found.b_says[0] == "eel"


def test_texts_are_read_from_the_runs_data(home):
    job = plant_with_predictions(EXPERIMENT, "good", 0, 1.2)
    run = next(row["run_id"] for row in results.job_rows() if row["job"] == job)
    from workbench.data import load_table

    test = load_table(DataRef(source="bundled/docstrings"), ({"text": True, "text_pair": False, "label": True},)).test
    found = disagreements.texts_request(run, [test.ids[0], -1])
    assert found == {str(test.ids[0]): test.column("text")[0][: disagreements.LONGEST]}


def test_without_predictions_there_is_nothing_to_disagree_on(home):
    for label in ("a", "b"):
        plant(run_spec(EXPERIMENT, label, 0))
    found = comparison.comparison([EXPERIMENT])
    assert comparison.disagreements(found, "a", "b").empty
    assert comparison.confusion(found, "a") == {"labels": [], "counts": []}


def test_files_are_read_once_per_change(planted, monkeypatch):
    results.results([EXPERIMENT])
    monkeypatch.setattr(stored, "read_spec", lambda folder: pytest.fail("a spec was parsed again"))
    before = results.results([EXPERIMENT])
    stored._setting.cache_clear()  # a new process
    assert results.results([EXPERIMENT]) == before
    path = run_folder(before["rows"][0]["run_id"]) / "verdict.json"
    path.write_text(path.read_text().replace('"train_seconds": 12.5', '"train_seconds": 99.5'))
    os.utime(path, ns=(1, 1))
    assert results.results([EXPERIMENT])["rows"][0]["train_seconds"] == 99.5


def test_too_many_labels_are_not_judged_in_pairs(home, monkeypatch):
    monkeypatch.setattr(judging, "MOST_LABELS", 2)
    for label in ("a", "b", "c"):
        plant(run_spec(EXPERIMENT, label, 0))
    found = results.results([EXPERIMENT])
    assert found["pairs"] == []
    assert found["guard"]["notes"] == [judging.TOO_MANY]
