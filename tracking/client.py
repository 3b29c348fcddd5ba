"""Runs in MLflow and their life: one parent per experiment, one child per run, explicit run ids only.

The queue's daemon owns every status. MLflow's notion of an active run is never used: it is lost over threads and forks.
"""

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.core.errors import WorkbenchError
from workbench.core.locks import file_lock
from workbench.core.paths import home, locks, safe_name
from workbench.core.run_spec import RunSpec
from workbench.core.spec import digest

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "workbench"
STATUS = {
    "queued": "SCHEDULED", "starting": "SCHEDULED", "paused": "SCHEDULED", "running": "RUNNING",
    "finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED",
}  # fmt: skip
TERMINAL = ("FINISHED", "FAILED", "KILLED")
PARENT = "mlflow.parentRunId"
SHUT = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
MAX_PARAM, MAX_TAG, MAX_NAME = 6000, 8000, 250
_clients: dict[tuple[int, str], "MlflowClient"] = {}
_making = threading.Lock()


class Gone(WorkbenchError):
    """The run was deleted from MLflow; nothing more can or need be written to it."""


class Unknown(WorkbenchError):
    """The tracking server is of a version that does not know what it was asked."""


def address() -> str:
    """The tracking URI: `MLFLOW_TRACKING_URI`, by default the database in the workbench's home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def shared() -> bool:
    """Whether other machines may write to `address()`: a file is for one machine."""
    return not address().startswith(("sqlite:", "file:", "/", "."))


def client() -> "MlflowClient":
    """The client of `address()`, one per process; the local database exists and is migrated afterwards.

    Raises:
        WorkbenchError: the tracking store cannot be opened.
    """
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_LOGGING_LEVEL", "WARNING"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),  # the default waits minutes; whoever calls retries later
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "15"),
    ):
        os.environ.setdefault(name, value)
    key = (os.getpid(), address())  # an engine must not be used after a fork
    with _making, answering():
        if key not in _clients:
            _clients[key] = _open(key[1])
        return _clients[key]


def _open(where: str) -> "MlflowClient":
    from mlflow.tracking import MlflowClient

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        from tracking.database import prepare

        prepare(home() / "mlflow.db", home() / "artifacts", locks() / "mlflow.lock")
    elif where.startswith("sqlite:"):
        with file_lock(locks() / "mlflow.lock"):  # MLflow itself makes a new file here, which must not happen twice at once
            return MlflowClient(where)
    return MlflowClient(where)


@contextmanager
def answering() -> Iterator[None]:
    """Turn whatever a tracking store raises into one sentence; a deleted run into `Gone`, an unknown address into `Unknown`."""
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        where, text = (re.sub(r"//[^/@\s]*@", "//", said) for said in (address(), str(error)))  # never show a password
        text = " ".join(text.split())[:200]
        code = getattr(error, "error_code", "")
        if code == "RESOURCE_DOES_NOT_EXIST" or "'active' state" in text:
            raise Gone(f"the run must exist in MLflow at {where}; got: {text}; retry the run to get a new one.") from error
        kind = Unknown if code == "ENDPOINT_NOT_FOUND" else WorkbenchError
        advice = (
            "renew MLFLOW_TRACKING_TOKEN, or the user and password" if code in SHUT else "start it or unset MLFLOW_TRACKING_URI"
        )
        raise kind(f"the tracking store {where} must answer; got {type(error).__name__}: {text}; {advice}.") from error


def experiment_id() -> str:
    """Id of the MLflow experiment `workbench`, created on first use with an absolute artifact location."""
    from mlflow.exceptions import MlflowException

    store = client()
    with answering():
        found = store.get_experiment_by_name(EXPERIMENT)
        if found is None:
            # Without a location MLflow freezes the working directory of whoever comes first; a server decides for itself.
            remote = address().startswith(("http:", "https:", "databricks"))
            location = None if remote else (home() / "artifacts").as_uri()
            try:
                return store.create_experiment(EXPERIMENT, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = store.get_experiment_by_name(EXPERIMENT)
        if found.lifecycle_stage == "deleted":
            store.restore_experiment(found.experiment_id)
        return found.experiment_id


def start_run(run_spec: RunSpec) -> str:
    """Create the run in MLflow, SCHEDULED, below its experiment's parent run.

    Calling it again for the same `run_id` returns the same MLflow run.

    Returns:
        The MLflow run id.

    Raises:
        WorkbenchError: the tracking store does not answer; the training can run without it.
    """
    from mlflow.entities import Param

    store, experiment = client(), experiment_id()
    with answering(), file_lock(locks() / "mlflow-runs.lock"):
        found = _first(f"tags.`workbench.run_id` = '{safe_name(run_spec.run_id)}' and tags.`workbench.kind` = 'run'")
        if found is not None and found.data.params:
            return found.info.run_id
        parent = _parent(run_spec.experiment)
        name = f"{run_spec.label} seed {run_spec.seed}"
        run = found or store.create_run(experiment, tags=_tags(run_spec, parent), run_name=name)
        store.update_run(run.info.run_id, status="SCHEDULED")
        store.log_batch(run.info.run_id, params=[Param(k, v) for k, v in parameters(run_spec).items()])
        return run.info.run_id


def mark_running(mlflow_id: str) -> None:
    """The run's worker has started; also reopens a run that is retried or resumed. A deleted run is left alone."""
    _set_status(mlflow_id, "RUNNING", None)


