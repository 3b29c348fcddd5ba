"""A submitted experiment's spec, made again from its runs: it plans to the same runs, and says no more than was said."""

import pytest

from tests.services.planted import plant, run_spec
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.core.run_spec import DataRef
from workbench.core.spec import TrainingSpec, parse_spec
from workbench.jobs import client
from workbench.services import clone, experiments


def identity(run):
    """All of a RunSpec but what a submit makes anew and what depends on the moment."""
    values = run.model_dump(mode="json")
    return {k: v for k, v in values.items() if k not in ("run_id", "experiment", "predicted")}


def submitted(spec):
    """Plan a spec and leave its runs as a submit does, without a daemon: the RunSpecs."""
    runs = experiments.resolve(parse_spec(spec))
    for run in runs:
        plant(run, "queued")
    return runs


METHODS = [
    {"method": "lora", "rank": 4},
    {"method": "lora", "rank": 2, "training": {"learning_rate": 1e-3, "epochs": 2}},
    {"method": "houlsby_adapter", "bottleneck": 8, "modifiers": [{"modifier": "sparse", "keep": 0.25}]},
    {"method": "bottleneck", "preset": "pfeiffer_adapter", "label": "mine"},
    {"method": "full", "recipe": {"recipe": "lt_sft", "keep": 0.1}},
    "bitfit",
]


def test_the_clone_plans_to_the_same_runs(home, spec):
    spec |= {"methods": METHODS, "seeds": [3, 1], "training": {"max_steps": 4, "batch_size": 8}, "device": "cpu"}
    spec["data"] |= {"limit": 50, "seed": 2, "columns": {"text": "text", "label": "label"}}
    runs = submitted(spec)
    found = clone.clone(runs[0].experiment)
    assert parse_spec(found).name == "small"
    again = experiments.resolve(parse_spec(found))
    assert [identity(run) for run in again] == [identity(run) for run in runs]
    assert clone.clone("small") == found


def test_it_says_only_what_is_unusual(home, spec):
    found = clone.clone(submitted({**spec, "methods": METHODS})[0].experiment)
    assert found["methods"] == [
        {"method": "lora", "rank": 4},
        {"method": "lora", "rank": 2, "training": {"epochs": 2.0, "learning_rate": 1e-3}, "label": "lora#2"},
        METHODS[2],
        METHODS[3],
        METHODS[4],
        "bitfit",
        "head_only",
    ]
    assert found["training"] == spec["training"]
    assert found["model"] == "bundled/minilm"
    assert found["data"] == spec["data"]
    assert found["seeds"] == [0, 1]
    assert not {"device", "baseline", "models"} & found.keys()


def test_without_a_baseline_none_is_added(home, spec):
    runs = submitted({**spec, "methods": ["lora"], "baseline": False})
    found = clone.clone(runs[0].experiment)
    assert found["baseline"] is False
    assert len(experiments.resolve(parse_spec(found))) == len(runs) == 2


def test_several_data_entries_and_a_search_come_back(home, spec, table):
    other = table.with_name("other.csv")
    other.write_text(table.read_text().replace("thing", "matter"))
    spec["data"] = [spec["data"], {"source": str(other), "id": "second", "limit": 20}]
    spec |= {"methods": [{"method": "lora", "training": {"learning_rate": [1e-3, 1e-2]}}], "seeds": 0}
    runs = submitted(spec)
    found = clone.clone(runs[0].experiment)
    assert [one["id"] for one in found["data"]] == ["reviews", "second"]
    assert [identity(run) for run in experiments.resolve(parse_spec(found))] == [identity(run) for run in runs]


def test_what_most_methods_share_stands_once(home):
    for label, rate in (("lora", 1e-3), ("dora", 1e-3), ("ia3", 5e-3)):
        training = TrainingSpec(learning_rate=rate, max_steps=7)
        plant(run_spec("mine-aaaaaa", label, 0, training=training, learning_rate_source="given", config={}))
    found = clone.clone("mine-aaaaaa")
    assert found["training"] == {"max_steps": 7, "learning_rate": 1e-3}
    assert found["methods"][2] == {"method": "ia3", "training": {"learning_rate": 5e-3}}
    assert found["data"] == {"source": "bundled/docstrings"}


def test_a_run_that_is_gone_is_left_out_and_none_at_all_is_an_error(home):
    first, second = (run_spec("mine-aaaaaa", "lora", seed, config={}, data=DataRef(source="bundled/digits")) for seed in (0, 1))
    for run in (first, second):
        plant(run)
    (run_folder(first.run_id) / "spec.yaml").unlink()
    assert clone.clone("mine-aaaaaa")["seeds"] == [1]
    (run_folder(second.run_id) / "spec.yaml").unlink()
    with pytest.raises(WorkbenchError, match=r"^no run of the experiment 'mine-aaaaaa' is left to make its spec from; write it"):
        clone.clone("mine-aaaaaa")
    with pytest.raises(WorkbenchError, match=r"other"):
        clone.clone("other")


def test_the_clone_can_be_written_down(home, spec, tmp_path):
    found = clone.clone(submitted({**spec, "methods": METHODS})[0].experiment)
    assert safe_yaml.loads(safe_yaml.dumps(found).encode(), "spec.yaml") == found


def test_how_the_queue_treats_the_runs_is_cloned(home, monkeypatch):
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    client.submit([run_spec("mine-aaaaaa", "lora", 0)], exclusive=False, on_error="hold")
    client.submit([run_spec("other-bbbbbb", "lora", 0)])
    found = clone.clone("mine")
    assert (found["exclusive"], found["on_error"]) == (False, "hold")
    assert found.keys() - clone.clone("other").keys() == {"exclusive", "on_error"}
