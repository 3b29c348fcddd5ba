"""Causal language modelling: continue a prompt; the loss counts the completion only."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.data.table import Table
from workbench.tasks.contract import Batch, Example, Prediction, Seen, Task, build, entry_facts, pad, tokenizer

IGNORED = -100
MAX_NEW_TOKENS = 64
"""Longest answer that is generated for exact match; longer completions are scored by their tokens only."""


class CausalLM(Task):
    """`{prompt, completion}`, `{messages}` or `{text}` to tokens; host: AutoModelForCausalLM, without a head."""

    parts = ({"prompt": True, "completion": True}, {"messages": True}, {"text": True})
    metric = "perplexity"
    greater_is_better = False
    has_labels = False
    answer = "completion"

    def __init__(self, folder: Path, labels: Sequence[str], max_length: int) -> None:
        super().__init__(folder, (), max_length)
        self.tokenizer = tokenizer(folder)

    def host(self, seed: int = 0, meta: bool = False) -> nn.Module:
        from transformers import AutoModelForCausalLM

        return build(AutoModelForCausalLM, self.folder, seed, meta)[0]

    def head(self, host: nn.Module) -> tuple[str, ...]:
        return ()

    def encode(self, table: Table) -> list[Example]:
        return [self._example(row) for row in table]

    def seen(self, table: Table) -> list[Seen]:
        return [self._seen(row) for row in table]

    def _seen(self, row: dict[str, Any]) -> Seen:
        head, tail, *_ = self._whole(row)
        kept_head, kept_tail = (len(some) for some in self._cut(head, tail))
        scored = [False] * len(head) + [bool(head) or i > 0 for i in range(len(tail))]  # nothing predicts the first token of all
        kept = [i >= len(head) - kept_head for i in range(len(head))] + [i < kept_tail for i in range(len(tail))]
        return Seen(row["id"], head + tail, scored, kept)

    def _example(self, row: dict[str, Any]) -> Example:
        head, tail, prompt, completion = self._whole(row)
        head, tail = self._cut(head, tail)
        if len(head) + len(tail) < 2:
            raise WorkbenchError(f"row {row['id']} must hold at least two tokens of text; it is empty.")
        return Example(row["id"], len(head) + len(tail), {"head": head, "tail": tail, "asks": bool(prompt), "answer": completion})

    def _cut(self, head: list[int], tail: list[int]) -> tuple[list[int], list[int]]:
        """What `max_length` leaves: first of the completion its beginning, then of the prompt its end."""
        tail = tail[: self.max_length - 1]
        return (head[-(self.max_length - len(tail)) :] if head else []), tail

    def _whole(self, row: dict[str, Any]) -> tuple[list[int], list[int], str, str]:
        """The tokens of the prompt and of the completion, uncut, and both as text."""
        prompt, completion = self._texts(row)
        head = self._head(prompt, "messages" in row)
        tail = self.tokenizer(completion, add_special_tokens=False)["input_ids"]
        if "messages" not in row and self.tokenizer.eos_token_id is not None:
            tail = [*tail, self.tokenizer.eos_token_id]
        if "prompt" in row and "completion" not in row:  # to be predicted: room for the answer
            tail = [self.tokenizer.pad_token_id] * min(MAX_NEW_TOKENS, self.max_length // 2)
        return head, tail, prompt, completion

    def _head(self, prompt: str, chat: bool) -> list[int]:
        """Token ids of a prompt; a chat template writes its own start token."""
        special = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None and not chat else []
        return special + (self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else [])

    def question(self, row: dict[str, Any], room: int) -> Example:
        """A `prompt`, or `messages` that end with the person's turn, to be answered with at most `room` tokens.

        Its fields `head` and `cut` are the prompt's token ids and how many of its first ones were left out.
        """
        if "messages" in row:
            chat = self._chat(row)
            head = self._head(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True), True)
        else:
            head = self._head(str(row["prompt"]), False)
        if not head:
            raise WorkbenchError("a prompt must hold at least one token; it is empty.")
        kept = head[-max(self.max_length - room, self.max_length // 2) :]
        return Example(0, len(kept) + room, {"head": kept, "cut": len(head) - len(kept)})

    def _texts(self, row: dict[str, Any]) -> tuple[str, str]:
        """The prompt and the completion as text; a chat goes through the tokenizer's own template."""
        if "text" in row:
            return "", str(row["text"])
        if "prompt" in row:
            return str(row["prompt"]), str(row.get("completion", ""))
        chat = self._chat(row)
        if len(chat) < 2 or chat[-1]["role"] != "assistant":
            raise WorkbenchError(f"messages of row {row['id']} must be a list of {{role, content}} that ends with the assistant.")
        prompt = self.tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        whole = self.tokenizer.apply_chat_template(chat, tokenize=False)
        if not whole.startswith(prompt):
            raise WorkbenchError(
                "the chat template rewrites earlier turns, so the completion cannot be told apart; use prompt and completion."
            )
        return prompt, whole[len(prompt) :]

    def _chat(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        chat = row["messages"]
        if not (isinstance(chat, list) and chat and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in chat)):
            raise WorkbenchError(f"messages of row {row['id']} must be a list of {{role, content}} that ends with the assistant.")
        if not self.tokenizer.chat_template:
            raise WorkbenchError("the tokenizer of this base model has no chat template; give prompt and completion columns.")
        return chat

    def collate(self, examples: Sequence[Example]) -> Batch:
        rows = [e.fields["head"] + e.fields["tail"] for e in examples]
        goals = [[IGNORED] * len(e.fields["head"]) + e.fields["tail"] for e in examples]
        lengths = torch.tensor([len(r) for r in rows])
        tokens = pad(rows, self.tokenizer.pad_token_id)
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        prompts = torch.tensor([len(e.fields["head"]) or len(e.fields["tail"]) for e in examples])
        positions = torch.stack([torch.zeros_like(prompts), prompts], 1)
        return Batch({"input_ids": tokens, "attention_mask": mask}, {"positions": positions}, pad(goals, IGNORED), examples)

    def scored(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """One distribution over the vocabulary per scored token; only what the loss needs is cast up."""
        counted = batch.targets[:, 1:] != IGNORED
        return output.logits[:, :-1][counted].float(), counted.nonzero()[:, 0]

    def differs(self, other: Task) -> str:
        """As of every task; and both must cut texts into the same tokens."""
        if said := super().differs(other):
            return said
        same = self.tokenizer.get_vocab() == other.tokenizer.get_vocab()  # type: ignore[attr-defined]
        return "" if same else "its tokenizer has another vocabulary"

    def _sums(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Per example: summed cross-entropy, right next tokens, scored tokens, each (batch,)."""
        goals = batch.targets[:, 1:]  # (batch, tokens - 1)
        counted = goals != IGNORED
        logits, row = self.scored(output, batch)
        right = goals[counted]
        zero = torch.zeros(len(goals), device=logits.device)
        nll = zero.index_add(0, row, nn.functional.cross_entropy(logits, right, reduction="none"))
        hits = zero.index_add(0, row, (logits.argmax(-1) == right).float())
        return nll, hits, counted.sum(1)

    def losses(self, output: Any, batch: Batch) -> Tensor:
        """Mean cross-entropy over each example's completion tokens."""
        nll, _, count = self._sums(output, batch)
        return nll / count.clamp(min=1)

    def predictions(self, host: nn.Module | None, output: Any, batch: Batch) -> list[Prediction]:
        nll, hits, count = self._sums(output, batch)
        size = count.clamp(min=1)
        said = {} if host is None else self._answers(host, batch.examples)
        values = zip(batch.examples, (hits / size).tolist(), (nll / size).tolist(), count.tolist(), strict=True)
        return [
            Prediction(e.id, e.fields["answer"].strip(), said.get(e.id, ""), s, loss, n, e.id in said) for e, s, loss, n in values
        ]

    @torch.no_grad()
    def _answers(self, host: nn.Module, examples: Sequence[Example]) -> dict[int, str]:
        """Greedy continuations by row id; none where there is no prompt or the answer is too long to ask for."""
        asked = [e for e in examples if e.fields["asks"] and len(e.fields["tail"]) <= MAX_NEW_TOKENS]
        if not asked:
            return {}
        rows = self.generate(host, asked, max(len(e.fields["tail"]) for e in asked))
        return {e.id: self.decode(row) for e, row in zip(asked, rows, strict=True)}

    @torch.no_grad()
    def generate(self, host: nn.Module, examples: Sequence[Example], longest: int, greedy: bool = True) -> list[Tensor]:
        """New token ids (tokens,) after the prompt of each example.

        Args:
            host: the model with the adapters as they are switched.
            examples: their field `head` is the prompt's token ids.
            longest: most new tokens.
            greedy: the likeliest token each time; else tokens are drawn at temperature 1 from seed 0.
        """
        heads = [e.fields["head"] for e in examples]
        device = next(host.parameters()).device
        tokens = pad(heads, self.tokenizer.pad_token_id, left=True)
        lengths = torch.tensor([len(h) for h in heads])
        width = tokens.shape[1]
        mask = (torch.arange(width) >= width - lengths[:, None]).long()
        positions = torch.stack([width - lengths, torch.full_like(lengths, width)], 1).to(device)
        adapters = getattr(host, "workbench", None)
        facts = {"positions": positions} | {k: v.to(device) for k, v in entry_facts(examples).items()}
        drawn: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None}
        drawn = drawn if greedy else {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
        with adapters.context(**facts) if adapters is not None else nullcontext(), nullcontext() if greedy else _seeded(device):
            out = host.generate(  # type: ignore[operator]
                input_ids=tokens.to(device), attention_mask=mask.to(device), do_sample=not greedy, num_beams=1,
                max_new_tokens=longest, pad_token_id=self.tokenizer.pad_token_id, **drawn,
            )  # fmt: skip
        return list(out[:, width:])

    def decode(self, tokens: Tensor) -> str:
        """Generated token ids as text."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Perplexity and next-token accuracy over all scored tokens; exact match where an answer was generated."""
        total = sum(p.weight for p in predictions)
        nll = sum(p.loss * p.weight for p in predictions) / total
        found = {
            "perplexity": math.exp(min(nll, 80)),
            "token_accuracy": sum(p.score * p.weight for p in predictions) / total,
            "loss": nll,
        }
        if asked := [p for p in predictions if p.asked]:
            found["exact_match"] = sum(p.prediction == p.label for p in asked) / len(asked)
        return found

    def logits(self, output: Any, batch: Batch) -> Tensor:
        return output.logits.float() * batch.inputs["attention_mask"][..., None]


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """The same random draws each time; the caller's random state is left as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
