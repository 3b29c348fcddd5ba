"""Frames out of MLflow and run folders."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tracking import client, events, query
from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import RunSpec

Make = Callable[..., RunSpec]


def test_no_runs_still_have_columns(home: Path) -> None:
    found = query.runs()
    assert found.empty
    assert list(found.columns) == list(query.COLUMNS)


def test_runs_of_one_experiment(home: Path, run_spec: Make) -> None:
    ids = [client.start_run(run_spec(f"run-{i}", seed=i)) for i in range(3)]
    client.start_run(run_spec("another", experiment="other-0a1b2c"))
    client.client().log_metric(ids[0], "test/accuracy", 0.5)
    found = query.runs("look-0a1b2c")
    assert list(found["run_id"]) == ["run-0", "run-1", "run-2"]
    assert list(found["seed"]) == [0, 1, 2]
    assert found["metrics.test/accuracy"].isna().tolist() == [False, True, True]
    assert set(found["params.config.rank"]) == {"8"}
    assert len(query.runs()) == 4
    with pytest.raises(WorkbenchError, match="an experiment must be 1-120 letters"):
        query.runs("x' or 1 = 1")


def test_more_runs_than_a_page(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, where = client.client(), client.experiment_id()
    for i in range(5):
        store.create_run(where, tags={"workbench.kind": "run", "workbench.run_id": f"run-{i}"})
    real = store.search_runs
    monkeypatch.setattr(store, "search_runs", lambda *args, **kwargs: real(*args, **(kwargs | {"max_results": 2})))
    assert len(query.runs()) == 5


def test_the_last_value_of_a_step(home: Path, run_spec: Make) -> None:
    run = client.start_run(run_spec())
    for value, stamp, step in ((1.0, 10, 1), (9.0, 20, 2), (2.0, 30, 2)):
        client.client().log_metric(run, "train/loss", value, timestamp=stamp, step=step)
    assert query.history(run, "train/loss").to_dict("list") == {"step": [1, 2], "value": [1.0, 2.0]}
    assert query.history(run, "nothing").empty


def test_curves_need_no_mlflow(tmp_path: Path) -> None:
    assert query.curves(tmp_path / "absent").empty
    (tmp_path / events.NAME).write_text(
        '{"event": "step", "step": 1, "loss": 2.0, "lr": 0.1, "seconds": null, "time": 5.0, "attempt": 1}\n'
        "not json\n[1]\n"
        '{"event": "step", "step": 1, "loss": 1.0, "lr": 0.1, "seconds": 0.5, "time": 6.0, "attempt": 2}\n'
        '{"event": "evaluated", "step": 1, "split": "validation", "metrics": {"accuracy": 0.5}, "time": 7.0, "attempt": 2}\n'
        '{"event": "measured", "metrics": {"mem/peak_bytes": 7}, "time": 8.0, "attempt": 2}\n'
        '{"event": "step", "step": 2, "lo'
    )
    found = query.curves(tmp_path).set_index("metric")
    assert found["value"].to_dict() == {
        "train/loss": 1.0, "train/learning_rate": 0.1, "perf/step_seconds": 0.5, "eval/accuracy": 0.5, "mem/peak_bytes": 7.0,
    }  # fmt: skip
    assert set(found["step"]) == {1}
    assert found.loc["train/loss", "attempt"] == 2
