"""Predicting files with an adapter, and operations as jobs."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import export as exports
from workbench import operations
from workbench.core.errors import WorkbenchError
from workbench.core.paths import home
from workbench.evaluate import saved
from workbench.kernel import state


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        return list(csv.DictReader(path.open()))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predict_writes_one_row_per_row(trained: Any, tmp_path: Path, suffix: str) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("review,note\ngood film,x\nbad film,y\ngreat song,z\n")
    found = exports.predict(trained("lora"), rows, tmp_path / f"out{suffix}")
    assert found == {"rows": 3, "to": str(tmp_path / f"out{suffix}"), "labelled": False, "metrics": {}}
    table = read(tmp_path / f"out{suffix}")
    assert [list(r) for r in table] == [["id", "prediction", "score"]] * 3
    assert {r["prediction"] for r in table} <= {"pos", "neg"}
    assert all(0.5 <= float(r["score"]) <= 1 for r in table)


def test_predict_says_what_the_run_said(trained: Any, tmp_path: Path) -> None:
    run = trained("lora")
    source = saved.spec_of(run / "adapter", {}).data.source
    found = exports.predict(run, source, tmp_path / "all.jsonl")
    assert found["labelled"] is True
    assert set(found["metrics"]) >= {"accuracy"}
    said = {r["id"]: r for r in read(tmp_path / "all.jsonl")}
    kept = read(run / "predictions.parquet")
    assert len(kept) > 20
    for row in kept:
        assert said[row["id"]]["prediction"] == row["prediction"]
        assert said[row["id"]]["label"] == row["label"]
        assert said[row["id"]]["score"] == pytest.approx(row["score"], abs=1e-5)


def test_predict_answers_prompts_without_completions(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "good film"}\n{"prompt": "bad"}\n')
    found = exports.predict(trained("loreft", "llama"), tmp_path / "rows.jsonl", tmp_path / "out.jsonl")
    assert found["labelled"] is False
    assert all(isinstance(r["prediction"], str) for r in read(tmp_path / "out.jsonl"))


def test_predict_refuses_in_one_sentence(trained: Any, tmp_path: Path) -> None:
    rows, run = tmp_path / "rows.csv", trained("lora")
    rows.write_text("words\ngood film\n")
    (tmp_path / "there.csv").write_text("mine")
    for file, to, sentence in [
        (rows, "out.csv", "must have a column for text"),
        (rows, "out.xlsx", "must end in"),
        (rows, "there.csv", "new file"),
        (tmp_path / "none.csv", "out.csv", "must exist"),
    ]:
        with pytest.raises(WorkbenchError, match=sentence):
            exports.predict(run, file, tmp_path / to)
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.csv", "there.csv"]


def job(operation: str, runs: list[Path], name: str, **settings: Any) -> dict[str, Any]:
    request = {"operation": operation, "adapters": [str(r / "adapter") for r in runs], "settings": settings, "name": name}
    return operations.run_job(request, Path("unused"))


def test_the_average_of_one_adapter_is_that_adapter(trained: Any, near: None, tmp_path: Path) -> None:
    run = trained("lora")
    found = job("average", [run], "same")
    kept = Path(found["folder"])
    assert kept == home() / "adapters/same"
    before, after = state.read(run / "adapter"), state.read(kept)
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(before.tensors[k], after.tensors[k]) for k in before.tensors)
    assert after.meta["parents"] == [run.name]
    assert exports.verify(kept)["ok"] is True
    assert exports.export(kept, "peft", tmp_path / "out")["rows"] == 32


def test_phlora_of_full_has_the_asked_rank(trained: Any, near: None) -> None:
    found = job("phlora", [trained("full")], "low", rank=4)
    assert found["method"] == "lora"
    kept = state.read(Path(found["folder"]))
    assert kept.meta["config"]["rank"] == 4
    assert exports.verify(found["folder"])["rows"] == 8


def test_operations_refuse_and_keep_nothing(trained: Any) -> None:
    runs = [trained("lora"), trained("lora", rank=2)]
    for request, sentence in [
        (("average", runs, "uneven"), "same config"),
        (("avrage", runs, "typo"), "closest: average"),
        (("average", [trained("lora"), trained("loreft", "llama")], "bases"), "of one base model"),
        (("phlora", [trained("lora")], "not-full"), "trained base tensors"),
        (("average", [trained("lora")], "../out"), "--name must be"),
    ]:
        with pytest.raises(WorkbenchError, match=sentence):
            job(*request)
        assert not (home() / "adapters" / request[2]).exists()
    job("average", [trained("lora")], "taken")
    with pytest.raises(WorkbenchError, match="already"):
        job("average", [trained("lora")], "taken")
