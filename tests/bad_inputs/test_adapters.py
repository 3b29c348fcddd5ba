"""The 60 adapter folders of the bad-input matrix, and some more, at the door where adapters come in; and the life of a folder."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.bad_inputs import damaging as bad
from tests.bad_inputs.damaging import CONFIG, WEIGHTS
from tests.bad_inputs.refusing import Case, accepted, by_id, counted
from tests.export.conftest import answer_here, make_base, near
from tests.export.test_import import LINEAR, by_peft
from workbench.cli import main
from workbench.core.durable import write_whole
from workbench.export import fresh, import_folder

__all__ = ["near"]
pytestmark = pytest.mark.usefixtures("near")
TORN = f"{WEIGHTS} must be a whole safetensors file"


def read_only(folder):
    """A folder and files that nobody may write."""
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


def code(folder):
    """Modules that would run if they were imported."""
    for name in ("evil.py", "torch.py", "__init__.py"):
        (folder / name).write_text("raise SystemExit('ran')")


def as_file(folder):
    """A file where a folder is wanted."""
    shutil.rmtree(folder)
    folder.write_text("x")


def unwritten(folder):
    """What a writer that was killed had not reached yet: our own JSON, which is written last."""
    (folder / "workbench_adapter.json").unlink()


FOLDER = {
    "missing": Case(shutil.rmtree, "must be a folder that exists"),
    "empty": Case(lambda f: [p.unlink() for p in f.iterdir()], f"must be a folder with {CONFIG} .* has neither"),
    "is a file": Case(as_file, "must be a folder that exists"),
    "config only": Case(lambda f: (f / WEIGHTS).unlink(), f"must come as {WEIGHTS}; it has no weights"),
    "weights only": Case(lambda f: (f / CONFIG).unlink(), f"must be a folder with {CONFIG} .* has neither"),
    "two weights": Case(lambda f: (f / "adapter_model.bin").write_bytes(b"x"), "must hold one file of weights.*remove the one"),
    ".bin only": Case(bad.as_pickle, f"must come as {WEIGHTS}.*save the adapter again as safetensors"),
    "link to outside": Case(bad.outside, "must not lead out"),
    "stray .py ignored": accepted(code, '"checked": true'),
    "read-only": accepted(read_only, '"checked": true'),
}
SAFETENSORS = {
    "0 B": Case(bad.raw(lambda d: b""), TORN),
    "7 B": Case(bad.raw(lambda d: d[:7]), TORN),
    "cut header": Case(bad.raw(lambda d: d[:50]), TORN),
    "cut body": Case(bad.raw(lambda d: d[:-9]), TORN),
    "tail bytes": Case(bad.raw(lambda d: d + b"\0" * 9), TORN),
    "header 2^63": Case(bad.raw(lambda d: (2**63).to_bytes(8, "little") + d[8:]), TORN),
    "header 101 MB": Case(bad.raw(lambda d: (101_000_000).to_bytes(8, "little") + d[8:]), TORN),
    "overlap": Case(bad.header(lambda h: h.replace('"data_offsets":[512', '"data_offsets":[0', 1)), TORN),
    "gap": Case(bad.header(bad.gap), TORN),
    "shape overflow": Case(bad.header(lambda h: h.replace("[4,32]", "[4294967296,4294967296]", 1)), TORN),
    "unknown dtype": Case(bad.header(lambda h: h.replace('"F32"', '"F33"', 1)), TORN),
    "twin key": Case(bad.header(bad.twin), TORN),
    "polyglot": Case(bad.raw(lambda d: d + b"PK\x05\x06" + b"\0" * 18), TORN),
    "bad UTF-8": Case(bad.raw(lambda d: d[:10] + b"\xff\xfe" + d[12:]), TORN),
}
VALUES = {
    "NaN": Case(bad.first(lambda t: t * float("nan")), "must be finite"),
    "inf": Case(bad.first(lambda t: t / 0), "must be finite"),
    "zeros": Case(
        bad.tensors(lambda d: {k: torch.zeros_like(v) for k, v in d.items()}), "must hold trained values; every one is 0"
    ),
    "1e30": Case(bad.first(lambda t: t + 1e30), "must hold trained values; its largest is 1e\\+30"),
    "integer dtype": Case(bad.first(lambda t: t.int()), "must hold floating-point numbers; it holds int32"),
    "wrong shape": Case(bad.first(lambda t: t[:, :-1]), "must have shape .*: it is of another model"),
    "missing tensor": Case(bad.without("0.attention.self.value.lora_B"), "lacks tensor .*: download it again"),
    "unexpected tensor": Case(
        bad.tensors(lambda d: {**d, "base_model.model.bert.pooler.dense.lora_A.weight": torch.ones(4, 32)}),
        "has an unexpected tensor 'base_model.model.bert.pooler",
    ),
}
SETTINGS = {
    "not JSON": Case(bad.text("{'r': 4}"), f"{CONFIG} must be valid JSON"),
    "not object": Case(bad.text("[1, 2]"), f"{CONFIG} must be a JSON object; got list"),
    "twin keys": Case(bad.text('{"r": 4, "r": 5}'), f"{CONFIG} must be valid JSON.*a key appears twice"),
    "unknown type": Case(bad.config(peft_type="MAGIC"), "peft_type must be one of LORA.*got 'MAGIC'"),
    "wrong family": Case(bad.config(task_type="CAUSAL_LM"), "choose another model or task"),
    "r 0": Case(bad.config(r=0), "r must be a whole number from 1 to 1024; got '0'"),
    "r 1e9": Case(bad.config(r=10**9), "r must be a whole number from 1 to 1024; got '1000000000'"),
    "alpha inf": Case(bad.config(lora_alpha=1e400), f"{CONFIG} must be valid JSON.*Infinity is no JSON number"),
    "targets match nothing": Case(
        bad.config(target_modules=["q_proj"]), "must name weights of the base's blocks; 'q_proj' matches"
    ),
    "runaway regex": Case(bad.config(target_modules=r"(\w+\.?)+!"), "must be a list of module names.*patterns are refused"),
    "import field auto_mapping": Case(
        bad.config(auto_mapping={"base_model_class": "x", "parent_library": "os"}),
        "must name a model of transformers",
    ),
    "import field megatron_core": Case(bad.config(megatron_core="evil.core", megatron_config={"a": 1}), "cannot be imported"),
    "import field tokenizer_kwargs": Case(
        bad.config(tokenizer_kwargs={"trust_remote_code": True}), "tokenizer_kwargs.*does not know"
    ),
    "base = URL": Case(
        bad.config(base_model_name_or_path="https://evil.example/model"), "must be a folder, bundled/<name> or a Hub id"
    ),
    "newer fields": Case(bad.config(use_quantum=True), "'use_quantum', which peft .* does not know; save it again"),
    "modules_to_save naming base tensors": Case(
        bad.config(modules_to_save=["classifier", "embeddings"]),
        "may name the task's head only.*'embeddings' is the base's",
    ),
}
MISMATCH = {
    "architecture": Case(bad.family("llama"), "lacks tensor 'score.weight'.*must be this base model's"),
    "width": Case(bad.sizes(hidden_size=48), "must have shape .* on this base"),
    "depth": Case(bad.sizes(num_hidden_layers=1), "has an unexpected tensor"),
    "vocabulary": Case(bad.larger_vocabulary, "must have shape .* on this base"),
    "same name other sha": Case(bad.base_of_own, "must go on the base weights it was trained on"),
    "quantised": Case(bad.other_base(bad.quantised), "must not be quantised.*name the full-precision model"),
    "absent offline": Case(bad.config(base_model_name_or_path="nobody-here/none"), "Hub .*check the name or the network"),
    "tied embeddings": Case(
        bad.family("gpt2", task_type="CAUSAL_LM", target_modules=["c_attn"], modules_to_save=["lm_head"]),
        "'lm_head' is the base's",
    ),
}
LIFE = {
    "half-written": Case(unwritten, f"must be a folder with {CONFIG} .* has neither"),
    "manifest mismatch": Case(
        bad.rewritten("workbench_adapter.json", lambda meta: meta["sha256"].update({WEIGHTS: "0" * 64})),
        "was changed since",
    ),
    "changed after verify": Case(bad.first(lambda t: t + 1e-3, ""), "was changed since"),
    "two exporters": Case(lambda f: None, "an adapter is called 'taken' already; choose another --name"),
}
ADAPTERS = {
    "folder": FOLDER, "safetensors": SAFETENSORS, "values": VALUES, "config": SETTINGS, "base mismatch": MISMATCH,
    "life cycle": LIFE,
}  # fmt: skip
OWN = {"base mismatch: same name other sha", *(f"life cycle: {name}" for name in LIFE)}
"""Cases about a folder in our own form; the others are about what peft writes."""
MORE = {
    "no tensors": Case(lambda f: (f / WEIGHTS).write_bytes(save({})), "must hold tensors"),
    "negative offset": Case(bad.header(lambda t: t.replace('"data_offsets":[0', '"data_offsets":[-8', 1)), TORN),
    "header is a list": Case(bad.header(lambda t: "[]" + " " * (len(t) - 2)), TORN),
    "header of blanks": Case(bad.header(lambda t: " " * len(t)), TORN),
    "deep header": Case(bad.header(lambda t: "[" * len(t)), TORN),
    "weights are a folder": Case(lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), "weights|safetensors"),
    "config is a folder": Case(lambda f: ((f / CONFIG).unlink(), (f / CONFIG).mkdir()), "has neither"),
    "config is a link outside": Case(lambda f: ((f / CONFIG).unlink(), (f / CONFIG).symlink_to("/etc/hostname")), "lead out"),
    "config in Latin-1": Case(lambda f: (f / CONFIG).write_bytes('{"r": "é"}'.encode("latin-1")), "valid JSON"),
    "deep config": Case(bad.text("[" * 100_000), "valid JSON"),
    "NaN in JSON": Case(bad.text('{"lora_alpha": NaN}'), "valid JSON"),
    "wrong rank": Case(bad.first(lambda t: t[:2]), "must have the rank 4"),
    "missing head": Case(bad.without("classifier"), "lacks tensor"),
    "type as list": Case(bad.config(peft_type=["LORA"]), "peft_type must be one of"),
    "another type": Case(bad.config(peft_type="IA3"), "cannot be imported|does not know"),
    "r true": Case(bad.config(r=True), "r must be a whole number"),
    "r as text": Case(bad.config(r="8"), "whole number"),
    "alpha negative": Case(bad.config(lora_alpha=-1), "lora_alpha must be a number"),
    "one wrong target": Case(bad.config(target_modules=["query", "value", "valeu"]), "matches nothing"),
    "target without a role": Case(bad.config(target_modules=["query", "value", "pooler.dense"]), "has no role"),
    "targets empty": Case(bad.config(target_modules=[]), "at least one module"),
    "pattern in the list": Case(bad.config(target_modules=[r"(\w+\.?)+!"]), "must be a list of module names"),
    "pattern of ranks": Case(bad.config(rank_pattern={r"(a+)+": 2}), "must map module names"),
    "rank pattern as text": Case(bad.config(rank_pattern={"query": "many"}), "number"),
    "layers as text": Case(bad.config(layers_to_transform="all"), "block numbers"),
    "mapping as text": Case(bad.config(auto_mapping="bert"), "auto_mapping"),
    "base is absent": Case(bad.config(base_model_name_or_path="/nowhere/at/all"), "/nowhere/at/all"),
    "base is empty": Case(bad.config(base_model_name_or_path=None), "base_model_name_or_path must be"),
    "base is a number": Case(bad.config(base_model_name_or_path=5), "base_model_name_or_path"),
    "base is a file": Case(lambda f: bad.config(base_model_name_or_path=str(f / WEIGHTS))(f), "is a file"),
    "deeper base": Case(bad.sizes(num_hidden_layers=3), "lacks tensor"),
    "odd initialisation": Case(bad.config(init_lora_weights="pissa"), "init_lora_weights must be"),
    "bias": Case(bad.config(bias="all"), "cannot be imported"),
    "layer copies": Case(bad.config(layer_replication=[[0, 2]]), "cannot be imported"),
    "no task": Case(bad.config(task_type=None), "task_type must be"),
    "task as a list": Case(bad.config(task_type=["SEQ_CLS"]), "task_type"),
}
CASES = by_id({**ADAPTERS, "more": MORE})
IMPORT = ("import", "adapter", "--name", "taken")


@pytest.fixture(scope="module")
def good(tmp_path_factory, warm_home):
    """{False: a folder as peft writes it, True: the same in our own form}, both without a flaw."""
    place = tmp_path_factory.mktemp("good")
    by_peft(make_base("bert", place / "bert"), place / "theirs", **LINEAR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(warm_home))
        patch.setattr(fresh, "logits", answer_here)
        assert main(["import", str(place / "theirs"), "--name", "own"]) == 0
    shutil.move(warm_home / "adapters" / "own", place / "own")
    return {False: place / "theirs", True: place / "own"}


@pytest.fixture
def kept(terminal):
    """Where imported adapters lie; empty again afterwards."""
    yield terminal.home / "adapters"
    shutil.rmtree(terminal.home / "adapters" / "taken", ignore_errors=True)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_adapter_folder_is_one_sentence(case, good, terminal, kept, monkeypatch):
    found, folder = CASES[case], terminal.work / "adapter"
    shutil.copytree(good[case in OWN], folder)
    if case == "life cycle: changed after verify":
        assert terminal.taken("verify", "adapter")["ok"]
    found.put(folder)
    if case == "life cycle: two exporters":
        monkeypatch.setattr(fresh, "logits", first_import_another(folder, monkeypatch))
        assert_only_one(terminal, kept, found)
    elif found.outcome == "refused":
        terminal.refused(*IMPORT, words=found.words)
        assert list(kept.iterdir()) == []
    else:
        assert terminal.taken(*IMPORT)["checked"]
        names = sorted(p.name for p in (kept / "taken").iterdir())
        assert names == ["README.md", WEIGHTS, "reference.safetensors", "workbench_adapter.json"]


def first_import_another(folder, monkeypatch):
    """`fresh.logits` during which somebody else imports the same folder under the same name."""

    def logits(request, batches):
        monkeypatch.setattr(fresh, "logits", answer_here)
        import_folder(folder, "taken")
        return answer_here(request, batches)

    return logits


def assert_only_one(terminal, kept, case):
    """The first to finish keeps the name; the other is told, and what it would have written is nowhere."""
    ended, _, said, _ = terminal.call(*IMPORT)
    assert ended == 2
    assert said.count("\n") == 1
    assert case.words in said
    assert [p.name for p in kept.iterdir()] == ["taken"]
    assert terminal.taken("verify", str(kept / "taken"))["ok"]


def test_the_matrix_is_whole():
    assert {name: len(group) for name, group in ADAPTERS.items()} == {
        "folder": 10, "safetensors": 14, "values": 8, "config": 16, "base mismatch": 8, "life cycle": 4,
    }  # fmt: skip
    assert counted(*ADAPTERS.values()) == {"all": 60, "refused": 58, "warned": 0, "accepted": 2}
    assert len(CASES) == 60 + len(MORE)


def test_a_half_written_folder_is_never_seen(tmp_path):
    target = tmp_path / "adapters" / "mine"

    def broken(work: Path):
        (work / "a").write_text("half")
        raise OSError("power")

    with pytest.raises(OSError, match="power"):
        write_whole(target, broken)
    assert list(target.parent.iterdir()) == []


def test_two_writers_of_one_folder_leave_one_whole_folder(tmp_path):
    target, errors = tmp_path / "adapters" / "mine", []

    def write(word):
        def fill(work):
            for name in "abc":
                (work / name).write_text(word)

        try:
            for _ in range(5):
                write_whole(target, fill)
        except OSError as error:  # the other one was faster: a refusal, not a mixture
            errors.append(error)

    writers = [threading.Thread(target=write, args=(word,)) for word in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len({(target / name).read_text() for name in "abc"}) == 1
    kept = [p.name for p in target.parent.iterdir()]
    assert kept == ["mine"] or all(name.startswith(".") for name in kept if name != "mine")
