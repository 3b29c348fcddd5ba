"""An analysis is a typed function on trained runs; its options and its form come from the signature, as for an operation.

The first parameter is the list of runs; everything keyword-only is an option with a pydantic `Field` in its annotation. What
comes back is plain: tables, the data of figures that others draw, and sentences.

A figure is a mapping for one Plotly figure:

    {"type": "bars" | "lines" | "points", "title", "x", "y" (axis titles), "series": [{"name", "x", "y", "low", "high", "text"}],
     "reference" (a horizontal line, or None), "log_x", "log_y"}
    {"type": "heat", "title", "x", "y", "columns", "rows", "values" (rows x columns, or None), "value" (what they are)}
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from workbench.core.errors import WorkbenchError, from_pydantic
from workbench.evaluate import saved
from workbench.kernel import state
from workbench.kernel.state import Stored
from workbench.operations.contract import options_of
from workbench.tasks import Task

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Result:
    """What an analysis found.

    Attributes:
        tables: name -> one row per thing looked at.
        figures: name -> plain data of one figure, see above.
        sentences: what a person should take home, most important first.
        per_run: run id -> figures that a comparison may use.
    """

    tables: Mapping[str, "DataFrame"] = field(default_factory=dict)
    figures: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    sentences: Sequence[str] = ()
    per_run: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A trained adapter, and what is known of the run it comes from.

    Attributes:
        reference: run id, or the name of an imported or combined adapter.
        label: its label in the experiment.
        adapter: the adapter folder.
        row: the run's row as in a comparison; empty for an adapter without a run.
        history: {step, seconds, examples, metrics} at every validation of the run's last phase, counted from its first step.
        measured: what earlier analyses found of it, e.g. `latency_merged`.
    """

    reference: str
    label: str
    adapter: Path
    row: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """The run's seed, None for an adapter without a run."""
        return self.row.get("seed")

    @property
    def name(self) -> str:
        """Label and seed."""
        return self.label if self.seed is None else f"{self.label} s{self.seed}"

    @property
    def keys(self) -> dict[str, Any]:
        """The columns that name a run in every table."""
        return {"run_id": self.reference, "label": self.label, "seed": self.seed}

    @cached_property
    def stored(self) -> Stored:
        """The adapter, read once."""
        return saved.read(self.adapter)

    @property
    def meta(self) -> dict[str, Any]:
        """The adapter's own JSON."""
        return self.stored.meta

    def base(self, device: str, max_length: int | None = None) -> tuple[Task, nn.Module]:
        """The run's task and its untouched base in fp32 and eval mode; nothing was ever attached to it."""
        task = saved.task_of(self.meta, saved.base_folder(self.meta), max_length)
        return task, task.host(0).float().to(device).eval()

    def attach(self, task: Task, host: nn.Module) -> None:
        """Put the adapter and its head on a base; `adapters_of(host).release()` takes it off bitwise."""
        state.restore(host, self.stored, "adapter", task.head(host))
        host.eval()


@dataclass(frozen=True)
class Analysis:
    """A registered analysis.

    Attributes:
        key: the function's name, equal to its file's.
        function: (runs, **options) -> Result.
        options: the model of its keyword-only parameters.
        least: fewest runs it takes.
        beside: methods whose finished runs of the same experiment are looked at too.
        timed: it measures times, which other jobs on the machine spoil.
    """

    key: str
    function: Callable[..., Result]
    options: type[BaseModel]
    least: int
    beside: tuple[str, ...]
    timed: bool

    def checked(self, settings: Mapping[str, Any], runs: int) -> dict[str, Any]:
        """The options that were given, as plain values.

        Raises:
            WorkbenchError: too few runs, or one sentence about the first bad option.
        """
        if runs < self.least:
            raise WorkbenchError(f"{self.key} takes {self.least} or more runs; got {runs}.")
        return self._options(settings).model_dump(mode="json", exclude_unset=True)

    def _options(self, settings: Mapping[str, Any]) -> BaseModel:
        try:
            return self.options.model_validate(dict(settings))
        except ValidationError as error:
            raise from_pydantic(error, self.key, self.options.model_fields) from None

    def __call__(self, runs: Sequence[Run], settings: Mapping[str, Any]) -> Result:
        """Check number and options, then look."""
        self.checked(settings, len(runs))
        return self.function(list(runs), **dict(self._options(settings)))


def analysis(least: int = 1, beside: tuple[str, ...] = (), timed: bool = False) -> Callable[[Callable[..., Result]], Analysis]:
    """Turn a function into an analysis; refuses unannotated options when the module is imported."""

    def build(function: Callable[..., Result]) -> Analysis:
        return Analysis(function.__name__, function, options_of(function, "analysis"), least, beside, timed)

    return build


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> "DataFrame":
    """Rows as a frame with exactly these columns; whole numbers stay whole where others are missing (None)."""
    import pandas as pd

    return pd.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=list(columns), dtype=object)


def chart(
    kind: str, title: str, x: str, y: str, series: list[dict[str, Any]], reference: float | None = None, **axes: bool
) -> dict[str, Any]:
    """The data of a figure of bars, lines or points; `axes`: log_x, log_y."""
    whole = [{"low": None, "high": None, "text": None, **one} for one in series]
    scales = {"log_x": False, "log_y": False, **axes}
    return {"type": kind, "title": title, "x": x, "y": y, "series": whole, "reference": reference, **scales}


def device() -> str:
    """Where an analysis computes: the card this process may use, else the processor."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def same_base(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs grouped by what can share one loaded model: base weights, task and labels."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.meta["base"]["sha256"], run.meta["task"], tuple(run.meta["labels"])), []).append(run)
    return list(groups.values())
