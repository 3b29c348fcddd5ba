"""The local MLflow database: made and migrated once, under a lock, before anybody opens it.

Processes that meet on a fresh file break it for good (each runs MLflow's migrations); so does a migration killed half-way.
Therefore a new database is built beside its place and moved there in one step.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from workbench.core.locks import file_lock


def prepare(path: Path, artifacts: Path, lock: Path) -> None:
    """Make sure that `path` is an MLflow database of the installed version, in WAL mode.

    Args:
        path: the SQLite file.
        artifacts: default root of MLflow's artifacts.
        lock: the file all processes of one home lock for this.
    """
    newest = _newest()  # a second of imports, which must not happen while others wait
    with file_lock(lock):
        revision = _revision(path)
        if revision is None:
            _create(path, artifacts)
        elif revision != newest:
            _upgrade(path, revision)


def uri(path: Path) -> str:
    """MLflow's address of a SQLite file."""
    return f"sqlite:///{path.resolve()}"


def _revision(path: Path) -> str | None:
    if not path.exists() or path.stat().st_size == 0:
        return None
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return row[0] if row else ""


def _newest() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return _get_latest_schema_revision()


def _create(path: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    fresh = path.with_name(f"{path.name}.new")
    for leftover in path.parent.glob(f"{fresh.name}*"):
        leftover.unlink()
    SqlAlchemyStore(uri(fresh), artifacts.resolve().as_uri())._dispose_engine()
    with closing(sqlite3.connect(fresh)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # stays with the file: readers no longer wait for writers
    os.replace(fresh, path)


def _upgrade(path: Path, revision: str) -> None:
    import sqlalchemy
    from mlflow.store.db.utils import _upgrade_db

    backup = path.with_name(f"{path.name}.{revision or 'unknown'}.bak")
    with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    engine = sqlalchemy.create_engine(uri(path))
    try:
        _upgrade_db(engine)
    finally:
        engine.dispose()
