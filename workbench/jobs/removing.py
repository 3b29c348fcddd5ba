"""Forgetting jobs and giving their disk back."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tracking import removal
from workbench.core.errors import WorkbenchError
from workbench.core.locks import is_held, run_lock
from workbench.core.paths import home, jobs_db, run_folder
from workbench.jobs import processes
from workbench.jobs.store import LIVE, Row, Store

POLL = 0.2


def size(folder: Path) -> int:
    """Bytes that a folder's files take on disk; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _places(row: Row) -> list[Path]:
    """Everything of a job that is on this disk and ours."""
    folder = run_folder(row["run_id"])
    return [place for place in (folder, *removal.copies(folder, row["mlflow_id"])) if place.exists()]


def held(jobs: Sequence[int]) -> int:
    """Bytes that deleting these jobs would free."""
    with Store(jobs_db()) as store:
        return sum(size(place) for row in (store.some(jobs) if jobs else ()) for place in _places(row))


def new_folder(runs: Path) -> Path:
    """Where this process prepares a submit; it must stand there until the rows are written, see `sweep`."""
    pid = os.getpid()
    return runs / f".new-{pid}-{processes.created(pid)}-{secrets.token_hex(6)}"


def sweep(store: Store) -> None:
    """Remove what a submit or delete that was killed left in `runs/`.

    A submit makes its `new_folder` before its run folders and removes it after their rows. So of the folders seen in a first
    look, those that have no row after a second look are nobody's, unless that one shows the `new_folder` of a living process.
    """
    runs = home() / "runs"
    seen = sorted(runs.iterdir()) if runs.is_dir() else []
    busy = any(_submits(path.name) for path in (runs.iterdir() if seen else ()))
    for folder in seen:
        if _half(folder, busy) and store.run(folder.name) is None:
            shutil.rmtree(folder, ignore_errors=True)


def _submits(name: str) -> bool:
    owner = re.fullmatch(r"\.new-(\d+)-(\d+)-[0-9a-f]+", name)
    return owner is not None and processes.alive(int(owner[1]), int(owner[2]))


def _half(folder: Path, busy: bool) -> bool:
    if folder.name.startswith("."):
        return folder.name.startswith((".new-", ".gone-")) and not _submits(folder.name)
    try:
        return not busy and set(os.listdir(folder)) <= {"spec.yaml", "request.json"}
    except (FileNotFoundError, NotADirectoryError):  # just deleted, or no folder
        return False


def delete(row: Row, patience: float) -> int:
    """Forget a job: its row, its run folder (adapter, checkpoints, predictions, log), MLflow's copy of the adapter, its lock.

    MLflow keeps the run with its figures, marked as deleted here. What was exported elsewhere stays.

    Args:
        row: the job.
        patience: seconds in which the daemon may first tell MLflow how the run ended.

    Returns:
        Bytes freed.

    Raises:
        WorkbenchError: the job is live.
    """
    lock = run_lock(home(), row["run_id"])
    with Store(jobs_db()) as store:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(one["job"] == row["job"] for one in store.untold()):
            time.sleep(POLL)
        row = store.row(row["job"]) or row  # it may have got its name in MLflow meanwhile
        if row["state"] in LIVE or is_held(lock) or not store.remove(row["job"]):
            if store.row(row["job"]) is None:
                raise WorkbenchError(f"a job can be deleted once; somebody else has just deleted job {row['job']}.")
            raise WorkbenchError(f"a live job cannot be deleted; cancel job {row['job']} first and wait until it is over.")
    freed = 0
    for place in _places(row):
        aside = home() / "runs" / f".gone-{secrets.token_hex(6)}"  # what stays here of a process that is killed now is swept
        try:
            os.rename(place, aside)  # so that the run is gone at once, however large its folder
        except FileNotFoundError:
            continue  # a daemon that has just started has swept it
        freed += size(aside)
        shutil.rmtree(aside, ignore_errors=True)
    lock.unlink(missing_ok=True)
    return freed
