"""Every change of the queue, one `BEGIN IMMEDIATE` transaction each.

Clients, daemon and workers share one SQLite file (WAL). Writes of a worker or about a worker carry the attempt number and are
refused (False) when the row has moved on. Standard library only, so that a worker can say "started" within milliseconds.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.jobs import sharing
from workbench.jobs.reading import ENDED, LIVE, Reading, Row, marks

__all__ = ["ENDED", "KINDS", "LIVE", "NAME", "SHORT_KINDS", "STATES", "Row", "Store"]

NAME = "jobs.db"
STATES = ("queued", *LIVE, "paused", *ENDED)
SHORT_KINDS = ("operate", "analyse", "export", "verify")
KINDS = ("train", *SHORT_KINDS)
FRESH = {"intent": None, "reason": None, "failure": None, "step": 0, "steps": 0, "neighbours": 0, "told": None, "started": None,
         "ended": None, "slot": None, "pid": None, "pid_created": None, "pgid": None}  # fmt: skip

GOES_ON = {name: value for name, value in FRESH.items() if name not in ("step", "steps")}
HELD = "held back on request; resume it to queue it again."
PAUSED = {"state": "paused", "reason": HELD}
CANCELLED = {"state": "cancelled", "reason": "cancelled before it began"}


class Store(Reading):
    """The queue, to look and to change: see `Reading` for opening, errors and everything that is only asked."""

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @staticmethod
    def _change(db: sqlite3.Connection, job: int, values: Mapping[str, Any], states: Sequence[str], attempt: int | None) -> bool:
        changes = ",".join(f"{name}=?" for name in values)
        condition = f"job=? AND state IN ({marks(states)}) AND attempt=coalesce(?, attempt)"
        cursor = db.execute(f"UPDATE jobs SET {changes} WHERE {condition}", (*values.values(), job, *states, attempt))
        return cursor.rowcount == 1

    def _set(self, job: int, values: Mapping[str, Any], states: Sequence[str], attempt: int | None = None) -> bool:
        """Change a row that is in one of `states` (and, if given, in this attempt); False if it is not."""
        with self._write() as db:
            return self._change(db, job, values, states, attempt)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Queue jobs in this order, all or none.

        Args:
            rows: `run_id, experiment, name, kind, label, method, seed, spec` of each; of a training also `on_error`,
                `exclusive`, `gpus`, `planned_bytes` and `planned_seconds` where they are known.
        """
        with self._write() as db:
            numbers = []
            for row in rows:
                values = {**row, "submitted": time.time()}
                columns = ",".join(values)
                cursor = db.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks(list(values))})", tuple(values.values()))
                numbers.append(int(cursor.lastrowid or 0))
            return numbers

    def claim(
        self, slot: str, kinds: Sequence[str], room: int | None = None, spare: Sequence[str] = (), most: int = 1
    ) -> Row | None:
        """Take the first queued job of these kinds for a slot; flags every live job when there is more than one.

        Args:
            slot: name of the slot; None comes back where another job holds it with which this one may not share.
            kinds: what the slot takes.
            room: bytes of its memory that trainings may share; None = one job at a time.
            spare: slots that are free besides, for a job that takes several GPUs; it is first in the order, so that nobody
                starts before it while too few are free.
            most: GPUs that there are in all; a job that needs more gets these, and its worker says so.
        """
        with self._write() as db:
            query = f"SELECT * FROM jobs WHERE state='queued' AND kind IN ({marks(kinds)}) ORDER BY position LIMIT 1"
            found = db.execute(query, tuple(kinds)).fetchone()
            among = "instr(',' || slot || ',', ',' || ? || ',') AND state IN ('starting','running')"
            beside = db.execute(f"SELECT * FROM jobs WHERE {among}", (slot,)).fetchall()
            if found is None or not sharing.fits([*beside, found], room):
                return None
            job, free, wanted = found["job"], [slot, *spare], min(found["gpus"], most)
            if len(free) < wanted:
                return None
            slot = ",".join(free[:wanted])
            db.execute("UPDATE jobs SET state='starting', slot=?, started=? WHERE job=?", (slot, time.time(), job))
            live = "state IN ('starting','running')"
            if db.execute(f"SELECT count(*) AS n FROM jobs WHERE {live}").fetchone()["n"] > 1:
                db.execute(f"UPDATE jobs SET neighbours=1 WHERE {live}")
            return db.execute("SELECT * FROM jobs WHERE job=?", (job,)).fetchone()

    def spawned(self, job: int, attempt: int, pid: int, start: int | None) -> bool:
        """The daemon started a worker; `start` is its start time in ticks."""
        return self._set(job, {"pid": pid, "pid_created": start, "pgid": pid}, LIVE, attempt)

    def began(self, job: int, attempt: int, pid: int, start: int | None) -> bool:
        """The worker holds its lock."""
        values = {"state": "running", "started": time.time(), "pid": pid, "pid_created": start, "pgid": pid}
        return self._set(job, values, ("starting",), attempt)

    def progress(self, job: int, attempt: int, step: int, steps: int) -> bool:
        """The worker has done `step` of `steps` optimizer steps."""
        return self._set(job, {"step": step, "steps": steps}, ("running",), attempt)

    def end(self, job: int, attempt: int, state: str, reason: str | None, failure: str | None = None) -> bool:
        """A live attempt is over; where its experiment asks for it, the runs of it that still wait are held.

        Args:
            job, attempt, state, reason: of the row.
            failure: JSON of a `failures.Failure`.
        """
        values = {"state": state, "reason": reason, "failure": failure, "ended": time.time(), "intent": None}
        with self._write() as db:
            row = db.execute("SELECT * FROM jobs WHERE job=?", (job,)).fetchone() or {}
            if state == "paused" and row.get("intent") == "cancel":  # asked after the worker had seen the pause
                values |= {"state": "cancelled", "reason": "cancelled on request"}
            changed = self._change(db, job, values, LIVE, attempt)
            if changed and state == "failed" and row["kind"] == "train" and row["on_error"] == "hold":
                failed = f"job {job} ({row['label']}, seed {row['seed']})"
                why = f"held because {failed} of this experiment failed: see why, then resume or cancel this run."
                waiting = "experiment=? AND kind='train' AND state='queued'"
                db.execute(f"UPDATE jobs SET state='paused', reason=? WHERE {waiting}", (why, row["experiment"]))
            return changed

    def requeue(self, job: int, attempt: int, states: Sequence[str] = ("starting",)) -> bool:
        """Put back a job whose worker never came to life, or went down with the machine; a late worker is then refused.

        What was asked of it meanwhile holds: it is cancelled, or held back, instead of queued.
        """
        with self._write() as db:
            row = db.execute("SELECT intent FROM jobs WHERE job=?", (job,)).fetchone() or {}
            wish = {"cancel": {**CANCELLED, "ended": time.time()}, "pause": PAUSED}.get(row.get("intent"), {})
            return self._change(db, job, {**FRESH, "state": "queued", "attempt": attempt + 1, **wish}, states, attempt)

    def pause(self, job: int) -> bool:
        """Hold a waiting job back, or ask a live training to make room; False if it is neither."""
        return self._now_or_soon(job, ("queued",), PAUSED, "pause")

    def _now_or_soon(self, job: int, waiting: Sequence[str], values: Mapping[str, Any], intent: str) -> bool:
        """Change a job at once where it waits, else leave its worker a wish; one transaction, so that it cannot slip between."""
        with self._write() as db:
            return self._change(db, job, values, waiting, None) or self._change(db, job, {"intent": intent}, LIVE, None)

    def resume(self, job: int, attempt: int) -> bool:
        """Queue a paused job again; its steps stay, because it goes on where it stood."""
        return self._set(job, {**GOES_ON, "state": "queued", "attempt": attempt + 1}, ("paused",), attempt)

    def hold_all(self, experiment: str) -> int:
        """Hold back every waiting run of an experiment's id; returns how many."""
        waiting = "experiment=? AND kind='train' AND state='queued'"
        with self._write() as db:
            return db.execute(f"UPDATE jobs SET state='paused', reason=? WHERE {waiting}", (HELD, experiment)).rowcount

    def release_all(self, experiment: str) -> int:
        """Queue every paused run of an experiment's id again, in its place; returns how many."""
        changes = ",".join(f"{name}=?" for name in GOES_ON)
        with self._write() as db:
            found = db.execute(
                f"UPDATE jobs SET {changes}, state='queued', attempt=attempt+1 WHERE experiment=? AND state='paused'",
                (*GOES_ON.values(), experiment),
            )
            return found.rowcount

    def move(self, job: int, where: str) -> bool:
        """Give a waiting job another place: `first`, or `up` or `down` by one; False if it does not wait."""
        with self._write() as db:
            row = db.execute("SELECT * FROM jobs WHERE job=? AND state='queued'", (job,)).fetchone()
            if row is None:
                return False
            if where == "first":
                query = "UPDATE jobs SET position=(SELECT min(position) FROM jobs) - 1 WHERE job=?"
                db.execute(query, (job,))
                return True
            side, way = ("<", "DESC") if where == "up" else (">", "ASC")
            kinds = ("train",) if row["kind"] == "train" else SHORT_KINDS
            query = f"SELECT job, position FROM jobs WHERE state='queued' AND kind IN ({marks(kinds)})"
            query += f" AND position {side} ? ORDER BY position {way} LIMIT 1"
            if other := db.execute(query, (*kinds, row["position"])).fetchone():
                db.execute("UPDATE jobs SET position=? WHERE job=?", (other["position"], job))
                db.execute("UPDATE jobs SET position=? WHERE job=?", (row["position"], other["job"]))
            return True

    def retry(self, job: int, attempt: int) -> bool:
        """Queue a failed or cancelled job once more, as a new attempt."""
        return self._set(job, {**FRESH, "state": "queued", "attempt": attempt + 1}, ("failed", "cancelled"), attempt)

    def cancel(self, job: int) -> bool:
        """End a waiting job, or ask a live one to stop; False if it is over already."""
        return self._now_or_soon(job, ("queued", "paused"), {**CANCELLED, "ended": time.time()}, "cancel")

    def remove(self, job: int) -> bool:
        """Forget a job that is not live; its run in MLflow is remembered until MLflow knows that it is gone."""
        where = "FROM jobs WHERE job=? AND state NOT IN ('starting','running')"
        with self._write() as db:
            db.execute(f"INSERT OR IGNORE INTO gone SELECT mlflow_id, ? {where} AND mlflow_id IS NOT NULL", (time.time(), job))
            return db.execute(f"DELETE {where}", (job,)).rowcount == 1

    def forget(self, mlflow_id: str) -> None:
        """MLflow knows that this run was deleted here."""
        with self._write() as db:
            db.execute("DELETE FROM gone WHERE mlflow_id=?", (mlflow_id,))

    def quiet(self, farewell: Path) -> bool:
        """If nothing is queued or live, remove the daemon's ready file in the same transaction: no job can slip in between."""
        with self._write() as db:
            if db.execute("SELECT 1 FROM jobs WHERE state IN ('queued','starting','running') LIMIT 1").fetchone():
                return False
            farewell.unlink(missing_ok=True)
            return True

    def named(self, job: int, mlflow_id: str) -> None:
        """Remember the MLflow run of a job."""
        self._set(job, {"mlflow_id": mlflow_id}, STATES)

    def told(self, job: int, attempt: int, state: str) -> None:
        """MLflow accepted this end of this attempt."""
        self._set(job, {"told": state}, (state,), attempt)
