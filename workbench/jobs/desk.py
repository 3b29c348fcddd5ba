"""What daemon and worker tell each other through the run folder, for workers on another machine.

SQLite's WAL and locks of the kernel hold on one machine only, so a worker elsewhere never opens the job store: the daemon lays
the row out in `desk.json`, the worker answers in `progress.json`, each written whole. Standard library only.
"""

from pathlib import Path
from typing import Any

from workbench.jobs import wire
from workbench.jobs.reading import Row
from workbench.jobs.store import Store

DESK, PROGRESS = "desk.json", "progress.json"
LAID = ("job", "run_id", "experiment", "name", "kind", "label", "method", "seed", "attempt", "intent", "neighbours", "mlflow_id")


class Desk:
    """The worker's side: what it asks of the job store and tells it, for one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def run(self, run_id: str) -> Row | None:
        """The row as the daemon last laid it out; None once the folder is gone."""
        found = wire.read_json(self.folder / DESK)
        return found if found is not None and found.get("run_id") == run_id else None

    def row(self, job: int) -> Row | None:
        """The same by the job's number."""
        found = wire.read_json(self.folder / DESK)
        return found if found is not None and found.get("job") == job else None

    def began(self, job: int, attempt: int, pid: int, start: int | None) -> bool:
        """This attempt's worker has begun; False if the row has moved on."""
        return self._tell(job, attempt, {"step": 0, "steps": 0})

    def progress(self, job: int, attempt: int, step: int, steps: int) -> bool:
        """The worker has done `step` of `steps` optimizer steps; False if the row has moved on."""
        return self._tell(job, attempt, {"step": step, "steps": steps})

    def _tell(self, job: int, attempt: int, values: dict[str, Any]) -> bool:
        row = self.row(job)
        if row is None or row["attempt"] != attempt:
            return False
        wire.write_json(self.folder / PROGRESS, {"attempt": attempt, **values})
        return True


def lay(folder: Path, row: Row) -> None:
    """The daemon's side: lay the row out for the worker, if it says anything new."""
    new = {name: row[name] for name in LAID}
    if wire.read_json(folder / DESK) != new:
        wire.write_json(folder / DESK, new)


def collect(folder: Path, row: Row, store: Store) -> None:
    """The daemon's side: write into the store what the worker of this attempt has told since."""
    told = wire.read_json(folder / PROGRESS)
    if told is None or told.get("attempt") != row["attempt"]:
        return
    job, attempt = row["job"], row["attempt"]
    if row["state"] == "starting":
        store.began(job, attempt, None, None)
    if (told["step"], told["steps"]) != (row["step"], row["steps"]):
        store.progress(job, attempt, told["step"], told["steps"])