def end(mlflow_id: str, state: str, ended: float | None = None) -> None:
    """Set the status that the daemon decided; close the parent with the last child. Safe to call again.

    Args:
        mlflow_id: what `start_run` returned.
        state: a job state (`finished|failed|cancelled|paused`) or one of MLflow's own words.
        ended: seconds since the epoch, by default now.

    Raises:
        WorkbenchError: the tracking store does not answer; call again later.
    """
    status = STATUS.get(state, state)
    if status not in STATUS.values():
        raise WorkbenchError(f"the state of a run must be one of {', '.join(STATUS)}; got {state!r}.")
    _set_status(mlflow_id, status, ended)


def _set_status(mlflow_id: str, status: str, ended: float | None) -> None:
    store = client()
    try:
        with answering():
            run = store.get_run(mlflow_id)
            if run.info.status != status:
                _write_status(store, run, status, ended)
            parent = run.data.tags.get(PARENT)
        if parent:
            with answering():
                _settle(parent, ended)
    except Gone:
        return


def _write_status(store: "MlflowClient", run: "Run", status: str, ended: float | None) -> None:
    if status in TERMINAL:
        store.set_terminated(run.info.run_id, status, int(ended * 1000) if ended else None)
    else:
        store.update_run(run.info.run_id, status=status)


def _settle(parent: str, ended: float | None) -> None:
    """Give the parent the state of its children: RUNNING while one is open, else the worst end among them."""
    store = client()
    run = store.get_run(parent)
    below = f"tags.`{PARENT}` = '{parent}' and attributes.status"
    found = (status for status in ("SCHEDULED", "RUNNING", "FAILED", "KILLED") if _first(f"{below} = '{status}'") is not None)
    wanted = next(found, "FINISHED").replace("SCHEDULED", "RUNNING")
    if run.info.status != wanted:
        _write_status(store, run, wanted, ended)


def _parent(experiment: str) -> str:
    store = client()
    found = _first(f"tags.`workbench.experiment` = '{safe_name(experiment)}' and tags.`workbench.kind` = 'experiment'")
    if found is None:
        tags = {"workbench.kind": "experiment", "workbench.experiment": experiment}
        return store.create_run(experiment_id(), tags=tags, run_name=experiment).info.run_id
    if found.info.status != "RUNNING":
        store.update_run(found.info.run_id, status="RUNNING")
    return found.info.run_id


def _first(where: str) -> "Run | None":
    found = client().search_runs([experiment_id()], where, max_results=1)
    return found[0] if found else None


def _tags(run_spec: RunSpec, parent: str) -> dict[str, str]:
    values = {"kind": "run", "digest": digest(run_spec)}
    values |= {key: str(getattr(run_spec, key)) for key in ("experiment", "label", "run_id", "method", "seed", "task")}
    return {PARENT: parent} | {f"workbench.{key}": value[:MAX_TAG] for key, value in values.items()}


def parameters(run_spec: RunSpec) -> dict[str, str]:
    """The spec as MLflow params: nested keys joined by dots, lists as JSON, nothing for what is empty."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and prefix != "data.files":  # its keys are paths
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value not in (None, "", [], {}):
            name = key_name(prefix)
            while name in flat:
                name = f"{name[: MAX_NAME - 1]}_"
            flat[name] = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:MAX_PARAM]

    walk("", run_spec.model_dump(mode="json"))
    return flat


def key_name(name: str) -> str:
    """`name` with only the characters that MLflow accepts in the name of a param, metric or tag."""
    parts = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)[:MAX_NAME].split("/")
    return "/".join(part if part.strip(".") and not part.startswith("..") else f"_{part.lstrip('.')}" for part in parts)
