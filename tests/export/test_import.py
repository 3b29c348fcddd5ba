"""Foreign adapters: what is taken in answers like plain peft, and what is damaged, dangerous or of another base is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

import workbench
from workbench import export as exports
from workbench.core.errors import WorkbenchError
from workbench.core.paths import home
from workbench.evaluate import saved
from workbench.export import fresh
from workbench.kernel import state
from workbench.kernel.host import adapters_of

pytestmark = pytest.mark.usefixtures("near")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def by_peft(base: Path, to: Path, task: str = "SEQ_CLS", **options: Any) -> tuple[Path, Any]:
    """A folder that peft itself wrote, its tensors far from their start, and the peft model."""
    import peft
    import transformers

    kind = options.pop("kind", "Lora")
    auto = transformers.AutoModelForSequenceClassification if task == "SEQ_CLS" else transformers.AutoModelForCausalLM
    more = {"num_labels": 3} if task == "SEQ_CLS" else {}
    model = peft.get_peft_model(
        auto.from_pretrained(base, **more), getattr(peft, f"{kind}Config")(task_type=task, **options)
    ).eval()
    gen = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=gen))
    model.save_pretrained(to)
    return to, model


def rows(model: Any) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 25, (8, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


LINEAR = {"target_modules": ["query", "value"], "r": 4}
CASES = {
    "lora": ("bert", {**LINEAR, "lora_alpha": 3}),
    "rslora": ("bert", {**LINEAR, "use_rslora": True, "lora_alpha": 5}),
    "dora": ("bert", {**LINEAR, "use_dora": True}),
    "patterns": ("bert", {**LINEAR, "rank_pattern": {"query": 2}, "alpha_pattern": {"0.attention.self.value": 32}}),
    "some layers": ("bert", {"target_modules": ["query", "output.dense"], "layers_to_transform": [1]}),
    "uneven places": ("bert", {"target_modules": ["layer.0.attention.self.query", "layer.1.attention.self.value"]}),
    "ia3": ("bert", {"kind": "IA3", "target_modules": ["key", "value", "0.output.dense", "1.output.dense"]}),
    "prompt": ("bert", {"kind": "PromptTuning", "num_virtual_tokens": 3}),
    "llama": ("llama", {"target_modules": ["q_proj", "down_proj"], "task": "CAUSAL_LM"}),
    "prefix": ("llama", {"kind": "PrefixTuning", "num_virtual_tokens": 3, "task": "CAUSAL_LM"}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn"], "task": "CAUSAL_LM", "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_an_imported_adapter_answers_like_plain_peft(trained: Any, tmp_path: Path, name: str) -> None:
    family, options = CASES[name]
    options = dict(options)
    if name == "ia3":
        options["target_modules"] = ["key", "value", *(f"encoder.layer.{i}.output.dense" for i in range(2))]
        options["feedforward_modules"] = [f"encoder.layer.{i}.output.dense" for i in range(2)]
    if name == "some layers":
        options["target_modules"] = ["query", "intermediate.dense"]
    folder, model = by_peft(trained.base(family), tmp_path / "theirs", **options)
    called = "foreign-" + name.replace(" ", "-")
    found = exports.import_folder(folder, called)
    assert found["max_error"] <= 1e-5
    mine = workbench.load_adapter(None, found["folder"])
    batch = rows(model)
    with torch.no_grad():
        theirs = model(**batch).logits[:, -9:] if family != "bert" else model(**batch).logits
        ours = mine(**batch).logits
        with adapters_of(mine).only({}):
            assert float((mine(**batch).logits - ours).abs().max()) > 1e-3
    keep = batch["attention_mask"].bool() if theirs.dim() == 3 else slice(None)
    assert float((theirs - ours)[keep].abs().max()) <= 1e-5
    read_at_once = workbench.load_adapter(None, folder)  # the same without importing
    with torch.no_grad():
        assert torch.equal(read_at_once(**batch).logits, ours)
    assert exports.verify(found["folder"])["ok"] is True


@pytest.mark.parametrize(
    ("method", "format"), [("vera", "peft"), ("lora", "peft"), ("full", "bundle"), ("houlsby_adapter", "bundle")]
)
def test_our_own_exports_come_back(trained: Any, tmp_path: Path, method: str, format: str) -> None:
    run = trained(method)
    exports.export(run, format, tmp_path / "out")
    found = exports.import_folder(tmp_path / "out", f"back-{method}-{format}")
    before, after = state.read(run / "adapter"), state.read(Path(found["folder"]))
    assert before.meta["config"]["roles"] is None or before.meta["config"] == after.meta["config"]
    assert after.meta["labels"] == ["neg", "pos"]
    where = saved.place(run)
    rows_of = saved.some_test_rows(saved.revive(saved.read(where), where)).batches
    both = [saved.logits(saved.revive(saved.read(p), p), rows_of) for p in (where, Path(found["folder"]))]
    assert fresh.distance(*both)[0] <= 1e-5
    with pytest.raises(WorkbenchError, match="is called"):
        exports.import_folder(tmp_path / "out", f"back-{method}-{format}")


def test_load_adapter_puts_it_on_a_given_model(trained: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    run, base = trained("lora"), trained.base("bert")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    assert workbench.load_adapter(model, run, "mine") is model
    where = saved.place(run)
    stored = saved.stored_rows(saved.read(where)).batches[0].inputs
    with torch.no_grad():
        assert float((model.eval()(**stored).logits - saved.read(where).reference["logits"]).abs().max()) <= 1e-5
    other = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    with pytest.raises(WorkbenchError, match="head tensor"):
        workbench.load_adapter(other, run)
    with pytest.raises(WorkbenchError, match="belongs on a bert"):
        workbench.load_adapter(AutoModelForSequenceClassification.from_pretrained(trained.base("llama")), run)


# --- the corruption matrix -------------------------------------------------------------------------------------------

Damage = Callable[[Path], Any]


def config(**values: Any) -> Damage:
    """Change fields of adapter_config.json."""

    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def text(content: str) -> Damage:
    return lambda folder: (folder / CONFIG).write_text(content)


def raw(change: Callable[[bytes], bytes]) -> Damage:
    """Change the bytes of the safetensors file."""
    return lambda folder: (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def apply(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        save_file(change(found) or found, folder / WEIGHTS)

    return apply


def without(key: str) -> Damage:
    return tensors(lambda found: {k: v for k, v in found.items() if key not in k})


def first(value: Callable[[torch.Tensor], torch.Tensor], key: str = "lora_A") -> Damage:
    """Change the first tensor with `key` in its name."""

    def change(found: dict[str, torch.Tensor]) -> None:
        name = next(k for k in found if key in k)
        found[name] = value(found[name]).contiguous()

    return tensors(change)


def header(edit: Callable[[str], str]) -> Damage:
    """Change the JSON header of the safetensors file."""

    def change(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        new = edit(data[8 : 8 + size].decode()).encode()
        return len(new).to_bytes(8, "little") + new + data[8 + size :]

    return raw(change)


def outside(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere.safetensors")


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (lambda f: [p.unlink() for p in f.iterdir()], "has neither"),
    "config only": (lambda f: (f / WEIGHTS).unlink(), "it has no weights"),
    "weights only": (lambda f: (f / CONFIG).unlink(), "has neither"),
    "two weights": (lambda f: (f / "adapter_model.bin").write_bytes(b"x"), "one file of weights"),
    "pickle only": (as_pickle, "save the adapter again as safetensors"),
    "link to outside": (outside, "must not lead out"),
    "0 bytes": (raw(lambda d: b""), "whole safetensors"),
    "7 bytes": (raw(lambda d: d[:7]), "whole safetensors"),
    "cut header": (raw(lambda d: d[:50]), "whole safetensors"),
    "cut body": (raw(lambda d: d[:-9]), "whole safetensors"),
    "tail bytes": (raw(lambda d: d + b"PK\x03\x04junk"), "whole safetensors"),
    "header 2^63": (raw(lambda d: (2**63).to_bytes(8, "little") + d[8:]), "whole safetensors"),
    "header 101 MB": (raw(lambda d: (101_000_000).to_bytes(8, "little") + d[8:]), "whole safetensors"),
    "bad UTF-8": (raw(lambda d: d[:10] + b"\xff\xfe" + d[12:]), "whole safetensors"),
    "unknown dtype": (header(lambda h: h.replace('"F32"', '"F33"', 1)), "whole safetensors"),
    "shape overflow": (header(lambda h: h.replace("[4,32]", "[4294967296,4294967296]", 1)), "whole safetensors"),
    "overlap": (header(lambda h: h.replace('"data_offsets":[512', '"data_offsets":[0', 1)), "whole safetensors"),
    "no tensors": (lambda f: (f / WEIGHTS).write_bytes(save({})), "must hold tensors"),
    "NaN": (first(lambda t: t * float("nan")), "must be finite"),
    "infinity": (first(lambda t: t / 0), "must be finite"),
    "all zero": (tensors(lambda d: {k: torch.zeros_like(v) for k, v in d.items()}), "every one is 0"),
    "1e30": (first(lambda t: t + 1e30), "must hold trained values"),
    "integers": (first(lambda t: t.int()), "floating-point"),
    "wrong shape": (first(lambda t: t[:, :-1]), "must have shape"),
    "wrong rank": (first(lambda t: t[:2]), "must have the rank 4"),
    "missing tensor": (without("0.attention.self.value.lora_B"), "lacks tensor"),
    "missing head": (without("classifier"), "lacks tensor"),
    "unexpected tensor": (
        tensors(lambda d: {**d, "base_model.model.bert.pooler.dense.lora_A.weight": torch.ones(4, 32)}),
        "unexpected tensor",
    ),
    "not JSON": (text("{'r': 4}"), "valid JSON"),
    "not an object": (text("[1, 2]"), "must be a JSON object"),
    "twin keys": (text('{"r": 4, "r": 5}'), "a key appears twice"),
    "deep": (text("[" * 100_000), "valid JSON"),
    "NaN in JSON": (text('{"lora_alpha": NaN}'), "valid JSON"),
    "unknown type": (config(peft_type="MAGIC"), "peft_type must be one of"),
    "type as list": (config(peft_type=["LORA"]), "peft_type must be one of"),
    "another type": (config(peft_type="IA3"), "cannot be imported|does not know"),
    "r 0": (config(r=0), "r must be a whole number from 1"),
    "r 1e9": (config(r=10**9), "r must be a whole number from 1"),
    "r true": (config(r=True), "r must be a whole number"),
    "alpha infinite": (config(lora_alpha=1e400), "valid JSON"),
    "alpha negative": (config(lora_alpha=-1), "lora_alpha must be a number"),
    "targets match nothing": (config(target_modules=["q_proj"]), "matches nothing"),
    "one wrong target": (config(target_modules=["query", "value", "valeu"]), "matches nothing"),
    "target without a role": (config(target_modules=["query", "value", "pooler.dense"]), "has no role"),
    "runaway pattern": (config(target_modules=r"(\w+\.?)+!"), "must be a list of module names"),
    "pattern in the list": (config(target_modules=[r"(\w+\.?)+!"]), "must be a list of module names"),
    "pattern of ranks": (config(rank_pattern={r"(a+)+": 2}), "must map module names"),
    "import: auto_mapping": (config(auto_mapping={"base_model_class": "x", "parent_library": "os"}), "would import other code"),
    "import: megatron": (config(megatron_core="evil.core", megatron_config={"a": 1}), "cannot be imported"),
    "import: tokenizer": (config(tokenizer_kwargs={"trust_remote_code": True}), "does not know"),
    "base is a URL": (config(base_model_name_or_path="https://evil.example/model"), "base_model_name_or_path must be"),
    "base is absent": (config(base_model_name_or_path="/nowhere/at/all"), "/nowhere/at/all"),
    "base is empty": (config(base_model_name_or_path=None), "base_model_name_or_path must be"),
    "newer field": (config(use_quantum=True), "does not know"),
    "odd initialisation": (config(init_lora_weights="pissa"), "init_lora_weights must be"),
    "bias": (config(bias="all"), "cannot be imported"),
    "layer copies": (config(layer_replication=[[0, 2]]), "cannot be imported"),
    "head names the base": (config(modules_to_save=["classifier", "embeddings"]), "is the base's"),
    "no task": (config(task_type=None), "task_type must be"),
}


@pytest.fixture(scope="module")
def good(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without a flaw."""
    return by_peft(trained.base("bert"), tmp_path_factory.mktemp("good") / "adapter", **LINEAR)[0]


