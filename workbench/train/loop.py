"""The one training loop: it drives the phases of a recipe and checks that what should move moves, and nothing else."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Phase, Reporter, Step, Stopped
from workbench.core.spec import TrainingSpec
from workbench.recipes import Models, Recipe
from workbench.tasks.contract import Example
from workbench.train import batching, optim

CHECKED_STEPS = 3
SAMPLE = 4096


@dataclass
class Outcome:
    """What a training did: steps and examples trained, seconds without validation, the last validation metrics."""

    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    first_step: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    peak_trainable: int = 0


class RateFailed(WorkbenchError):
    """This learning rate does not train: the loss is not finite, or nothing moves. `done` is what was done until then."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.done = Outcome()


@dataclass
class Loop:
    """Everything a loop needs; `validate` returns the metrics of the validation split."""

    models: Models
    recipe: Recipe
    training: TrainingSpec
    seed: int
    lr: float
    reporter: Reporter
    device: str
    casting: Callable[[], AbstractContextManager]
    validate: Callable[[], dict[str, float]]

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
        stream = batching.forever(examples, self.training.batch_size, self.seed)
        phases = self.recipe.phases(steps)
        for number, phase in enumerate(phases):
            self.reporter.emit(Phase(phase.name, phase.steps))
            best = _Best(self.models, self.training.early_stop)  # of this phase: a later one may rewind what was found
            self._phase(phase.steps, stream, steps, eval_every, done, best)
            done.validation = best.restore() or done.validation
            if number < len(phases) - 1:
                self.recipe.between(phase)
        start = time.perf_counter()
        done.validation = self.recipe.finish(self.validate) or done.validation
        done.seconds += time.perf_counter() - start

    def _phase(self, count: int, stream: Iterator, steps: int, eval_every: int, done: Outcome, best: "_Best") -> None:
        """One phase; early stopping ends it before its last step."""
        adapter, head = self.models.adapter, self.models.head
        trainable = [*adapter.named_trainable().values(), *head]
        done.peak_trainable = max(done.peak_trainable, sum(p.numel() for p in trainable))
        if not trainable:
            return
        groups = optim.groups(adapter, head, self.lr, self.training.weight_decay)
        adamw, schedule = optim.optimizer(groups, self.training, count)
        watch = _Watch(self.models) if done.steps == 0 else None
        self.models.host.train()
        for local in range(1, count + 1):
            start = time.perf_counter()
            loss, seen = self._update(stream, adamw, trainable, done.steps + 1)
            if watch is not None:
                watch.after_backward()
            rate = schedule.get_last_lr()[0]
            adamw.step()
            schedule.step()
            done.steps += 1
            for param in adapter.on_step(done.steps, steps):
                adamw.state.pop(param, None)
            self.recipe.after_step(done.steps)
            if watch is not None and local == min(CHECKED_STEPS, count):
                watch.check(moved=local == CHECKED_STEPS)
                watch = None
            seconds = time.perf_counter() - start
            done.seconds, done.examples = done.seconds + seconds, done.examples + seen
            done.first_step = done.first_step or time.time()
            self.reporter.emit(Step(done.steps, loss, rate, seconds, seen))
            self._heed()
            if (local % eval_every == 0 or local == count) and self._validated(done, best):
                return

    def _update(self, stream: Iterator, adamw: Any, trainable: list, step: int) -> tuple[float, int]:
        """Forward and backward of one optimizer step; (mean loss, examples)."""
        adamw.zero_grad(set_to_none=True)
        total, seen, parts = 0.0, 0, self.training.gradient_accumulation
        for _ in range(parts):
            group = next(stream)
            batch = self.models.task.batch(group).to(self.device)
            with self.casting():
                loss = self.recipe.step(batch)
            (loss / parts).backward()
            total, seen = total + loss.item() / parts, seen + len(group)
        if not math.isfinite(total):
            raise RateFailed(f"the loss became {total} at step {step}; lower learning_rate, or set clip.")
        self.recipe.before_update()
        if self.training.clip is not None:
            torch.nn.utils.clip_grad_norm_(trainable, self.training.clip)
        return total, seen

    def _heed(self) -> None:
        if (wish := self.reporter.wish()) is not None:
            raise Stopped(wish)

    def _validated(self, done: Outcome, best: "_Best") -> bool:
        done.validation = self.validate()
        self.reporter.emit(Evaluated(done.steps, "validation", done.validation))
        return best.enough(done.validation)


def moving(models: Models) -> list[Tensor]:
    """Every tensor that a training moves, in a fixed order."""
    adapter = models.adapter  # buffers too: masks and counters that a method moves while it trains
    return [*adapter.named_trainable().values(), *adapter.buffers(), *models.head]


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
        if self.value is None or value > self.value:
            self.value, self.waited, self.metrics = value, 0, metrics
            self.state = [t.detach().clone() for t in moving(self.models)]
        else:
            self.waited += 1
        return self.waited >= self.patience

    @torch.no_grad()
    def restore(self) -> dict[str, float]:
        """Put the best state back; returns its metrics, nothing if none was kept."""
        for tensor, kept in zip(moving(self.models), self.state, strict=True) if self.state else ():
            tensor.copy_(kept)
        return self.metrics


class _Watch:
    """Asserts after the first steps that every trainable tensor got a gradient and moved, and that nothing else did."""

    def __init__(self, models: Models) -> None:
        host = models.host
        head = {id(p) for p in models.head}
        self.trainable = {f"adapter {n}": p for n, p in models.adapter.named_trainable().items()}
        self.trainable |= {f"head {n}": p for n, p in host.named_parameters() if id(p) in head}
        mine = {id(p) for p in self.trainable.values()}
        self.frozen = {n: p for n, p in host.named_parameters() if id(p) not in mine}
        self.versions = {n: p._version for n, p in self.frozen.items()}
        self.before = {n: _sample(p) for n, p in self.trainable.items()}
        self.reached: set[str] = set()

    def after_backward(self) -> None:
        """Note which tensors got a gradient."""
        self.reached |= {n for n, p in self.trainable.items() if p.grad is not None}

    def check(self, moved: bool) -> None:
        """Raise if a tensor that should train does not, or one that should not does.

        Args:
            moved: also demand that values changed; a factor behind one that starts at zero needs more than one step.
        """
        for name, param in self.trainable.items():
            if name not in self.reached:
                raise WorkbenchError(
                    f"{name} should train but got no gradient; the method does not reach the loss on this model."
                )
            if moved and torch.equal(self.before[name], _sample(param)):
                raise RateFailed(f"{name} should train but did not move in {CHECKED_STEPS} steps; raise learning_rate.")
        for name, param in self.frozen.items():
            if param._version != self.versions[name] or param.grad is not None:
                raise WorkbenchError(f"the frozen tensor {name} was changed by training; this is a bug of the method.")


def _sample(param: Tensor) -> Tensor:
    """At most SAMPLE values of a tensor, evenly spread."""
    flat = param.detach().flatten()
    return flat[:: max(flat.numel() // SAMPLE, 1)].clone()
