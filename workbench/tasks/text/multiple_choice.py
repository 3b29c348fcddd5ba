"""Multiple choice: a language model answers with the choice that it finds likeliest, token for token, after the question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.data.choices import COLUMNS, offered, right
from workbench.data.table import Table
from workbench.models.settings import loaded
from workbench.tasks.contract import Batch, Example, Prediction, Seen, Task, build, entry_facts, pad, tokenizer

IGNORED = -100


@dataclass(frozen=True)
class Ranks:
    """What a model says of every choice of a batch.

    Attributes:
        log_p: log-probability (tokens,) of each token of each choice, after the question and the choice's earlier tokens.
        choice: the choice each token belongs to (tokens,), choices counted through the batch.
        row: the row of the batch that each choice belongs to (choices,).
        right: whether a choice is the right one (choices,).
    """

    log_p: Tensor
    choice: Tensor
    row: Tensor
    right: Tensor

    def means(self, values: Tensor, of: Tensor, count: int) -> Tensor:
        """The mean (count,) of the values (n,) that belong to each of `count` things, of (n,); 0 for a thing without any."""
        zero = torch.zeros(count, device=values.device)
        return zero.index_add(0, of, values) / zero.index_add(0, of, torch.ones_like(values)).clamp(min=1)

    def scores(self) -> Tensor:
        """The mean log-probability of each choice's tokens (choices,)."""
        return self.means(self.log_p, self.choice, len(self.row))


