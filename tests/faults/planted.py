"""A daemon, workers and clients without torch that pass every place of `failpoints`: `planted.py daemon|worker|client ...`.

The planted training is a chain of hashes, so that a run which was killed and taken up again can be compared bitwise; it uses
the real checkpoints, events, adapters' and exports' write order, with hashes in place of tensors.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from tracking.reporter import FileReporter
from workbench.core import durable, failpoints
from workbench.core.events import Evaluated, Phase, Started, Step, Stopped
from workbench.core.paths import home
from workbench.jobs import client, daemon, detach, worker
from workbench.jobs.record import read_spec
from workbench.jobs.store import NAME, Store
from workbench.train import checkpoint

HERE = [sys.executable, "-P", __file__]
STEPS, EVERY = 6, 2


class Tensor(str):
    """What `checkpoint.write` asks of a tensor, as text."""

    def __getattr__(self, name):
        if name in ("detach", "cpu", "contiguous", "clone"):
            return lambda: self
        raise AttributeError(name)


def _save_file(tensors, path, metadata=None):
    Path(path).write_text(json.dumps(tensors))


def reporter(store, row, folder, wish):
    """The real events.jsonl, without MLflow."""
    found = checkpoint.find(folder, read_spec(folder)) if row["attempt"] > 1 else None
    return FileReporter(folder, row["attempt"], None, wish, 0 if found is None else found[1]["offset"])


def train(spec, told, folder, placed):
    """`STEPS` steps, a checkpoint every second one, one evaluation, one adapter."""
    wanted = spec.config
    found = checkpoint.read(folder, spec) if placed.attempt > 1 else None
    state, began = (found.tensors["state"], found.plain["step"]) if found else ("", 0)
    told.emit(Started(STEPS, placed.attempt, "cpu", 1))
    told.emit(Phase("training", STEPS))

    def keep(step):
        checkpoint.write(folder, spec, step, {"offset": told.offset, "step": step}, {"state": Tensor(state)}, 1)

    for step in range(began + 1, STEPS + 1):
        time.sleep(wanted.get("seconds", 0.0))
        state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
        told.emit(Step(step, int(state[:4], 16) / 65536, 1e-3, 0.01, 4))
        if wanted.get("asks") and placed.attempt == 1 and step == 3:
            if wanted["asks"] != "client":  # else the wish of another process is waited for
                _ask(folder, wanted["asks"])
            while told.wish() is None:
                time.sleep(0.02)
        if (wish := told.wish()) is not None:
            if wish == "pause":
                keep(step)
            raise Stopped(wish)
        if step % EVERY == 0:
            keep(step)
    told.emit(Phase("evaluating"))
    told.emit(Evaluated(STEPS, "test", {"accuracy": int(state[:4], 16) / 65536}))
    durable.write_whole(folder / "adapter", lambda work: _adapter(work, state))
    checkpoint.clear(folder)
    return {"metrics": {"accuracy": 0.5}, "steps": STEPS}


def _ask(folder, intent):
    with Store(home() / NAME) as store:
        (row,) = store.starting_with(folder.name)
        getattr(store, intent)(row["job"])


def _adapter(work, state):
    (work / "adapter_model.safetensors").write_text(state)
    hashes = {"adapter_model.safetensors": durable.file_sha256(work / "adapter_model.safetensors")}
    (work / "workbench_adapter.json").write_text(json.dumps({"sha256": hashes}))
    failpoints.reach("adapter.written")


def export(request, folder):
    """An export of three files with its manifest."""
    durable.write_whole(Path(request["to"]), write_export)
    failpoints.reach("export.renamed")
    return {"folder": request["to"]}


def write_export(work):
    (work / "check").mkdir()
    for name in ("model.safetensors", "check/rows.safetensors"):
        (work / name).write_text(name * 100)
    files = {str(p.relative_to(work)): durable.file_sha256(p) for p in sorted(work.rglob("*")) if p.is_file()}
    (work / "workbench_export.json").write_text(json.dumps({"files": files}))
    failpoints.reach("export.written")


def ensure():
    """Start the planted daemon, without the failpoint of the client that asks for it."""
    failing = os.environ.pop(failpoints.VARIABLE, None)
    try:
        if not daemon.status()["running"]:
            detach.launch([*HERE, "daemon"], "daemon", lambda: daemon.status()["running"])
    finally:
        if failing:
            os.environ[failpoints.VARIABLE] = failing


def ask(what, *rest):
    """Be a client: submit RUN_ID, or cancel|pause|wait JOB."""
    from tests.jobs.living import make_spec

    client.ensure_daemon = ensure
    if what == "submit":
        print(client.submit([make_spec(rest[0])]))
    elif what == "wait":
        print(client.wait([int(rest[0])])[0]["state"])
    else:
        print(getattr(client, what)(rest[0]))
    return 0


WIRING = worker.Wiring(train, lambda spec, placed: placed, reporter, {"export": "planted:export"})


def prepare():
    """Hashes in place of tensors, and a fixed code, so that an edit while the tests run changes nothing."""
    sys.modules["safetensors.torch"] = SimpleNamespace(  # type: ignore[assignment]
        save_file=_save_file, load_file=lambda path: json.loads(Path(path).read_text())
    )
    sys.path.insert(0, str(Path(__file__).parent))
    detach.code_stamp = lambda: "planted"


def main(what, *rest):
    """Be one of the three."""
    prepare()
    if what == "worker":
        return worker.main(Path(rest[0]), WIRING)
    if what == "client":
        return ask(*rest)
    patience = (0.5, 1.0, 1.5)
    return detach.detach(home() / "daemon.log", lambda ready: daemon.serve(ready, [*HERE, "worker"], patience, record=False))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
