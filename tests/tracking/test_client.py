"""Runs and their life in a real MLflow store."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tracking import client, query
from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import RunSpec

Make = Callable[..., RunSpec]


def _status(mlflow_id: str) -> str:
    return client.client().get_run(mlflow_id).info.status


def _parent(mlflow_id: str) -> str:
    return client.client().get_run(mlflow_id).data.tags[client.PARENT]


def test_a_run_is_queued_below_its_experiment(home: Path, run_spec: Make) -> None:
    first, second = client.start_run(run_spec()), client.start_run(run_spec("second-run", seed=1))
    other = client.start_run(run_spec("third-run", experiment="other-0a1b2c"))
    assert _status(first) == "SCHEDULED"
    assert _parent(first) == _parent(second) != _parent(other)
    run = client.client().get_run(second)
    assert run.data.params["config.rank"] == "8"
    assert run.data.params["config.roles"] == '["attn.q", "attn.v"]'
    assert run.data.params["training.warmup"] == "0.06"
    assert {k: run.data.tags[f"workbench.{k}"] for k in ("experiment", "label", "run_id", "method", "seed")} == {
        "experiment": "look-0a1b2c", "label": "lora", "run_id": "second-run", "method": "lora", "seed": "1",
    }  # fmt: skip
    where = client.client().get_experiment(client.experiment_id()).artifact_location
    assert where == (home / "artifacts").as_uri()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_starting_twice_is_starting_once(home: Path, run_spec: Make) -> None:
    assert client.start_run(run_spec()) == client.start_run(run_spec())
    assert len(query.runs()) == 1


def test_threads_share_one_client_and_no_active_run_appears(home: Path, run_spec: Make) -> None:
    import mlflow

    ids: list[str] = []
    threads = [threading.Thread(target=lambda i=i: ids.append(client.start_run(run_spec(f"run-{i}")))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 6
    assert len({_parent(i) for i in ids}) == 1
    assert mlflow.active_run() is None


@pytest.mark.parametrize(("state", "status"), [("finished", "FINISHED"), ("failed", "FAILED"), ("cancelled", "KILLED")])
def test_the_end_is_written_once(home: Path, run_spec: Make, state: str, status: str) -> None:
    run = client.start_run(run_spec())
    client.mark_running(run)
    assert _status(run) == "RUNNING"
    ended = time.time() + 50
    client.end(run, state, ended)
    client.end(run, status)
    info = client.client().get_run(run).info
    assert (info.status, info.end_time) == (status, int(ended * 1000))


def test_the_parent_follows_its_children(home: Path, run_spec: Make) -> None:
    runs = [client.start_run(run_spec(f"run-{i}")) for i in range(3)]
    parent = _parent(runs[0])
    client.end(runs[0], "finished")
    client.end(runs[1], "failed")
    assert _status(parent) == "RUNNING"
    client.end(runs[2], "cancelled")
    assert _status(parent) == "FAILED"
    client.mark_running(runs[1])
    assert (_status(runs[1]), _status(parent)) == ("RUNNING", "RUNNING")
    client.end(runs[1], "paused")
    assert (_status(runs[1]), _status(parent)) == ("SCHEDULED", "RUNNING")
    client.end(runs[1], "finished")
    assert _status(parent) == "KILLED"
    late = client.start_run(run_spec("late-run"))
    assert _status(parent) == "RUNNING"
    client.end(late, "finished")
    client.client().delete_run(runs[2])
    client.end(late, "finished")
    assert _status(parent) == "FINISHED"


def test_a_run_deleted_in_mlflow_is_left_alone(home: Path, run_spec: Make) -> None:
    run = client.start_run(run_spec())
    client.client().delete_run(run)
    client.mark_running(run)
    client.end(run, "finished")
    client.end("0" * 32, "finished")
    assert client.client().get_run(run).info.status == "SCHEDULED"


def test_a_deleted_mlflow_experiment_comes_back(home: Path, run_spec: Make) -> None:
    client.client().delete_experiment(client.experiment_id())
    assert _status(client.start_run(run_spec())) == "SCHEDULED"


def test_unknown_state_is_one_sentence(home: Path) -> None:
    with pytest.raises(WorkbenchError, match=r"the state of a run must be one of queued, .* got 'done'"):
        client.end("x", "done")


def test_an_absent_server_is_one_sentence_without_password(home: Path, run_spec: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(WorkbenchError, match=r"the tracking store http://127\.0\.0\.1:9 must answer") as problem:
        client.start_run(run_spec())
    assert time.monotonic() - began < 20
    assert "secret" not in str(problem.value)
    assert str(problem.value).count("\n") == 0


def test_an_own_address_is_respected(home: Path, run_spec: Make, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (home / "mlflow.db").read_bytes()
    shutil.copy(empty_database, home / "own.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'own.db'}")
    run = client.start_run(run_spec())
    assert list(query.runs()["mlflow_id"]) == [run]
    assert (home / "mlflow.db").read_bytes() == before


def test_parameters_fit_mlflow(home: Path, run_spec: Make) -> None:
    config = {"long": "x" * 7000, "we%ird@key": 1, "we#ird@key": 2, "..": 3, "a//b": 4, "n" * 300: 5, "none": None, "empty": []}
    spec = run_spec(config={f"{k}": v for k, v in config.items()} | {f"many{i}": i for i in range(150)})
    stored = client.client().get_run(client.start_run(spec)).data.params
    assert stored == client.parameters(spec)
    assert len(stored["config.long"]) == 6000
    assert {stored["config.we_ird_key"], stored["config.we_ird_key_"]} == {"1", "2"}
    assert "config.none" not in stored
    assert stored["data.files"] == '{"/data/reviews.csv": "ab"}'
    assert "5" in [v for k, v in stored.items() if k.startswith("config.nnn")]


@pytest.mark.parametrize("name", ["train/loss", "a%b", "..", "/x", "x/", "a/../b", "..x", "", "é", "a/./b", "n" * 400])
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(client.key_name(name))
    assert client.key_name("train/loss") == "train/loss"
