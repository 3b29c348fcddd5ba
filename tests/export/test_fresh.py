"""The same with real new processes: plain peft and plain transformers without this project, and our own loader."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench import export as exports
from workbench.core.errors import WorkbenchError
from workbench.core.paths import ROOT
from workbench.evaluate import saved
from workbench.export import child, fresh, peft
from workbench.tasks import Batch

PLAIN = """
import json, sys, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification as Model
rows = load_file(sys.argv[1])
for base, folder, wanted in json.loads(sys.argv[2]):
    model = PeftModel.from_pretrained(Model.from_pretrained(base, num_labels=2), folder).eval()
    with torch.no_grad():
        print(float((model(**rows).logits - load_file(wanted)["logits"]).abs().max()))
print("workbench" in sys.modules, any("workbench" in p for p in sys.path))
"""


def test_plain_peft_reads_every_peft_folder_where_this_project_does_not_exist(trained: Any, tmp_path: Path, near: None) -> None:
    jobs, batch = [], None
    for method in ("lora", "dora", "ia3", "prompt_tuning", "vera"):
        where = saved.place(trained(method))
        revived = saved.revive(saved.read(where), where)
        batch = saved.stored_rows(revived.stored).batches[0]
        exports.export(where, "peft", tmp_path / method)
        save_file({"logits": saved.logits(revived, [batch])[0]}, tmp_path / f"{method}.safetensors")
        jobs.append((str(trained.base("bert")), str(tmp_path / method), str(tmp_path / f"{method}.safetensors")))
    save_file({k: v.contiguous() for k, v in batch.inputs.items()}, tmp_path / "rows.safetensors")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PLAIN, str(tmp_path / "rows.safetensors"), json.dumps(jobs)],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *gaps, last = done.stdout.splitlines()
    assert last == "False False"
    assert [float(g) <= 1e-4 for g in gaps] == [True] * 5


@pytest.mark.parametrize(
    ("method", "family", "format"), [("lora", "bert", "peft"), ("full", "llama", "merged"), ("loreft", "llama", "bundle")]
)
def test_exports_are_checked_in_a_new_process(trained: Any, tmp_path: Path, method: str, family: str, format: str) -> None:
    found = exports.export(trained(method, family), format, tmp_path / "out")
    assert found["checked"] is True
    assert found["max_error"] <= 1e-4
    assert found["metric"] == ("accuracy" if family == "bert" else "perplexity")
    assert found["metric_after"] == pytest.approx(found["metric_before"], rel=1e-4)


def test_verify_in_a_new_process_and_its_one_sentence(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("lora")
    revived = saved.revive(saved.read(run / "adapter"), run / "adapter")
    with monkeypatch.context() as patch:
        patch.setattr(fresh, "logits", lambda request, batches: saved.logits(revived, batches))
        exports.export(run, "peft", tmp_path / "out")
    assert exports.verify(tmp_path / "out")["ok"] is True
    broken = {
        "kind": "merged",
        "folder": str(tmp_path / "nothing"),
        "dtype": "float32",
        "auto": "AutoModelForSequenceClassification",
    }
    batch = Batch({"input_ids": torch.ones(1, 2, dtype=torch.long)}, {}, torch.zeros(0), ())
    with pytest.raises(WorkbenchError, match="must load in a fresh process") as error:
        fresh.logits(broken, [batch])
    assert "\n" not in str(error.value)


def test_a_plain_process_has_no_way_to_this_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), "/somewhere"]))
    assert fresh._environment(plain=True)["PYTHONPATH"] == "/somewhere"
    assert fresh._environment(plain=False)["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    lines = Path(child.__file__).read_text().splitlines()
    assert [line for line in lines if line.startswith(("import workbench", "from workbench"))] == []


def test_a_child_that_imports_us_or_answers_nan_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch({"input_ids": torch.ones(1, 2, dtype=torch.long)}, {}, torch.zeros(0), ())
    monkeypatch.setattr(fresh, "_run", lambda *_: {"imported_workbench": True})
    with pytest.raises(WorkbenchError, match="without the workbench"):
        fresh.logits({"kind": "peft"}, [batch])
    save_file({"0": torch.tensor([float("nan")])}, tmp_path / "nan.safetensors")
    with pytest.raises(WorkbenchError, match="finite logits"):
        fresh.read_answer(tmp_path / "nan.safetensors")
    assert fresh.distance([torch.zeros(2, 3)], [torch.zeros(2, 4)]) == (float("inf"), float("inf"))
    assert fresh.distance([torch.tensor([1.0, 2.0])], [torch.tensor([1.5, 2.0])]) == (0.5, 0.25)


def test_module_names_in_a_peft_folder_are_whole_paths(trained: Any, tmp_path: Path, near: None) -> None:
    exports.export(trained("lora"), "peft", tmp_path / "out")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    places = [(i, n) for i in range(2) for n in ("query", "value")]
    assert config["target_modules"] == [f"bert.encoder.layer.{i}.attention.self.{n}" for i, n in places]
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["classifier"]
    stored = load_file(tmp_path / "out/adapter_model.safetensors")
    assert {k.removeprefix(peft.PREFIX) for k in stored if "classifier" in k} == {"classifier.weight", "classifier.bias"}
