"""The record on a real MLflow server with PostgreSQL behind it: everything that works with SQLite works there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.elsewhere.serving import MLflowServer, mlflow_server, postgres
from tests.jobs.living import until
from tests.train import planted
from tracking import client as tracked
from tracking import query
from workbench.cli import main
from workbench.core import safe_yaml
from workbench.core.paths import run_folder
from workbench.jobs import client, daemon, engine
from workbench.services import runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """One server for the module."""
    with postgres() as store, mlflow_server(store, tmp_path_factory.mktemp("mlflow")) as started:
        yield started


@pytest.fixture
def home(tmp_path: Path, server: MLflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh home that records elsewhere."""
    folder = (tmp_path / "home").resolve()
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    yield folder
    daemon.stop()
    engine.stop(5)


def spec(folder: Path, name: str, steps: int) -> Path:
    """An experiment of two methods on a tiny random model, as a file."""
    base, data = planted.base("bert", folder / "base"), planted.rows("bert", folder / "rows", 60)
    plain = {
        "name": name, "model": str(base), "task": "text_classification",
        "data": {"source": data.source, "test": 0.25, "validation": 0.2}, "methods": [{"method": "lora", "rank": 4}, "bitfit"],
        "training": {"max_steps": steps, "epochs": 10_000, "batch_size": 8, "max_length": 16, "precision": "fp32",
                     "eval_every": 1_000_000},
        "seeds": [0], "device": "cpu",
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(safe_yaml.dumps(plain))
    return path


def told() -> bool:
    """Whether MLflow knows the end of every job that began."""
    return all(row["told"] == row["state"] for row in client.jobs() if row["started"])


def test_an_experiment_lies_in_postgresql(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", str(spec(tmp_path, "away", 12)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in found["rows"]} == {"finished"}
    until(told, 90)
    table = query.runs(found["experiment"]).set_index("run_id")
    assert list(table["status"]) == ["FINISHED"] * len(found["rows"])
    for row in found["rows"]:
        there = table.loc[row["run_id"]]
        assert there["metrics.test/accuracy"] == row["metrics"]["accuracy"]
        assert there["metrics.params/trainable"] == row["trainable_params"]
        assert there["params.training.max_steps"] == "12"
        losses = query.history(there["mlflow_id"], "train/loss")
        here = runs.curves(run_folder(row["run_id"]))["steps"]
        assert list(losses["step"]) == [point["step"] for point in here] == list(range(1, 13))
        assert list(losses["value"]) == [point["loss"] for point in here]
    store = tracked.client()
    parent = store.get_run(store.get_run(table.iloc[0]["mlflow_id"]).data.tags[tracked.PARENT])
    assert parent.info.status == "FINISHED"
    models = store.search_logged_models([tracked.experiment_id()])
    assert {m.source_run_id for m in models if m.status.value == "READY"} >= set(table["mlflow_id"])
    assert not (home / "mlflow.db").exists()
    report = tmp_path / "report.html"
    assert main(["compare", found["experiment"], "--html", str(report)]) == 0
    assert "lora" in report.read_text()


def test_the_adapter_comes_back_from_the_server(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import mlflow

    assert main(["run", str(spec(tmp_path, "back", 3)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    until(told, 90)
    run_id = found["rows"][0]["run_id"]
    own = client.find(run_id)["mlflow_id"]
    store = tracked.client()
    (model,) = [m for m in store.search_logged_models([tracked.experiment_id()]) if m.source_run_id == own]
    got = Path(mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(tmp_path / "got")))
    kept = run_folder(run_id) / "adapter"
    assert {p.name: p.read_bytes() for p in got.iterdir()} == {p.name: p.read_bytes() for p in kept.iterdir()}


def test_a_paused_run_goes_on_in_the_same_mlflow_run(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["submit", str(spec(tmp_path, "rest", 400)), "--json"]) == 0
    first, *others = (row["job"] for row in json.loads(capsys.readouterr().out)["jobs"])
    for job in others:
        client.cancel(job)
    until(lambda: client.find(first)["step"] > 20, 120)
    own = until(lambda: client.find(first)["mlflow_id"], 60)
    store = tracked.client()
    until(lambda: store.get_run(own).info.status == "RUNNING", 60)
    client.pause(first)
    until(lambda: client.find(first)["state"] == "paused", 60)
    until(lambda: store.get_run(own).info.status == "SCHEDULED", 60)
    stood = client.find(first)["step"]
    assert 20 < stood < 400
    client.resume(first)
    assert client.wait([first])[0]["state"] == "finished"
    until(told, 90)
    row = client.find(first)
    assert (row["mlflow_id"], row["attempt"]) == (own, 2)
    assert store.get_run(own).info.status == "FINISHED"
    assert list(query.history(own, "train/loss")["step"]) == list(range(1, 401))
    for told_of in filter(None, (client.find(job)["mlflow_id"] for job in others)):
        assert store.get_run(told_of).info.status == "KILLED"
