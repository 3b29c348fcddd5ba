"""One tiny base and one planted data set per family and session, and finished runs on them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.train import planted
from workbench.core.run_spec import RunSpec


class Bench:
    """`bench.spec("bert", "lora", ...)`, `bench.run(...)` -> (folder, result), equal calls trained once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.base = cache(lambda family, dropout=0.0: planted.base(family, folder / f"{family}{dropout}", dropout))
        self.rows = cache(lambda kind: planted.rows(kind, folder / "rows"))
        self._done: dict[str, tuple[Path, dict[str, Any]]] = {}

    def spec(self, family: str, method: str = "lora", kind: str = "", dropout: float = 0.0, **more: Any) -> RunSpec:
        return planted.spec(self.base(family, dropout), planted.TASKS[family], self.rows(kind or family), method, **more)

    def fresh(self, spec: RunSpec, reporter: Any = None) -> tuple[Path, dict[str, Any]]:
        """Train now, in a folder of its own."""
        self.count += 1
        where = self.folder / f"run{self.count}"
        return where, planted.go(spec, where, reporter)

    def run(self, *args: Any, **more: Any) -> tuple[Path, dict[str, Any]]:
        spec = self.spec(*args, **more)
        key = spec.model_dump_json()
        if key not in self._done:
            self._done[key] = self.fresh(spec)
        return self._done[key]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    return Bench(tmp_path_factory.mktemp("bench"))
