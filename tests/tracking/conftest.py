"""A home with a real MLflow database for each test; the database is built once and copied."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tracking import database
from workbench.core.run_spec import DataRef, ModelRef, RunSpec
from workbench.core.spec import TrainingSpec


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without runs."""
    folder = tmp_path_factory.mktemp("mlflow")
    database.prepare(folder / "mlflow.db", folder / "artifacts", folder / "lock")
    return folder / "mlflow.db"


@pytest.fixture
def fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nothing was made yet, with characters that addresses must survive."""
    folder = tmp_path / "a home #1 50%"
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def home(fresh_home: Path, empty_database: Path) -> Path:
    """A home whose database exists."""
    shutil.copy(empty_database, fresh_home / "mlflow.db")
    return fresh_home


@pytest.fixture
def run_spec() -> Callable[..., RunSpec]:
    """Makes a RunSpec; keyword arguments replace its values."""

    def make(run_id: str = "first-run", **values: object) -> RunSpec:
        usual = {
            "experiment": "look-0a1b2c", "label": "lora", "method": "lora", "base_method": "lora", "task": "text_classification",
            "config": {"rank": 8, "roles": ["attn.q", "attn.v"]}, "model": ModelRef(source="bundled/minilm", sha256="5e"),
            "data": DataRef(source="/data/reviews.csv", files={"/data/reviews.csv": "ab"}), "training": TrainingSpec(),
        }  # fmt: skip
        return RunSpec(run_id=run_id, **(usual | values))

    return make
