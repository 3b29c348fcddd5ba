"""The one training loop: it drives the phases of a recipe and checks that what should move moves, and nothing else."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench.core.events import Evaluated, Phase, Reporter, Step, Stopped
from workbench.core.spec import TrainingSpec
from workbench.recipes import Models, Recipe
from workbench.tasks.contract import Example
from workbench.train import batching, optim, standing
from workbench.train.checkpoint import Checkpoint
from workbench.train.standing import Place
from workbench.train.watching import CHECKED_STEPS, Outcome, RateFailed, Watch


@dataclass
class Loop:
    """Everything a loop needs.

    Attributes:
        validate: returns the metrics of the validation split.
        keep: stores a checkpoint: (steps done, JSON values, tensors); None for none.
        begin: the checkpoint to go on from.
        save_every: seconds between checkpoints that nobody asked for.
        saved: when the last one was made.
    """

    models: Models
    recipe: Recipe
    training: TrainingSpec
    seed: int
    lr: float
    reporter: Reporter
    device: str
    casting: Callable[[], AbstractContextManager]
    validate: Callable[[], dict[str, float]]
    keep: Callable[[int, dict[str, Any], dict[str, Tensor]], None] | None = None
    begin: Checkpoint | None = None
    save_every: float = math.inf
    saved: float = field(default_factory=time.monotonic)

    def run(self, examples: Sequence[Example], steps: int, eval_every: int) -> Outcome:
        """Train for `steps` optimizer steps in all; keep the best state on validation if early stopping is on.

        Raises:
            Stopped: the person asked for it.
            RateFailed: the loss is not finite, or a tensor that should move does not.
            WorkbenchError: a tensor that should train cannot, or one trains that should not.
        """
        done = Outcome()
        try:
            self._phases(done, examples, steps, eval_every)
        except RateFailed as error:
            error.done = done
            raise
        return done

    def _phases(self, done: Outcome, examples: Sequence[Example], steps: int, eval_every: int) -> None:
        begin, place = self.begin, Place(0, 0)
        if begin is not None:
            place = Place(**begin.plain["place"])
            vars(done).update(begin.plain["done"], first_step=None)  # counted from the start of the attempt
            standing.put_back(begin, self.models, self.recipe)
        taken = done.steps * self.training.gradient_accumulation
        stream = itertools.islice(batching.forever(examples, self.training.batch_size, self.seed), taken, None)
        phases = self.recipe.phases(steps)
        for number, phase in enumerate(phases[place.phase :], place.phase):
            here = begin if number == place.phase else None
            if here is None:
                self.reporter.emit(Phase(phase.name, phase.steps))
            best = _Best(self.models, self.training.early_stop)  # of this phase: a later one may rewind what was found
            self._phase(number, phase.steps, stream, steps, eval_every, done, best, here)
            done.validation = best.restore() or done.validation
            if number < len(phases) - 1:
                self.recipe.between(phase)
        if not place.finished:
            if type(self.recipe).finish is not Recipe.finish:  # a search may take long, and it changes the adapter
                self._save(Place(len(phases), 0), done)
            start = time.perf_counter()
            done.validation = self.recipe.finish(self.validate) or done.validation
            done.seconds += time.perf_counter() - start

    def keep_end(self, done: Outcome) -> None:
        """Store a checkpoint of a training that is over, for a person who pauses while it is judged."""
        self._save(Place(len(self.recipe.phases(done.steps)), 0, finished=True), done)

    def _phase(
        self,
        number: int,
        count: int,
        stream: Iterator,
        steps: int,
        eval_every: int,
        done: Outcome,
        best: "_Best",
        begin: Checkpoint | None,
    ) -> None:
        """One phase; early stopping ends it before its last step."""
        adapter, head = self.models.adapter, self.models.head
        trainable = [*adapter.named_trainable().values(), *head]
        done.peak_trainable = max(done.peak_trainable, sum(p.numel() for p in trainable))
        if not trainable:
            return
        groups = optim.groups(adapter, head, self.lr, self.training.weight_decay)
        run = _Running(number, *optim.optimizer(groups, self.training, count), best)
        watch = Watch(self.models) if done.steps == 0 else None
        first = 0 if begin is None else begin.plain["place"]["local"]
        if begin is not None:
            standing.put_back_optimizer(begin, run.adamw, run.schedule)
            best.put_back(begin)
            if not begin.plain["place"]["judged"] and self._validated(done, best):
                return
        self.models.host.train()
        for local in range(first + 1, count + 1):
            self._step(run, stream, trainable, done, steps, watch)
            if watch is not None and local == min(CHECKED_STEPS, count):
                watch.check(moved=local == CHECKED_STEPS)
                watch = None
            if self._after(run, local, local % eval_every == 0 or local == count, done):
                return

    def _step(self, run: "_Running", stream: Iterator, trainable: list, done: Outcome, steps: int, watch: "Watch | None") -> None:
        """One optimizer step and what follows from it."""
        start = time.perf_counter()
        loss, seen = self._update(stream, run.adamw, trainable, done.steps + 1)
        if watch is not None:
            watch.after_backward()
        rate = run.schedule.get_last_lr()[0]
        run.adamw.step()
        run.schedule.step()
        done.steps += 1
        for param in self.models.adapter.on_step(done.steps, steps):
            run.adamw.state.pop(param, None)
        self.recipe.after_step(done.steps)
        seconds = time.perf_counter() - start
        done.seconds, done.examples = done.seconds + seconds, done.examples + seen
        done.first_step = done.first_step or time.time()
        self.reporter.emit(Step(done.steps, loss, rate, seconds, seen))

    def _after(self, run: "_Running", local: int, due: bool, done: Outcome) -> bool:
        """Heed the person, validate where that is due, keep a checkpoint now and then; True when patience has run out."""
        try:
            if (wish := self.reporter.wish()) is not None:
                raise Stopped(wish)
            if due and self._validated(done, run.best):
                return True
        except Stopped as stop:
            if str(stop) == "pause":
                self._save(Place(run.number, local, judged=not due), done, run)
            raise
        if time.monotonic() - self.saved >= self.save_every:
            self._save(Place(run.number, local), done, run)
        return False

    def _save(self, place: Place, done: Outcome, run: "_Running | None" = None) -> None:
        if self.keep is None or not self.recipe.resumable:
            return
        plain, tensors = standing.taken(self.models, self.recipe, *((run.adamw, run.schedule) if run else ()))
        facts, more = run.best.taken() if run else ({}, {})
        self.keep(done.steps, {**plain, **facts, "place": vars(place), "done": vars(done)}, tensors | more)
        self.saved = time.monotonic()

    def _update(self, stream: Iterator, adamw: Any, trainable: list, step: int) -> tuple[float, int]:
        """Forward and backward of one optimizer step; (mean loss, examples)."""
        adamw.zero_grad(set_to_none=True)
        total, seen, parts = 0.0, 0, self.training.gradient_accumulation
        for part in range(parts):
            group = next(stream)
            total, seen = total + self._backward(group, (step - 1) * parts + part), seen + len(group)
        total = self._gathered(trainable, total, step)
        if not math.isfinite(total):
            raise RateFailed(f"the loss became {total} at step {step}; lower learning_rate, or set clip.")
        self.recipe.before_update()
        if self.training.clip is not None:
            torch.nn.utils.clip_grad_norm_(trainable, self.training.clip)
        return total, seen

    def _backward(self, group: Sequence[Example], number: int) -> float:
        """Forward and backward of the run's `number`-th batch; its part of the step's loss."""
        return self._weighed(group, 1.0)

    def _weighed(self, group: Sequence[Example], weight: float) -> float:
        batch = self.models.task.batch(group).to(self.device)
        with self.casting():
            loss = self.recipe.step(batch) * weight if weight != 1.0 else self.recipe.step(batch)
        (loss / self.training.gradient_accumulation).backward()
        return loss.item() / self.training.gradient_accumulation

    def _gathered(self, trainable: Sequence[Tensor], loss: float, step: int) -> float:
        """The step's loss, once the gradients are those of the whole batch."""
        return loss

    def _validated(self, done: Outcome, best: "_Best") -> bool:
        done.validation = self.validate()
        self.reporter.emit(Evaluated(done.steps, "validation", done.validation))
        return best.enough(done.validation)


