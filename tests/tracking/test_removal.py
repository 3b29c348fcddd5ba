"""A run deleted in the workbench: MLflow keeps its figures and lets go of the copy of its adapter."""

from collections.abc import Callable
from pathlib import Path

from tracking import client, removal
from tracking.sender import Position, Sender
from workbench.core.run_spec import RunSpec

Make = Callable[..., RunSpec]


def test_the_figures_stay_and_the_copy_of_the_adapter_goes(home: Path, run_spec: Make) -> None:
    run = client.start_run(run_spec())
    folder = home / "runs" / "first-run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights.safetensors").write_bytes(b"x" * 1000)
    sender = Sender(folder, run)
    sender.log_adapter(folder / "adapter")
    sender.position.save(folder)
    client.client().log_metric(run, "test/accuracy", 0.9)
    (copy,) = removal.copies(folder, run)
    assert copy.name == Position.load(folder).model
    assert [path.name for path in copy.rglob("*.safetensors")] == ["weights.safetensors"]

    removal.tell(run)
    removal.tell(run)  # the daemon was killed before it could note that it was told
    told = client.client().get_run(run)
    assert told.data.metrics == {"test/accuracy": 0.9}
    assert removal.TAG in told.data.tags
    assert told.info.lifecycle_stage == "active"
    models = client.client().search_logged_models([told.info.experiment_id], filter_string=f"source_run_id = '{run}'")
    assert list(models) == []


def test_a_run_that_mlflow_does_not_know_any_more_needs_nothing(home: Path, run_spec: Make) -> None:
    run = client.start_run(run_spec())
    client.client().delete_run(run)
    removal.tell(run)
    removal.tell("0" * 32)
    assert removal.copies(home / "runs" / "nothing", None) == []
