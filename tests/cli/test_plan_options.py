"""`plan` with its options: dry runs, matched specs, calibration and what the table shows."""

import json

import pytest

from workbench.core import safe_yaml
from workbench.core.spec import load_spec
from workbench.services import dry_run


@pytest.fixture
def file(spec, tmp_path):
    """The spec as a YAML file."""
    path = tmp_path / "s.yaml"
    path.write_text(safe_yaml.dumps(spec))
    return path


def test_the_table_says_what_a_person_asks(wb, file):
    code, text, _ = wb("plan", file)
    assert code == 0
    assert next(w for w in text.splitlines() if w.startswith("label")).split() == [
        "label", "trainable", "share", "head", "sites", "memory", "fits", "seconds",
    ]  # fmt: skip
    assert "0.162%" in text  # 36,864 of the base's 22,713,216
    assert "Not calibrated" in text


def test_json_has_device_calibration_and_both_predictions(wb, file):
    _, found, _ = wb("plan", file, "--json")
    assert found["device"]["kind"] == "cpu"
    assert found["device"]["total_bytes"] >= found["device"]["free_bytes"] > 0
    assert found["calibration"].keys() == {"memory", "seconds", "sentence"}
    assert found["weights_bytes"] > 80_000_000
    lora = found["methods"][0]
    assert lora["predicted"] == lora["predicted_raw"]
    assert sum(lora["memory_parts"].values()) == lora["predicted_raw"]["peak_memory_bytes"]
    assert lora["steps"] == 2
    assert lora["share_of_base"] == pytest.approx(36_864 / 22_713_216, rel=1e-3)


def test_a_matched_spec_is_yaml_that_can_be_planned_again(wb, file, tmp_path):
    code, text, _ = wb("plan", file, "--match-parameters", "10000")
    assert code == 0
    again = tmp_path / "again.yaml"
    again.write_text(text.split("\nexperiment ")[0])
    assert load_spec(again).methods[0].config["rank"] == 1
    code, found, _ = wb("plan", file, "--match-parameters", "10000", "--json")
    assert found.keys() == {"matched", "plan"}
    assert found["matched"]["entries"][0]["trainable_params"] == found["plan"]["methods"][0]["trainable_params"] == 9216


def test_matched_time(wb, file):
    _, found, _ = wb("plan", file, "--match-seconds", "lora", "--json")
    assert "predicted" in found["matched"]["notes"][0]
    assert found["plan"]["methods"][1]["steps"] == found["matched"]["entries"][1]["value"]


def test_two_ways_at_once_are_refused(wb, file):
    code, _, err = wb("plan", file, "--match-parameters", "lora", "--match-seconds", "lora")
    assert code == 2
    assert "not allowed with" in err


@pytest.mark.parametrize(("wish", "labels"), [(["--dry-run"], ["lora", "head_only"]), (["--dry-run", "lora"], ["lora"])])
def test_dry_runs_stand_beside_the_prediction(wb, file, monkeypatch, wish, labels):
    figures = {"peak_memory_bytes": 5e7, "train_seconds": 1.5}
    asked = []

    def ask(spec, label):
        asked.append(label)
        return {"label": label, "measured": figures, "predicted": figures, "notes": ["1 other job ran."]}

    monkeypatch.setattr(dry_run, "ask", ask)
    code, found, _ = wb("plan", file, *wish, "--json")
    assert (code, asked) == (0, labels)
    assert [m["label"] for m in found["methods"] if "dry_run" in m] == labels
    _, text, _ = wb("plan", file, *wish)
    assert "1 other job ran." in text
    json.dumps(found, allow_nan=False)
