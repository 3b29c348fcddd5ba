"""Sixty-four bad (and a few odd but good) specs: each bad one is one sentence, exit code 2, and nothing is written."""

import re
import time

import pytest

from workbench.cli import main
from workbench.core import safe_yaml
from workbench.jobs import client

GOOD = """name: small
model: bundled/minilm
task: text_classification
data: {source: reviews.csv}
methods: [{method: lora, rank: 4}, head_only]
training: {max_steps: 2, batch_size: 4, max_length: 16}
seeds: [0]
"""
BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(9))


def changed(**values):
    """GOOD with top-level keys replaced; None removes one."""
    spec = safe_yaml.loads(GOOD)
    spec.update(values)
    return safe_yaml.dumps({k: v for k, v in spec.items() if v is not None})


def training(**values):
    """GOOD with values under training."""
    return changed(training={**safe_yaml.loads(GOOD)["training"], **values})


def data(**values):
    """GOOD with values under data."""
    return changed(data={"source": "reviews.csv", **values})


def line(text):
    """GOOD with one more line."""
    return GOOD + text + "\n"


def method(*entries):
    """GOOD with other methods."""
    return changed(methods=list(entries))


SYNTAX = {
    "empty": (b"", "mapping"),
    "comments only": ("# nothing\n", "mapping"),
    "tab": (GOOD + "x:\n\ty: 1\n", "YAML"),
    "open quote": (GOOD + 'note: "open\n', "YAML"),
    "utf-16": (GOOD.encode("utf-16"), "UTF-8"),
    "latin-1": (GOOD.replace("small", "caf\xe9").encode("latin-1"), "UTF-8"),
    "nul": (GOOD.encode() + b"note: a\0b\n", "YAML"),
    "two documents": (GOOD + "---\n" + GOOD, "YAML"),
    "list": ("- a\n- b\n", "mapping"),
    "scalar": ("just text\n", "mapping"),
}
TRAPS = {
    "duplicate key": (line("name: again"), "twice"),
    "python tag": (line("note: !!python/object/apply:os.system ['true']"), "tag"),
    "unknown tag": (line("note: !thing x"), "tag"),
    "alias bomb": (BOMB, "alias"),
    "self-reference": (line("note: &a [*a]"), "alias"),
    "merge key": (line("base: &b {x: 1}\nother: {<<: *b}"), "alias"),
    "3000 deep": (line("note: " + "[" * 3000 + "]" * 3000), "nested"),
    "5000 digits": (changed(seeds=None) + "seeds: [" + "9" * 5000 + "]\n", "digits"),
    "time of day": (training(max_length="12:30:45"), "max_length"),
    "nan": (changed(training=None) + "training: {learning_rate: .nan}\n", "learning"),
}
SCHEMA = {
    "unknown key": (line("colour: red"), "colour"),
    "near miss": (line("seed: [1]"), "seeds"),
    **{f"no {key}": (changed(**{key: None}), f"{key} is required") for key in ("name", "model", "task", "data", "methods")},
    "epochs a word": (training(epochs="many"), "epochs"),
    "batch size a bool": (training(batch_size=True), "batch_size"),
    "seed a float": (changed(seeds=[0.5]), "seeds"),
    "methods a number": (changed(methods=3), "methods"),
    "data a number": (changed(data=5), "data"),
    "model a list": (changed(model=["a", "b"]), "model"),
    "unknown method": (method("lorra"), "closest: lora"),
    "option out of range": (method({"method": "lora", "dropout": 2}), "dropout"),
    "option of another method": (method({"method": "lora", "bottleneck": 8}), "bottleneck"),
    "unknown modifier": (method({"method": "lora", "modifiers": ["spare"]}), "closest: sparse"),
    "unknown recipe": (method({"method": "full", "recipe": "lt_stf"}), "closest: lt_sft"),
    "unknown task": (changed(task="text_clasification"), "closest: text_classification"),
    "unknown training of an entry": (method({"method": "lora", "training": {"epoch": 2}}), "epochs"),
}
VALUES = {
    **{f"epochs {n}": (training(epochs=n), "epochs") for n in (0, -1, 1e9)},
    "batch size 0": (training(batch_size=0), "batch_size"),
    **{f"rate {n}": (training(learning_rate=n), "rate") for n in (0, -1e-3, 1e3)},
    "rank 0": (method({"method": "lora", "rank": 0}), "rank"),
    "rank above the width": (method({"method": "lora", "rank": 1000}), "at most 384"),
    "no seeds": (changed(seeds=[]), "seeds"),
    "twin seeds": (changed(seeds=[1, 1]), "different"),
    "unsafe name": (changed(name="../x"), "name"),
    "long name": (changed(name="n" * 118), "113"),
    "twin labels": (method({"method": "lora", "label": "a"}, {"method": "lora", "label": "a"}), "unique"),
}
MEANING = {
    "one column twice": (data(columns={"text": "text", "label": "text"}), "twice"),
    "missing column": (data(columns={"text": "txt", "label": "label"}), "closest: 'text'"),
    "missing file": (changed(data={"source": "nowhere.csv"}), "must exist"),
    "validation above 1": (data(validation=1.5), "between 0 and 1"),
    "validation is the training file": (data(validation="reviews.csv"), "different"),
    "a task the model cannot do": (
        changed(task="causal_lm", data={"source": "reviews.csv", "columns": {"text": "text"}}),
        "lack",
    ),
    "a role of another architecture": (method({"method": "lora", "roles": ["ffn.gate"]}), "matches nothing"),
    "no such role": (method({"method": "lora", "roles": ["attn.qq"]}), "no role"),
    "a depth outside": (method({"method": "lora", "depths": [77]}), "blocks 0 to 5"),
    "too many runs": (changed(seeds=list(range(1500))), "at most"),
    "a folder without weights": (changed(model="bare"), "safetensors"),
    "an unknown bundled model": (changed(model="bundled/minim"), "closest: minilm"),
    "no CUDA here": (changed(device="cuda"), "CUDA"),
    "quantised": (changed(model={"source": "bundled/minilm", "load_in": "4bit"}), "load_in"),
    "unreachable Hub id": (changed(model="nobody-here/nothing-there"), "Hub"),
}
BAD = {**SYNTAX, **TRAPS, **SCHEMA, **VALUES, **MEANING}
ODD = {
    "byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "CRLF": GOOD.replace("\n", "\r\n"),
    "name no": changed(name=None) + "name: no\n",
    "name a date": changed(name=None) + "name: 2024-01-01\n",
    "1e-3 is a number": changed(training=None) + "training: {learning_rate: 1e-3, max_length: 017}\n",
}


