"""Real tiny trainings that go wrong as their label says: `faulty.py FOLDER LABEL...`, one forked worker after the other.

torch is imported once; this process itself never trains, so that its children may.
"""

import os
import shutil
import sys
import time
from pathlib import Path

from tests.jobs.planted import Lines
from workbench.core.paths import run_folder
from workbench.core.run_spec import Placed
from workbench.jobs import client, wire, worker
from workbench.jobs.loop import Loop
from workbench.jobs.store import Store

AT = 3
"""The step at which something happens."""
LATE = 5


def at_step(act):
    """A replacement for `Recipe.step` that calls `act(loss)` at step AT and returns what it returns."""
    from workbench.recipes.standard import Standard

    usual, count = Standard.step, [0]

    def step(self, batch):
        loss = usual(self, batch)
        count[0] += 1
        return act(loss) if count[0] == AT else loss

    Standard.step = step


def nan(loss):
    """A loss that is no number."""
    return loss * float("nan")


def inf(loss):
    """A loss without bound."""
    return loss * float("inf")


def gpu_memory(loss):
    """What torch raises on a full card."""
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB.")


def memory(loss):
    """A real allocation that no machine has room for."""
    import torch

    torch.empty(1 << 55)
    return loss


def slow(loss):
    """A step that takes a hundred times as long."""
    time.sleep(1.0)
    return loss


def bad_gradient(loss):
    """A finite loss whose gradient is not a number."""
    loss.register_hook(lambda grad: grad * float("nan"))
    return loss


def loader():
    """The batch of some step cannot be made."""
    from workbench.tasks.text.text_classification import TextClassification

    usual, count = TextClassification.batch, [0]

    def batch(self, group):
        count[0] += 1
        if count[0] == AT:
            raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")
        return usual(self, group)

    TextClassification.batch = batch


def callback():
    """A method's hook after the step raises."""
    from workbench.kernel.adapter import Adapter

    Adapter.on_step = lambda self, i, n: [] if i < AT else 1 // 0


def metric():
    """A metric that the rows do not define."""
    from workbench.tasks.contract import Task
    from workbench.tasks.text.text_classification import TextClassification

    usual = TextClassification.metrics
    assert issubclass(TextClassification, Task)
    TextClassification.metrics = lambda self, predictions: {**usual(self, predictions), "accuracy": float("nan")}


def part():
    """The weights of one part become NaN after a late step."""
    from workbench.kernel.adapter import Adapter

    usual = Adapter.on_step

    def on_step(self, step, steps):
        if step == LATE:
            next(iter(self.named_trainable().values())).data.fill_(float("nan"))
        return usual(self, step, steps)

    Adapter.on_step = on_step


def late_memory():
    """What a card's library says when it has no room left, at a late step."""
    import torch

    usual, count = torch.optim.AdamW.step, [0]

    def step(self, *given, **named):
        count[0] += 1
        if count[0] == LATE:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return usual(self, *given, **named)

    torch.optim.AdamW.step = step


def optimizer():
    """The optimizer meets a state that does not fit."""
    import torch

    def step(self, *_, **__):
        raise RuntimeError("The size of tensor a (8) must match the size of tensor b (4) at non-singleton dimension 0")

    torch.optim.AdamW.step = step


def collecting():
    """What a checkpoint needs cannot be collected."""
    from workbench.kernel.adapter import Adapter
    from workbench.train import session

    def progress(self):
        raise RuntimeError("the scores of this part are gone")

    session.SAVE_EVERY, Adapter.progress = 0.0, progress


def validation():
    """The rows of the validation cannot be judged."""
    from workbench.tasks.text.text_classification import TextClassification

    def metrics(self, predictions):
        raise ValueError("y_true and y_pred must have the same length")

    TextClassification.metrics = metrics


