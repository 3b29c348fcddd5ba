"""The order of the queue and what waits in it: move a job, hold or release an experiment."""

from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import jobs_db
from workbench.jobs import client
from workbench.jobs.store import Row, Store

PLACES = ("first", "up", "down")


def move(job: int | str, where: str) -> Row:
    """Give a waiting job another place: `first`, or `up` or `down` by one; returns the row.

    Raises:
        WorkbenchError: the job or the place is unknown, or it does not wait.
    """
    if where not in PLACES:
        raise unknown("place in the queue", where, PLACES)
    row = client.find(job)
    with Store(jobs_db()) as store:
        if not store.move(row["job"], where):
            state = (store.row(row["job"]) or row)["state"]
            raise WorkbenchError(f"only a waiting job has a place in the queue; job {row['job']} is {state}.")
    return client.find(row["job"])


def hold(experiment: str) -> int:
    """Hold back every waiting run of an experiment (its id); what runs goes on. Returns how many."""
    with Store(jobs_db()) as store:
        return store.hold_all(experiment)


def release(experiment: str) -> int:
    """Queue every paused run of an experiment (its id) again, each in its place. Returns how many."""
    client.ensure_daemon()
    with Store(jobs_db()) as store:
        count = store.release_all(experiment)
    client.ensure_daemon()  # it may just have left for idleness
    return count


def standing() -> tuple[list[Row], dict[str, Row]]:
    """The trainings that run or wait, in the order of the queue, and what finished runs beside them took; see `Store.paces`."""
    with Store(jobs_db()) as store:
        rows = [row for row in store.active() if row["kind"] == "train"]
        return sorted(rows, key=lambda row: (row["state"] == "queued", row["position"])), store.paces()


def order() -> list[int]:
    """The waiting jobs in the order in which they will be taken."""
    with Store(jobs_db()) as store:
        return store.order()