class MultipleChoice(Task):
    """`{text, choices, answer}` to one of the row's choices; host: AutoModelForCausalLM or, where the base is an
    encoder-decoder, AutoModelForSeq2SeqLM; without a head. Every choice is a text of the batch of its own.

    A row without choices is a plain text, scored whole.
    """

    parts = ({"text": True, "choices": True, "answer": True}, {"text": True, **COLUMNS, "answer": True})
    provides = ("mask", "positions", "choices")
    metric = "accuracy"
    has_labels = False
    answer = "answer"

    def __init__(self, folder: Path, labels: Sequence[str], max_length: int) -> None:
        from transformers import AutoConfig

        super().__init__(folder, (), max_length)
        self.tokenizer = tokenizer(folder)
        config = loaded(AutoConfig, folder)
        self.decodes = bool(getattr(config, "is_encoder_decoder", False))
        if self.decodes:  # the mask and the positions would be those of the encoder only
            self.provides = ("choices",)
            self.start = config.pad_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id

    def host(self, seed: int = 0, meta: bool = False) -> nn.Module:
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        return build(AutoModelForSeq2SeqLM if self.decodes else AutoModelForCausalLM, self.folder, seed, meta)[0]

    def head(self, host: nn.Module) -> tuple[str, ...]:
        return ()

    def encode(self, table: Table) -> list[Example]:
        return [self._example(row) for row in table]

    def seen(self, table: Table) -> list[Seen]:
        """The question and the right answer, whose tokens the loss counts."""
        return [self._seen(row) for row in table]

    def _example(self, row: dict[str, Any]) -> Example:
        choices = offered(row) or ("",)
        answer = right(choices, row["answer"]) if "answer" in row else 0
        head, tails = self._cut(*self._whole(row))
        if not (head and all(tails)):
            raise WorkbenchError(f"row {row['id']} must hold at least one token of text and of every choice; it does not.")
        fields = {"head": head, "tails": tails, "choices": choices, "right": answer}
        return Example(row["id"], len(tails) * (len(head) + max(map(len, tails))), fields)

    def _seen(self, row: dict[str, Any]) -> Seen:
        answer = right(offered(row), row["answer"])
        head, tails = self._whole(row)
        kept_head, kept_tails = self._cut(head, tails)
        tail, lost = tails[answer], len(head) - len(kept_head)
        asked = [True] * len(kept_head) + [False] * lost if self.decodes else [False] * lost + [True] * len(kept_head)
        kept = asked + [i < len(kept_tails[answer]) for i in range(len(tail))]
        return Seen(row["id"], head + tail, [False] * len(head) + [True] * len(tail), kept)

    def _whole(self, row: dict[str, Any]) -> tuple[list[int], list[list[int]]]:
        """The tokens of the question and of each choice, uncut; between them stands one blank at least."""
        text, choices = str(row["text"]), offered(row)
        if self.decodes:
            coded = self.tokenizer([text, *choices], return_attention_mask=False)["input_ids"]
            return coded[0], coded[1:] or [coded[0]]
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        blank = "" if text[-1:].isspace() else " "
        whole = [text, *(blank + choice for choice in choices)]
        coded = self.tokenizer(whole, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return (begin + coded[0], coded[1:]) if choices else (begin, [coded[0]])

    def _cut(self, head: list[int], tails: list[list[int]]) -> tuple[list[int], list[list[int]]]:
        """What `max_length` leaves: first of the choices their beginning, then of the question its end.

        An encoder-decoder has the whole length for each, and an encoder keeps the beginning.
        """
        if self.decodes:
            return head[: self.max_length], [tail[: self.max_length] for tail in tails]
        tails = [tail[: self.max_length - 1] for tail in tails]
        return head[-(self.max_length - max(map(len, tails))) :], tails

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Examples to one padded batch of all their choices; the facts have one entry per choice."""
        made = self.collate(examples)
        per_row = torch.tensor([len(e.fields["tails"]) for e in examples])
        facts = {"choices": torch.arange(len(examples)), **entry_facts(examples)}
        return replace(made, facts=made.facts | {k: v.repeat_interleave(per_row, 0) for k, v in facts.items()})

    def collate(self, examples: Sequence[Example]) -> Batch:
        pairs = list(_pairs(examples))
        targets = torch.tensor([e.fields["right"] for e in examples])
        if self.decodes:
            shifted = [[self.start, *tail[:-1]] for _, tail in pairs]
            inputs = self._padded([head for head, _ in pairs])
            inputs |= {f"decoder_{name}": value for name, value in self._padded(shifted).items()}
            return Batch(inputs, {}, targets, examples)
        ends = torch.tensor([len(head) for head, _ in pairs])
        positions = torch.stack([torch.zeros_like(ends), ends], 1)
        return Batch(self._padded([head + tail for head, tail in pairs]), {"positions": positions}, targets, examples)

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        tokens, lengths = pad(rows, self.tokenizer.pad_token_id), torch.tensor([len(r) for r in rows])
        return {"input_ids": tokens, "attention_mask": (torch.arange(tokens.shape[1]) < lengths[:, None]).long()}

    def _tokens(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (tokens, vocabulary) in fp32, the token (tokens,) that is there, and its choice (tokens,)."""
        pairs = _pairs(batch.examples)
        goals = pad([tail if self.decodes else [IGNORED] * len(head) + tail for head, tail in pairs], IGNORED)
        goals, logits = goals.to(output.logits.device), output.logits
        if not self.decodes:
            goals, logits = goals[:, 1:], logits[:, :-1]
        counted = goals != IGNORED
        return logits[counted].float(), goals[counted], counted.nonzero()[:, 0]

    def ranks(self, output: Any, batch: Batch) -> Ranks:
        """What the model says of every choice of the batch."""
        logits, goals, choice = self._tokens(output, batch)
        log_p = -nn.functional.cross_entropy(logits, goals, reduction="none")
        rights = [i == e.fields["right"] for e in batch.examples for i in range(len(e.fields["tails"]))]
        rows = [number for number, e in enumerate(batch.examples) for _ in e.fields["tails"]]
        return Ranks(log_p, choice, torch.tensor(rows, device=log_p.device), torch.tensor(rights, device=log_p.device))

    def scored(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """One distribution over the vocabulary per token of the right choices."""
        ranks = self.ranks(output, batch)
        logits, _, choice = self._tokens(output, batch)
        return logits[ranks.right[choice]], ranks.row[choice[ranks.right[choice]]]

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """Mean cross-entropy over the tokens of each row's right choice."""
        ranks = self.ranks(output, batch)
        return -ranks.scores()[ranks.right]

    def predictions(self, host: nn.Module | None, output: Any, batch: Batch) -> list[Prediction]:
        """The choice with the highest mean log-probability, and its share of the choices' softmax."""
        ranks = self.ranks(output, batch)
        found = []
        scores = ranks.scores().split([len(e.fields["tails"]) for e in batch.examples])
        for e, own in zip(batch.examples, scores, strict=True):
            best, true = int(own.argmax()), e.fields["right"]
            choices, share = e.fields["choices"], own.softmax(0)
            weight = len(e.fields["tails"][true])
            found.append(Prediction(e.id, choices[true], choices[best], float(share[best]), -float(own[true]), weight))
        return found

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Accuracy, and the mean cross-entropy per token of the right choices."""
        total = sum(p.weight for p in predictions)
        return {
            "accuracy": sum(p.prediction == p.label for p in predictions) / len(predictions),
            "loss": sum(p.loss * p.weight for p in predictions) / total,
        }

    def differs(self, other: Task) -> str:
        """As of every task; and both must cut texts into the same tokens."""
        if said := super().differs(other):
            return said
        same = self.tokenizer.get_vocab() == other.tokenizer.get_vocab()  # type: ignore[attr-defined]
        return "" if same else "its tokenizer has another vocabulary"

    def logits(self, output: Any, batch: Batch) -> Tensor:
        return output.logits.float() * batch.inputs[("decoder_" if self.decodes else "") + "attention_mask"][..., None]


def _pairs(examples: Sequence[Example]) -> Iterator[tuple[list[int], list[int]]]:
    """(question, choice) of every choice of every row, as tokens."""
    return ((e.fields["head"], tail) for e in examples for tail in e.fields["tails"])
