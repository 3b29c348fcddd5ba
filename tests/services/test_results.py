"""Rows, summaries and views of planted runs, against the words of the outside contract."""

import json

import pytest

from tests.services.planted import plant, run_spec
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.jobs import wire
from workbench.services import adapters, results, runs

ROW = {
    "run_id", "job", "method", "preset", "seed", "state", "trainable_params", "head_params", "total_params", "adapter_bytes",
    "peak_memory_bytes", "train_seconds", "examples_per_second", "metrics", "predicted", "label", "base_method", "config",
    "modifiers", "recipe", "reason", "init_from", "search", "search_seconds", "notes",
}  # fmt: skip


@pytest.fixture
def planted(home):
    """Two methods with two seeds, one of them failed; and an older experiment of the same name."""
    plant(run_spec("first-000000", "lora", 0), accuracy=0.1)
    for seed, accuracy in ((0, 0.70), (1, 0.74)):
        plant(run_spec("first-aaaaaa", "lora", seed), accuracy=accuracy)
    plant(run_spec("first-aaaaaa", "full", 0), accuracy=0.8)
    plant(
        run_spec("first-aaaaaa", "full", 1), "failed", reason="the loss became nan at step 3; lower learning_rate, or set clip."
    )
    return home


def test_rows_and_summary_have_the_promised_shape(planted):
    found = results.results(["first-aaaaaa"])
    assert {"experiment", "rows", "summary", "pairs"} <= found.keys()
    assert found["experiment"] == "first-aaaaaa"
    assert [(p["a"], p["b"], p["n"], p["p"]) for p in found["pairs"]] == [("lora", "full", 1, None)]
    assert all(row.keys() >= ROW for row in found["rows"])
    assert [row["state"] for row in found["rows"]] == ["finished", "finished", "finished", "failed"]
    lora = found["rows"][0]
    assert (lora["trainable_params"], lora["metrics"]["accuracy"], lora["config"]) == (36864, 0.70, {"rank": 4})
    assert lora["predicted"] == {"trainable_params": 36864, "peak_memory_bytes": 1.5e8, "train_seconds": 10.0}
    assert all(s.keys() >= {"method", "metric", "n", "mean", "ci_low", "ci_high"} for s in found["summary"])
    one = {(s["label"], s["metric"]): s for s in found["summary"]}
    assert one["lora", "accuracy"]["mean"] == pytest.approx(0.72)
    assert one["lora", "accuracy"]["ci_low"] < 0.72 < one["lora", "accuracy"]["ci_high"]
    assert (one["full", "accuracy"]["n"], one["full", "accuracy"]["ci_low"]) == (1, None)


def test_a_failed_run_has_a_reason_and_null_figures(planted):
    failed = results.results(["first-aaaaaa"])["rows"][-1]
    assert failed["reason"].startswith("the loss became nan")
    assert failed["trainable_params"] is failed["train_seconds"] is failed["peak_memory_bytes"] is None
    assert failed["metrics"] == {}
    assert "NaN" not in json.dumps(results.results(["first-aaaaaa"]), allow_nan=False)


def test_a_figure_that_is_not_finite_is_null(home):
    job = plant(run_spec("odd-bbbbbb", "lora", 0))
    path = run_folder(runs.view(job)["job"]["run_id"]) / "verdict.json"
    path.write_text(path.read_text().replace("0.7", "NaN").replace("12.5", "Infinity"))
    row = results.results(["odd"])["rows"][0]
    assert row["metrics"]["accuracy"] is row["train_seconds"] is None


@pytest.mark.parametrize(
    ("name", "found"), [("first", "first-aaaaaa"), ("first-0", "first-000000"), ("first-aaaaaa", "first-aaaaaa")]
)
def test_an_experiment_is_found_by_id_name_or_beginning(planted, name, found):
    assert results.find_experiment(name) == found


@pytest.mark.parametrize(("name", "words"), [("fisrt", "closest: first"), ("first-", "fits 2"), ("", "known")])
def test_an_unknown_experiment_is_an_error(planted, name, words):
    with pytest.raises(WorkbenchError, match=words):
        results.results([name])


def test_labels_that_two_experiments_share_are_told_apart(planted):
    labels = {row["label"] for row in results.results(["first-000000", "first-aaaaaa"])["rows"]}
    assert labels == {"lora (first-000000)", "lora (first-aaaaaa)", "full"}


def test_a_verdict_of_an_older_attempt_does_not_count(planted):
    row = results.results(["first-aaaaaa"])["rows"][0]
    path = run_folder(row["run_id"]) / "verdict.json"
    wire.write_json(path, {**wire.read_json(path), "attempt": 2})
    assert results.results(["first-aaaaaa"])["rows"][0]["train_seconds"] is None


def test_experiments_are_listed_newest_first(planted):
    found = results.experiments()
    assert [(e["experiment"], e["runs"], e["finished"]) for e in found] == [("first-aaaaaa", 4, 3), ("first-000000", 1, 1)]


