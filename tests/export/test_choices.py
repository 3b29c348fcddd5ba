"""Runs on choices: an encoder-decoder leaves as other libraries read it, and a file of questions is answered."""

import json
from pathlib import Path

import pytest

from tests.train import planted
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.export.exporting import export
from workbench.export.predicting import predict


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Family -> the folder of a run of T-Few on planted choices; in a home of its own."""
    folder = tmp_path_factory.mktemp("choices")
    done: dict[str, Path] = {}

    def trained(family: str) -> Path:
        if family not in done:
            data = planted.rows("choices", folder / "rows")
            spec = planted.spec(planted.base(family, folder / family), "multiple_choice", data, "ia3", recipe={"recipe": "tfew"})
            spec = spec.model_copy(update={"run_id": f"choices-{family}"})
            done[family] = run_folder(spec.run_id)
            done[family].mkdir(parents=True)
            (done[family] / "spec.yaml").write_text(safe_yaml.dumps(spec.model_dump(mode="json")))
            planted.go(spec, done[family])
        return done[family]

    return trained


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_an_encoder_decoder_is_exported_and_answers_alike(runs, tmp_path, form):
    found = export(runs("t5") / "adapter", form, tmp_path / "out")
    assert found["max_error"] < 1e-4
    assert found["rows_from"] == "test rows"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_questions_of_a_file_are_answered_with_a_choice(runs, tmp_path, family):
    file, to = tmp_path / "asked.jsonl", tmp_path / "said.jsonl"
    rows = [{"text": text, "choices": ["very nice", "so"]} for text in ("good film", "the book")]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert not predict(runs(family) / "adapter", file, to)["labelled"]
    said = [json.loads(line) for line in to.read_text().splitlines()]
    assert all(row["prediction"] in ("very nice", "so") and 0.5 <= row["score"] <= 1 for row in said)
    file.write_text("\n".join(json.dumps({**row, "label": "so"}) for row in rows))
    assert set(predict(runs(family) / "adapter", file, tmp_path / "b.jsonl")["metrics"]) == {"accuracy", "loss"}


def test_a_question_with_one_choice_is_one_sentence(runs, tmp_path):
    (tmp_path / "asked.jsonl").write_text(json.dumps({"text": "good film", "choices": ["so"]}))
    with pytest.raises(WorkbenchError, match="row 1 must offer at least two different choices"):
        predict(runs("llama") / "adapter", tmp_path / "asked.jsonl", tmp_path / "said.csv")