@pytest.fixture
def write(home, table, tmp_path, monkeypatch):
    """Writes the spec beside its data, and a model folder with a config only; nothing may be queued."""

    def never(*_):
        raise AssertionError("a bad spec reached the queue")

    monkeypatch.setattr(client, "submit", never)
    from workbench.models.bundled import bundled_path

    (tmp_path / "bare").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((bundled_path("minilm") / name).read_bytes())

    def save(content):
        path = tmp_path / "spec.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return save


@pytest.mark.parametrize("case", BAD)
def test_a_bad_spec_is_one_sentence(case, write, home, capsys):
    content, words = BAD[case]
    start = time.perf_counter()
    code = main(["submit", write(content), "--json"])
    seconds = time.perf_counter() - start
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert words.lower() in err.lower()
    assert err.count("\n") == 1
    assert re.search(r"[.)]$", err.strip())
    assert "Traceback" not in err
    assert len(err) < 500
    assert seconds < 20  # two seconds on a free machine; tests share theirs
    assert not (home / "runs").exists()
    assert not (home / "jobs.db").exists()


@pytest.mark.parametrize("case", ODD)
def test_an_odd_but_good_spec_is_planned(case, write, capsys):
    assert main(["plan", write(ODD[case]), "--json"]) == 0, capsys.readouterr().err


def test_there_are_as_many_cases_as_promised():
    assert len(BAD) + len(ODD) >= 64
