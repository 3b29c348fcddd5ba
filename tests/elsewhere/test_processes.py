"""One training in two processes through accelerate: the same training as in one, and it ends as one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs.living import until
from tests.train import planted
from tests.train.conftest import bench
from tests.train.test_resume import Pausing, told
from workbench.core.errors import WorkbenchError
from workbench.core.events import Silent, Started, Step, Stopped
from workbench.core.paths import ROOT
from workbench.core.run_spec import Placed
from workbench.train import checkpoint

__all__ = ["bench"]
pytestmark = pytest.mark.slow


def ranks() -> list[int]:
    """Processes of a rank or of its launcher."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes()
            state = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if b"workbench.train.rank" in line and state != b"Z":
            found.append(int(entry))
    return found


@pytest.mark.parametrize(("family", "method", "more"), [
    ("bert", "lora", {"batch_size": 7, "gradient_accumulation": 2}),  # 7 rows: four for one process, three for the other
    ("llama", "ia3", {"batch_size": 5, "early_stop": 2, "eval_every": 3}),
])  # fmt: skip
def test_two_processes_train_what_one_trains(bench, family: str, method: str, more: dict, tmp_path: Path) -> None:
    said, again = Silent(), Silent()
    options: dict[str, Any] = {"max_steps": 12, "epochs": 100, **more}
    alone = planted.go(bench.spec(family, method, **options), tmp_path / "one", said)
    both = planted.go(bench.spec(family, method, **options, processes=2), tmp_path / "two", again)
    losses, others = ([e.loss for e in one.events if isinstance(e, Step)] for one in (said, again))
    assert len(losses) == len(others) >= 6
    assert max(abs(a - b) for a, b in zip(losses, others, strict=True)) < 1e-4
    print("largest difference of the loss", family, max(abs(a - b) for a, b in zip(losses, others, strict=True)))
    assert [e.examples for e in said.events if isinstance(e, Step)] == [e.examples for e in again.events if isinstance(e, Step)]
    assert len([e for e in again.events if isinstance(e, Started)]) == 1
    assert both["metrics"] == pytest.approx(alone["metrics"], abs=1e-4)
    assert both["trainable_params"] == alone["trainable_params"]
    assert any(note.startswith("2 processes shared") for note in both["notes"])
    one, two = planted.stored(tmp_path / "one").tensors, planted.stored(tmp_path / "two").tensors
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-4)
    assert not ranks()


def test_a_pause_reaches_both_and_the_whole_is_bitwise_the_same(bench, tmp_path: Path) -> None:
    spec = bench.spec("bert", "lora", dropout=0.1, max_steps=6, batch_size=8, processes=2)
    whole = Silent()
    planted.go(spec, tmp_path / "whole", whole)
    events: list = []
    with pytest.raises(Stopped, match="pause"):
        planted.go(spec, tmp_path / "parts", Pausing(3, events))
    found = checkpoint.find(tmp_path / "parts", spec)
    assert found is not None
    events = events[: found[1]["offset"]]
    planted.go(spec, tmp_path / "parts", Pausing(0, events), Placed(attempt=2))
    assert told(events) == told(whole.events)
    assert planted.equal(planted.stored(tmp_path / "whole"), planted.stored(tmp_path / "parts"))
    assert not ranks()


class Cancelling(Silent):
    """Asks for a cancel at the third question."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def wish(self) -> Any:
        self.asked += 1
        return "cancel" if self.asked >= 3 else None


def test_a_cancel_reaches_both(bench, tmp_path: Path) -> None:
    reporter = Cancelling()
    with pytest.raises(Stopped, match="cancel"):
        planted.go(bench.spec("bert", "lora", max_steps=100, epochs=1000, processes=2), tmp_path, reporter)
    assert len([e for e in reporter.events if isinstance(e, Step)]) == 3
    assert not ranks()
    assert not (tmp_path / "adapter").exists()


def test_a_failure_of_a_process_is_its_own_sentence(bench, tmp_path: Path) -> None:
    spec = bench.spec("bert", "lora", processes=2)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(WorkbenchError, match="have changed since this run was planned; submit it again"):
        planted.go(spec, tmp_path)
    assert not ranks()


def test_a_recipe_with_a_loss_of_its_own_is_refused(bench, tmp_path: Path) -> None:
    spec = bench.spec("llama", "ia3", processes=2, recipe={"recipe": "tfew"})
    with pytest.raises(WorkbenchError, match=r"tfew has a loss of its own.*leave training\.processes out"):
        planted.go(spec, tmp_path)


RUN = """
import sys
from pathlib import Path
from tests.train import planted
from workbench.core import safe_yaml
from workbench.core.run_spec import RunSpec
spec = RunSpec.model_validate(safe_yaml.loads(Path(sys.argv[1]).read_bytes(), "spec"))
planted.go(spec, Path(sys.argv[2]))
"""


def test_nobody_stays_when_the_worker_is_killed(bench, tmp_path: Path) -> None:
    from workbench.core import safe_yaml

    spec = bench.spec("bert", "lora", max_steps=100_000, epochs=10_000, processes=2, eval_every=1_000_000)
    (tmp_path / "spec.yaml").write_text(safe_yaml.dumps(spec.model_dump(mode="json")))
    command = [sys.executable, "-P", "-c", RUN, str(tmp_path / "spec.yaml"), str(tmp_path / "run")]
    with open(tmp_path / "log", "wb") as log:
        worker = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
    try:
        until(lambda: len(ranks()) == 3, 120)
        time.sleep(3)  # somewhere between the start and the first steps
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    until(lambda: not ranks(), 60)
