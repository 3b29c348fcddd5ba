"""Tiny bases on disk, tiny trained runs on them, and a stand-in for the fresh process that answers in this one."""

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from workbench.core import safe_yaml
from workbench.core.events import Silent
from workbench.core.paths import run_folder
from workbench.core.run_spec import ModelRef, Placed, RunSpec
from workbench.core.spec import DataSpec, TrainingSpec
from workbench.data import resolve
from workbench.export import child, fresh
from workbench.kernel import registry

WORDS = [
    *("good", "bad", "fine", "poor", "nice", "awful", "great", "sad", "happy", "dull", "film", "book", "song", "plot", "cast"),
    *("the", "a", "is", "was", "very", "not", "so", "and"),
]
TASKS = {"bert": "text_classification", "llama": "causal_lm", "gpt2": "causal_lm", "vit": "image_classification"}


def _tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return len(vocabulary)


def make_base(family: str, folder: Path, **sizes: Any) -> Path:
    """A random 2-block model with weights of a trained size, so that an adapter's change shows in the logits."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "vit":
        config = AutoConfig.for_model("vit", **common, image_size=8, patch_size=4, num_channels=1)
        folder.mkdir(parents=True)
        facts = {"size": {"height": 8, "width": 8}, "do_rescale": True, "rescale_factor": 1 / 16}
        (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    else:
        own = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": 64} if family == "gpt2" else common
        places = {} if family == "gpt2" else {"max_position_embeddings": 64}
        ids = {"pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
        config = AutoConfig.for_model(family, vocab_size=_tokenizer(folder), **own, **places, **ids, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, family)))
        model = (AutoModelForCausalLM if TASKS[family] == "causal_lm" else AutoModel).from_config(config)
        for p in model.parameters():
            p.data = p.data * 6 if p.dim() > 1 else p.data + 0.1 * torch.randn_like(p)
    model.save_pretrained(folder)
    return folder


def _data(family: str, folder: Path) -> DataSpec:
    rng = random.Random(0)
    if family == "vit":
        return DataSpec(source="bundled/digits", limit=40, test=0.05)
    path = folder / "rows.csv"
    texts = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 9))) for _ in range(160)]
    if family == "bert":
        rows = ["review,verdict", *(f"{t},{'pos' if 'good' in t or 'great' in t or 'nice' in t else 'neg'}" for t in texts)]
        path.write_text("\n".join(rows) + "\n")
        return DataSpec(source=str(path), columns={"text": "review", "label": "verdict"}, test=0.3)
    path.write_text("\n".join(["prompt,completion", *(f"{t},very {t.split()[0]}" for t in texts)]) + "\n")
    return DataSpec(source=str(path), test=0.3)


class Trained:
    """Runs made once per session, by method and base family."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = cache(lambda family: make_base(family, folder / family))

    def __call__(self, method: str, family: str = "bert", modifiers: str = "", **config: Any) -> Path:
        """The run folder of a method trained for a few steps."""
        from workbench.train import run

        key, cls, _ = registry.find(method)
        values = {**cls.tiny.model_dump(exclude_defaults=True), **config} if key == method else config
        name = "-".join(["t", method, family, *map(str, config.values()), *([modifiers] if modifiers else [])]).replace(" ", "")
        spec = RunSpec(
            run_id="".join(c for c in name if c.isalnum() or c in "-_"), experiment="exports", label=method, method=method,
            base_method=key,
            config=registry.configure(method, values).model_dump(mode="json"), model=ModelRef(source=str(self.base(family))),
            modifiers=({"modifier": "sparse", "keep": 0.5, "score": "magnitude"},) if modifiers else (), task=TASKS[family],
            data=resolve(_data(family, self.folder)),
            training=TrainingSpec(max_steps=4, learning_rate=0.05, precision="fp32", max_length=24, batch_size=8),
        )  # fmt: skip
        folder = run_folder(spec.run_id)
        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        (folder / "spec.yaml").write_text(safe_yaml.dumps(spec.model_dump(mode="json")))
        run(spec, Silent(), folder, Placed())
        return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("bases"))


def answer_here(request: dict[str, Any], batches: Any) -> list[torch.Tensor]:
    """`fresh.logits` without the new process: the child's own code, in this one."""
    with tempfile.TemporaryDirectory() as name:
        rows = {f"{i}.input.{k}": v for i, b in enumerate(batches) for k, v in b.inputs.items()}
        rows |= {f"{i}.fact.{k}": v for i, b in enumerate(batches) for k, v in b.facts.items()}
        save_file({k: v.contiguous().clone() for k, v in rows.items()}, Path(name) / "rows.safetensors")
        found = child.answer({"settings": {}, **request, "rows": str(Path(name) / "rows.safetensors")})
    return [found[str(i)] for i in range(len(batches))]


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks answer in this process: 40 new processes would take minutes; `test_fresh.py` starts real ones."""
    monkeypatch.setattr(fresh, "logits", answer_here)
