"""One job in one process: `python -P -m workbench.jobs.worker RUN_FOLDER`, started by the daemon.

Takes the run's lock, says "started", does the work and writes `verdict.json` last. Nothing but the standard library is
imported until "started" is written. This is the one place where training, tracking and the queue are wired together.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from workbench.core import failpoints
from workbench.core.locks import Alive, run_lock
from workbench.jobs import processes, wire
from workbench.jobs.desk import Desk
from workbench.jobs.store import NAME, Row, Store

if TYPE_CHECKING:
    from workbench.core.events import Event, Reporter
    from workbench.core.run_spec import Placed, RunSpec
    from workbench.jobs.failures import Failure

WISH_EVERY, PROGRESS_EVERY = 0.2, 1.0
SHORT = MappingProxyType({
    "export": "workbench.export:run_job",
    "verify": "workbench.export:verify_job",
    "operate": "workbench.operations:run_job",
    "analyse": "workbench.analyses:run_job",
})  # fmt: skip
"""Short kind -> `module:function(request: dict, folder: Path) -> dict`, the verdict's result."""


class Progress:
    """The reporter that the training sees: passes events on and keeps the row's step and intent, both rate-limited."""

    def __init__(self, store: Store | Desk, row: Row) -> None:
        self.store, self.job, self.attempt = store, row["job"], row["attempt"]
        self.step = self.steps = 0
        self.current = True  # False once the row has moved on to another attempt
        self.inner: Reporter | None = None
        self._asked = self._written = 0.0
        self._wish: str | None = None

    def emit(self, event: "Event") -> None:
        """Count steps and pass the event on."""
        from workbench.core import events

        if self.inner is not None:
            self.inner.emit(event)
            failpoints.reach("event.written")
        side_work = isinstance(event, events.Phase) and event.name in ("loading", "preparing", "evaluating", "saving")
        if side_work and event.name == "evaluating":
            failpoints.reach("evaluation")
        if isinstance(event, events.Started | events.Phase) and event.steps and not side_work:
            self.steps = max(self.steps, event.steps)  # a phase is a part of what was announced at the start
        elif isinstance(event, events.Step):
            self.step = event.step
            failpoints.reach("step")
        else:
            return
        if time.monotonic() - self._written >= PROGRESS_EVERY:
            self.flush()

    @property
    def offset(self) -> int:
        """Bytes of events.jsonl so far."""
        return 0 if self.inner is None else self.inner.offset

    def flush(self) -> None:
        """Write step and steps to the row; a busy store is skipped, the next write brings the newer numbers."""
        from workbench.core.errors import WorkbenchError

        self._written = time.monotonic()
        try:
            self.current = self.store.progress(self.job, self.attempt, self.step, self.steps)
        except WorkbenchError as error:
            print(f"progress not written: {error}", file=sys.stderr, flush=True)

    def wish(self, now: bool = False) -> Any:
        """The row's intent, looked up at most five times a second (or `now`); `cancel` if the row is no longer ours."""
        from workbench.core.errors import WorkbenchError

        if now or time.monotonic() - self._asked >= WISH_EVERY:
            self._asked = time.monotonic()
            try:
                row = self.store.row(self.job)
            except WorkbenchError as error:
                print(f"intent not read: {error}", file=sys.stderr, flush=True)
            else:
                self.current = row is not None and row["attempt"] == self.attempt
                self._wish = row["intent"] if row is not None and self.current else "cancel"
        return self._wish


def _train(spec: "RunSpec", reporter: "Reporter", folder: Path, placed: "Placed") -> dict[str, Any]:
    from workbench.train import run

    return run(spec, reporter, folder, placed)


def _prepare(spec: "RunSpec", placed: "Placed") -> "Placed":
    import torch

    torch.set_num_threads(placed.threads)
    if placed.device == "cuda" and spec.device == "auto" and not torch.cuda.is_available():
        return placed.model_copy(update={"device": "cpu"})  # a card is there, but this torch cannot use it
    return placed


def _reporter(store: Store | Desk, row: Row, folder: Path, wish: Callable[[], Any]) -> "Reporter":
    from tracking import client
    from tracking.reporter import FileReporter
    from workbench.jobs.record import read_spec
    from workbench.train import checkpoint

    known = (store.row(row["job"]) or row)["mlflow_id"] or ""  # else the sender finds it: no training waits for a server
    if isinstance(store, Desk) and not client.shared():
        known = None  # the daemon sends the events at the end
    found = checkpoint.find(folder, read_spec(folder)) if row["attempt"] > 1 else None
    return FileReporter(folder, row["attempt"], known, wish, 0 if found is None else found[1]["offset"])


@dataclass(frozen=True)
class Wiring:
    """What a worker is put together from; tests plant their own.

    Attributes:
        train: (run_spec, reporter, folder, placed) -> result.
        prepare: (run_spec, placed) -> the placement as this process can keep it.
        reporter: (store, row, folder, wish) -> Reporter with `close()`.
        short: kind -> `module:function`.
    """

    train: Callable[..., dict[str, Any]] = _train
    prepare: Callable[..., Any] = _prepare
    reporter: Callable[..., Any] = _reporter
    short: Mapping[str, str] = field(default_factory=lambda: SHORT)


