"""The database: many first users at once, leftovers of a killed one, older versions."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tracking import client, database, query
from workbench.core.errors import WorkbenchError

ROOT = Path(__file__).parents[2]

FIRST_USE = """
import sys
import mlflow.store.tracking.sqlalchemy_store
from tracking import client
from workbench.core.run_spec import DataRef, ModelRef, RunSpec
from workbench.core.spec import TrainingSpec

number = int(sys.argv[1])
spec = RunSpec(run_id=f"run-{number}", experiment="race-0a1b2c", label="lora", method="lora", base_method="lora", task="t",
               seed=number, model=ModelRef(source="m"), data=DataRef(source="d"), training=TrainingSpec())
print("ready", flush=True)
sys.stdin.readline()
print(client.start_run(spec))
"""


def _ask(path: Path, query_text: str) -> list:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(query_text)]


def test_eight_processes_may_be_first(fresh_home: Path) -> None:
    with closing(sqlite3.connect(fresh_home / "mlflow.db.new")) as connection:  # left by one that was killed while making it
        connection.execute("CREATE TABLE runs (half INTEGER)")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    racers = [subprocess.Popen([sys.executable, "-c", FIRST_USE, str(i)], **pipes) for i in range(8)]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 8
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ids = {racer.communicate(timeout=120)[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 8
    found = query.runs("race-0a1b2c")
    assert set(found["mlflow_id"]) == ids
    assert sorted(found["seed"]) == list(range(8))
    parents = client.client().search_runs([client.experiment_id()], "tags.`workbench.kind` = 'experiment'")
    assert len(parents) == 1
    assert not list(fresh_home.glob("mlflow.db.new*"))
    assert _ask(fresh_home / "mlflow.db", "PRAGMA integrity_check") == ["ok"]
    assert _ask(fresh_home / "mlflow.db", "PRAGMA journal_mode") == ["wal"]


def test_an_older_database_is_backed_up_and_migrated(tmp_path: Path) -> None:
    import sqlalchemy
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    place, older = tmp_path / "mlflow.db", "cbc13b556ace"
    engine = sqlalchemy.create_engine(database.uri(place))
    Base.metadata.create_all(engine)
    config = _get_alembic_config(database.uri(place))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, older)
        connection.execute(sqlalchemy.text("INSERT INTO experiments (name, lifecycle_stage) VALUES ('kept', 'active')"))
    engine.dispose()
    database.prepare(place, tmp_path / "artifacts", tmp_path / "lock")
    assert _ask(place, "SELECT version_num FROM alembic_version") == [database._newest()]
    assert "kept" in _ask(place, "SELECT name FROM experiments")
    assert _ask(tmp_path / f"mlflow.db.{older}.bak", "SELECT version_num FROM alembic_version") == [older]


def test_a_file_that_is_no_database_is_one_sentence(fresh_home: Path) -> None:
    (fresh_home / "mlflow.db").write_text("not a database, and long enough to be looked at as one" * 20)
    with pytest.raises(WorkbenchError, match=r"the tracking store sqlite:.* must answer; got DatabaseError"):
        client.client()
