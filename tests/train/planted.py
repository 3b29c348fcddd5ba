"""Tiny base models on disk, planted rows, and runs on them; needs no more than training itself does."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.core.events import Silent
from workbench.core.run_spec import ModelRef, Placed, RunSpec
from workbench.core.spec import DataSpec, TrainingSpec
from workbench.data import resolve
from workbench.kernel import registry
from workbench.kernel.state import Stored, read

GOOD, BAD = ("good", "nice", "great", "happy"), ("bad", "poor", "awful", "sad")
PLAIN = ("film", "book", "song", "plot", "cast", "the", "a", "is", "was", "very", "so", "and")
TASKS = {"bert": "text_classification", "llama": "causal_lm", "gpt2": "causal_lm", "vit": "image_classification"}
TASKS |= {"t5": "multiple_choice"}
CHAT = "{% for m in messages %}{{ m.role }} {{ m.content }} [SEP] {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"


def tokenizer(folder: Path, bos: bool = False) -> int:
    """Write a word-level tokenizer with a chat template; returns the number of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *PLAIN, "user", "assistant", "system"]
    made = Tokenizer(models.WordLevel({t: i for i, t in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"} | ({"bos_token": "[CLS]"} if bos else {})
    facts = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]} if not bos else {}
    PreTrainedTokenizerFast(tokenizer_object=made, chat_template=CHAT, **names, **facts).save_pretrained(folder)
    return len(words)


def base(family: str, folder: Path, dropout: float = 0.0, **more: Any) -> Path:
    """A random 2-block, 32-wide model of a family, with weights of a trained size."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    folder.mkdir(parents=True, exist_ok=True)
    if family == "vit":
        sizes |= {"image_size": 8, "patch_size": 4, "num_channels": 3}
        (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 8, "width": 8}}))
    else:
        if family == "gpt2":
            sizes = {
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_inner": 64,
                "resid_pdrop": 0.0,
                "attn_pdrop": 0.0,
                "embd_pdrop": 0.0,
            }
        if family == "t5":
            sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": dropout}
            sizes |= {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
        causal = TASKS[family] == "causal_lm"
        sizes |= {"vocab_size": tokenizer(folder, causal), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if family in ("bert", "vit"):
        sizes |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, family)))
        maker = {"causal_lm": AutoModelForCausalLM, "multiple_choice": AutoModelForSeq2SeqLM}.get(TASKS[family], AutoModel)
        model = maker.from_config(AutoConfig.for_model(family, **sizes | more))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p * (1 if family == "t5" else 6) if p.dim() > 1 else p + 0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    return folder


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, pos|neg), half of each; one word decides."""
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        label = ("pos", "neg")[len(found) % 2]
        words = [rng.choice(PLAIN) for _ in range(rng.randint(2, 8))]
        words.insert(rng.randrange(len(words) + 1), rng.choice(GOOD if label == "pos" else BAD))
        found.setdefault(" ".join(words), label)
    return list(found.items())


def csv(path: Path, header: str, rows: Sequence[Sequence[str]]) -> Path:
    """Write a table of plain words."""
    path.write_text("\n".join([header, *(",".join(r) for r in rows)]) + "\n")
    return path


def rows(kind: str, folder: Path, count: int = 40) -> DataSpec:
    """Planted data: `bert` labelled sentences, `llama`/`gpt2` prompts and completions, `t5`/`choices`, `chat`, `text`, `vit`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = sentences(count)
    if kind == "vit":
        return _pictures(folder, count)
    if kind == "chat":
        path = folder / "chat.jsonl"
        turns = [[{"role": "user", "content": t}, {"role": "assistant", "content": t.split()[0]}] for t, _ in texts]
        path.write_text("\n".join(json.dumps({"messages": t}) for t in turns) + "\n")
    elif kind in ("choices", "t5"):
        path, rng = folder / "choices.jsonl", random.Random(1)
        answers = [f"very {rng.choice(GOOD if label == 'pos' else BAD)}" for _, label in texts]
        offers = [rng.sample([answer, *rng.sample(PLAIN, 2)], 3) for answer in answers]
        named = [{"text": t, "choices": c, "label": a} for (t, _), c, a in zip(texts, offers, answers, strict=True)]
        path.write_text("\n".join(map(json.dumps, named)) + "\n")
    elif kind == "bert":
        path = csv(folder / "labelled.csv", "text,label", texts)
    elif kind == "text":
        path = csv(folder / "plain.csv", "text", [(t,) for t, _ in texts])
    else:
        path = csv(folder / "asked.csv", "prompt,completion", [(t, f"very {t.split()[0]}") for t, _ in texts])
    return DataSpec(source=str(path), test=0.25, validation=0.2)


def _pictures(folder: Path, count: int) -> DataSpec:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        label = ("dark", "light")[i % 2]
        (folder / "pictures" / label).mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 100, (8, 8, 3)) + 150 * (i % 2)
        Image.fromarray(values.astype("uint8")).save(folder / "pictures" / label / f"{i}.png")
    return DataSpec(source=str(folder / "pictures"), test=0.25, validation=0.2)


def spec(model: Path | str, task: str, data: DataSpec, method: str = "lora", *, seed: int = 0,
         config: dict[str, Any] | None = None, modifiers: tuple[dict[str, Any], ...] = (), recipe: dict[str, Any] | None = None,
         init_from: Any = None, device: str = "auto", **training: Any) -> RunSpec:  # fmt: skip
    """A RunSpec of a few steps in fp32; `training` overrides."""
    key, cls, _ = registry.find(method)
    values = {**cls.tiny.model_dump(exclude_defaults=True), **(config or {})} if key == method else config or {}
    facts = {
        "max_steps": 4,
        "epochs": 100,
        "learning_rate": 0.02,
        "precision": "fp32",
        "max_length": 24,
        "batch_size": 4,
        **training,
    }
    return RunSpec(
        run_id="r1", experiment="planted", label=method, method=method, base_method=key, seed=seed,
        device=device,  # type: ignore[arg-type]
        config=registry.configure(method, values).model_dump(mode="json"), model=ModelRef(source=str(model)), task=task,
        modifiers=modifiers, recipe=recipe, init_from=init_from, data=resolve(data), training=TrainingSpec(**facts),
    )  # fmt: skip


def go(run_spec: RunSpec, folder: Path, reporter: Any = None, placed: Placed | None = None) -> dict[str, Any]:
    """Train into `folder`."""
    from workbench.train import run

    folder.mkdir(parents=True, exist_ok=True)
    return run(run_spec, reporter or Silent(), folder, placed or Placed())


def stored(folder: Path) -> Stored:
    """What a run kept."""
    return read(folder / "adapter")


def equal(a: Stored, b: Stored, head: bool = True) -> bool:
    """Whether two stored adapters are bitwise equal."""
    parts = [(a.tensors, b.tensors)] + [(a.head, b.head)] * head
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in parts)
