"""Pretrain the bundled small language model on standard-library source without docstrings.

`python -m workbench.models.build_lm` rewrites `workbench/models/shipped/lm` (about twelve minutes on one core). Equal Python,
torch and tokenizers versions give equal weights.
"""

import argparse
import json
import math
import platform
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from workbench.models.stdlib import code_only, docstring_lines, is_held_out, sources

SHIPPED = Path(__file__).parent / "shipped" / "lm"
SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY, BLOCK, BATCH, STEPS, RATE = 3072, 256, 16, 1600, 4e-3
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
_COMMENTED = re.compile(r"((?:^ *# .*\n)+)((?:^ *[^\s#].*\n){1,6})", re.MULTILINE)


@dataclass(frozen=True)
class Corpus:
    """Training and held-out documents; `pairs` are (comment, the code below it) taken from the training documents."""

    train: list[str]
    held_out: list[str]
    pairs: list[tuple[str, str]]


def corpus() -> Corpus:
    """The text the model is trained on; some modules are held out."""
    files = list(sources())
    forbidden = docstring_lines(files)
    train, held_out = [], []
    for source in files:
        chosen = held_out if is_held_out(source.module) else train
        chosen.append(code_only(source, forbidden))
    pairs = []
    for comment, code in (match.groups() for text in train for match in _COMMENTED.finditer(text)):
        question = " ".join(line.strip().removeprefix("#").strip() for line in comment.splitlines())
        if 4 <= len(question.split()) <= 40:
            pairs.append((question, code.strip("\n")))
    return Corpus(train, held_out, pairs)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the special tokens, a leading <|bos|> and the chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing("<|bos|> $A", "<|bos|> $A $B", [("<|bos|>", 1)])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[3:],
        model_max_length=2 * BLOCK,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """All documents as one row of token ids, each with <|bos|> before and <|end|> after it."""
    encoded = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
    return np.concatenate([np.array([*ids, tokenizer.eos_token_id], dtype=np.int32) for ids in encoded])


def conversations(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> list[str]:
    """The (comment, code) pairs in the chat format, without the <|bos|> that the tokenizer adds."""
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    return [tokenizer.apply_chat_template(t, tokenize=False).removeprefix("<|bos|>").removesuffix("<|end|>\n") for t in turns]


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained network: 1.6 million parameters, grouped key-value heads, tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2 * BLOCK,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats of `ids` (batch, time)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def pretrain(model: LlamaForCausalLM, tokens: np.ndarray, steps: int) -> list[float]:
    """AdamW over random blocks of `tokens`; returns the loss of every step."""
    draw = np.random.default_rng(0)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    losses, begun = [], time.monotonic()
    for step in range(steps):
        starts = draw.integers(0, len(tokens) - BLOCK - 1, BATCH)
        batch = torch.from_numpy(np.stack([tokens[s : s + BLOCK + 1] for s in starts])).long()
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step:5d} loss {np.mean(losses[-50:]):.3f} seconds {time.monotonic() - begun:.0f}", flush=True)
    return losses


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, tokens: np.ndarray) -> float:
    """Mean loss in nats per token over consecutive blocks of `tokens`."""
    blocks = torch.from_numpy(tokens[: (len(tokens) - 1) // BLOCK * BLOCK].reshape(-1, BLOCK)).long()
    model.eval()
    return float(np.mean([loss_of(model, blocks[i : i + BATCH]).item() for i in range(0, len(blocks) - BATCH + 1, BATCH)]))


def unigram_loss(train: np.ndarray, held_out: np.ndarray, size: int) -> float:
    """Loss on `held_out` of the token frequencies of `train` (add-one smoothed), the floor any model must beat."""
    counts = np.bincount(train, minlength=size) + 1.0
    return float(-np.log(counts / counts.sum())[held_out].mean())


def write_readme(folder: Path, figures: dict[str, float]) -> None:
    """Record what was measured beside the weights."""
    lines = [f"| {name} | {value:{',.4g' if isinstance(value, float) else ','}} |" for name, value in figures.items()]
    text = f"""# bundled/lm

A small Llama (4 blocks, width 160, 4 heads over 2 key-value heads, tied byte-level BPE vocabulary of {VOCABULARY}),
pretrained on the source of the Python {platform.python_version()} standard library: code and comments, every docstring removed.
Comments and the code below them also appear as short conversations (`<|user|>`, `<|assistant|>`, `<|end|>`), so the chat
format means something. Made by `python -m workbench.models.build_lm` with torch {torch.__version__}. The source text is under
the PSF licence.

| figure | value |
|---|---|
{chr(10).join(lines)}
"""
    (folder / "README.md").write_text(text)


def build(folder: Path, steps: int = STEPS) -> dict[str, float]:
    """Train tokenizer and model and write the folder.

    Args:
        folder: where config, weights, tokenizer and README go.
        steps: optimizer steps of 4,096 tokens.

    Returns:
        The figures of the README.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    texts = corpus()
    tokenizer = train_tokenizer(texts.train)
    documents = [*texts.train, *conversations(tokenizer, texts.pairs)]
    random.Random(0).shuffle(documents)
    train, held_out = stream(tokenizer, documents), stream(tokenizer, texts.held_out)
    print(json.dumps({"train_tokens": len(train), "held_out_tokens": len(held_out), "pairs": len(texts.pairs)}), flush=True)
    model = new_model(tokenizer)
    losses = pretrain(model, train, steps)
    loss, unigram = held_out_loss(model, held_out), unigram_loss(train, held_out, len(tokenizer))
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens in the training text": len(train),
        "tokens seen": steps * BATCH * BLOCK,
        "training loss, last 50 steps (nats per token)": float(np.mean(losses[-50:])),
        "held-out loss (nats per token)": loss,
        "held-out perplexity": math.exp(loss),
        "held-out perplexity of token frequencies alone": math.exp(unigram),
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    portable = {
        **json.loads(settings.read_text()),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # known to older transformers too
    settings.write_text(json.dumps(portable, indent=2) + "\n")
    write_readme(folder, figures)
    return figures


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Pretrain the bundled language model.")
    arguments.add_argument("--to", type=Path, default=SHIPPED, help="folder to write")
    arguments.add_argument("--steps", type=int, default=STEPS, help="optimizer steps")
    chosen = arguments.parse_args()
    print(json.dumps(build(chosen.to, chosen.steps), indent=1))