def one_row():
    """The tokenizer's native code panics at one row: no `Exception`."""
    from workbench.tasks.text.text_classification import TextClassification

    usual = TextClassification.encode
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    def encode(self, table):
        if any("plot" in text for text in table.column("text")):
            raise panic("byte index 3 is not a char boundary; it is inside 'é' (bytes 2..4)")
        return usual(self, table)

    TextClassification.encode = encode


def observing():
    """A method that looks at the base before it trains raises while it looks."""
    from workbench.kernel.contract import Method, Part

    def observe(self, x):
        raise ArithmeticError("the covariance of this site is singular")

    Method.calibration_rows, Part.observe = classmethod(lambda cls, cfg: 4), observe


def preparing():
    """A method raises when it prepares what it has seen."""
    from workbench.kernel.contract import Method, Part

    def prepare(self, weight):
        raise RuntimeError("linalg.svd: The algorithm failed to converge because the input matrix is ill-conditioned")

    Method.calibration_rows, Part.prepare = classmethod(lambda cls, cfg: 4), prepare


STEPS = {f.__name__: f for f in (nan, inf, gpu_memory, memory, slow, bad_gradient)}
PATCHES = {
    f.__name__: f
    for f in (loader, callback, metric, part, late_memory, optimizer, collecting, validation, one_row, observing, preparing)
}


def train(spec, reporter, folder, placed):
    """The real training, with the fault of its label planted."""
    from workbench.train import run

    fault = spec.label.partition("-")[0]
    if fault in STEPS:
        at_step(STEPS[fault])
    elif fault in PATCHES:
        PATCHES[fault]()
    if spec.label.endswith("last"):
        global AT
        AT = spec.training.max_steps
    return run(spec, reporter, folder, placed)


def one(folder):
    """The worker of one run in a process of its own; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        log = os.open(folder / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(log, number)
        wiring = worker.Wiring(train, lambda spec, placed: placed, lambda *_: Reporter())
        code = worker.main(folder, wiring)
    finally:
        sys.stdout.flush()
        os._exit(code)


class Reporter(Lines):
    """Prints events; nobody asks such a run to stop."""

    offset = 0

    def wish(self):
        """Nobody asks."""
        return None


def specs(folder, labels):
    """One spec for each label; they differ in their faults alone."""
    from tests.train import planted
    from workbench.core.spec import DataSpec
    from workbench.data import resolve

    base, rows = planted.base("bert", folder / "base"), planted.rows("bert", folder / "rows")
    broken = shutil.copytree(base, folder / "broken")
    (broken / "tokenizer.json").write_text('{"version": ')
    (folder / "empty.csv").write_text("text,label\n")
    usual = planted.spec(base, "text_classification", rows, "lora", max_steps=6, eval_every=3)
    made = {label: usual.model_copy(update={"run_id": label, "label": label, "experiment": "faults-abc123"}) for label in labels}
    no_rows = resolve(DataSpec(source=str(rows.source), validation=str(folder / "empty.csv"), test=0.25))
    stops = usual.training.model_copy(update={"early_stop": 1, "eval_every": 2})
    changes = {
        "tokenizer": {"model": usual.model.model_copy(update={"source": str(broken)})},
        "empty_validation": {"data": no_rows},
        "metric-stop": {"training": stops},
    }
    return [spec.model_copy(update=changes.get(label, {})) for label, spec in made.items()]


def main(folder, labels):
    """Queue all, run one after the other, each on a slot of its own, and let the daemon's loop judge them."""
    import peft  # noqa: F401 - what a training loads is loaded once, before the workers are forked
    import pyarrow.parquet  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    import torch._dynamo
    import transformers.optimization  # noqa: F401

    import workbench.train.session  # noqa: F401

    torch.set_num_threads(1)
    client.ensure_daemon = lambda: None
    client.submit(specs(folder, labels))
    with Store(client.jobs_db()) as store:
        for number, label in enumerate(labels):
            assert store.claim(f"cpu:{number}", ("train",))["run_id"] == label
            wire.write_json(run_folder(label) / "placement.json", Placed())
            one(run_folder(label))
        Loop(store, lock=None, farewell=folder / "daemon.json").tick()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
