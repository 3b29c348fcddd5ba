"""The queue's table and how a file of an earlier version becomes one of this. Standard library only."""

import sqlite3
import time
from pathlib import Path

from workbench.core.locks import file_lock

VERSION = 3
FIRST = """
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
SECOND = """
ALTER TABLE jobs ADD COLUMN position INTEGER;
ALTER TABLE jobs ADD COLUMN on_error TEXT NOT NULL DEFAULT 'continue';
ALTER TABLE jobs ADD COLUMN exclusive INTEGER NOT NULL DEFAULT 1;
ALTER TABLE jobs ADD COLUMN planned_bytes INTEGER;
ALTER TABLE jobs ADD COLUMN planned_seconds REAL;
ALTER TABLE jobs ADD COLUMN failure TEXT;
UPDATE jobs SET position = job;
CREATE TRIGGER jobs_placed AFTER INSERT ON jobs WHEN NEW.position IS NULL
  BEGIN UPDATE jobs SET position = NEW.job WHERE job = NEW.job; END;
CREATE INDEX jobs_by_place ON jobs (state, position);
CREATE TABLE gone (mlflow_id TEXT PRIMARY KEY, since REAL NOT NULL);
"""
"""`position`: the place in the order of the queue, the job's number unless it was moved; no two jobs share one.
`failure`: JSON of a `failures.Failure`. `gone`: MLflow's ids of runs that were deleted here, until MLflow has been told."""
THIRD = "ALTER TABLE jobs ADD COLUMN gpus INTEGER NOT NULL DEFAULT 1;"
"""`gpus`: how many it takes at once, where there are any."""
STEPS = (FIRST, SECOND, THIRD)
"""Step n makes version n + 1 of version n; an empty file is of version 0."""


def emptied(path: Path, patience: float = 1.0) -> bool:
    """Whether a file has lost all that was in it: it has no byte, and there are runs beside it.

    An empty file in a home without runs is a first start that was killed; one that gets its schema this moment is waited for.
    """
    deadline = time.monotonic() + patience
    while path.is_file() and path.stat().st_size == 0 and _runs(path.parent / "runs"):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.02)
    return False


def _runs(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def version(db: sqlite3.Connection) -> int:
    """The schema of an open file; 0 when it is new."""
    return db.execute("PRAGMA user_version").fetchone()["user_version"]


def prepare(db: sqlite3.Connection, path: Path) -> int:
    """Create or bring up to date, once among all processes, each in one transaction; returns the version found afterwards.

    A file of a later version is left as it is.
    """
    if version(db) < VERSION:
        with file_lock(path.parent / "locks" / f"{path.name}.lock"):
            if (found := version(db)) == 0:
                path.chmod(0o600)
                _switch_to_wal(db)
            try:
                if found < VERSION:
                    db.executescript(f"BEGIN IMMEDIATE; {''.join(STEPS[found:])} PRAGMA user_version={VERSION}; COMMIT;")
            finally:
                if db.in_transaction:  # a full disk in the middle
                    db.execute("ROLLBACK")
    return version(db)


def _switch_to_wal(db: sqlite3.Connection) -> None:
    deadline = time.monotonic() + 10
    while True:  # the switch answers "locked" at once while another first user reads the version
        try:
            db.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
