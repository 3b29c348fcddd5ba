"""What a task must say: its columns, its host and head, how rows become batches, the loss, the predictions and the metrics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.data.table import Table
from workbench.models.settings import loaded


@dataclass
class Example:
    """One encoded row; `length` is its size for bucketing, `entry` the number of its data entry where there are several."""

    id: int
    length: int
    fields: dict[str, Any] = field(default_factory=dict)
    entry: int | None = None


@dataclass(frozen=True)
class Seen:
    """One row as tokens before anything is cut: the loss counts the `scored` ones, `max_length` leaves the `kept` ones."""

    id: int
    tokens: list[int]
    scored: list[bool]
    kept: list[bool]


@dataclass(frozen=True)
class Batch:
    """What one forward pass gets.

    Attributes:
        inputs: keyword arguments of the host.
        facts: context for the parts, e.g. `positions` (batch, 2): first prompt token, one past the last; `task` (batch,): the
            number of each row's data entry, where there are several.
        targets: what the loss compares with.
        examples: the rows themselves, in order.
    """

    inputs: dict[str, Tensor]
    facts: dict[str, Tensor]
    targets: Tensor
    examples: Sequence[Example]

    @property
    def ids(self) -> list[int]:
        """Row ids, see `data.Table`."""
        return [e.id for e in self.examples]

    def to(self, device: str) -> "Batch":
        """The same batch on a device."""

        def move(some: dict[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.to(device, non_blocking=True) for k, v in some.items()}

        return Batch(move(self.inputs), move(self.facts), self.targets.to(device, non_blocking=True), self.examples)


class Prediction(NamedTuple):
    """One row's outcome.

    Attributes:
        id: the row, see `data.Table`.
        label, prediction: what was right and what was said.
        score: probability of the prediction; for language models the share of right next tokens.
        loss: the row's own mean loss.
        weight: scored tokens of the row; 1 for one label.
        asked: whether `prediction` is an answer that was generated.
    """

    id: int
    label: str
    prediction: str
    score: float
    loss: float
    weight: int = 1
    asked: bool = False


def entry_facts(examples: Sequence[Example]) -> dict[str, Tensor]:
    """{task: (batch,)}, the numbers of the rows' data entries; nothing where there is one entry, or none is known."""
    numbers = [e.entry for e in examples]
    return {} if None in numbers else {"task": torch.tensor(numbers)}


class Task(ABC):
    """One task on one base model folder; final classes are one file each."""

    parts: ClassVar[tuple[Mapping[str, bool], ...]]
    """Alternatives of {column part: required}."""
    provides: ClassVar[tuple[str, ...]] = ("mask", "positions")
    """Context keys its batches carry."""
    metric: ClassVar[str]
    """The headline metric."""
    greater_is_better: ClassVar[bool] = True
    has_labels: ClassVar[bool] = True
    """Whether rows carry a class label."""
    answer: ClassVar[str] = "label"
    """The column part that holds the truth; rows to predict may come without it."""

    def __init__(self, folder: Path, labels: Sequence[str], max_length: int) -> None:
        """folder: the base model, with its tokenizer or processor; labels: class names in a fixed order."""
        self.folder, self.labels, self.max_length = Path(folder), tuple(labels), max_length

    @property
    def key(self) -> str:
        """The task's name, which is its file's."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def host(self, seed: int = 0, meta: bool = False) -> nn.Module:
        """The base model with the task's head, freshly initialised from `seed`; on the meta device nothing is allocated."""

    @abstractmethod
    def head(self, host: nn.Module) -> tuple[str, ...]:
        """Module paths of the head: what the task initialises anew; empty if it has none."""

    @abstractmethod
    def encode(self, table: Table) -> list[Example]:
        """Rows to examples, in order; what `examples` is made from."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """Examples to one padded batch; what `batch` is made from."""

    def examples(self, table: Table) -> list[Example]:
        """Rows to examples, in order, each with the number of its data entry where there are several."""
        found = self.encode(table)
        for example, number in zip(found, table.entries, strict=True) if table.entries else ():
            example.entry = number
        return found

    def seen(self, table: Table) -> list[Seen]:
        """Rows as the tokens that `encode` makes of them, in order, none left out; empty where the model reads no tokens."""
        return []

    def sees(self) -> dict[str, Any]:
        """What is done to every input alike, as plain values: for images their size and normalisation; empty for tokens."""
        return {}

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Examples to one padded batch, with every fact that their rows carry."""
        made = self.collate(examples)
        return replace(made, facts={**made.facts, **entry_facts(examples)})

    @abstractmethod
    def losses(self, output: Any, batch: Batch) -> Tensor:
        """The loss of each example (batch,) in fp32; computed here, never by the model."""

    @abstractmethod
    def predictions(self, host: nn.Module | None, output: Any, batch: Batch) -> list[Prediction]:
        """One prediction per row; without a host nothing is generated, only what the output itself says."""

    @abstractmethod
    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Metrics over one split; holds `metric`."""

    def scored(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The distributions that the loss counts: logits (n, classes) in fp32, and the row of the batch each belongs to (n,)."""
        raise WorkbenchError(f"{self.key} must predict classes or tokens for this; it does not: choose another recipe.")

    def differs(self, other: "Task") -> str:
        """In words, why another model's outputs cannot be held against this task's; empty if they can."""
        if other.key != self.key:
            return f"its task is {other.key}, here it is {self.key}"
        if other.labels != self.labels:
            theirs, mine = (", ".join(map(repr, some[:4])) + ", ..." * (len(some) > 4) for some in (other.labels, self.labels))
            return f"its labels are {theirs}, here they are {mine}"
        return ""

    def logits(self, output: Any, batch: Batch) -> Tensor:
        """What an export is compared by: (batch, classes) or (batch, tokens, vocabulary) with padding zeroed."""
        return output.logits.float()


