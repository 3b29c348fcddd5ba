"""What may be asked of the queue's table; whoever only looks needs no more. Standard library only."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from workbench.jobs import schema

Row = dict[str, Any]
LIVE = ("starting", "running")
ENDED = ("finished", "failed", "cancelled")

ADVICE = MappingProxyType({
    sqlite3.SQLITE_BUSY: "another process holds it for long: try again",
    sqlite3.SQLITE_FULL: "free the disk",
    sqlite3.SQLITE_READONLY: "make it and its folder writable for you",
    sqlite3.SQLITE_CANTOPEN: "make it and its folder readable and writable for you",
    sqlite3.SQLITE_IOERR: "the disk does not work: look after it and try again",
    sqlite3.SQLITE_NOMEM: "free some memory and try again",
})  # fmt: skip
"""What to do about an error of SQLite that leaves the file as it is; any other is damage or a foreign file."""


def _row(cursor: sqlite3.Cursor, values: tuple) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}


def marks(values: Sequence[Any]) -> str:
    """A question mark for each value."""
    return ",".join("?" * len(values))


class Reading:
    """One connection to the queue; close it, or use it as a context manager. Safe to open from many processes at once.

    Raises:
        WorkbenchError: the file is damaged, from another version, full or kept busy; one sentence.
    """

    def __init__(self, path: Path, patience: float = 10.0) -> None:
        self.path = path
        if schema.emptied(path):
            raise self._problem("is empty, and there are runs beside it; put a copy back, or move it away and submit again")
        with self._explained():
            self._db = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
            self._db.row_factory = _row
            found = schema.prepare(self._db, path)
        if found != schema.VERSION:
            self._db.close()
            raise self._problem(f"is of schema {found}, this version needs {schema.VERSION}; use another WORKBENCH_HOME")

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
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details of its kind
            advice = ADVICE.get(code, "put a copy back, or move it away and submit again")
            raise self._problem(f"cannot be used: {error}; {advice}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _read(self, condition: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._explained():
            cursor = self._db.cursor()
            cursor.row_factory = None  # names are looked up once, not once a row
            found = cursor.execute(f"SELECT * FROM jobs WHERE {condition}", tuple(values))
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]

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
        parts = [f"{name} IN ({marks(values)})" for name, values in wanted.items() if values]
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

    def unnamed(self) -> list[Row]:
        """Trainings that MLflow should know (waiting, live, or ended after they began) and does not yet."""
        wanted = "state IN ('queued','starting','running') OR started IS NOT NULL"
        return self._read(f"kind='train' AND mlflow_id IS NULL AND ({wanted}) ORDER BY job")

    def untold(self) -> list[Row]:
        """Jobs that ended or pause in a state which MLflow has not accepted yet."""
        still = (*ENDED, "paused")
        return self._read(f"mlflow_id IS NOT NULL AND state IN ({marks(still)}) AND told IS NOT state ORDER BY job", still)

    def paces(self) -> dict[str, Row]:
        """Experiment with runs that are not over -> {runs, took, took_planned, planned}: its finished runs and their seconds.

        `took` is from start to end; `took_planned` that of the runs whose plan said `planned`.
        """
        sums = "count(*) AS runs, sum(ended - started) AS took, sum(planned_seconds) AS planned"
        sums += ", sum(CASE WHEN planned_seconds IS NOT NULL THEN ended - started END) AS took_planned"
        among = "SELECT experiment FROM jobs WHERE kind='train' AND state IN ('queued','starting','running')"
        query = f"SELECT experiment, {sums} FROM jobs WHERE kind='train' AND state='finished' AND started IS NOT NULL"
        with self._explained():
            found = self._db.execute(f"{query} AND ended IS NOT NULL AND experiment IN ({among}) GROUP BY experiment")
            return {row["experiment"]: row for row in found}

    def order(self) -> list[int]:
        """The waiting jobs in the order in which they will be taken."""
        with self._explained():
            found = self._db.execute("SELECT job FROM jobs WHERE state='queued' ORDER BY position")
            return [row["job"] for row in found]

    def gone(self) -> list[str]:
        """MLflow's ids of runs that were deleted here and that it has not been told of."""
        with self._explained():
            return [row["mlflow_id"] for row in self._db.execute("SELECT mlflow_id FROM gone ORDER BY since")]
