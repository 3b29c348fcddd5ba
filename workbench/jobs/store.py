"""The queue: one SQLite table (WAL) that the clients, the daemon and the workers share.

Every write is one `BEGIN IMMEDIATE` transaction. Writes of a worker or about a worker carry the attempt number and are
refused (False) when the row has moved on. Standard library only, so that a worker can say "started" within milliseconds.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from workbench.core.locks import file_lock

Row = dict[str, Any]
NAME = "jobs.db"
LIVE = ("starting", "running")
ENDED = ("finished", "failed", "cancelled")
STATES = ("queued", *LIVE, "paused", *ENDED)
SHORT_KINDS = ("operate", "analyse", "export", "verify")
KINDS = ("train", *SHORT_KINDS)
VERSION = 1
SCHEMA = """
CREATE TABLE jobs (
  job INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, experiment TEXT NOT NULL, name TEXT NOT NULL,
  kind TEXT NOT NULL, label TEXT NOT NULL, method TEXT NOT NULL, seed INTEGER, spec TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'queued', intent TEXT, attempt INTEGER NOT NULL DEFAULT 1, reason TEXT,
  step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0, neighbours INTEGER NOT NULL DEFAULT 0,
  mlflow_id TEXT, told TEXT, submitted REAL NOT NULL, started REAL, ended REAL,
  slot TEXT, pid INTEGER, pid_created INTEGER, pgid INTEGER);
