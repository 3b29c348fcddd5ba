"""Text classification: one label for a text or a pair of texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.data.table import Table
from workbench.tasks.contract import Batch, Classification, Example, Seen, build, pad, tokenizer


class TextClassification(Classification):
    """`{text, text_pair?, label}` to a class; host: AutoModelForSequenceClassification."""

    parts = ({"text": True, "text_pair": False, "label": True},)

    def __init__(self, folder: Path, labels: Sequence[str], max_length: int) -> None:
        super().__init__(folder, labels, max_length)
        self.tokenizer = tokenizer(folder)

    def host(self, seed: int = 0, meta: bool = False) -> nn.Module:
        from transformers import AutoModelForSequenceClassification

        names = dict(enumerate(self.labels))
        ids = {"id2label": names, "label2id": {v: k for k, v in names.items()}, "pad_token_id": self.tokenizer.pad_token_id}
        host, self._head = build(AutoModelForSequenceClassification, self.folder, seed, meta, **ids)
        return host

    def head(self, host: nn.Module) -> tuple[str, ...]:
        return self._head

    def encode(self, table: Table) -> list[Example]:
        texts, targets = table.column("text"), self.targets(table)
        pairs = table.columns.get("text_pair")
        coded = self.tokenizer(texts, pairs, truncation=True, max_length=self.max_length, return_attention_mask=False)
        rows = zip(table.ids, coded["input_ids"], coded.get("token_type_ids") or [None] * len(texts), targets, strict=True)
        return [Example(i, len(ids), {"ids": ids, "types": types, "target": t}) for i, ids, types, t in rows]

    def seen(self, table: Table) -> list[Seen]:
        whole = self.tokenizer(table.column("text"), table.columns.get("text_pair"), return_attention_mask=False, verbose=False)
        rows = zip(self.encode(table), whole["input_ids"], strict=True)
        return [Seen(e.id, ids, [False] * len(ids), self._kept(ids, e.fields["ids"])) for e, ids in rows]

    def _kept(self, whole: list[int], cut: list[int]) -> list[bool]:
        """Which tokens the tokenizer left: it cuts at one side of each text, so the others follow each other in order."""
        if len(whole) == len(cut):
            return [True] * len(whole)
        from_left = self.tokenizer.truncation_side == "left"
        rest = iter(reversed(cut) if from_left else cut)
        wanted, kept = next(rest, None), []
        for token in reversed(whole) if from_left else whole:
            kept.append(token == wanted)
            wanted = next(rest, None) if kept[-1] else wanted
        return kept[::-1] if from_left else kept

    def collate(self, examples: Sequence[Example]) -> Batch:
        ids = [e.fields["ids"] for e in examples]
        lengths = torch.tensor([len(r) for r in ids])
        tokens = pad(ids, self.tokenizer.pad_token_id)
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask}
        if examples[0].fields["types"] is not None:
            inputs["token_type_ids"] = pad([e.fields["types"] for e in examples], 0)
        positions = torch.stack([torch.zeros_like(lengths), lengths], 1)
        targets = torch.tensor([e.fields["target"] for e in examples])
        return Batch(inputs, {"positions": positions}, targets, examples)