def moving(models: Models) -> list[Tensor]:
    """Every tensor that a training moves, in a fixed order."""
    adapter = models.adapter  # buffers too: masks and counters that a method moves while it trains
    return [*adapter.named_trainable().values(), *adapter.buffers(), *models.head]


@dataclass
class _Running:
    """The phase that runs: its number, optimizer, schedule, and the best state so far."""

    number: int
    adamw: torch.optim.Optimizer
    schedule: Any
    best: "_Best"


class _Best:
    """The best state on validation so far; without early stopping nothing is kept and the last state stands."""

    def __init__(self, models: Models, patience: int | None) -> None:
        self.models, self.patience, self.waited = models, patience, 0
        self.value: float | None = None
        self.state: list[Tensor] = []
        self.metrics: dict[str, float] = {}

    def enough(self, metrics: dict[str, float]) -> bool:
        """Note one validation; True when patience has run out."""
        if self.patience is None:
            return False
        task = self.models.task
        value = metrics[task.metric] if task.greater_is_better else -metrics[task.metric]
        if not math.isnan(value) and (self.value is None or value > self.value):  # what is not defined is not better
            self.value, self.waited, self.metrics = value, 0, metrics
            self.state = [t.detach().clone() for t in moving(self.models)]
        else:
            self.waited += 1
        return self.waited >= self.patience

    def taken(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(JSON values, tensors) for a checkpoint."""
        plain = {"value": self.value, "waited": self.waited, "metrics": self.metrics}
        return {"best": plain}, {f"best.{i}": t for i, t in enumerate(self.state)}

    def put_back(self, found: Checkpoint) -> None:
        """What `taken` gave."""
        vars(self).update(found.plain["best"])
        names = sorted((n for n in found.tensors if n.startswith("best.")), key=lambda n: int(n.partition(".")[2]))
        self.state = [found.tensors[n].to(t.device) for n, t in zip(names, moving(self.models), strict=False)]

    @torch.no_grad()
    def restore(self) -> dict[str, float]:
        """Put the best state back; returns its metrics, nothing if none was kept."""
        for tensor, kept in zip(moving(self.models), self.state, strict=True) if self.state else ():
            tensor.copy_(kept)
        return self.metrics