def refused(folder: Path, sentence: str) -> None:
    """One sentence, and nothing is kept."""
    kept = home() / "adapters"
    before = sorted(p.name for p in kept.iterdir()) if kept.is_dir() else []
    with pytest.raises(WorkbenchError, match=sentence) as error:
        exports.import_folder(folder, "damaged")
    said = str(error.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 500
    assert (sorted(p.name for p in kept.iterdir()) if kept.is_dir() else []) == before


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_sentence(good: Path, tmp_path: Path, name: str) -> None:
    damage, sentence = DAMAGES[name]
    folder = tmp_path / "adapter"
    shutil.copytree(good, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    damage(folder)
    if name not in ("link to outside",):
        assert {p.name: p.read_bytes() for p in folder.iterdir()} != before, "the damage did nothing"
    refused(folder, sentence)


def test_missing_folders_files_and_bad_names(good: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "must be a folder")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "must be a folder")
    for name in ("../up", "", "a/b", ".hidden"):
        with pytest.raises(WorkbenchError, match="--name must be"):
            exports.import_folder(good, name)


def test_harmless_extras_are_ignored(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(good, folder)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    (folder / "torch.py").write_text("raise SystemExit('ran')")
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    kept = Path(exports.import_folder(folder, "with-extras")["folder"])
    assert sorted(p.name for p in kept.iterdir()) == ["README.md", WEIGHTS, "reference.safetensors", "workbench_adapter.json"]


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"hidden_size": 48, "num_attention_heads": 4}, "must have shape"),
        ({"num_hidden_layers": 1}, "unexpected tensor"),
        ({"num_hidden_layers": 3}, "lacks tensor"),
    ],
)
def test_another_base_is_refused(good: Path, tmp_path: Path, sizes: dict[str, int], sentence: str) -> None:
    from transformers import AutoConfig, AutoModel

    from tests.export.conftest import WORDS

    folder = tmp_path / "adapter"
    shutil.copytree(good, folder)
    source = json.loads((good / CONFIG).read_text())["base_model_name_or_path"]
    other = AutoConfig.from_pretrained(source, **sizes)
    assert other.vocab_size == len(WORDS) + 4
    shutil.copytree(source, tmp_path / "base")
    AutoModel.from_config(other).save_pretrained(tmp_path / "base")
    config(base_model_name_or_path=str(tmp_path / "base"))(folder)
    refused(folder, sentence)


