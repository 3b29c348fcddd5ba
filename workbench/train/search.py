"""A search over learning rates: one training per rate from the same start, judged on validation rows; the best is kept."""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Event, Phase, Reporter, Step
from workbench.recipes import Models
from workbench.tasks.contract import Task
from workbench.train.loop import moving
from workbench.train.watching import Outcome, RateFailed


@dataclass
class Trial:
    """One training that is over.

    Attributes:
        models: as the training left them.
        done: what it did.
        costs: its part of the run's result.
        after: in a search, the steps of the trainings before it.
    """

    models: Models
    done: Outcome
    costs: dict[str, Any]
    after: int = 0

    @property
    def last(self) -> int:
        """The number of its last step among those of the whole run."""
        return self.after + self.done.steps


@dataclass
class Numbered:
    """Passes the events of one training on, its steps numbered after those of the trainings before it."""

    inner: Reporter
    name: str
    after: int

    def emit(self, event: Event) -> None:
        """Pass one event on."""
        if isinstance(event, Step | Evaluated):
            event = replace(event, step=event.step + self.after)
        elif isinstance(event, Phase):
            event = replace(event, name=f"{self.name}, {event.name}")
        self.inner.emit(event)

    def wish(self) -> Literal["cancel", "pause"] | None:
        """What the person asked of this run meanwhile."""
        return self.inner.wish()

    @property
    def offset(self) -> int:
        """As the run's own."""
        return self.inner.offset


@dataclass
class Search:
    """The learning rates, and how a run trains and judges.

    Attributes:
        rates: in the order they are tried.
        steps: optimizer steps of each training.
        task: says which metric counts.
        reporter: of the run.
        train: (rate, reporter) -> one training from the fresh start.
        start: the fresh start itself.
        judge: models -> metrics of the validation split.
        file: where the best state waits meanwhile; in memory it would count as the next training's.
        before: `standing` of the checkpoint that the run goes on from.
        rows: what each rate came to, for the result.
        first_step: when the first optimizer step of this attempt ended, seconds since the epoch.
    """

    rates: Sequence[float]
    steps: int
    task: Task
    reporter: Reporter
    train: Callable[[float, Reporter], Trial]
    start: Callable[[], Models]
    judge: Callable[[Models], dict[str, float]]
    file: Path
    before: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    first_step: float | None = None
    number: int = 0
    best: tuple[tuple[float, float], Trial] | None = None

    def standing(self) -> dict[str, Any]:
        """What a checkpoint needs of the search, as JSON values; the best state itself waits in `file`."""
        plain = {"number": self.number, "rows": self.rows, "best": None}
        if self.best is not None:
            value, trial = self.best
            plain["best"] = {"value": value, "done": vars(trial.done), "costs": trial.costs, "after": trial.after}
        return plain

    def _go_on(self, before: dict[str, Any]) -> None:
        self.number, self.rows = before["number"], list(before["rows"])
        if (held := before["best"]) is not None:
            trial = Trial(None, Outcome(**held["done"]), held["costs"], held["after"])  # type: ignore[arg-type]
            self.best = (held["value"][0], held["value"][1]), trial

    def run(self) -> Trial:
        """The training that did best on the validation split: headline metric, then lower loss, then the earlier in the list.

        Raises:
            Stopped: the person asked for it.
            WorkbenchError: no rate could be trained with.
        """
        if self.before is not None:
            self._go_on(self.before)
        for number in range(self.number, len(self.rates)):
            self.number = number
            trial = self._one(self.rates[number], number * self.steps)
            value = self._value(self.rows[-1])
            if trial is not None and (self.best is None or value > self.best[0]):
                self._keep(trial.models)
                self.best = value, replace(trial, models=None)  # type: ignore[arg-type]
            del trial
            gc.collect()  # hosts hold cycles; the next one must not stand beside this one
        self.number = len(self.rates)
        if self.best is None:
            raise WorkbenchError(
                f"none of the {len(self.rates)} learning rates could be trained with; the first: {self.rows[0]['reason']}"
            )
        return self._back(self.best[1])

    def _one(self, rate: float, after: int) -> Trial | None:
        """Train with one rate and write its row; None where that failed."""
        name = f"rate {rate:g}"
        if self.before is None or self.before["number"] != self.number:
            self.reporter.emit(Phase(name, self.steps, after=after))
        trial, metrics, reason = None, {}, None
        try:
            trial = replace(self.train(rate, Numbered(self.reporter, name, after)), after=after)
            done = trial.done
            metrics = done.validation or self.judge(trial.models)
            odd = [n for n in (self.task.metric, "loss") if not math.isfinite(metrics.get(n, 0.0))]
            if odd:
                trial, metrics, reason = None, {}, f"{odd[0]} of the validation rows is {metrics[odd[0]]}."
        except RateFailed as error:
            done, reason = error.done, str(error)
        self.first_step = self.first_step or done.first_step
        figures = {"metric": metrics.get(self.task.metric), "loss": metrics.get("loss")}
        self.rows.append({"learning_rate": rate, **figures, "seconds": done.seconds, "steps": done.steps, "reason": reason})
        return trial

    def _value(self, row: dict[str, Any]) -> tuple[float, float]:
        sign = 1.0 if self.task.greater_is_better else -1.0
        return tuple(-math.inf if v is None else s * v for s, v in ((sign, row["metric"]), (-1.0, row["loss"])))  # type: ignore[return-value]

    def _keep(self, models: Models) -> None:
        """Put what the training moved aside, on disk."""
        save_file({str(i): t.detach().cpu().contiguous().clone() for i, t in enumerate(moving(models))}, self.file)

    def _back(self, best: Trial) -> Trial:
        """The best training's models again: the same start, and what it had moved."""
        models, kept = self.start(), load_file(self.file)
        with torch.no_grad():
            for i, tensor in enumerate(moving(models)):
                tensor.copy_(kept[str(i)])
        self.reporter.emit(Phase(f"rate {best.costs['learning_rate']:g} is kept", self.steps, after=best.after))
        return replace(best, models=models)
