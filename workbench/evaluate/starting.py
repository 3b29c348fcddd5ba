"""Starting a run from a saved adapter: whether it fits, and putting it in the place of the fresh values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import AdapterRef
from workbench.core.types import Placement
from workbench.evaluate import saved
from workbench.kernel import state
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import Adapters, adapters_of

Shapes = dict[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class Start:
    """A saved adapter as its files describe it; no tensor is read.

    Attributes:
        ref: what the RunSpec keeps of it.
        meta: its JSON.
        tensors: stored name -> shape, None where a base tensor is stored as positions and values.
        head: the head's tensors by path.
    """

    ref: AdapterRef
    meta: Mapping[str, Any]
    tensors: Shapes
    head: Shapes

    @property
    def name(self) -> str:
        """What it is called in sentences."""
        return str(self.meta.get("run_id") or self.meta.get("label") or self.ref.path)


def look(folder: Path) -> Start:
    """What an adapter folder (or the run folder that holds it) offers to start from.

    Raises:
        WorkbenchError: it is no adapter folder, or a damaged one.
    """
    folder = saved.place(folder).resolve()
    meta = state.read_meta(folder)
    saved.check(meta)
    tensors: Shapes = {}
    for name, shape in state.read_shapes(folder / state.WEIGHTS).items():
        path = name.removesuffix("#at").removesuffix("#to")
        tensors |= {name: shape} if path == name or not name.startswith("base.") else {path: None}
    head = {n.removeprefix("head."): s for n, s in tensors.items() if n.startswith("head.")}
    own = {n: s for n, s in tensors.items() if not n.startswith("head.")}
    return Start(AdapterRef(path=str(folder), sha256=meta["sha256"][state.WEIGHTS]), meta, own, head)


def problem(start: Start, host: nn.Module, head: tuple[str, ...], key: str, cfg: Placement, base_sha256: str) -> str | None:
    """Why a method cannot start from this adapter, in one sentence; None if it can.

    Args:
        start: the adapter.
        host: the task's model on the meta device; head: module paths of its head.
        key, cfg: the method and its Config.
        base_sha256: of the base weights of the run.
    """
    meta = start.meta
    if meta["method"] != key:
        return f"init_from must name an adapter of the method {key}; {start.name} is one of {meta['method']}."
    if meta["base"]["sha256"] != base_sha256:
        return (
            f"init_from must name an adapter of the same base weights (sha256 {base_sha256[:12]}...); {start.name} was trained "
            f"on {meta['base']['source']} ({meta['base']['sha256'][:12]}...)."
        )
    other = _other(start, cfg)
    try:
        wanted = _planned(adapters_of(host, head), key, cfg)
    except (WorkbenchError, NotImplementedError):  # some methods cannot be built without weights
        wanted = start.tensors if not other else {}
    wrong = [
        n
        for n in sorted(wanted.keys() | start.tensors.keys())
        if n not in wanted or n not in start.tensors or start.tensors[n] not in (None, wanted[n])
    ]
    if not wrong:
        return None
    there, here = _shape(start.tensors, wrong[0]), _shape(wanted, wrong[0])
    what = "; ".join(other) or f"tensor {wrong[0]!r} is {there} there and {here} here"
    return f"init_from needs an adapter with the tensors of this entry; {start.name} has others: {what}."


def _planned(adapters: Adapters, key: str, cfg: Placement) -> Shapes:
    with torch.device("meta"):
        adapter = adapters.attach("start", key, cfg)
    try:
        return {name: tuple(t.shape) for name, t in adapter.tensors().items()}
    finally:
        adapters.detach("start")


def _other(start: Start, cfg: Placement) -> list[str]:
    """Where the adapter's options differ from the entry's."""
    here = cfg.model_dump(mode="json")
    there = {**{n: f.get_default() for n, f in type(cfg).model_fields.items()}, **start.meta["config"]}
    return [f"{n} is {there.get(n)} there and {here[n]} here" for n in here if there.get(n) != here[n]]


def _shape(shapes: Shapes, name: str) -> str:
    return str(list(shapes[name] or ())) if name in shapes else "missing"


def notes(start: Start, cfg: Placement, labels: Sequence[str], host: nn.Module, head: Sequence[str]) -> list[str]:
    """What a person should know about starting from this adapter: a head that starts fresh, options that differ.

    Args:
        start: the adapter.
        cfg: the method's Config.
        labels: the run's label names, in order.
        host: the task's model; head: module paths of its head.
    """
    fresh = _fresh(start, labels, host, head)
    said = [f"the head starts fresh, not from {start.name}: {fresh}."] if fresh else []
    other = _other(start, cfg)
    return said + ([f"the run starts from the tensors of {start.name} with other options: {'; '.join(other)}."] if other else [])


def _fresh(start: Start, labels: Sequence[str], host: nn.Module, head: Sequence[str]) -> str:
    """Why the head cannot be taken over; empty if it can, or if there is none."""
    wanted = {f"{h}.{n}": tuple(t.shape) for h in head for n, t in host.get_submodule(h).state_dict().items()}
    if not wanted:
        return ""
    if list(start.meta["labels"]) != list(labels):
        return f"its labels are {_some(start.meta['labels'])}, here they are {_some(labels)}"
    return "" if start.head == wanted else "its head has other tensors"


def _some(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:4])) + (", ..." if len(labels) > 4 else "") if labels else "none"


def put(ref: AdapterRef, adapters: Adapters, adapter: Adapter, labels: Sequence[str]) -> list[str]:
    """Replace an adapter's fresh values, and the head's where it fits, by the saved ones; returns `notes`.

    Raises:
        WorkbenchError: the folder has changed since the run was submitted, or does not fit.
    """
    folder = Path(ref.path)
    if not (folder / state.WEIGHTS).is_file() or state.file_sha256(folder / state.WEIGHTS) != ref.sha256:
        raise WorkbenchError(f"init_from must be the adapter that was submitted; {folder} has changed since: submit again.")
    start, stored = look(folder), state.read(folder)
    state.load(adapters, adapter, stored)
    if adapters.head and not _fresh(start, labels, adapters.host, adapters.head):
        state.load_head(adapters.host, stored.head)
    return notes(start, adapter.cfg, labels, adapters.host, adapters.head)
