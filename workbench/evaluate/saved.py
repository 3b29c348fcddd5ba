"""From an adapter folder back to the model it belongs to, and to the rows that its behaviour is checked on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.paths import SAFE_NAME, run_folder
from workbench.core.run_spec import RunSpec
from workbench.data import Splits, check_unchanged, load_table
from workbench.evaluate import evaluation
from workbench.kernel import state
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.models.bundled import resolve_model, weights_sha256
from workbench.tasks import Batch, Prediction, Task, find

ROWS = 32
BATCH = 8
MAX_LOGIT_BYTES = 512_000_000
"""Texts are cut so that the logits of all checked rows stay below this (language models with large vocabularies)."""
MAX_STORED_BYTES = 32_000_000


@dataclass
class Revived:
    """A base model with a stored adapter on it, in eval mode.

    Attributes:
        stored: what was read.
        folder: where it was read from.
        base: folder of the base model.
        task, host, adapter: rebuilt; `adapter` is called "adapter" on the host.
        dtypes: dtype of every base tensor before the host was cast.
    """

    stored: Stored
    folder: Path
    base: Path
    task: Task
    host: nn.Module
    adapter: Adapter
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)

    @property
    def meta(self) -> dict[str, Any]:
        """The adapter's own JSON."""
        return self.stored.meta


@dataclass(frozen=True)
class Rows:
    """Batches to compare models on; `source` says in words where they come from, `scored` whether they carry true answers."""

    batches: list[Batch]
    source: str
    scored: bool

    def __len__(self) -> int:
        return sum(len(next(iter(b.inputs.values()))) for b in self.batches)


@dataclass(frozen=True)
class Output:
    """Logits in the shape that a task's functions expect of a model."""

    logits: Tensor


def place(folder: str | Path) -> Path:
    """The adapter folder; `folder` may also be the run folder that holds it."""
    folder = Path(folder)
    return folder / "adapter" if not (folder / state.META).exists() and (folder / "adapter").is_dir() else folder


def read(folder: Path) -> Stored:
    """An adapter folder.

    Raises:
        WorkbenchError: no adapter there, or its JSON lacks what is needed to rebuild the model.
    """
    stored = state.read(folder)
    check(stored.meta)
    return stored


def check(meta: Mapping[str, Any]) -> None:
    """Raise WorkbenchError if an adapter's JSON lacks what is needed to rebuild its model."""
    base = meta.get("base")
    good = (
        isinstance(base, dict)
        and all(isinstance(base.get(k), str) for k in ("source", "sha256"))
        and isinstance(meta.get("task"), str)
    )
    named = (meta.get("labels"), meta.get("head"), meta.get("entries", []))
    lists = all(isinstance(held, list) and all(isinstance(v, str) for v in held) for held in named)
    if not (
        good and lists and isinstance(meta.get("max_length"), int) and not isinstance(base.get("revision"), int | list | dict)
    ):
        raise WorkbenchError(
            f"{state.META} must name base, task, labels, head and max_length; this one does not: export the run again."
        )


def base_folder(meta: Mapping[str, Any]) -> Path:
    """The base model of an adapter, its weights compared with those it was trained on.

    Raises:
        WorkbenchError: the base is not there, or its weights are others.
    """
    base = meta["base"]
    folder = resolve_model(base["source"], base.get("revision"))
    now = weights_sha256(folder)
    if now != base["sha256"]:
        raise WorkbenchError(
            f"the adapter must go on the base weights it was trained on (sha256 {base['sha256'][:12]}...); {base['source']} now "
            f"has {now[:12]}...: get that revision, or train again."
        )
    return folder


def task_of(meta: Mapping[str, Any], base: Path, max_length: int | None = None) -> Task:
    """The adapter's task on its base model."""
    return find(meta["task"])(base, meta["labels"], max_length or meta["max_length"])


def revive(stored: Stored, folder: Path, dtype: torch.dtype | None = torch.float32, device: str = "cpu") -> Revived:
    """Load the base, put the adapter and its head on it.

    Args:
        stored, folder: what was read, and from where.
        dtype: cast the base to this; None keeps its own.
        device: where the host goes.

    Raises:
        WorkbenchError: another base, or tensors that do not fit.
    """
    base = base_folder(stored.meta)
    task = task_of(stored.meta, base)
    host = task.host(0)
    dtypes = {n: t.dtype for n, t in host.state_dict().items()}
    head = task.head(host)
    if sorted(head) != sorted(stored.meta["head"]):
        raise WorkbenchError(
            f"the adapter's head is {', '.join(stored.meta['head']) or 'empty'}; this model's is {', '.join(head) or 'empty'}."
        )
    expected = {f"{h}.{n}" for h in head for n in host.get_submodule(h).state_dict()}
    if expected != stored.head.keys():
        name = min(expected ^ stored.head.keys())
        word = "missing" if name in expected else "unexpected"
        raise WorkbenchError(f"the head must hold exactly the model's {len(expected)} head tensors; {name!r} is {word}.")
    host = (host if dtype is None else host.to(dtype)).to(device)
    adapters_of(host, head)
    adapter = state.restore(host, stored)
    return Revived(stored, Path(folder), base, task, host.eval(), adapter, dtypes)


def spec_of(folder: Path, meta: Mapping[str, Any]) -> RunSpec | None:
    """The RunSpec of the run an adapter comes from; None where there is no such run any more."""
    named = [n for n in (meta.get("run_id"), *(meta.get("parents") or ())) if isinstance(n, str) and SAFE_NAME.fullmatch(n)]
    for where in (folder.parent, *(run_folder(n) for n in named)):
        if (where / "spec.yaml").is_file():
            return RunSpec.model_validate(safe_yaml.loads((where / "spec.yaml").read_bytes(), "spec.yaml"))
    return None