CREATE INDEX jobs_by_state ON jobs (state, job);
CREATE INDEX jobs_by_experiment ON jobs (experiment);
"""
FRESH = {"intent": None, "reason": None, "step": 0, "steps": 0, "neighbours": 0, "told": None, "started": None, "ended": None,
         "slot": None, "pid": None, "pid_created": None, "pgid": None}  # fmt: skip


def _row(cursor: sqlite3.Cursor, values: tuple) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


class Store:
    """One connection to the queue; close it, or use it as a context manager. Safe to open from many processes at once.

    Raises:
        WorkbenchError: the file is damaged, from another version, full or kept busy; one sentence.
    """

    def __init__(self, path: Path, patience: float = 10.0) -> None:
        self.path = path
        with self._explained():
            self._db = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
            self._db.row_factory = _row
            if self._version() == 0:
                self._create()
            found = self._version()
        if found != VERSION:
            self._db.close()
            raise self._problem(f"is of schema {found}, this version needs {VERSION}; use another WORKBENCH_HOME")

    def _version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()["user_version"]

    def _create(self) -> None:
        with file_lock(self.path.parent / "locks" / f"{self.path.name}.lock"):
            if self._version() != 0:
                return
            self.path.chmod(0o600)
            deadline = time.monotonic() + 10
            while True:  # the switch to WAL answers "locked" at once while another first user reads the version
                try:
                    self._db.execute("PRAGMA journal_mode=WAL").fetchone()
                    break
                except sqlite3.OperationalError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")

    def _problem(self, text: str) -> Exception:
        from workbench.core.errors import WorkbenchError  # not at import: it needs more than the standard library

        return WorkbenchError(f"the job store {self.path} {text}.")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise self._problem(f"already has such a run ({error}); submit it under a new run id") from error
        except sqlite3.DatabaseError as error:
            advice = "try again" if "locked" in str(error) else "free the disk" if "full" in str(error) else "move the file away"
            raise self._problem(f"cannot be used: {error}; {advice}") from error

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

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

    def _read(self, condition: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._explained():
            cursor = self._db.cursor()
            cursor.row_factory = None  # names are looked up once, not once a row
            found = cursor.execute(f"SELECT * FROM jobs WHERE {condition}", tuple(values))
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]

    def _set(self, job: int, values: Mapping[str, Any], states: Sequence[str], attempt: int | None = None) -> bool:
        """Change a row that is in one of `states` (and, if given, in this attempt); False if it is not."""
        changes = ",".join(f"{name}=?" for name in values)
        condition = f"job=? AND state IN ({_marks(states)}) AND attempt=coalesce(?, attempt)"
        with self._write() as db:
            cursor = db.execute(f"UPDATE jobs SET {changes} WHERE {condition}", (*values.values(), job, *states, attempt))
            return cursor.rowcount == 1

    def add(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Queue jobs in this order, all or none.

        Args:
            rows: `run_id, experiment, name, kind, label, method, seed, spec` of each.
        """
        with self._write() as db:
            numbers = []
            for row in rows:
                values = {**row, "submitted": time.time()}
                columns = ",".join(values)
                cursor = db.execute(f"INSERT INTO jobs ({columns}) VALUES ({_marks(list(values))})", tuple(values.values()))
                numbers.append(int(cursor.lastrowid or 0))
            return numbers

    def row(self, job: int) -> Row | None:
        """One job."""
        return next(iter(self._read("job=?", (job,))), None)

    def run(self, run_id: str) -> Row | None:
        """The job of a run id."""
        return next(iter(self._read("run_id=?", (run_id,))), None)

    def starting_with(self, prefix: str) -> list[Row]:
        """Jobs whose run id begins with `prefix`."""
        return self._read("substr(run_id, 1, length(?))=? ORDER BY job", (prefix, prefix))

    def rows(self, experiment: str | None = None) -> list[Row]:
        """All jobs in order of submission; `experiment` is an id, or a bare name for its newest experiment."""
        if experiment is None:
            return self._read("1 ORDER BY job")
        exact = self._read("experiment=? ORDER BY job", (experiment,))
        newest = "experiment=(SELECT experiment FROM jobs WHERE kind='train' AND name=? ORDER BY job DESC LIMIT 1) ORDER BY job"
        return exact or self._read(newest, (experiment,))

    def experiments(self) -> list[Row]:
        """Trainings by experiment, newest first: experiment, name, submitted, runs, finished, live."""
        counts = "count(*) AS runs, sum(state='finished') AS finished, sum(state IN ('queued','starting','running')) AS live"
        columns = f"SELECT experiment, name, min(submitted) AS submitted, {counts} FROM jobs WHERE kind='train'"
        with self._explained():
            return self._db.execute(f"{columns} GROUP BY experiment ORDER BY min(job) DESC").fetchall()

    def newest(
        self, experiment: str | None, states: Sequence[str], count: int, skip: int = 0, kinds: Sequence[str] = ()
    ) -> list[Row]:
        """The newest jobs first: `count` of them after `skip`; of one experiment's id, of `states` and `kinds`, where given."""
        condition, values = self._among(experiment, states, kinds)
        return self._read(f"{condition} ORDER BY job DESC LIMIT ? OFFSET ?", (*values, count, skip))

    def counts(self, experiment: str | None = None) -> dict[str, int]:
        """State -> number of jobs, of one experiment's id where given."""
        condition, values = self._among(experiment, ())
        with self._explained():
            query = f"SELECT state, count(*) AS n FROM jobs WHERE {condition} GROUP BY state"
            return {row["state"]: row["n"] for row in self._db.execute(query, values)}

    @staticmethod
    def _among(experiment: str | None, states: Sequence[str], kinds: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
        wanted = {"experiment": (experiment,) if experiment else (), "state": states, "kind": kinds}
        parts = [f"{name} IN ({_marks(values)})" for name, values in wanted.items() if values]
        return " AND ".join(parts) or "1", tuple(value for values in wanted.values() for value in values)

    def some(self, jobs: Sequence[int]) -> list[Row]:
        """The named jobs that exist, in order."""
        wanted = set(jobs)
        return [row for row in self._read("job BETWEEN ? AND ? ORDER BY job", (min(jobs), max(jobs))) if row["job"] in wanted]

    def last_finished(self, count: int) -> list[Row]:
        """The newest finished trainings, at most `count`, the newest first."""
        return self._read("kind='train' AND state='finished' ORDER BY job DESC LIMIT ?", (count,))

    def active(self) -> list[Row]:
        """Jobs that are queued, starting or running."""
        return self._read("state IN ('queued','starting','running') ORDER BY job")

    def claim(self, slot: str, kinds: Sequence[str]) -> Row | None:
        """Take the oldest queued job of these kinds for a slot; flags every live job when there is more than one."""
        with self._write() as db:
            query = f"SELECT job FROM jobs WHERE state='queued' AND kind IN ({_marks(kinds)}) ORDER BY job LIMIT 1"
            found = db.execute(query, tuple(kinds)).fetchone()
            if found is None:
                return None
            job = found["job"]
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

    def end(self, job: int, attempt: int, state: str, reason: str | None) -> bool:
        """A live attempt is over."""
        return self._set(job, {"state": state, "reason": reason, "ended": time.time(), "intent": None}, LIVE, attempt)

    def requeue(self, job: int, attempt: int, states: Sequence[str] = ("starting",)) -> bool:
        """Put back a job whose worker never came to life, or went down with the machine; a late worker is then refused."""
        return self._set(job, {**FRESH, "state": "queued", "attempt": attempt + 1}, states, attempt)

    def pause(self, job: int) -> bool:
        """Hold a waiting job back, or ask a live training to make room; False if it is neither."""
        return self._set(job, {"state": "paused"}, ("queued",)) or self._set(job, {"intent": "pause"}, LIVE)

    def resume(self, job: int, attempt: int) -> bool:
        """Queue a paused job again; its steps stay, because it goes on where it stood."""
        kept = {name: value for name, value in FRESH.items() if name not in ("step", "steps")}
        return self._set(job, {**kept, "state": "queued", "attempt": attempt + 1}, ("paused",), attempt)

    def retry(self, job: int, attempt: int) -> bool:
        """Queue a failed or cancelled job once more, as a new attempt."""
        return self._set(job, {**FRESH, "state": "queued", "attempt": attempt + 1}, ("failed", "cancelled"), attempt)

    def cancel(self, job: int) -> bool:
        """End a waiting job, or ask a live one to stop; False if it is over already."""
        values = {"state": "cancelled", "reason": "cancelled before it began", "ended": time.time()}
        return self._set(job, values, ("queued", "paused")) or self._set(job, {"intent": "cancel"}, LIVE)

    def remove(self, job: int) -> bool:
        """Forget a job that is not live."""
        with self._write() as db:
            return db.execute("DELETE FROM jobs WHERE job=? AND state NOT IN ('starting','running')", (job,)).rowcount == 1

    def quiet(self, farewell: Path) -> bool:
        """If nothing is queued or live, remove the daemon's ready file in the same transaction: no job can slip in between."""
        with self._write() as db:
            if db.execute("SELECT 1 FROM jobs WHERE state IN ('queued','starting','running') LIMIT 1").fetchone():
                return False
            farewell.unlink(missing_ok=True)
            return True

    def unnamed(self) -> list[Row]:
        """Trainings that MLflow should know (waiting, live, or ended after they began) and does not yet."""
        wanted = "state IN ('queued','starting','running') OR started IS NOT NULL"
        return self._read(f"kind='train' AND mlflow_id IS NULL AND ({wanted}) ORDER BY job")

    def named(self, job: int, mlflow_id: str) -> None:
        """Remember the MLflow run of a job."""
        self._set(job, {"mlflow_id": mlflow_id}, STATES)

    def untold(self) -> list[Row]:
        """Jobs that ended in a state which MLflow has not accepted yet."""
        return self._read(f"mlflow_id IS NOT NULL AND state IN ({_marks(ENDED)}) AND told IS NOT state ORDER BY job", ENDED)

    def told(self, job: int, attempt: int, state: str) -> None:
        """MLflow accepted this end of this attempt."""
        self._set(job, {"told": state}, (state,), attempt)
