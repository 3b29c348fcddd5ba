"""The daemon's loop over the jobs of one home: judge the live, end the dead, fill the free slots.

Whether a worker lives is asked of its lock, never guessed from a pid; what it achieved is in `verdict.json`. Workers
outlive the daemon and are adopted by the next one.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.core import durable, failpoints
from workbench.core.errors import WorkbenchError
from workbench.core.locks import Alive, is_held, run_lock
from workbench.core.paths import home, run_folder
from workbench.core.run_spec import Placed
from workbench.jobs import cluster, detach, failures, logs, memory, processes, removing, wire
from workbench.jobs.record import read_spec
from workbench.jobs.slots import Slot, layout, together
from workbench.jobs.store import ENDED, LIVE, Row, Store
from workbench.train import checkpoint

TICK = 0.2  # seconds between two looks; a signal of a dying child ends the wait at once
BEGIN_WITHIN = 60.0
PATIENCE = (5.0, 10.0, 15.0)  # seconds after a cancel at which INT, TERM and KILL follow
KEPT = {"spec.yaml", "request.json", "train.log", "placement.json"}
MOST_ATTEMPTS = 3  # of a run that the machine takes down with it each time
WORKER = tuple(detach.python("workbench.jobs.worker"))


def say(text: str) -> None:
    """A line in daemon.log."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)


def read_verdict(row: Row) -> dict[str, Any] | None:
    """The verdict of the row's current attempt, if its worker left one."""
    verdict = wire.read_json(run_folder(row["run_id"]) / "verdict.json")
    known = verdict is not None and verdict.get("attempt") == row["attempt"] and verdict.get("state") in (*ENDED, "paused")
    return verdict if known else None


