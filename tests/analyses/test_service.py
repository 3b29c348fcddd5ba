"""What screens and the command line call: asking, queueing, reading results, and the cheap figures for comparisons."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import fresh, wb
from tests.services.planted import plant, run_spec
from tracking import events as tracked
from workbench.analyses import find
from workbench.analyses.efficiency import best
from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Phase, Step
from workbench.core.paths import home as home_folder
from workbench.core.paths import jobs_db, run_folder
from workbench.jobs import client
from workbench.jobs.store import Store
from workbench.services import analyses
from workbench.tasks import find as find_task

__all__ = ["fresh", "wb"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def queued(home, monkeypatch):
    """Requests that were queued instead of run."""
    found = []
    monkeypatch.setattr(client, "submit_short", lambda kind, request: found.append((kind, request)) or 7)
    return found


def adapter(run_id, place="runs"):
    """The JSON of an adapter, enough to be one."""
    folder = home_folder() / place / run_id / ("adapter" if place == "runs" else "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workbench_adapter.json").write_text(json.dumps({"label": run_id}))
    return folder


def trained(label, seed=0, experiment="mine-aaaaaa", state="finished"):
    spec = run_spec(experiment, label, seed)
    plant(spec, state)
    adapter(spec.run_id)
    return spec.run_id


def told(kind, per_run, neighbours=False, state="finished"):
    """A finished analysis in the store; returns its number."""
    with Store(jobs_db()) as store:
        name = f"analyse-{len(store.rows())}"
        row = {"run_id": name, "experiment": "", "name": f"{kind} of", "kind": "analyse", "label": "", "method": "", "seed": None,
               "spec": f"runs/{name}/request.json"}  # fmt: skip
        job = store.add([row])[0]
        store.claim("short", ("analyse",))
        store.began(job, 1, 1, None)
        store.end(job, 1, state, None)
    result = {**analyses.EMPTY, "analysis": kind, "runs": list(per_run), "per_run": per_run, "neighbours": neighbours}
    run_folder(name).mkdir(parents=True)
    (run_folder(name) / "verdict.json").write_text(json.dumps({"state": state, "attempt": 1, "result": result}))
    return job


def test_known_needs_no_torch(home):
    code = (
        "import sys; from workbench.services import analyses; print([a['key'] for a in analyses.known()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['efficiency', 'forgetting', 'latency', 'movement', 'shrinking', 'survey'] False"


def test_an_analysis_is_queued_with_what_it_needs_to_know(queued):
    run = trained("lora")
    assert analyses.analyse("forgetting", [run], {"texts": 8}, "mine") == 7
    ((kind, request),) = queued
    assert kind == "analyse"
    (one,) = request.pop("runs")
    assert request == {"analysis": "forgetting", "settings": {"texts": 8}, "name": "mine", "experiment": "mine-aaaaaa"}
    assert one["reference"] == run
    assert one["adapter"] == str(run_folder(run) / "adapter")
    assert one["row"]["trainable_params"] == 36864
    assert one["history"] == []


def test_experiments_stand_for_their_finished_runs_and_each_run_comes_once(queued):
    runs = [trained("lora"), trained("bitfit")]
    trained("full", state="failed")
    analyses.analyse("movement", ["mine", runs[1]])
    assert [r["reference"] for r in queued[0][1]["runs"]] == runs
    assert queued[0][1]["name"] == f"movement of mine, {runs[1]}"


def test_the_full_run_of_the_experiment_is_added_where_it_is_needed(queued):
    run, full = trained("lora"), trained("full")
    trained("full", experiment="other-bbbbbb")
    analyses.analyse("efficiency", [run])
    analyses.analyse("movement", [run])
    assert [[r["reference"] for r in request["runs"]] for _, request in queued] == [[run, full], [run]]


def test_an_imported_adapter_comes_without_a_run(queued):
    adapter("adapter", "adapters")
    analyses.analyse("movement", ["adapter"])
    (one,) = queued[0][1]["runs"]
    assert (one["reference"], one["label"]) == ("adapter", "adapter")
    assert "row" not in one


@pytest.mark.parametrize(
    ("name", "references", "settings", "words"),
    [
        ("forgeting", ["lora-s0"], {}, "no analysis is called 'forgeting'; closest: forgetting"),
        ("forgetting", ["lora-s0"], {"texts": 1}, "forgetting.texts must be at least 4"),
        ("forgetting", [], {}, "takes 1 or more runs; got 0"),
        ("forgetting", ["nothing"], {}, "no job is called 'nothing'"),
        ("forgetting", ["failing"], {}, "must have a finished run to look at; failing has none"),
    ],
)
def test_bad_input_is_refused_before_anything_is_queued(queued, name, references, settings, words):
    trained("lora")
    plant(run_spec("failing-cccccc", "full", 0), "failed")
    with pytest.raises(WorkbenchError, match=words):
        analyses.analyse(name, references, settings)
    assert queued == []


def test_results_of_takes_the_newest_figures_and_leaves_disturbed_times_out(home):
    told("forgetting", {"a": {"forgetting": 0.5, "forgetting_kind": "nll"}, "b": {"forgetting": 0.1, "forgetting_kind": "nll"}})
    told("latency", {"a": {"latency_merged": 1.0}})
    told("latency", {"a": {"latency_merged": 9.0}, "b": {"latency_merged": 9.0}}, neighbours=True)
    newest = told("forgetting", {"a": {"forgetting": 0.7, "forgetting_kind": "nll"}})
    told("forgetting", {"a": {"forgetting": 9.9}}, state="failed")
    assert analyses.results_of(["a", "b", "c"]) == {
        "a": {"forgetting": 0.7, "forgetting_kind": "nll", "latency_merged": 1.0},
        "b": {"forgetting": 0.1, "forgetting_kind": "nll"},
        "c": {},
    }
    assert analyses.done("forgetting")[0]["job"] == newest
    assert [one["analysis"] for one in analyses.done()] == ["forgetting", "latency", "latency", "forgetting"]
    assert analyses.result(newest)["per_run"]["a"]["forgetting"] == 0.7


def test_a_verdict_is_read_once(home, monkeypatch):
    told("forgetting", {"a": {"forgetting": 0.5}})
    analyses.results_of(["a"])
    monkeypatch.setattr(analyses.wire, "read_json", lambda path: pytest.fail("read again"))
    assert analyses.results_of(["a"])["a"] == {"forgetting": 0.5}


def test_a_result_of_another_kind_of_job_is_refused(home):
    trained("lora")
    with pytest.raises(WorkbenchError, match="must be an analysis; it is of kind train"):
        analyses.result(1)


def happened(folder, *emitted):
    file = tracked.EventFile(folder, 1)
    for event in emitted:
        file.append(event)
    file.close()


def step(n):
    return Step(n, 1.0, 1e-3, 0.5, 4)


def seen(n, accuracy):
    return Evaluated(n, "validation", {"accuracy": accuracy})


def test_the_steps_to_the_best_are_those_of_the_runs_own_history_not_the_last(tmp_path):
    happened(tmp_path, Phase("training", 4), step(1), step(2), seen(2, 0.6), step(3), seen(3, 0.9), step(4), seen(4, 0.7),
             Evaluated(4, "test", {"accuracy": 0.99}))  # fmt: skip
    points = analyses.history(tmp_path)
    top = best(points, find_task("text_classification"))
    logged = {r["step"]: f["eval/accuracy"] for r, _ in tracked.read(tmp_path) if "eval/accuracy" in (f := tracked.figures(r))}
    assert top["step"] == max(logged, key=lambda s: logged[s]) == 3
    assert (top["seconds"], top["examples"]) == (1.5, 12)
    assert [p["step"] for p in points] == [2, 3, 4]


def test_a_phase_that_was_left_costs_but_does_not_count_as_found(tmp_path):
    happened(tmp_path, Phase("loading"), Phase("first", 2), step(1), step(2), seen(2, 0.95), Phase("second", 2), step(3), step(4),
             seen(4, 0.7), Phase("evaluating"))  # fmt: skip
    (point,) = analyses.history(tmp_path)
    assert (point["step"], point["seconds"], point["examples"]) == (4, 2.0, 16)
    assert analyses.history(tmp_path, attempt=2) == []


@pytest.mark.parametrize(("kept", "expected"), [(0, [(1, 4, 0.5), (2, 8, 0.9)]), (3, [(2, 8, 0.95), (3, 12, 0.1)])])
def test_of_a_search_only_the_kept_rate_counts(tmp_path, kept, expected):
    """The first rate stops early, so its numbers end before the second's begin."""
    happened(tmp_path, Phase("rate 0.1", 3, after=0), Phase("rate 0.1, training", 3), step(1), seen(1, 0.5), step(2),
             seen(2, 0.9), Phase("rate 0.01", 3, after=3), Phase("rate 0.01, training", 3), step(4), step(5), seen(5, 0.95),
             step(6), seen(6, 0.1), Phase("one is kept", 3, after=kept), Phase("evaluating"))  # fmt: skip
    points = analyses.history(tmp_path)
    assert [(p["step"], p["examples"], p["metrics"]["accuracy"]) for p in points] == expected


