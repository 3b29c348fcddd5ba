"""A worker, a daemon and an engine with planted work, run as real processes: `planted.py worker|daemon|engine ...`."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from workbench.core.errors import WorkbenchError
from workbench.core.events import Phase, Step, Stopped
from workbench.core.paths import home
from workbench.jobs import daemon, detach, engine, wire, worker

HERE = [sys.executable, "-P", __file__]


class Lines:
    """A reporter that prints events into train.log."""

    def emit(self, event):
        print(event.record(), flush=True)

    def close(self):
        print("reporter closed", flush=True)


def train(spec, reporter, folder, placed):
    """Counts to `steps`; spec.config says how to misbehave."""
    wanted = spec.config
    print(f"environment {os.environ['OMP_NUM_THREADS']} {os.getcwd()} {os.environ.get('CUDA_VISIBLE_DEVICES')!r}", flush=True)
    if wanted.get("child"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    if wanted.get("deaf"):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    (folder / "adapter").mkdir(exist_ok=True)
    reporter.emit(Phase("training", steps=wanted.get("steps", 3)))
    began = (wire.read_json(folder / "checkpoint" / "at.json") or {"step": 0})["step"]
    for step in range(began, wanted.get("steps", 3)):
        time.sleep(wanted.get("seconds", 0.01))
        reporter.emit(Step(step + 1, 1.0, 1e-3, 0.01, 8))
        if not wanted.get("deaf") and reporter.wish() == "cancel":
            raise Stopped("cancel")
        if wanted.get("keeps") and reporter.wish() == "pause":
            (folder / "checkpoint").mkdir(exist_ok=True)
            wire.write_json(folder / "checkpoint" / "at.json", {"step": step + 1})
            raise Stopped("pause")
    if wanted.get("verdict"):
        verdict = {"state": "finished", "reason": None, "attempt": placed.attempt, "ended": time.time(), "result": None}
        wire.write_json(folder / "verdict.json", verdict)
        os.kill(os.getpid(), signal.SIGKILL)
    if wanted.get("raise") == "ours":
        raise WorkbenchError("the learning rate must be smaller; lower it.")
    if wanted.get("raise") == "full":
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)
    if wanted.get("raise") == "crash":
        ctypes.string_at(0)
    if wanted.get("raise"):
        raise ValueError("shapes do not fit")
    return {
        "began_at": began,
        "metrics": {"accuracy": float("nan")},
        "neighbours": placed.neighbours,
        "steps": wanted.get("steps", 3),
    }


def sleep(request, folder):
    """A short job."""
    time.sleep(request.get("seconds", 0))
    return {"slept": request.get("seconds", 0), "folder": folder.name}


def nap(seconds=0.0, error=None):
    """A call of the engine."""
    time.sleep(seconds)
    if error == "ours":
        raise WorkbenchError("the rank must be positive; raise it.")
    if error:
        raise KeyError(error)
    return {"slept": seconds, "pid": os.getpid(), "nan": float("nan")}


def main(what, *rest):
    """Be one of the three."""
    sys.path.insert(0, str(Path(__file__).parent))
    if what == "worker":
        wiring = worker.Wiring(train, lambda spec, placed: placed, lambda *_: Lines(), {"operate": "planted:sleep"})
        return worker.main(Path(rest[0]), wiring, away="--desk" in rest)
    detach.code_stamp = lambda: "planted"  # so that an edit while the tests run changes nothing
    if what == "engine":
        calls = {"nap": "planted:nap", "ping": engine.CALLS["ping"]}
        return detach.detach(home() / "engine.log", lambda ready: engine.serve(ready, calls))
    patience = (1.0, 1.5, 2.0)
    return detach.detach(home() / "daemon.log", lambda ready: daemon.serve(ready, [*HERE, "worker"], patience, record=False))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