def test_a_quantised_base_and_another_architecture_are_refused(trained: Any, good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(good, folder)
    shutil.copytree(trained.base("bert"), tmp_path / "base")
    facts = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps({**facts, "quantization_config": {"quant_method": "gptq"}}))
    config(base_model_name_or_path=str(tmp_path / "base"))(folder)
    refused(folder, "must not be quantised")
    config(base_model_name_or_path=str(trained.base("llama")))(folder)
    refused(folder, "matches nothing|lacks tensor|unexpected")


def test_an_import_that_answers_otherwise_is_not_kept(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fresh.logits
    monkeypatch.setattr(fresh, "logits", lambda request, batches: [t + 1e-3 for t in honest(request, batches)])
    refused(good, "must behave like the run")


# --- exports that were changed afterwards ----------------------------------------------------------------------------


def edited(name: str, **values: Any) -> Damage:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


CHANGED: dict[str, tuple[str, Damage, str]] = {
    "weights": ("peft", first(lambda t: t + 1e-3), "was changed since the export"),
    "config": ("peft", config(lora_alpha=99), "was changed since the export"),
    "rows": ("bundle", lambda f: (f / "check/rows.safetensors").unlink(), "is missing or was changed"),
    "manifest gone": ("merged", lambda f: (f / "workbench_export.json").unlink(), "must hold"),
    "a file was added": ("merged", lambda f: (f / "adapter_config.json").write_text("{}"), "did not write"),
    "manifest is a list": ("peft", lambda f: (f / "workbench_export.json").write_text("[]"), "must be the JSON"),
    "manifest cut": ("peft", lambda f: (f / "workbench_export.json").write_text('{"format_version": 1'), "must be the JSON"),
    "files outside": (
        "peft",
        edited("workbench_export.json", files={"check/rows.safetensors": "0", "../../x": "0"}),
        "changed|lead out",
    ),
    "code for the base": (
        "peft",
        edited(
            "workbench_export.json",
            load={"kind": "peft", "dtype": "float32", "auto": "AutoModelForCausalLM", "settings": {"trust_remote_code": True}},
        ),
        "num_labels and pad_token_id only",
    ),
    "another loader": (
        "peft",
        edited("workbench_export.json", load={"kind": "peft", "dtype": "float32", "auto": "AutoTokenizer", "settings": {}}),
        "must be the JSON",
    ),
    "other base weights": (
        "peft",
        edited("workbench_export.json", base={"source": "bundled/minilm", "sha256": "0" * 64}),
        "trained on",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_verify_refuses_what_was_changed(trained: Any, tmp_path: Path, name: str) -> None:
    format, damage, sentence = CHANGED[name]
    exports.export(trained("lora"), format, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(WorkbenchError, match=sentence) as error:
        exports.verify(tmp_path / "out")
    assert "\n" not in str(error.value)


def test_verify_sees_a_base_that_changed(trained: Any, tmp_path: Path) -> None:
    exports.export(trained("lora"), "peft", tmp_path / "out")
    path = trained.base("bert") / "model.safetensors"
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        for check in (exports.verify, lambda f: exports.export(trained("lora"), "bundle", tmp_path / "again")):
            with pytest.raises(WorkbenchError, match="base weights it was trained on"):
                check(tmp_path / "out")
    finally:
        path.write_bytes(before)
    assert not (tmp_path / "again").exists()
    assert exports.verify(tmp_path / "out")["ok"] is True


def test_verify_a_runs_own_adapter_and_a_wrong_model(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exports.verify(trained("lora"))["max_error"] <= 1e-4
    exports.export(trained("lora"), "merged", tmp_path / "out")
    honest = fresh.logits
    monkeypatch.setattr(fresh, "logits", lambda request, batches: [t * 1.1 for t in honest(request, batches)])
    with pytest.raises(WorkbenchError, match="must give the logits"):
        exports.verify(tmp_path / "out")