def _cap(host: nn.Module, task: Task, rows: int, limit: int) -> int:
    """How many tokens of each row keep all logits below `limit` bytes."""
    if task.has_labels:
        return task.max_length
    return max(min(task.max_length, limit // (4 * rows * host.config.get_text_config().vocab_size)), 4)  # type: ignore[union-attr, operator]


def _splits(revived: Revived) -> Splits:
    """The data of the run an adapter comes from; WorkbenchError where it is gone or changed."""
    spec = spec_of(revived.folder, revived.meta)
    if spec is None:
        raise WorkbenchError("the run is not here any more.")
    check_unchanged(spec.data)
    splits = load_table(spec.data, revived.task.parts)
    if list(splits.labels) != revived.meta["labels"]:
        raise WorkbenchError("its labels have changed.")
    return splits


def judge(revived: Revived) -> dict[str, float]:
    """The metrics of an adapter on all test rows of the run it comes from.

    Raises:
        WorkbenchError: that run or its data is not here any more.
    """
    try:
        splits = _splits(revived)
    except WorkbenchError as problem:
        raise WorkbenchError(f"the adapter must be judged on the test rows of its run: {problem}") from None
    examples = revived.task.examples(splits.test)
    return evaluation.evaluate(revived.task, revived.host, examples, ROWS, entries=splits.entries)[1]


def some_test_rows(revived: Revived, count: int = ROWS) -> Rows:
    """Test rows of the run, evenly spread over the split; where its data is gone or changed, the rows stored with the adapter."""
    try:
        splits = _splits(revived)
    except WorkbenchError as problem:
        return stored_rows(revived.stored, f"the stored rows, because the test data could not be used: {problem}")
    count = min(count, len(splits.test))
    table = splits.test.select([i * len(splits.test) // count for i in range(count)])
    task = task_of(revived.meta, revived.base, _cap(revived.host, revived.task, count, MAX_LOGIT_BYTES))
    examples = task.examples(table)
    batches = [task.batch(examples[i : i + BATCH]) for i in range(0, len(examples), BATCH)]
    return Rows(batches, "test rows", True)


def stored_rows(stored: Stored, source: str = "the stored rows") -> Rows:
    """The inputs kept in the adapter folder.

    Raises:
        WorkbenchError: the folder keeps none.
    """
    inputs = {k.removeprefix("input."): v for k, v in stored.reference.items() if k.startswith("input.")}
    facts = {k.removeprefix("fact."): v for k, v in stored.reference.items() if k.startswith("fact.")}
    if not inputs:
        raise WorkbenchError(
            "the adapter folder must keep rows to check with (reference.safetensors); it has none: export it from its run."
        )
    return Rows([Batch(inputs, facts, torch.zeros(0), ())], source, False)


def drawn_rows(revived: Revived, count: int = 8) -> Rows:
    """Rows drawn from a fixed seed, for adapters that came without any: token ids of several lengths, or noise as images."""
    gen, config = torch.Generator().manual_seed(0), revived.host.config
    if getattr(config, "image_size", None):
        pixels = torch.randn(count, config.num_channels, config.image_size, config.image_size, generator=gen)
        return Rows([Batch({"pixel_values": pixels}, {}, torch.zeros(0), ())], "drawn rows", False)
    tokens = min(revived.task.max_length, 24)
    ids = torch.randint(0, config.get_text_config().vocab_size, (count, tokens), generator=gen)
    pad = getattr(config, "pad_token_id", None) or 0
    ids[ids == pad] = pad + 1
    lengths = torch.linspace(tokens, max(tokens // 3, 2), count).long()
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    inputs = {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}
    return Rows(
        [Batch(inputs, {"positions": torch.stack([torch.zeros_like(lengths), lengths], 1)}, torch.zeros(0), ())],
        "drawn rows",
        False,
    )


def shorter(batch: Batch, host: nn.Module, task: Task, rows: int) -> Batch:
    """The first `rows` rows, cut so that their logits are small enough to be stored."""
    cap = _cap(host, task, rows, MAX_STORED_BYTES)
    text = {"input_ids", "attention_mask", "token_type_ids"}
    inputs = {k: v[:rows, :cap] if k in text else v[:rows] for k, v in batch.inputs.items()}
    facts = {k: v[:rows].clamp(max=cap) if k == "positions" else v[:rows] for k, v in batch.facts.items()}
    return replace(batch, inputs=inputs, facts=facts, targets=torch.zeros(0), examples=())


@torch.no_grad()
def logits(revived: Revived, batches: Sequence[Batch]) -> list[Tensor]:
    """What the task compares models by, per batch, on the CPU in fp32."""
    device = str(next(revived.host.parameters()).device)
    found = []
    for batch in batches:
        output = evaluation.forward(revived.host, batch.to(device))
        found.append(revived.task.logits(Output(output.logits.float().cpu()), batch).contiguous())
    return found


def metric(task: Task, batches: Sequence[Batch], values: Sequence[Tensor]) -> float:
    """The task's headline metric from logits alone."""
    said: list[Prediction] = []
    for batch, value in zip(batches, values, strict=True):
        said += task.predictions(None, Output(value), batch)  # type: ignore[arg-type]
    return task.metrics(said)[task.metric]
