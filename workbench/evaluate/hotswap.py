"""One loaded base model and the stored adapters that take turns on it, each alone and with its own head."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.evaluate import saved
from workbench.kernel import attach as surgery
from workbench.kernel import registry, state
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.tasks import Task

MOST = 4
"""Adapters attached at once; the one that was used longest ago leaves first."""
Key = tuple[str, str]


@dataclass(frozen=True)
class Loaded:
    """An adapter that is attached and switched off.

    Attributes:
        name: what it is called on the host.
        engine: native or peft; a site carries one of them only.
        meta: its JSON.
        task: its own labels and longest input.
        head: its head's tensors by their path in the host.
    """

    name: str
    engine: str
    meta: Mapping[str, Any]
    task: Task
    head: Mapping[str, nn.Parameter]


def meta_of(folder: Path) -> dict[str, Any]:
    """The checked JSON of an adapter folder; no tensor is read."""
    meta = state.read_meta(folder)
    saved.check(meta)
    return meta


def key_of(meta: Mapping[str, Any]) -> Key:
    """What adapters must share to take turns: (sha256 of the base weights, task)."""
    return meta["base"]["sha256"], meta["task"]


class HotSwap:
    """A base in fp32, as `predict` loads it; adapters come and go, its own tensors are never written to."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        """meta: the JSON of any adapter of this base and task.

        Raises:
            WorkbenchError: the base is not there, or its weights are others.
        """
        self.key = key_of(meta)
        self.folder = saved.base_folder(meta)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        task = saved.task_of(meta, self.folder)
        host = task.host(0)
        self.head = task.head(host)
        self.host = host.float().to(self.device).eval()
        self.adapters = adapters_of(self.host, self.head)
        self._loaded: dict[tuple[str, int, int], Loaded] = {}
        self._count = 0

    def load(self, folder: Path) -> Loaded:
        """Attach a stored adapter, switched off; one that is attached already is only found.

        Raises:
            WorkbenchError: it cannot be read, or belongs on another base or task; the host is left as it was.
        """
        info = (folder / state.META).stat() if (folder / state.META).is_file() else None
        place = (str(folder), info.st_mtime_ns, info.st_ino) if info else ("", 0, 0)
        if place in self._loaded:
            self._loaded[place] = self._loaded.pop(place)  # now the one used last
            return self._loaded[place]
        stored = saved.read(folder)
        if key_of(stored.meta) != self.key:
            raise WorkbenchError("adapters side by side must share one base model and one task; this one is of another.")
        head = self._own_head(stored)
        engine = registry.methods()[registry.find(stored.meta["method"])[0]].engine
        self._make_room(engine)
        self._count += 1
        name = f"adapter_{self._count}"
        with self.adapters.only({}):
            state.restore(self.host, replace(stored, head={}), name)
        task = saved.task_of(stored.meta, self.folder)
        self._loaded[place] = Loaded(name, engine, stored.meta, task, head)
        return self._loaded[place]

    def _make_room(self, engine: str) -> None:
        """Detach adapters of the other engine, and the oldest one where there are too many."""
        oldest = list(self._loaded)[: max(len(self._loaded) - MOST + 1, 0)]
        for place in [p for p, one in self._loaded.items() if one.engine != engine or p in oldest]:
            self.adapters.detach(self._loaded.pop(place).name)

    def _own_head(self, stored: Stored) -> dict[str, nn.Parameter]:
        """The stored head as parameters that can stand in the host's head; only the number of labels may differ."""
        here = {f"{h}.{n}": t for h in self.head for n, t in self.host.get_submodule(h).state_dict().items()}
        if sorted(here) != sorted(stored.head):
            name = min(here.keys() ^ stored.head.keys())
            raise WorkbenchError(f"the head must hold exactly the model's {len(here)} head tensors; {name!r} is not in both.")
        for path, value in stored.head.items():
            if value.shape[1:] != here[path].shape[1:]:
                raise WorkbenchError(
                    f"the head tensor {path!r} needs a shape like {tuple(here[path].shape)}; got {tuple(value.shape)}."
                )
        return {
            path: nn.Parameter(value.to(self.device, here[path].dtype), requires_grad=False)
            for path, value in stored.head.items()
        }

    @contextmanager
    def only(self, one: Loaded | None) -> Iterator[nn.Module]:
        """The host with exactly this adapter and its head; None is the bare base."""
        with self.adapters.only({one.name: 1.0} if one else {}):
            before = self._put(one.head, set(self.adapters.members[one.name].originals())) if one else {}
            try:
                yield self.host
            finally:
                self._put(before, set())

    def _put(self, head: Mapping[str, nn.Parameter], but: set[str]) -> dict[str, nn.Parameter]:
        """Let these parameters stand in the host, but for those that the adapter trained itself; returns what stood there."""
        before: dict[str, nn.Parameter] = {}
        for path, param in head.items():
            if path not in but:
                owner, _, leaf = path.rpartition(".")
                module = self.host.get_submodule(owner)
                before[path] = module.get_parameter(leaf)
                surgery.place([(module, leaf)], param)
        return before

    def close(self) -> None:
        """Take every adapter off; the base is then bitwise what was loaded."""
        self._loaded.clear()
        self.adapters.release()


_open: HotSwap | None = None


def opened(meta: Mapping[str, Any]) -> HotSwap:
    """The loaded base of an adapter. One base is kept; the next one takes its place."""
    global _open
    if _open is None or _open.key != key_of(meta):
        forget()
        _open = HotSwap(meta)
    return _open


def forget() -> None:
    """Take the adapters off and let the base go, and its memory."""
    global _open
    if _open is not None:
        _open.close()
    _open = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
