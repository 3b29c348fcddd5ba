"""The 64 spec files of the bad-input matrix, and some more, at the doors where specs come in."""

import pytest

from tests.bad_inputs.refusing import Case, accepted, by_id, counted, planned
from workbench.core import safe_yaml

GOOD = """name: small
model: bundled/minilm
task: text_classification
data: {source: reviews.csv}
methods: [{method: lora, rank: 4}, head_only]
training: {max_steps: 2, batch_size: 4, max_length: 16}
seeds: [0]
"""
REVIEWS = "text,label,score\n" + "".join(f"review number {i} of it,{('good', 'bad')[i % 2]},{i}\n" for i in range(120))
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


def instead(key, text):
    """GOOD with one top-level key written as it stands."""
    return changed(**{key: None}) + f"{key}: {text}\n"


def method(*entries):
    """GOOD with other methods."""
    return changed(methods=list(entries))


SYNTAX = {
    "empty": Case("", "must be a YAML mapping.*got nothing"),
    "comments only": Case("# nothing\n", "must be a YAML mapping.*got nothing"),
    "tab": Case(line("x:\n\ty: 1"), "must be valid YAML"),
    "open quote": Case(line('note: "open'), "must be valid YAML"),
    "BOM ok": accepted(b"\xef\xbb\xbf" + GOOD.encode(), '"experiment": "small"'),
    "UTF-16": Case(GOOD.encode("utf-16"), "must be UTF-8"),
    "Latin-1": Case(GOOD.replace("small", "caf\xe9").encode("latin-1"), "must be UTF-8"),
    "NUL": Case(GOOD.encode() + b"note: a\0b\n", "must be valid YAML"),
    "CRLF ok": accepted(GOOD.replace("\n", "\r\n"), '"experiment": "small"'),
    "two documents": Case(GOOD + "---\n" + GOOD, "must be valid YAML"),
    "top-level list": Case("- a\n- b\n", "must be a YAML mapping.*got a list"),
    "scalar": Case("just text\n", "must be a YAML mapping.*got a text"),
}
TRAPS = {
    "duplicate key": Case(line("name: again"), "'name' on line 8 appears twice; keep one"),
    "python tag": Case(line("note: !!python/object/apply:os.system ['true']"), "tags .* are not allowed.*write a plain value"),
    "unknown tag": Case(line("note: !thing x"), "tags .* are not allowed"),
    "alias bomb": Case(BOMB, "aliases .* are not allowed.*write the value out"),
    "self-reference": Case(line("note: &a [*a]"), "aliases .* are not allowed"),
    "merge key": Case(line("base: &b {x: 1}\nother: {<<: *b}"), "aliases .* are not allowed"),
    "3000 deep": Case(line("note: " + "[" * 3000 + "]" * 3000), "at most 20 deep; flatten it"),
    "5000 digits": Case(instead("seeds", "[" + "9" * 5000 + "]"), "at most 300 digits"),
    "no": accepted(instead("name", "no"), '"experiment": "no"'),
    "12:30:45": Case(instead("training", "{max_length: 12:30:45}"), "max_length must be a whole number; got '12:30:45'"),
    "017": accepted(instead("methods", "[{method: lora, rank: 017}]"), '"rank": 17'),
    "1e-3": accepted(instead("training", "{learning_rate: 1e-3, max_length: 16}"), '"learning_rate": 0.001'),
    ".nan": Case(data(validation=float("nan")), "validation must be a finite number or text; got nan"),
    "date-like name": accepted(instead("name", "2024-01-01"), '"experiment": "2024-01-01"'),
}
SCHEMA = {
    "unknown key": Case(line("colour: red"), "colour is not a known key; known: "),
    "near miss with suggestion": Case(line("seed: [1]"), "closest: seeds"),
    **{
        f"no {key}": Case(changed(**{key: None}), f"{key} is required but missing; add it")
        for key in ("name", "model", "task", "data", "methods")
    },
    "wrong type: epochs a word": Case(training(epochs="many"), "epochs must be a number; got 'many'"),
    "wrong type: batch size a bool": Case(training(batch_size=True), "batch_size: it must be a number; got true"),
    "wrong type: seed a float": Case(changed(seeds=[0.5]), "seeds.0 must be a whole number; got 0.5"),
    "wrong type: methods a number": Case(changed(methods=3), "methods must be a list; got 3"),
    "wrong type: data a number": Case(changed(data=5), "data must be a mapping"),
    "wrong type: model a list": Case(changed(model=["a", "b"]), "model must be a mapping"),
    "unknown method": Case(method("lorra"), "closest: lora"),
    "option out of range": Case(method({"method": "lora", "dropout": 2}), "dropout must be below 1"),
    "option of another method": Case(method({"method": "lora", "bottleneck": 8}), "bottleneck is not a known key; known: "),
}
VALUES = {
    **{
        f"epochs {name}": Case(training(epochs=n), "epochs must be a(bove 0|t most 10000)")
        for name, n in (("0", 0), ("-1", -1), ("1e9", 1e9))
    },
    "batch 0": Case(training(batch_size=0), "batch_size must be at least 1"),
    **{
        f"lr {name}": Case(training(learning_rate=n), "must be above 0 and at most 100")
        for name, n in (("0", 0), ("negative", -1e-3), ("1e3", 1e3))
    },
    "lr NaN": Case(training(learning_rate=float("nan")), "learning_rate must be a finite number"),
    "rank 0": Case(method({"method": "lora", "rank": 0}), "rank must be at least 1"),
    "rank > min dim": Case(method({"method": "lora", "rank": 1000}), "at most 384"),
    "no seeds": Case(changed(seeds=[]), "seeds must hold at least 1"),
    "twin seeds": Case(changed(seeds=[1, 1]), "must be different whole numbers"),
}
MEANING = {
    "one column twice": Case(data(columns={"text": "text", "text_pair": "text", "label": "label"}), "'text' is named twice"),
    "label = text": Case(data(columns={"text": "text", "label": "text"}), "'text' is named twice"),
    "validation > 1": Case(data(validation=1.5), "between 0 and 1"),
    "validation = train file": Case(data(validation="reviews.csv"), "must be different data"),
    "task without head": Case(changed(task="causal_lm"), "lack cls.predictions.*choose another model or task"),
    "method on unfit architecture": Case(
        changed(model="bundled/lm", task="causal_lm", methods=["bitfit"], baseline=False),
        "has no bias at the chosen places",
    ),
    "role matching nothing": Case(method({"method": "lora", "roles": ["ffn.gate"]}), "matches nothing"),
    "run product over the cap": Case(
        changed(methods=["lora", "ia3", "full"], seeds=list(range(900))), "at most 2000 runs; got 2700"
    ),
    "folder without weights": Case(changed(model="bare"), "must come as safetensors"),
    "cuda absent": Case(changed(device="cuda"), "must be auto or cpu"),
}
SPEC = {"syntax": SYNTAX, "traps": TRAPS, "schema": SCHEMA, "values": VALUES, "meaning": MEANING}
MORE = {
    "unknown modifier": Case(method({"method": "lora", "modifiers": ["spare"]}), "closest: sparse"),
    "unknown recipe": Case(method({"method": "full", "recipe": "lt_stf"}), "closest: lt_sft"),
    "unknown task": Case(changed(task="text_clasification"), "closest: text_classification"),
    "unknown training of an entry": Case(method({"method": "lora", "training": {"epoch": 2}}), "closest: epochs"),
    "unsafe name": Case(changed(name="../x"), "must be 1-120 letters"),
    "twin labels": Case(method({"method": "lora", "label": "a"}, {"method": "lora", "label": "a"}), "unique"),
    "missing column": Case(data(columns={"text": "txt", "label": "label"}), "closest: 'text'"),
    "missing file": Case(changed(data={"source": "nowhere.csv"}), "must exist"),
    "no such role": Case(method({"method": "lora", "roles": ["attn.qq"]}), "no role"),
    "a depth outside": Case(method({"method": "lora", "depths": [77]}), "blocks 0 to 5"),
    "an unknown bundled model": Case(changed(model="bundled/minim"), "closest: minilm"),
    "quantised": Case(changed(model={"source": "bundled/minilm", "load_in": "4bit"}), "load_in"),
    "unreachable Hub id": Case(changed(model="nobody-here/nothing-there"), "Hub"),
    "processes and a loss of its own": Case(
        method({"method": "full", "recipe": "lt_sft", "training": {"processes": 2}}),
        "lt_sft has a loss of its own.*leave training",
    ),
}
CASES = by_id({**SPEC, "more": MORE})


@pytest.fixture
def folder(terminal):
    """Where the spec stands: beside its data, and a model folder with a config only."""
    from workbench.models.bundled import bundled_path

    (terminal.work / "reviews.csv").write_text(REVIEWS)
    (terminal.work / "bare").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (terminal.work / "bare" / name).write_bytes((bundled_path("minilm") / name).read_bytes())
    return terminal.work


@pytest.mark.parametrize("case", CASES)
def test_a_bad_spec_is_one_sentence(case, terminal, folder):
    content = CASES[case].put
    (folder / "spec.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    planned(terminal, CASES[case])


def test_a_name_too_long_for_its_runs_is_refused_by_the_run(terminal, folder):
    (folder / "spec.yaml").write_text(changed(name="n" * 118))
    terminal.refused("run", "spec.yaml", words="113")


def test_the_matrix_is_whole():
    assert {name: len(group) for name, group in SPEC.items()} == {
        "syntax": 12, "traps": 14, "schema": 16, "values": 12, "meaning": 10,
    }  # fmt: skip
    assert counted(*SPEC.values()) == {"all": 64, "refused": 58, "warned": 0, "accepted": 6}
    assert len(CASES) == 64 + len(MORE)
