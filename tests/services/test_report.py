"""The report of a comparison, more seeds of it, and what can stand on a trade-off's axes."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from tests.services.planted import plant, run_spec
from tests.services.test_comparison import plant_with_predictions
from workbench.cli import main
from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import DataRef
from workbench.core.spec import parse_spec
from workbench.services import analyses, comparison, report, results, seeding, tradeoffs

EXPERIMENT = "first-aaaaaa"
EVIL = "<script>alert('x')</script>"


@pytest.fixture
def planted(home):
    """Two methods of the catalogue with three seeds, one of them with a hostile label, and a failed run."""
    for label, method, skill in (("lora", "lora", 1.2), (EVIL, "bitfit", 0.3)):
        for seed in range(3):
            run_id = f"{method}-s{seed}-report"
            plant_with_predictions(EXPERIMENT, label, seed, skill, method=method, base_method=method, config={}, run_id=run_id)
    plant(run_spec(EXPERIMENT, "lora", 9, run_id="lora-s9-report", config={}), "failed", reason="it broke.")
    return home


def visible(text):
    """A document without its scripts and styles, and the scripts."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.DOTALL), scripts


def test_the_report_holds_everything_and_loads_nothing(planted, tmp_path):
    path = report.write([EXPERIMENT], tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    body, scripts = visible(text)
    assert sum(len(s) > 1_000_000 for s in scripts) == 1  # plotly.js stands in it once
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=", text)
    assert sum("Plotly.newPlot" in s and len(s) < 500_000 for s in scripts) >= 9
    for said in (
        "lora has the highest mean accuracy", "Is it really better?", "Trade-offs", "Learning curves", "Confusion",
        "method: bitfit",
        "bundled/minilm", "torch 2", "abababababab", "measured by the runs", "it broke.",
        "1 of 7 runs did not finish",
    ):  # fmt: skip
        assert said in body, said
    assert body.count("<figcaption>") == text.count("<figure")
    assert not list(tmp_path.glob(".*"))


def test_a_label_is_never_markup_in_the_report(planted):
    body, scripts = visible(report.html(comparison.comparison([EXPERIMENT])))
    assert "alert(" in body
    assert "<script" not in body
    assert not any("<script>alert" in s for s in scripts if "Plotly.newPlot" in s)


def test_runs_that_differ_get_sections_of_their_own(planted):
    for seed in range(2):
        plant_with_predictions("other-bbbbbb", "lora", seed, 1.0, data=DataRef(source="bundled/docstrings", limit=7))
    body, _ = visible(report.html(comparison.comparison([EXPERIMENT, "other-bbbbbb"])))
    assert "not overlaid: data.limit" in body
    assert "Group 1:" in body
    assert "Group 2: lora (other-bbbbbb)" in body
    assert "no run of the experiment" not in body


def test_one_seed_and_unfinished_experiments_have_a_report_too(home):
    plant(run_spec("one-cccccc", "lora", 0, config={}))
    body, _ = visible(report.html(comparison.comparison(["one"])))
    assert "one seed, no interval" in body
    assert "There is no pair of methods to compare." in body
    plant(run_spec("none-dddddd", "lora", 0, config={}), "queued")
    assert "No run has finished yet." in visible(report.html(comparison.comparison(["none"])))[0]


def test_analyses_of_the_runs_are_in_the_report(planted, monkeypatch):
    series = [{"name": "lora", "x": ["lora"], "y": [0.2], "low": None, "high": None, "text": None}]
    figure = {"type": "bars", "title": "Forgetting", "x": "method", "y": "nats", "series": series, "reference": None}
    found = {"figures": {"forgetting": figure}, "sentences": [f"{EVIL} forgets more."], "tables": {}}
    of = {"job": 1, "runs": ["lora-s0-report"], "title": "", "ended": 1.0, "neighbours": True}
    monkeypatch.setattr(analyses, "done", lambda name=None: [{**of, "analysis": name or "forgetting"}])
    monkeypatch.setattr(analyses, "result", lambda job: found)
    body, _ = visible(report.html(comparison.comparison([EXPERIMENT])))
    assert "Analysis: forgetting" in body
    assert "forgets more." in body
    assert "Other work shared the machine" in body
    assert "<script" not in body


def test_nothing_is_left_where_the_report_cannot_be_written(planted, tmp_path):
    (tmp_path / "taken.html").mkdir()
    for place in (tmp_path / "no" / "x.html", tmp_path / "taken.html"):
        with pytest.raises(WorkbenchError, match=r"^--html must name a file that can be written; .* choose another place\.$"):
            report.write([EXPERIMENT], place)
    assert [p.name for p in tmp_path.glob("*") if p.name.startswith(".")] == []


def test_the_command_line_writes_it_and_prints_the_comparison(planted, tmp_path, capsys):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert main(["compare", "first", "--html", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "accuracy over seeds" in printed
    assert f"report written to {path}" in printed
    assert path.read_text().startswith("<!doctype html>")
    assert main(["compare", "first", "--html", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["experiment"] == EXPERIMENT
    assert main(["compare", "first", "--html", str(tmp_path / "no" / "x.html")]) == 2


def test_a_report_needs_no_streamlit(planted):
    code = (
        "import sys; from workbench.services import comparison, report; report.html(comparison.comparison(['first']));"
        "print([m for m in ('streamlit', 'torch', 'transformers', 'peft', 'mlflow') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_more_seeds_are_the_same_spec_with_the_next_seeds(planted):
    found = comparison.comparison([EXPERIMENT])
    spec = seeding.more_seeds(found.rows, [EVIL], 2)[0]
    assert spec["seeds"] == [3, 4]
    assert spec["methods"] == [{"method": "bitfit", "label": EVIL}]
    assert (spec["name"], spec["baseline"]) == ("first", False)
    assert [entry.label for entry in parse_spec(spec).methods] == [EVIL]
    both = seeding.more_seeds(found.rows, [EVIL, "lora"], 1)
    assert both[0]["seeds"] == [10]  # the failed run had seed 9
    assert seeding.expected_seconds(found.rows, ["lora", EVIL], 2) == pytest.approx(50.0)
    assert seeding.expected_seconds([{**found.rows[0], "train_seconds": None}], ["lora"], 2) is None


def test_more_seeds_of_labels_from_two_experiments_are_two_specs(planted):
    other = {"method": "lora", "base_method": "lora", "config": {}, "run_id": "lora-s0-other"}
    plant(run_spec("other-bbbbbb", "lora", 0, **other), accuracy=0.5)
    found = comparison.comparison([EXPERIMENT, "other-bbbbbb"])
    specs = seeding.more_seeds(found.rows, [f"lora ({EXPERIMENT})", "lora (other-bbbbbb)"], 1)
    assert [(s["name"], s["seeds"], s["methods"]) for s in specs] == [("first", [10], ["lora"]), ("other", [10], ["lora"])]


def test_more_seeds_of_nothing_are_refused(planted):
    with pytest.raises(WorkbenchError, match=r"^more seeds need at least one method and one seed; got 0 methods"):
        seeding.more_seeds(comparison.comparison([EXPERIMENT]).rows, [], 2)


def test_one_setting_with_further_seeds_is_one_label(planted):
    same = {"method": "lora", "base_method": "lora", "config": {}}
    plant(run_spec("again-eeeeee", "lora", 20, run_id="lora-s20", **same), accuracy=0.5)
    assert {row["label"] for row in results.rows([EXPERIMENT, "again-eeeeee"])[1]} == {"lora", EVIL}
    plant(run_spec("again-eeeeee", "lora", 0, run_id="lora-s0-again", **same), accuracy=0.5)  # a seed that is there already
    assert f"lora ({EXPERIMENT})" in {row["label"] for row in results.rows([EXPERIMENT, "again-eeeeee"])[1]}


def test_axes_have_step_time_and_what_analyses_found(planted, monkeypatch):
    known = {"lora-s0-report": {"latency_unmerged": 0.02, "latency_merged": 0.01, "forgetting": 0.3, "forgetting_kind": "drift"}}
    monkeypatch.setattr(analyses, "results_of", lambda runs: {run: known.get(run, {}) for run in runs})
    wide = tradeoffs.widened(comparison.comparison([EXPERIMENT]))
    row = wide.runs[wide.runs["run_id"] == "lora-s0-report"].iloc[0]
    assert row["step_seconds"] == pytest.approx(12.5 / 50)
    assert (row["latency_merged"], row["forgetting_drift"]) == (0.01, 0.3)
    assert pd.isna(row["forgetting_nll"])
    assert tradeoffs.choices(wide)[0] == "accuracy"
    assert "forgetting_drift" in tradeoffs.choices(wide)
    waiting = tradeoffs.missing(wide, ["accuracy", "latency_merged"])
    assert [(one.analysis, len(one.runs)) for one in waiting] == [("latency", 5)]
    front = comparison.front(wide, "step_seconds", "accuracy")
    assert list(front["n"]) == [3, 3]


def test_times_of_runs_with_neighbours_are_no_step_time(home):
    plant(run_spec("one-cccccc", "lora", 0, config={}), neighbours=True)
    assert tradeoffs.widened(comparison.comparison(["one"])).runs["step_seconds"].isna().all()
