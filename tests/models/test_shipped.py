"""The shipped models are pretrained for real, load with the standard classes, and saw nothing they are later judged on."""

import inspect

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from transformers import AutoConfig, AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageClassification, AutoTokenizer

from workbench.data import bundled
from workbench.models import build_lm, build_vit, glyphs, stdlib
from workbench.models.bundled import SHIPPED, bundled_path


@pytest.fixture(scope="module")
def files():
    return list(stdlib.sources())


@pytest.fixture(scope="module")
def text(files):
    forbidden = stdlib.docstring_lines(files)
    return {source.module: stdlib.code_only(source, forbidden) for source in files}


def test_no_docstring_line_is_in_the_pretraining_text(files, text):
    forbidden = stdlib.docstring_lines(files)
    assert len(forbidden) > 10_000
    kept = {stdlib.plain(line) for code in text.values() for line in code.splitlines()}
    assert len(kept) > 50_000
    assert not kept & forbidden


def test_no_whole_docstring_is_in_the_pretraining_text(files, text):
    flat = {module: " ".join(code.split()) for module, code in text.items()}
    for source in files:
        for docstring in stdlib.docstrings(source):
            words = docstring.split()
            assert len(words) < 8 or " ".join(words) not in flat[source.module]


def test_no_question_about_docstrings_is_in_the_pretraining_text(text, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    kept = {stdlib.plain(line) for code in text.values() for line in code.splitlines()}
    flat = {module: " ".join(code.split()) for module, code in text.items()}
    table = bundled.table("bundled/choices")
    for asked, module in zip(table["text"], table["module"], strict=True):
        said = asked.removesuffix("\ndef").strip('"')
        assert stdlib.plain(said) not in kept
        assert len(said.split()) < 8 or said not in flat[module]


def test_code_and_comments_stay(text):
    assert "def heappush(heap, item):" in text["heapq"]
    assert "# 'heap' is a heap at all indices >= startpos, except possibly for pos." in text["heapq"]
    assert all(quotes not in text["queue"] for quotes in ('"""', "'''"))
    assert sum(map(len, text.values())) > 4_000_000


@pytest.mark.parametrize("name", ["lm", "vit"])
def test_size_and_readme(name):
    assert sum(p.stat().st_size for p in (SHIPPED / name).iterdir()) < 8_000_000
    assert f"# bundled/{name}" in (SHIPPED / name / "README.md").read_text()
    assert {p.suffix for p in (SHIPPED / name).iterdir()} <= {".json", ".safetensors", ".md", ".jinja"}


@pytest.fixture(scope="module")
def lm():
    return AutoModelForCausalLM.from_pretrained(bundled_path("lm")).eval(), AutoTokenizer.from_pretrained(bundled_path("lm"))


def test_lm_predicts_held_out_code_far_better_than_word_counts(lm, text):
    model, tokenizer = lm
    counts = np.bincount(build_lm.stream(tokenizer, [text["collections"], text["gzip"]]), minlength=len(tokenizer)) + 1.0
    tokens = torch.from_numpy(build_lm.stream(tokenizer, [text["queue"], text["selectors"]])[: 8 * 256]).long().reshape(-1, 256)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
    unigram = -np.log(counts / counts.sum())[tokens.flatten().numpy()].mean()
    assert loss < unigram - 2.5


def test_lm_tokenizer_and_chat_format(lm):
    model, tokenizer = lm
    code = "def f(x):\n    return 'é', x  # ok\n"
    assert tokenizer.decode(tokenizer(code, add_special_tokens=False)["input_ids"]) == code
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    turns = [{"role": "user", "content": "add"}, {"role": "assistant", "content": "x + 1"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|bos|><|user|>\nadd<|end|>\n<|assistant|>\nx + 1<|end|>\n"
    coded = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    answer = [i for i, used in zip(coded["input_ids"], coded["assistant_masks"], strict=True) if used]
    assert tokenizer.decode(answer) == "x + 1<|end|>"
    assert {tokenizer.pad_token, tokenizer.eos_token} == {"<|pad|>", "<|end|>"}
    assert model.config.vocab_size == len(tokenizer)


def test_lm_continues_code(lm):
    model, tokenizer = lm
    start = tokenizer("class Error(Exception):\n    def __init__(self", return_tensors="pt")
    out = model.generate(**start, max_new_tokens=12, do_sample=False)
    assert "):" in tokenizer.decode(out[0])


def test_vit_generator_draws_no_digit():
    assert not set(glyphs.LETTERS) & set("0123456789OoIlSsZzBbqg")
    assert all(not c.isdigit() for c in glyphs.LETTERS)
    drawn = "".join(inspect.getsource(module) for module in (glyphs, build_vit))
    assert "load_digits" not in drawn
    assert "mnist" not in drawn.lower()
    images, labels = glyphs.pictures(50, 0)
    assert images.shape == (50, 16, 16, 3)
    again, same = glyphs.pictures(50, 0)
    assert (images == again).all()
    assert (labels == same).all()


def test_vit_features_know_more_than_random_ones():
    digits = load_digits()
    processor = AutoImageProcessor.from_pretrained(bundled_path("vit"))
    grey = [np.repeat((image * 255 / 16).astype(np.uint8)[..., None], 3, axis=2) for image in digits.images]
    pixels = processor(grey, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1797, 3, 16, 16)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(bundled_path("vit"), num_labels=10)
    scores = {}
    for name, model in (
        ("pretrained", AutoModelForImageClassification.from_pretrained(bundled_path("vit"), config=config)),
        ("random", AutoModelForImageClassification.from_config(config)),
    ):
        with torch.no_grad():
            features = model.eval().vit(pixel_values=pixels).last_hidden_state[:, 0].numpy()
        features = (features - features.mean(0)) / (features.std(0) + 1e-6)
        chosen = np.random.default_rng(0).permutation(len(features))
        probe = LogisticRegression(max_iter=500, C=0.1).fit(features[chosen[:200]], digits.target[chosen[:200]])
        scores[name] = probe.score(features[chosen[200:]], digits.target[chosen[200:]])
    assert scores["pretrained"] > scores["random"] + 0.15
    assert 0.8 < scores["pretrained"] < 0.985


def test_build_scripts_write_complete_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(
        build_lm, "corpus", lambda: build_lm.Corpus(["x = 1\n" * 2000], ["y = 2\n" * 3000], [("add one", "x + 1")] * 3)
    )
    monkeypatch.setattr(build_lm, "BLOCK", 32)
    judge = build_vit.held_out_accuracy
    monkeypatch.setattr(build_vit, "held_out_accuracy", lambda model: judge(model, 100))
    threads = torch.get_num_threads()
    try:
        assert build_lm.build(tmp_path / "lm", steps=2)["tokens seen"] == 2 * build_lm.BATCH * 32
        assert build_vit.build(tmp_path / "vit", steps=1)["pictures seen"] == build_vit.BATCH
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for name in ("lm", "vit"):
        assert {p.name for p in (tmp_path / name).iterdir()} == {p.name for p in (SHIPPED / name).iterdir()}
