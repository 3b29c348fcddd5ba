"""One run from its RunSpec to its result: load, attach, train, judge on the test split, save."""

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from workbench import modifiers, recipes, tasks
from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Phase, Reporter, Saved, Started, Stopped
from workbench.core.run_spec import Placed, RunSpec
from workbench.data import Splits, check_unchanged, load_table
from workbench.evaluate import evaluation, measure, others
from workbench.kernel import state
from workbench.kernel.calibrating import calibrate
from workbench.models.bundled import resolve_model, weights_sha256
from workbench.recipes import Models
from workbench.tasks.contract import Example, Task
from workbench.train import batching, checkpoint, telling
from workbench.train.building import ADAPTER, build
from workbench.train.loop import Loop
from workbench.train.search import Search, Trial
from workbench.train.watching import Outcome, RateFailed

REFERENCE_ROWS = 8
BEST = "search.safetensors"
"""The best state of a search so far, in the run folder while the search lasts."""
SAVE_EVERY = 60.0
"""Seconds between two checkpoints that nobody asked for."""
SCORING_BATCHES = 8
"""Training batches that a modifier may look at before training, e.g. to score weights."""


class Session:
    """Holds what one run needs while it lives; `run` is the whole story."""

    loop: type[Loop] = Loop

    def __init__(self, spec: RunSpec, reporter: Reporter, folder: Path, placed: Placed) -> None:
        self.spec, self.reporter, self.folder, self.placed = spec, reporter, folder, placed
        self.device = placed.device
        self.began = time.time()
        self.casting: Callable[[], AbstractContextManager] = nullcontext
        self.memory = measure.PeakMemory(self.device)
        self.load_seconds = self.prepare_seconds = 0.0
        self.begin = checkpoint.read(folder, spec) if placed.attempt > 1 else None
        self.search: Search | None = None
        self.peak = 0  # of earlier attempts
        self.keep_end: Callable[[], None] = lambda: None
        self.notes: list[str] = []
        self.entries: tuple[str, ...] = ()

    def run(self) -> dict[str, Any]:
        """See `workbench.train.run`."""
        try:
            result = self._run()
        except Exception as error:  # of the run itself; whoever is killed or told to stop from outside keeps the checkpoint
            if not (isinstance(error, Stopped) and str(error) == "pause"):
                self._tidy()
            raise
        self._tidy()
        return result

    def _tidy(self) -> None:
        """Leave nothing that only a training under way needs."""
        checkpoint.clear(self.folder)
        (self.folder / BEST).unlink(missing_ok=True)

    def _run(self) -> dict[str, Any]:
        torch.set_num_threads(self.placed.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.reporter.emit(Phase("loading"))
        splits, self.task, sha = self._load()
        self.entries = splits.entries
        self.others = others.load(self.spec.models, self.task, splits, self.device)
        self.examples = {name: self.task.examples(getattr(splits, name)) for name in ("train", "validation", "test")}
        self.steps, rates = self._steps(len(self.examples["train"])), self._rates()
        self.reporter.emit(Started(self.steps * len(rates), self.placed.attempt, self.device, self.placed.threads))
        self.precision = self._precision()
        import sklearn.metrics  # noqa: F401 - loaded now, or the peak of the training would hold it

        trial = self._train(rates[0], self.reporter) if len(rates) == 1 else self._search(rates)
        if records := trial.costs.pop("records", None):
            (self.folder / f"{(self.spec.recipe or {})['recipe']}.json").write_text(json.dumps(records), encoding="utf-8")
        self.reporter.emit(Phase("evaluating"))
        start = time.time()
        try:
            predictions, metrics = self._judge(trial.models, self.examples["test"])
        except Stopped as stop:
            if str(stop) == "pause":
                self.keep_end()
            raise
        metrics = self._defined(metrics)
        self.reporter.emit(Evaluated(trial.last, "test", metrics))
        evaluation.write(predictions, "test", self.folder, self.entries)
        costs = trial.costs | {"eval_seconds": time.time() - start, "metrics": metrics, "base_sha256": sha}
        self._save(trial.models, splits, self.examples["test"], costs)
        costs["adapter_bytes"] = (self.folder / ADAPTER / state.WEIGHTS).stat().st_size
        self.reporter.emit(telling.measured(costs))
        self.reporter.emit(Saved(ADAPTER, trial.last))
        return costs

    def _load(self) -> tuple[Splits, Task, str]:
        """Data, task, and the sha256 of the base weights; each checked against the spec."""
        spec = self.spec
        if spec.model.load_in is not None:
            raise WorkbenchError(
                "quantised loading needs CUDA and bitsandbytes, which this version does not drive; leave load_in out."
            )
        cls = tasks.find(spec.task)
        check_unchanged(spec.data)
        splits = load_table(spec.data, cls.parts)
        folder = resolve_model(spec.model.source, spec.model.revision)
        sha = weights_sha256(folder)
        if spec.model.sha256 and sha != spec.model.sha256:
            raise WorkbenchError(f"the weights of {spec.model.source} have changed since this run was planned; submit it again.")
        return splits, cls(folder, splits.labels, spec.training.max_length), sha

    def _start(self) -> tuple[Models, recipes.Recipe]:
        """What a training starts from, bitwise the same whenever it is called."""
        torch.manual_seed(self.spec.seed)
        models, self.notes = build(self.spec, self.task, self.device, self.others)
        self.load_seconds = self.load_seconds or time.time() - self.began
        self.memory.start()
        return models, self._prepare(models, self.examples["train"])

    def _train(self, rate: float, reporter: Reporter) -> Trial:
        """One training with one learning rate."""
        training, rows = self.spec.training, self.examples["train"]
        models, recipe = self._start()
        begin, self.begin = self.begin, None
        if begin is not None:
            self.peak = max(self.peak, begin.plain["peak"])
        loop = self.loop(models, recipe, training, self.spec.seed, rate, reporter, self.device, self.casting,
                         lambda: self._judge(models, self.examples["validation"])[1], self._keep, begin,
                         SAVE_EVERY if training.keep_checkpoints else math.inf)  # fmt: skip
        per_epoch = batching.steps_per_epoch(len(rows), training.batch_size, training.gradient_accumulation)
        done = loop.run(rows, self.steps, training.eval_every or per_epoch)
        if self.search is None:  # in a search it would hold the losers' models
            self.keep_end = lambda: loop.keep_end(done)
        self.peak = max(self.peak, self.memory.peak())
        costs = {"learning_rate": rate, "peak_memory_bytes": self.peak, "memory_kind": self.memory.kind}
        return Trial(models, done, self._costs(models, recipe, done) | costs)

    def _search(self, rates: Sequence[float]) -> Trial:
        """One training per rate, and the best of them."""
        before = self.begin.plain["search"] if self.begin else None
        self.search = search = Search(rates, self.steps, self.task, self.reporter, self._train, lambda: self._start()[0],
                                      lambda models: self._judge(models, self.examples["validation"])[1],
                                      self.folder / BEST, before)  # fmt: skip
        best = search.run()
        self.keep_end = lambda: self._keep(0, {"place": {}, "done": {}}, {})
        best.costs |= {"search": search.rows, "search_seconds": sum(row["seconds"] for row in search.rows)}
        best.costs["first_step_seconds"] = None if search.first_step is None else search.first_step - self.began
        return best

    def _keep(self, step: int, plain: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Store a checkpoint; a disk without room for it does not end the training."""
        search = None if self.search is None else self.search.standing()
        number = step if search is None else step + search["number"] * self.steps
        facts = {"offset": self.reporter.offset, "peak": max(self.peak, self.memory.peak()), "search": search}
        try:
            checkpoint.write(self.folder, self.spec, number, plain | facts, tensors, self.spec.training.keep_checkpoints)
        except OSError as error:
            print(f"checkpoint not written: {error}", file=sys.stderr, flush=True)

    def _steps(self, rows: int) -> int:
        training = self.spec.training
        whole = batching.steps_per_epoch(rows, training.batch_size, training.gradient_accumulation)
        steps = max(round(whole * training.epochs), 1)
        return min(steps, training.max_steps) if training.max_steps else steps

    def _precision(self) -> str:
        wanted = self.spec.training.precision
        chosen = self._faster() if wanted == "auto" else wanted
        if chosen == "bf16":
            self.casting = lambda: torch.autocast(self.device.split(":")[0], torch.bfloat16)
        return chosen

    def _faster(self) -> str:
        return measure.faster_precision(self.device, self.placed.threads)

    def _rates(self) -> tuple[float, ...]:
        given = self.spec.training.learning_rate
        if isinstance(given, str):
            raise WorkbenchError(f"a run's learning rate must be resolved to a number or a list of numbers; got {given!r}.")
        return given if isinstance(given, tuple) else (float(given),)

    def _prepare(self, models: Models, rows: list[Example]) -> recipes.Recipe:
        """Apply the modifiers and build the recipe."""
        gen = torch.Generator().manual_seed(self.spec.seed)
        stream = batching.forever(rows, self.spec.training.batch_size, self.spec.seed)

        def one_loss() -> torch.Tensor:
            batch = models.task.batch(next(stream)).to(self.device)
            return models.task.losses(evaluation.forward(models.host, batch), batch).mean()

        wanted = 0 if self.spec.init_from or self.begin else models.adapter.method.calibration_rows(models.adapter.cfg)
        if wanted or self.spec.modifiers:
            self.reporter.emit(Phase("preparing"))
        start = time.perf_counter()
        if wanted:
            sample = batching.sample(rows, wanted, self.spec.training.batch_size, self.spec.seed)
            batches = (models.task.batch(some).to(self.device) for some in sample)
            calibrate(models.adapters, models.adapter, (partial(evaluation.forward, models.host, b) for b in batches))
        if self.spec.modifiers:
            modifiers.apply_all(self.spec.modifiers, models.adapter, [one_loss] * SCORING_BATCHES, gen)
        self.prepare_seconds = time.perf_counter() - start
        cls, cfg = recipes.configure(self.spec.recipe)
        return cls(cfg, models, self.spec.seed)

    def _judge(self, models: Models, rows: list[Example]) -> tuple[list, dict[str, float]]:
        def heed() -> None:
            if (wish := self.reporter.wish()) is not None:
                raise Stopped(wish)

        size = 2 * self.spec.training.batch_size
        return evaluation.evaluate(models.task, models.host, rows, size, self.device, self.casting, heed, self.entries)

    def _defined(self, metrics: dict[str, float]) -> dict[str, float]:
        """The metrics that the test rows define, with a note on the others; a model that its last steps broke is refused."""
        loss = metrics.get("loss", 0.0)
        if not math.isfinite(loss):
            raise RateFailed(f"the loss of the test rows is {loss}; lower learning_rate, or set clip.")
        odd = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        self.notes += [f"{name} of the test rows is not defined: it came out as {value}." for name, value in odd.items()]
        return {name: value for name, value in metrics.items() if name not in odd}

    def _costs(self, models: Models, recipe: recipes.Recipe, done: Outcome) -> dict[str, Any]:
        """The result's figures that follow from the models and the loop."""
        adapter, host = models.adapter, models.host
        head = sum(p.numel() for p in models.head)
        own = {id(p) for p in adapter.parameters()} - {id(p) for p in adapter.chosen.values()}
        base = sum(p.numel() for p in host.parameters() if id(p) not in own) - head
        shapes = {n: tuple(t.shape) for n, t in adapter.tensors().items()}
        new = modifiers.count_all(self.spec.modifiers, shapes) if self.spec.modifiers else adapter.new_params()
        kept = recipe.trained()
        return {
            "trainable_params": new + (adapter.base_params() if kept is None else kept),
            "base_trained_params": adapter.base_params() if kept is None else kept,
            "peak_trainable_params": max(done.peak_trainable - head, 0),
            "head_params": head,
            "total_params": base + adapter.new_params() + head,
            "train_seconds": done.seconds,
            "examples_per_second": done.examples / done.seconds if done.seconds else None,
            "first_step_seconds": None if done.first_step is None else done.first_step - self.began,
            "steps": done.steps,
            "validation": done.validation,
            "records": recipe.kept(),
            "precision": self.precision,
            "device": torch.cuda.get_device_name(self.device)
            if self.device.startswith("cuda")
            else platform.processor() or "cpu",
            "threads": self.placed.threads,
            "neighbours": self.placed.neighbours,
            "predicted": dict(self.spec.predicted),  # beside what was measured: the next plans learn from it
            "load_seconds": self.load_seconds,
            "prepare_seconds": self.prepare_seconds,
            "search": None,
            "search_seconds": None,
            "notes": self.notes,
            "versions": {n: version(n) for n in ("torch", "transformers", "peft")},
        }

    @torch.no_grad()
    def _save(self, models: Models, splits: Splits, test: list[Example], costs: dict[str, Any]) -> None:
        """Write adapter/ with the head, and inputs and fp32 logits of a few test rows."""
        self.reporter.emit(Phase("saving"))
        models.host.eval()
        batch = models.task.batch(test[:REFERENCE_ROWS]).to(self.device)
        logits = models.task.logits(evaluation.forward(models.host, batch), batch)
        reference = {f"input.{k}": v for k, v in batch.inputs.items()} | {f"fact.{k}": v for k, v in batch.facts.items()}
        heads = models.task.head(models.host)
        head = {f"{h}.{n}": p for h in heads for n, p in models.host.get_submodule(h).state_dict().items()}
        spec = self.spec
        base = {"source": spec.model.source, "revision": spec.model.revision, "sha256": costs["base_sha256"]}
        meta = {
            **{name: getattr(spec, name) for name in ("run_id", "label", "preset", "recipe", "task")},
            "modifiers": list(spec.modifiers),
            "init_from": spec.init_from and spec.init_from.sha256,
            "base": {**base, "model_type": models.host.config.model_type},
            "labels": list(splits.labels),
            "max_length": spec.training.max_length,
            "columns": splits.mapping,
            "entries": list(self.entries),
            "head": list(heads),
            "metrics": costs["metrics"],
            "versions": costs["versions"],
        }
        state.save(self.folder / ADAPTER, models.adapter, meta, head, reference | {"logits": logits})
