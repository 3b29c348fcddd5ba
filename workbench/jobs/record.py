"""What the daemon tells MLflow about jobs, in a thread of its own: that they wait, and, once and for all, how they ended."""

import sys
import threading
import time
from collections import Counter
from pathlib import Path

from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.core.run_spec import RunSpec
from workbench.jobs import failures
from workbench.jobs.store import Row, Store

LONGEST_WAIT = 60.0


def read_spec(folder: Path) -> RunSpec:
    """The RunSpec of a run folder.

    Raises:
        WorkbenchError: it is gone or damaged.
    """
    try:
        return RunSpec.model_validate(safe_yaml.loads((folder / "spec.yaml").read_bytes(), "spec.yaml"))
    except (OSError, ValueError) as error:
        reason = failures.sentence(error)
        raise WorkbenchError(f"{folder.name}/spec.yaml cannot be read ({reason}); submit the run again.") from None


def ensure_run(store: Store, row: Row) -> str:
    """The job's run in MLflow, created (SCHEDULED) if it does not exist; the daemon and a worker may both ask.

    Raises:
        WorkbenchError: the tracking store does not answer.
    """
    from tracking import client  # not at import: MLflow is heavy, and a run needs none

    if not row["mlflow_id"]:
        row["mlflow_id"] = client.start_run(read_spec(run_folder(row["run_id"])))
        store.named(row["job"], row["mlflow_id"])
    return row["mlflow_id"]


def tell_deleted(store: Store, mlflow_id: str) -> None:
    """Say that a run was deleted here; remembered until accepted.

    Raises:
        WorkbenchError: the tracking store does not answer; tell again later.
    """
    from tracking import removal

    removal.tell(mlflow_id)
    store.forget(mlflow_id)


def tell_end(store: Store, row: Row) -> None:
    """Send what events MLflow lacks, then the terminal status; remembered once accepted.

    Raises:
        WorkbenchError: the tracking store does not answer; tell again later.
    """
    from tracking import client, reporter

    folder = run_folder(row["run_id"])
    if (folder / "events.jsonl").exists() and not reporter.resend(folder, row["mlflow_id"]):
        raise WorkbenchError("the tracking store must take the last events of a run before its end; it does not answer yet.")
    client.end(row["mlflow_id"], row["state"], row["ended"])
    store.told(row["job"], row["attempt"], row["state"])


class Recorder(threading.Thread):
    """Repeats until accepted, waiting longer after each failure; jobs never wait for it."""

    def __init__(self, database: Path) -> None:
        super().__init__(name="recorder", daemon=True)
        self._database = database
        self._wait = 1.0
        self._failures: Counter[int] = Counter()

    def run(self) -> None:
        """Look once a second."""
        with Store(self._database) as store:
            while True:
                try:
                    failed = self._round(store)
                except WorkbenchError as error:  # the job store is busy
                    print(f"tracking: {error}", file=sys.stderr, flush=True)
                    failed = True
                self._wait = min(self._wait * 2, LONGEST_WAIT) if failed else 1.0
                time.sleep(self._wait)

    def _round(self, store: Store) -> bool:
        for waiting, act in ((store.unnamed, ensure_run), (store.untold, tell_end)):
            for row in sorted(waiting(), key=lambda row: self._failures[row["job"]]):  # one bad job must not hold up the others
                try:
                    act(store, row)
                except Exception as error:  # whatever a tracking client raises, the queue goes on and this is repeated
                    self._failures[row["job"]] += 1
                    print(f"tracking of job {row['job']}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                    return True  # the next one would most likely meet the same silence
        return self._deleted(store)

    def _deleted(self, store: Store) -> bool:
        for mlflow_id in store.gone():
            try:
                tell_deleted(store, mlflow_id)
            except Exception as error:  # as above
                print(f"tracking of a deleted run: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                return True
        return False