class Classification(Task):
    """What text and image classification share: labels, cross-entropy, accuracy and macro F1."""

    metric = "accuracy"

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """Cross-entropy of each example."""
        return nn.functional.cross_entropy(output.logits.float(), batch.targets, reduction="none")

    def scored(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """One distribution over the classes per example."""
        logits = output.logits.float()
        return logits, torch.arange(len(logits), device=logits.device)

    def predictions(self, host: nn.Module | None, output: Any, batch: Batch) -> list[Prediction]:
        """The likeliest class and its probability."""
        score, best = output.logits.float().softmax(-1).max(-1)
        rows = zip(
            batch.ids, batch.targets.tolist(), best.tolist(), score.tolist(), self.losses(output, batch).tolist(), strict=True
        )
        return [Prediction(i, self.labels[t], self.labels[p], s, loss) for i, t, p, s, loss in rows]

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Accuracy, macro F1 and mean loss."""
        from sklearn.metrics import accuracy_score, f1_score

        true, got = [p.label for p in predictions], [p.prediction for p in predictions]
        return {
            "accuracy": float(accuracy_score(true, got)),
            "macro_f1": float(f1_score(true, got, average="macro", zero_division=0.0)),
            "loss": sum(p.loss for p in predictions) / len(predictions),
        }

    def targets(self, table: Table) -> list[int]:
        """Labels as indices, 0 where the rows come without; a label that training never saw is an error."""
        if "label" not in table.columns:
            return [0] * len(table)
        index = {label: i for i, label in enumerate(self.labels)}
        for label in table.column("label"):
            if label not in index:
                raise WorkbenchError(f"the label {label!r} is not one of the {len(self.labels)} labels of this task.")
        return [index[label] for label in table.column("label")]


HEADS = ("classifier", "score", "pre_classifier", "classification_head")
"""Names under which transformers puts the classification head."""


def build(auto: Any, folder: Path, seed: int, meta: bool, **config: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """A transformers model of the class family `auto` from a folder, and the module paths of its new head.

    Args:
        auto: e.g. AutoModelForSequenceClassification.
        folder: config.json and safetensors.
        seed: seed of the head's initial values, independent of the method.
        meta: only shapes; nothing is read but config.json and the names in the weight files.
        config: overrides, e.g. num_labels.
    """
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()  # its report of new head tensors would read like a problem in every log
    logging.disable_progress_bar()
    settings = loaded(AutoConfig, folder, **config)
    if meta and not any(folder.glob("*.safetensors")):  # a bare config is planned
        with torch.device("meta"):
            host = auto.from_config(settings)
        fresh: list[str] = []
    else:
        host, info = loaded(
            auto, folder, config=settings, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True, dtype="auto", device_map="meta" if meta else None,
        )  # fmt: skip
        mismatched = [k[0] if isinstance(k, tuple) else k for k in info["mismatched_keys"]]
        fresh = sorted({k.rpartition(".")[0] for k in [*info["missing_keys"], *mismatched]})
    head = tuple(dict.fromkeys([h for h in HEADS if hasattr(host, h)] + [p for p in fresh if p.split(".")[0] not in HEADS]))
    strange = [p for p in fresh if p.split(".")[0] not in HEADS and "pooler" not in p]
    if strange:
        raise WorkbenchError(
            f"the weights in {folder.name} lack {strange[0]} ({len(strange)} modules in all); choose another model or task."
        )
    if not meta:
        init_head([host.get_submodule(h) for h in head], seed, getattr(settings, "initializer_range", 0.02))
        host.eval()
    return host, head


@torch.no_grad()
def init_head(modules: Sequence[nn.Module], seed: int, std: float) -> None:
    """Fresh values: weights N(0, std), biases 0, norms 1; the same for every method of one seed."""
    gen = torch.Generator().manual_seed(seed)
    for module in (m for top in modules for m in top.modules()):
        for name, param in module.named_parameters(recurse=False):
            if name == "bias":
                param.zero_()
            elif "norm" in type(module).__name__.lower():
                param.fill_(1)
            else:
                param.copy_(torch.randn(param.shape, generator=gen) * std)


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Rows of token ids as one (batch, longest) tensor."""
    longest = max(len(r) for r in rows)
    filled = [[value] * (longest - len(r)) + list(r) if left else list(r) + [value] * (longest - len(r)) for r in rows]
    return torch.tensor(filled)


def tokenizer(folder: Path) -> Any:
    """From the model's folder; one shipped without a padding token, as decoders often are, pads with another."""
    from transformers import AutoTokenizer

    found = loaded(AutoTokenizer, folder)
    if found.pad_token_id is None:  # the mask hides it
        found.pad_token = found.eos_token or found.unk_token
    return found
