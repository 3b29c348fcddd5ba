"""What MLflow keeps of a run that was deleted here: its figures. The copy of the adapter in our own artifact folder goes."""

import json
import re
import time
from pathlib import Path

from tracking import client
from workbench.core.paths import home

TAG = "workbench.deleted"
ID = re.compile(r"[A-Za-z0-9-]+")


def copies(folder: Path, mlflow_id: str | None) -> list[Path]:
    """Folders below `<home>/artifacts` that hold copies of a run's files; those of another artifact store are not ours.

    Args:
        folder: the run folder.
        mlflow_id: the run in MLflow, where it has one.
    """
    try:
        model = json.loads((folder / "tracking.json").read_text()).get("model")
    except (OSError, ValueError, AttributeError):
        model = None
    root = home() / "artifacts"
    named = [(root / "models", model), (root, mlflow_id)]
    places = [above / name for above, name in named if isinstance(name, str) and ID.fullmatch(name)]
    return [place for place in places if place.is_dir() and not place.is_symlink()]


def tell(mlflow_id: str) -> None:
    """Mark a run as deleted in the workbench and delete its LoggedModels; the run's params and metrics stay.

    Raises:
        WorkbenchError: the tracking store does not answer; tell again later.
    """
    store = client.client()
    try:
        with client.answering():
            run = store.get_run(mlflow_id)
            if run.info.lifecycle_stage == "deleted":
                return
            store.set_tag(mlflow_id, TAG, time.strftime("%Y-%m-%d %H:%M:%S"))
            where = f"source_run_id = '{mlflow_id}'"
            for model in store.search_logged_models([run.info.experiment_id], filter_string=where):
                store.delete_logged_model(model.model_id)
    except (client.Gone, client.Unknown):  # somebody deleted it there before, or a server of a time before LoggedModels
        return