class Loop:
    """The loop over one home's jobs.

    Args:
        store: open store.
        lock: the singleton lock, held.
        farewell: the ready file, removed in the transaction that decides to end for idleness.
        worker: command line of a worker; the run folder is appended.
        patience: seconds after a cancel at which INT, TERM and KILL are sent to the worker's group.
    """

    def __init__(
        self, store: Store, lock: Alive, farewell: Path, worker: Sequence[str] = WORKER, patience: Sequence[float] = PATIENCE
    ) -> None:
        self.store, self.lock, self.farewell = store, lock, farewell
        self.worker, self.patience = tuple(worker), tuple(patience)
        self.slots = layout(rooms=True)
        self.away = cluster.Cluster(cluster.address(), self.worker, store) if cluster.address() else None
        if self.away is not None:  # trainings go there; short work stays
            self.slots = [*self.away.slots(), *(slot for slot in self.slots if "train" not in slot.kinds)]
        self.stopping = False
        self.children: dict[int, subprocess.Popen] = {}
        self.kills: dict[int, memory.Kills] = {}  # job -> what the kernel had killed for memory when it began
        self.seen: dict[tuple[str, int, int], float] = {}  # (what, job, attempt) -> when this daemon first saw it
        self.idle_limit = float(os.environ.get("WORKBENCH_IDLE_SECONDS") or 900)
        self.busy = time.monotonic()

    def run(self) -> None:
        """Work until stopped, idle for long, or without a home."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wake-up descriptor is written
        while not self.stopping:
            pause = TICK
            try:
                if self._over():
                    return
                self.tick()
            except WorkbenchError as error:  # the job store is busy or the disk full: ask again, more slowly
                say(str(error))
                pause = 10 * TICK
            if select.select([reading], [], [], pause)[0]:
                os.read(reading, 512)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _over(self) -> bool:
        if not self.lock.intact():
            say("the home is gone")
            for child in self.children.values():
                processes.kill_rest(child.pid, processes.created(child.pid))
            return True
        if time.monotonic() - self.busy > self.idle_limit and self.store.quiet(self.farewell):
            say("nothing to do for long")
            return True
        return False

    def tick(self) -> None:
        """One look at every live job and every free slot."""
        for child in self.children.values():
            child.poll()
        rows = self.store.active()
        if rows:
            self.busy = time.monotonic()
        for row in rows:
            if row["state"] != "queued":
                self._judge(row)
        waiting = {row["kind"] for row in rows if row["state"] == "queued"}
        if waiting:
            self._fill(waiting)

    def reconcile(self) -> None:
        """At start: adopt the living, end the dead, put back what was claimed but never started, sweep half-made folders."""
        for row in self.store.active():
            unborn = row["state"] == "starting" and row["pid"] is None and not self._lives(row)
            if unborn or row["state"] == "queued":
                # half a placement may be left, also where a power cut undid the claim, and the job may never start again
                durable.sweep(run_folder(row["run_id"]), everything=True)
            if unborn:
                self.store.requeue(row["job"], row["attempt"])
            elif row["state"] != "queued":
                self._judge(row)
        removing.sweep(self.store)

    def _lives(self, row: Row) -> bool:
        if not cluster.of_cluster(row):
            return is_held(run_lock(home(), row["run_id"]))
        return self.away is None or self.away.lives(row)  # without its address nothing can be said about it

    def _since(self, what: str, row: Row) -> float:
        return time.monotonic() - self.seen.setdefault((what, row["job"], row["attempt"]), time.monotonic())

    def _judge(self, row: Row) -> None:
        dead = not processes.alive(row["pid"], row["pid_created"])  # asked first: then lock and verdict are its last words
        logs.bound(run_folder(row["run_id"]) / "train.log")
        if self._lives(row):
            if row["intent"] == "cancel":
                self._escalate(row)
            return
        verdict = read_verdict(row)
        if dead or row["state"] == "running" or verdict is not None:
            self._end(row, verdict)
        elif self._since("starting", row) > BEGIN_WITHIN:
            self._end(row, None, f"the worker did not begin within {BEGIN_WITHIN:.0f} seconds; retry the run.")

    def _escalate(self, row: Row) -> None:
        waited = self._since("cancel", row)
        grace = 0.0 if row["kind"] == "train" else self.patience[0]  # short work has no step at which it asks
        for number, (limit, name) in enumerate(zip(self.patience, ("SIGINT", "SIGTERM", "SIGKILL"), strict=True)):
            mark = (name, row["job"], row["attempt"])
            if waited + grace >= limit and mark not in self.seen:
                self.seen[mark] = time.monotonic()
                say(f"job {row['job']}: {name} after {waited:.1f} s ({number + 1} of 3)")
                if cluster.of_cluster(row) and self.away is not None:
                    self.away.stop(row)
                processes.signal_group(row["pgid"], row["pid_created"], signal.Signals[name])

    def _end(self, row: Row, verdict: dict[str, Any] | None, late: str = "") -> None:
        job, attempt = row["job"], row["attempt"]
        processes.kill_rest(row["pgid"], row["pid_created"])
        lost = verdict is None and self._went_down(row)
        status = self.away.clear(row) if self.away and cluster.of_cluster(row) else self._reap(self.children.pop(job, None))
        self._clear(row)
        if lost:
            if self.store.requeue(job, attempt, LIVE):
                say(f"job {job} attempt {attempt}: the machine went down, queued again")
            return
        failure, now = None, memory.kills()
        if verdict is not None:
            state, reason, failure = verdict["state"], verdict.get("reason"), verdict.get("failure")
        elif row["intent"] == "cancel":
            state, reason = "cancelled", "cancelled; the worker had to be stopped by force"
        else:
            out = memory.between(self.kills.get(job, now), now)
            found = failures.without_verdict(run_folder(row["run_id"]), status, out)
            failure = (failures.Failure("not_begun", late, "", found.lines) if late else found).plain()
            state, reason = "failed", failure["sentence"]
        failpoints.reach("ended.before")
        if self.store.end(job, attempt, state, reason, json.dumps(failure, ensure_ascii=False) if failure else None):
            failpoints.reach("ended.committed")
            say(f"job {job} attempt {attempt}: {state}{f' - {reason}' if reason else ''}")
        self.seen = {mark: when for mark, when in self.seen.items() if mark[1] != job}

    def _clear(self, row: Row) -> None:
        """Remove what a worker that was killed left half-written: in its folder, and beside the adapter or export it made."""
        folder = run_folder(row["run_id"])
        for place in (folder, folder / checkpoint.FOLDER):
            durable.sweep(place, everything=True)
        if row["kind"] == "operate":
            durable.sweep(home() / "adapters")
        target = (wire.read_json(folder / "request.json") or {}).get("to")
        if isinstance(target, str):
            durable.sweep(Path(target).expanduser().parent, Path(target).name)

    def _went_down(self, row: Row) -> bool:
        """Whether a training ended because the machine did, and may be tried again."""
        before = (wire.read_json(run_folder(row["run_id"]) / "placement.json") or {}).get("boot")
        wanted = row["kind"] == "train" and row["intent"] is None and row["attempt"] < MOST_ATTEMPTS
        if cluster.of_cluster(row):
            return wanted and self.away is not None and self.away.lost(row)
        return wanted and bool(before) and before != processes.boot()

    def _reap(self, child: subprocess.Popen | None) -> int | None:
        try:
            return child.wait(5) if child is not None else None
        except subprocess.TimeoutExpired:  # stuck in the kernel; the system reaps it after us
            return None

    def _fill(self, waiting: set[str]) -> None:
        taken = {name for row in self.store.active() if row["state"] != "queued" for name in (row["slot"] or "").split(",")}
        gpus = {slot.name: slot for slot in self.slots if slot.gpu is not None and "train" in slot.kinds and self.away is None}
        for slot in sorted(self.slots, key=lambda slot: slot.name in taken):  # a free GPU before one to share
            if waiting.isdisjoint(slot.kinds) or (slot.name in taken and slot.room is None):
                continue
            failpoints.reach("queued")
            spare = [name for name in gpus if name not in taken and name != slot.name] if slot.name in gpus else []
            row = self.store.claim(slot.name, slot.kinds, slot.room, spare, max(1, len(gpus)))
            if row is not None:
                failpoints.reach("claimed")
                names = row["slot"].split(",")
                taken.update(names)
                whole = together([gpus[name] for name in names]) if len(names) > 1 else slot
                self._start(row, whole if row["exclusive"] else whole.part())

    def _start(self, row: Row, slot: Slot) -> None:
        folder = run_folder(row["run_id"])
        try:
            wanted = read_spec(folder).device if row["kind"] == "train" else "auto"
            self._place(row, folder, Placed(
                device=slot.device(wanted), threads=slot.threads, attempt=row["attempt"], neighbours=bool(row["neighbours"]),
                boot=processes.boot(),
            ))  # fmt: skip
            with open(folder / "train.log", "ab") as log:
                log.write(f"{failures.HEADER}{row['attempt']} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
                log.flush()
                if self.away is not None and cluster.of_cluster(row):
                    self.away.start(row, slot)
                    return
                child = subprocess.Popen(
                    [*self.worker, str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=home(),
                    env={**detach.environment(), **slot.environment()}, start_new_session=True,
                )  # fmt: skip
        except (OSError, WorkbenchError) as error:
            found = failures.explain(error)
            found = replace(found, sentence=f"the worker could not be started: {found.sentence}")
            self.store.end(row["job"], row["attempt"], "failed", found.sentence, found.text())
            return
        failpoints.reach("forked")
        self.children[row["job"]], self.kills[row["job"]] = child, memory.kills()
        self.store.spawned(row["job"], row["attempt"], child.pid, processes.created(child.pid))

    def _place(self, row: Row, folder: Path, placed: Placed) -> None:
        stood = folder / checkpoint.FOLDER
        if row["attempt"] > 1 and stood.is_dir() and any(stood.iterdir()):
            # it goes on, and with other threads it would not be bitwise
            before = wire.read_json(folder / "placement.json") or {}
            placed = placed.model_copy(update={"threads": before.get("threads", placed.threads)})
            (folder / "verdict.json").unlink(missing_ok=True)
        elif row["attempt"] > 1:  # a new attempt starts afresh; here, where nobody else can be working in the folder
            for path in folder.iterdir():
                if path.name not in KEPT:
                    durable.remove(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        wire.write_json(folder / "placement.json", placed)
