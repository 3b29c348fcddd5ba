"""Foreign adapters: what is taken in answers like plain peft, and what is damaged, dangerous or of another base is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import workbench
from tests.bad_inputs.damaging import Damage, config, first
from workbench import export as exports
from workbench.core.errors import WorkbenchError
from workbench.core.paths import home
from workbench.evaluate import saved
from workbench.export import fresh
from workbench.kernel import state
from workbench.kernel.host import adapters_of

pytestmark = pytest.mark.usefixtures("near")


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


# --- what is refused (tests/bad_inputs holds the damaged folders) ----------------------------------------------------------


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


def test_bad_names_are_refused(good: Path) -> None:
    for name in ("../up", "", "a/b", ".hidden"):
        with pytest.raises(WorkbenchError, match="--name must be"):
            exports.import_folder(good, name)


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