def _training(row: Row, folder: Path, progress: Progress, wiring: Wiring) -> dict[str, Any]:
    from workbench.core.events import Started, Stopped
    from workbench.core.run_spec import Placed
    from workbench.jobs.record import read_spec

    if progress.wish() == "cancel":
        raise Stopped("cancel")
    spec = read_spec(folder)
    placed = wiring.prepare(spec, Placed.model_validate(wire.read_json(folder / "placement.json")))
    progress.inner = reporter = wiring.reporter(progress.store, row, folder, progress.wish)
    try:
        progress.emit(Started(steps=0, attempt=row["attempt"], device=placed.device, threads=placed.threads))
        failpoints.reach("loaded")
        return wiring.train(spec, progress, folder, placed)
    finally:
        progress.flush()
        reporter.close()


def _short_work(row: Row, folder: Path, wiring: Wiring) -> dict[str, Any]:
    from workbench.core.errors import WorkbenchError, unknown

    if row["kind"] not in wiring.short:
        raise unknown("kind of job", row["kind"], wiring.short)
    request = wire.read_json(folder / "request.json")
    if request is None:
        raise WorkbenchError(f"{folder.name}/request.json must hold the request; it is gone or damaged: submit it again.")
    module, _, function = wiring.short[row["kind"]].partition(":")
    return getattr(import_module(module), function)(request, folder)


def _work(
    row: Row, folder: Path, progress: Progress, wiring: Wiring
) -> tuple[str, "str | Failure | None", dict[str, Any] | None]:
    """Do the job; returns state, reason (of what failed: all that is known) and result, never raises."""
    from workbench.core.errors import WorkbenchError
    from workbench.core.events import Stopped
    from workbench.jobs.failures import Failure, Terminated, explain

    try:
        result = _training(row, folder, progress, wiring) if row["kind"] == "train" else _short_work(row, folder, wiring)
        if not (folder / "placement.json").exists():  # what is written now makes no whole run any more
            raise WorkbenchError("the run folder must stay while the run works; it was deleted: submit the run again.")
        return "finished", None, wire.plain(result)
    except Stopped as stop:
        failpoints.reach("wish.seen")
        wish = str(stop) or "cancel"
        return ("paused", None, None) if wish == "pause" else ("cancelled", "cancelled on request", None)
    except (KeyboardInterrupt, Terminated):
        if progress.wish(now=True) == "cancel":
            return "cancelled", "cancelled on request", None
        return "failed", Failure("stopped", "the worker was told to stop from outside the workbench; retry the run."), None
    except BaseException as error:
        traceback.print_exc()
        return "failed", explain(error), None


def _terminate(*_: Any) -> None:
    from workbench.jobs.failures import Terminated

    raise Terminated


def _started(folder: Path, store: Store | Desk) -> Row | None:
    placement = wire.read_json(folder / "placement.json") or {}
    row = store.run(folder.name)
    if row is None or row["attempt"] != placement.get("attempt"):
        return None
    pid = os.getpid()
    return row if store.began(row["job"], row["attempt"], pid, processes.created(pid)) else None


def main(folder: Path, wiring: Wiring | None = None, away: bool = False) -> int:
    """Run the job of a run folder.

    Args:
        folder: the run folder.
        wiring: what it is put together from.
        away: this is another machine than the daemon's: no lock, and the desk instead of the job store.

    Returns:
        0 finished, 1 any other verdict, 3 nothing done because the job belongs to another worker or attempt.
    """
    folder = folder.resolve()
    home = folder.parents[1]
    if not folder.is_dir():  # before a lock is made: nothing may appear where no home is
        print(f"there is no run folder {folder}", file=sys.stderr)
        return 3
    failpoints.reach("lock.before")
    lock = Alive(run_lock(home, folder.name))
    if not away and not lock.take(wait=2.0):
        print("another worker holds this run", file=sys.stderr)
        return 3
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the daemon with it ignored
    signal.signal(signal.SIGTERM, _terminate)
    failpoints.reach("lock.after")
    with Desk(folder) if away else Store(home / NAME) as store:
        row = _started(folder, store)
        if row is None:
            print("this attempt is not the current one", file=sys.stderr)
            return 3
        failpoints.reach("began")
        progress = Progress(store, row)
        state, reason, result = _work(row, folder, progress, wiring or Wiring())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the work is over: only the verdict is left to write
        now = store.row(row["job"])
        if now is None or now["attempt"] != row["attempt"]:
            print("the job has moved on to another attempt; no verdict is written", file=sys.stderr)
            return 3
        if result is not None and "neighbours" in result:
            result["neighbours"] = bool(now["neighbours"])  # others may have come after the start
        failure = None if reason is None or isinstance(reason, str) else reason.plain()
        reason = failure["sentence"] if failure else reason
        print(f"{state}: {reason}" if reason else state, flush=True)
        verdict = {"state": state, "reason": reason, "attempt": row["attempt"], "ended": time.time(), "result": result}
        verdict["failure"] = failure
        failpoints.reach("verdict.before")
        wire.write_json(folder / "verdict.json", verdict)
        failpoints.reach("verdict.written")
    return 0 if state == "finished" else 1


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the verdict is written: no thread of a library may keep the slot


if __name__ == "__main__":
    try:
        _code = main(Path(sys.argv[1]), away="--desk" in sys.argv[2:])
    except BaseException:
        traceback.print_exc()
        _code = 1
    _leave(_code)
