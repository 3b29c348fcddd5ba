"""Text classification: one label for a text or a pair of texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.data.table import Table
from workbench.tasks.contract import Batch, Classification, Example, build, pad


class TextClassification(Classification):
    """`{text, text_pair?, label}` to a class; host: AutoModelForSequenceClassification."""

    parts = ({"text": True, "text_pair": False, "label": True},)

    def __init__(self, folder: Path, labels: Sequence[str], max_length: int) -> None:
        from transformers import AutoTokenizer

        super().__init__(folder, labels, max_length)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if self.tokenizer.pad_token_id is None:  # decoders are often shipped without; the mask hides it
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token

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