def test_the_view_of_a_run_holds_curves_log_and_failure(planted):
    job = next(r for r in results.results(["first-aaaaaa"])["rows"] if r["state"] == "failed")
    folder = run_folder(job["run_id"])
    lines = [
        {"event": "step", "step": 1, "loss": 2.0, "lr": 0.1, "seconds": 0.1, "examples": 4, "attempt": 1, "time": 1.0},
        {"event": "step", "step": 1, "loss": 1.5, "lr": 0.1, "seconds": 0.1, "examples": 4, "attempt": 1, "time": 2.0},
        {"event": "evaluated", "step": 1, "split": "validation", "metrics": {"accuracy": 0.5}, "attempt": 1, "time": 2.0},
        {"event": "phase", "name": "training", "steps": 3, "attempt": 1, "time": 0.5},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "st')
    (folder / "train.log").write_text("one\ntwo\n")
    view = runs.view(job["run_id"])
    assert view["failure"]["sentence"].startswith("the loss became nan")
    assert view["curves"]["steps"] == [{"step": 1, "loss": 1.5, "lr": 0.1, "seconds": 0.1}]
    assert view["curves"]["evaluations"] == [{"step": 1, "split": "validation", "metrics": {"accuracy": 0.5}}]
    assert view["log"] == "one\ntwo"
    assert view["spec"]["task"] == "text_classification"
    assert view["verdict"]["state"] == "failed"


def test_curves_of_a_search_show_one_rate_with_steps_from_one(home):
    """The present rate while it runs, the one that is kept in the end."""
    job = plant(run_spec("tried-bbbbbb", "lora", 0))
    folder = run_folder(runs.view(job)["job"]["run_id"])

    def rate(name, after):
        return {"event": "phase", "name": name, "steps": 3, "after": after, "time": 1.0}

    def step(number, loss):
        return {"event": "step", "step": number, "loss": loss, "lr": 0.1, "seconds": 0.1, "examples": 4, "time": 1.0}

    def judged(number, accuracy, split="validation"):
        return {"event": "evaluated", "step": number, "split": split, "metrics": {"accuracy": accuracy}, "time": 1.0}

    lines = [rate("rate 0.1", 0), step(1, 5.0), step(2, 4.0), judged(2, 0.5), rate("rate 0.2", 3), step(4, 5.0), judged(4, 0.1)]

    def curves():
        (folder / "events.jsonl").write_text("".join(json.dumps({**line, "attempt": 1}) + "\n" for line in lines))
        found = runs.curves(folder)
        return [(s["step"], s["loss"]) for s in found["steps"]], [(e["step"], e["split"]) for e in found["evaluations"]]

    assert curves() == ([(1, 5.0)], [(1, "validation")])
    lines += [rate("rate 0.1 is kept", 0), judged(2, 0.6, "test")]
    assert curves() == ([(1, 5.0), (2, 4.0)], [(2, "validation"), (2, "test")])


def test_a_row_tells_of_the_search(home):
    figures = {"loss": 1.0, "seconds": 2.0, "steps": 3, "reason": None}
    tried = [{"learning_rate": 0.1, "metric": 0.5, **figures}, {"learning_rate": 1.0, "metric": None, **figures}]
    plant(run_spec("tried-cccccc", "lora", 0), search=tried, search_seconds=4.0, learning_rate=0.1)
    (row,) = results.results(["tried-cccccc"])["rows"]
    assert (row["search"], row["search_seconds"], row["learning_rate"]) == (tried, 4.0, 0.1)


def test_a_run_without_files_is_still_shown(planted):
    row = results.results(["first-aaaaaa"])["rows"][0]
    (run_folder(row["run_id"]) / "spec.yaml").unlink()
    view = runs.view(row["job"])
    assert view["spec"] == {}
    assert view["curves"] == {"steps": [], "evaluations": [], "phases": []}


def test_adapters_of_finished_runs_and_imports_are_listed(planted):
    row = results.results(["first-aaaaaa"])["rows"][0]
    for folder in (run_folder(row["run_id"]) / "adapter", planted / "adapters" / "mine"):
        folder.mkdir(parents=True)
        wire.write_json(
            folder / "workbench_adapter.json",
            {"method": "lora", "task": "text_classification", "base": {"source": "bundled/minilm"}},
        )
    assert [(a["reference"], a["base"]) for a in adapters.adapters()] == [
        (row["run_id"], "bundled/minilm"),
        ("mine", "bundled/minilm"),
    ]
    assert adapters.adapter_folder("mine") == planted / "adapters" / "mine"
    assert adapters.adapter_folder(str(row["job"])).parent.name == row["run_id"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: adapters.export(r, "onnx", "x"), "export format"),
        (lambda r: adapters.export("nope", "peft", "x"), "no job is called"),
        (lambda r: adapters.export(r, "peft", "x"), "finished training with an adapter"),
        (lambda r: adapters.predict(r, "x", "y"), "finished training with an adapter"),
        (lambda r: adapters.verify("/nowhere"), "folder that exists"),
        (lambda r: adapters.import_folder("/nowhere", "a"), "folder that exists"),
        (lambda r: adapters.free_name("../a"), "--name must be"),
        (lambda r: adapters.setting("novalue"), "name=value"),
        (lambda r: adapters.operate("averag", [r], {}, "new"), "closest: average"),
        (lambda r: adapters.operate("average", [r], {"wieghts": 1}, "new"), "weights"),
    ],
)
def test_bad_requests_about_adapters_are_one_sentence(planted, call, words):
    failed = results.results(["first-aaaaaa"])["rows"][-1]["run_id"]
    with pytest.raises(WorkbenchError, match=words):
        call(failed)
    assert all(job["kind"] == "train" for job in results.job_rows())


def test_settings_are_read_as_json_where_they_are():
    assert [adapters.setting(t) for t in ("a=1", "b=[1, 2]", "c=text", "d=x=y")] == [
        ("a", 1),
        ("b", [1, 2]),
        ("c", "text"),
        ("d", "x=y"),
    ]