def test_the_command_line_lists_and_refuses(wb):
    code, found, _ = wb("analyses", "--json")
    assert code == 0
    assert [a["key"] for a in found] == ["efficiency", "forgetting", "latency", "movement", "shrinking", "survey"]
    code, text, _ = wb("analyses")
    assert "Representation" not in text
    assert "forgetting" in text
    code, _, err = wb("analyse", "forgetting", "nothing")
    assert code == 2
    assert "no job is called 'nothing'" in err


def test_the_command_line_prints_sentences_and_tables(wb, monkeypatch):
    found = {**analyses.EMPTY, "job": 7, "state": "finished", "reason": None, "neighbours": True, "sentences": ["it is so."],
             "tables": {"runs": [{"label": "lora", "x": 0.5, "gone": None}], "none": []}}  # fmt: skip
    asked = []
    monkeypatch.setattr(analyses, "analyse", lambda *given: asked.append(given) or 7)
    monkeypatch.setattr("workbench.services.adapters.finish", lambda job: {})
    monkeypatch.setattr(analyses, "result", lambda job: found)
    code, text, err = wb("analyse", "forgetting", "a", "b", "--set", "texts=8", "--name", "mine")
    assert (code, err) == (0, "")
    assert asked == [("forgetting", ["a", "b"], {"texts": 8}, "mine")]
    assert text.splitlines()[0] == "it is so."
    assert "Other jobs ran meanwhile" in text
    assert "label    x\nlora   0.5" in text
    assert "gone" not in text
    assert wb("analyse", "survey", "--json")[1]["tables"] == found["tables"]
    found |= {"state": "failed", "reason": "the base is gone."}
    assert wb("analyse", "survey")[::2] == (1, "the base is gone.\n")


def test_every_registered_analysis_is_known(home):
    assert [one["key"] for one in analyses.known()] == [find(one["key"]).key for one in analyses.known()]
