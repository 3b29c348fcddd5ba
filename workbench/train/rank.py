"""One of the processes of a training: `python -m workbench.train.rank FOLDER`, started by `accelerate launch` (see `several`).

Every rank trains the whole run with its share of each batch: the same start, the same order, gradients summed with the weight of
the rows they come from, so that all ranks hold the same tensors after every step. Only the first one reports and saves.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.events import Event, Silent, Stopped
from workbench.core.run_spec import Placed, RunSpec
from workbench.recipes import Models, Recipe
from workbench.tasks.contract import Example
from workbench.train import checkpoint
from workbench.train.loop import Loop, moving
from workbench.train.session import BEST, Session
from workbench.train.several import DOOR, KEY, WORK, hear, say
from workbench.train.watching import Outcome

AGREED_AFTER = 3
"""Steps after which the ranks compare their tensors for the first time; once more at the end."""


def _knock(aside: Path) -> Connection:
    return Client(str(aside / DOOR), "AF_UNIX", authkey=os.environ[KEY].encode())


def _leave_with(life: Connection) -> None:
    """Leave this process as soon as the worker is gone, however it ended."""

    def watch() -> None:
        try:
            life.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=watch, name="life", daemon=True).start()


class Ranks:
    """This process among the others."""

    def __init__(self, cpu: bool) -> None:
        from accelerate import PartialState

        self.state = PartialState(cpu=cpu)
        self.number, self.count = self.state.process_index, self.state.num_processes

    def same(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over the ranks, equal on each of them to the last bit."""
        from accelerate.utils import reduce

        summed = reduce(numbers, "sum")
        assert isinstance(summed, Tensor)
        return summed

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Make sure that all ranks hold the same values.

        Raises:
            WorkbenchError: they do not.
        """
        from accelerate.utils import gather_object

        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        if len(set(gather_object([digest.hexdigest()]))) > 1:
            raise WorkbenchError(
                "the processes of the training hold different tensors: this method moves something by the rows it sees itself; "
                "leave training.processes out."
            )


class First:
    """The first rank's reporter: everything goes to the worker."""

    def __init__(self, talk: Connection) -> None:
        self._talk = talk

    def emit(self, event: Event) -> None:
        """Pass one event on."""
        say(self._talk, "emit", event.record())

    def ask(self) -> tuple[Any, int]:
        """(wish, offset) of the worker's reporter."""
        say(self._talk, "ask")
        wish, offset = hear(self._talk)[1]
        return wish, offset

    @property
    def offset(self) -> int:
        """As the worker's."""
        return self.ask()[1]


class Follower(Silent):
    """The reporter of every other rank."""

    def emit(self, event: Event) -> None:
        """The first rank tells it."""

    def ask(self) -> tuple[None, int]:
        """Nothing of its own."""
        return None, 0


class Heeding:
    """A rank's reporter, whose wishes are the first one's, at the same point of every rank."""

    def __init__(self, inner: First | Follower, ranks: Ranks) -> None:
        self.emit, self._inner, self._ranks = inner.emit, inner, ranks

    def wish(self) -> Any:
        """What the person asked of this run meanwhile."""
        return self._ranks.same(self._inner.ask()[0])

    @property
    def offset(self) -> int:
        """As the inner reporter's."""
        return self._inner.offset


class SharedLoop(Loop):
    """The loop of one rank: its rows of every batch, and gradients of all."""

    ranks: ClassVar[Ranks]

    def _backward(self, group: Sequence[Example], number: int) -> float:
        own = group[self.ranks.number :: self.ranks.count]
        self._draw(number, self.ranks.number)  # dropout differs between the ranks, and a resume needs no state of it
        return self._weighed(own, len(own) / len(group)) if own else 0.0

    def _draw(self, number: int, who: int) -> None:
        text = f"{self.seed} {number} {who}".encode()
        torch.manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7], "big"))

    def _gathered(self, trainable: Sequence[Tensor], loss: float, step: int) -> float:
        if step == AGREED_AFTER + 1:
            self.ranks.check(moving(self.models))
        self._draw(step, -1)  # what the update draws must be the same everywhere
        reached = [float(p.grad is not None) for p in trainable]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainable]
        flat = torch.cat([torch.tensor([loss, *reached], device=self.device), *(g.detach().float().flatten() for g in grads)])
        flat = self.ranks.total(flat)
        told, rest = flat[: 1 + len(trainable)].tolist(), flat[1 + len(trainable) :]
        for param, count, part in zip(trainable, told[1:], rest.split([p.numel() for p in trainable]), strict=True):
            param.grad = part.view_as(param).to(param.dtype) if count else None
        return told[0]

    def run(self, examples: Sequence[Example], steps: int, eval_every: int) -> Outcome:
        """As the loop's own; the ranks agree at its end."""
        done = super().run(examples, steps, eval_every)
        self.ranks.check(moving(self.models))
        return done


class SharedSession(Session):
    """The session of one rank."""

    loop = SharedLoop

    def _faster(self) -> str:
        return SharedLoop.ranks.same(super()._faster())

    def _start(self) -> tuple[Models, Recipe]:
        started = super()._start()
        self.notes = [*self.notes, f"{SharedLoop.ranks.count} processes shared every batch; the memory is that of one."]
        return started


def _train(work: dict[str, Any], talk: Connection) -> dict[str, Any] | None:
    """The run as this rank; its result on the first one, None on the others."""
    spec, placed = RunSpec.model_validate(work["spec"]), Placed.model_validate(work["placed"])
    ranks = SharedLoop.ranks = Ranks(placed.device == "cpu")
    if placed.device != "cpu":
        placed = placed.model_copy(update={"device": str(ranks.state.device)})
    if ranks.number == 0:
        return SharedSession(spec, Heeding(First(talk), ranks), Path(work["folder"]), placed).run()
    with tempfile.TemporaryDirectory(prefix="rank-") as own:  # what it writes beside the training is the first one's to keep
        session = SharedSession(spec, Heeding(Follower(), ranks), Path(own), placed)
        session.begin = checkpoint.read(Path(work["folder"]), spec) if placed.attempt > 1 else None
        if (best := Path(work["folder"]) / BEST).exists():
            shutil.copy(best, own)
        session.run()
    return None


def main(aside: Path) -> int:
    """Train as one rank; what came of it goes to the worker."""
    life, talk = _knock(aside), _knock(aside)
    _leave_with(life)
    try:
        result = _train(json.loads((aside / WORK).read_text(encoding="utf-8")), talk)
    except Stopped as stop:
        say(talk, "stopped", str(stop))
        return 0
    except BaseException as error:
        traceback.print_exc()
        ours = isinstance(error, WorkbenchError)
        say(talk, "failed", {"name": type(error).__name__, "text": str(error), "ours": ours})
        return 1
    if result is not None:
        say(talk, "result", result)
    return 0


if __name__ == "__main__":
    _code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_code)  # no thread of a library may keep the others waiting
