"""Every command: its good path where nothing needs to be trained, its exit code and its JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.planted import plant, run_spec
from workbench.cli import main
from workbench.core import safe_yaml
from workbench.core.paths import run_folder
from workbench.jobs import client
from workbench.jobs.store import STATES
from workbench.services import experiments

ROOT = Path(__file__).parents[2]
METHOD = {
    "key",
    "title",
    "family",
    "kind",
    "engine",
    "paper",
    "url",
    "mergeable",
    "trainable_params_formula",
    "presets",
    "preset_of",
}


@pytest.fixture
def file(spec, tmp_path):
    """The spec as a file."""
    path = tmp_path / "spec.yaml"
    path.write_text(safe_yaml.dumps(spec))
    return path


@pytest.fixture
def runs(home):
    """One finished, one failed and one waiting run."""
    plant(run_spec("mine-aaaaaa", "lora", 0))
    plant(run_spec("mine-aaaaaa", "lora", 1), "failed", reason="the disk is full; free some space and retry the run.")
    plant(run_spec("mine-aaaaaa", "full", 0), "queued")


def test_methods(wb):
    code, found, _ = wb("methods", "--json")
    assert code == 0
    assert all(m.keys() >= METHOD for m in found)
    by_key = {m["key"]: m for m in found}
    assert by_key["houlsby_adapter"]["preset_of"] == "bottleneck"
    assert {m["kind"] for m in found} <= {"weight", "activation", "token", "side", "select", "composite"}
    assert {m["engine"] for m in found} == {"native", "peft"}
    assert by_key["lora"]["trainable_params_formula"] == "r (d_in + d_out)."
    code, text, _ = wb("methods")
    assert code == 0
    assert text.startswith("key ")


def test_plan(wb, file):
    code, found, err = wb("plan", file, "--json")
    assert (code, err) == (0, "")
    assert found["experiment"] == "small"
    lora, head = found["methods"]
    for one in (lora, head):
        assert one.keys() >= {"method", "trainable_params", "head_params", "sites", "predicted", "problems"}
        assert one["predicted"].keys() == {"trainable_params", "peak_memory_bytes", "train_seconds"}
    assert (lora["trainable_params"], lora["sites"], lora["head_params"]) == (36_864, 12, 770)
    assert (head["trainable_params"], head["head_params"], head["problems"]) == (0, 770, [])
    assert lora["predicted"]["trainable_params"] == 36_864
    code, text, _ = wb("plan", file)
    assert "36,864" in text


def test_a_plan_with_a_problem_shows_both(wb, spec, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(safe_yaml.dumps({**spec, "methods": [{"method": "lora", "roles": ["cross.q"]}, "lora"]}))
    code, found, err = wb("plan", path, "--json")
    assert code == 2
    assert "matches nothing" in err
    assert found["methods"][0]["predicted"]["train_seconds"] is None
    assert found["methods"][1]["problems"] == []


def test_submit_queues_every_method_and_seed(wb, file, monkeypatch):
    queued = []
    monkeypatch.setattr(client, "submit", lambda specs, *_: queued.extend(specs) or list(range(1, len(specs) + 1)))
    code, found, _ = wb("submit", file, "--json")
    assert code == 0
    assert [(j["label"], j["seed"]) for j in found["jobs"]] == [("lora", 0), ("lora", 1), ("head_only", 0), ("head_only", 1)]
    assert len({s.run_id for s in queued}) == 4
    assert {s.experiment for s in queued} == {found["experiment"]}
    one = queued[0]
    assert one.base_method == "lora"
    assert one.config["rank"] == 4
    assert one.training.learning_rate == 1e-2
    assert "bundled/minilm" in one.learning_rate_source
    assert next(iter(one.data.files.values())).isalnum()
    assert len(one.model.sha256) == 64
    assert one.predicted["trainable_params"] == 36_864


def test_run_prints_rows_and_says_what_failed(wb, file, monkeypatch):
    plant(run_spec("mine-bbbbbb", "lora", 0))
    plant(run_spec("mine-bbbbbb", "lora", 1), "failed", reason="the GPU ran out of memory; use a smaller batch_size.")
    monkeypatch.setattr(experiments, "submit", lambda spec: {"experiment": "mine-bbbbbb", "jobs": [{"job": 1}, {"job": 2}]})
    code, found, err = wb("run", file, "--json")
    assert code == 1
    assert [r["state"] for r in found["rows"]] == ["finished", "failed"]
    assert "mine-bbbbbb: 2 runs queued" in err
    assert "1 of 2 runs did not finish; the first: the GPU ran out of memory" in err
    code, text, _ = wb("run", file)
    assert code == 1
    assert "accuracy 0.7" in text


def test_ctrl_c_leaves_the_runs(wb, file, monkeypatch):
    plant(run_spec("mine-cccccc", "lora", 0), "queued")
    monkeypatch.setattr(experiments, "submit", lambda spec: {"experiment": "mine-cccccc", "jobs": [{"job": 1}]})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "wait", interrupted)
    code, _, err = wb("run", file)
    assert code == 1
    assert "the runs go on" in err
    assert client.jobs()[0]["state"] == "queued"


def test_jobs(wb, runs):
    code, found, _ = wb("jobs", "--json")
    assert code == 0
    wanted = {"job", "run_id", "experiment", "method", "seed", "state", "step", "steps", "attempt", "reason"}
    assert all(job.keys() >= wanted and job["state"] in STATES for job in found)
    assert [job["state"] for job in found] == ["finished", "failed", "queued"]
    assert "the disk is full" in wb("jobs")[1]


def test_cancel_delete_and_logs(wb, runs, monkeypatch):
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    (run_folder("lora-s0-aaaaaa") / "train.log").write_text("hello\n")
    assert wb("logs", "1") == (0, "hello\n", "")
    assert wb("cancel", "full", "--json")[1]["state"] == "cancelled"
    code, _, err = wb("cancel", "1")
    assert (code, err) == (2, "only a job that is not over can be cancelled; job 1 is finished.\n")
    deleted = wb("delete", "2", "--json")[1]
    assert deleted.pop("freed_bytes") > 0
    assert deleted == {"job": 2, "deleted": True}
    assert [job["job"] for job in wb("jobs", "--json")[1]] == [1, 3]
    assert wb("retry", "3", "--json")[1]["attempt"] == 2


def test_compare(wb, runs):
    code, found, _ = wb("compare", "mine", "--json")
    assert code == 0
    assert found.keys() >= {"experiment", "rows", "summary", "pairs"}
    code, text, _ = wb("compare", "mine")
    head, rows = text.splitlines()[2], text.splitlines()[3:6]
    assert head.split() == ["label", "seed", "state", "quality", "trainable", "memory", "seconds"]
    assert rows[0].split() == ["lora", "0", "finished", "accuracy", "0.7", "36,864", "200", "MB", "12.5"]
    assert rows[1].split() == ["lora", "1", "failed", "-", "-", "-", "-"]
    assert "the disk is full" in text


def test_the_daemon_can_be_asked(wb):
    assert wb("daemon", "status", "--json")[1]["running"] is False


def test_operations(wb):
    code, found, _ = wb("operations", "--json")
    assert code == 0
    assert {"average", "phlora"} <= {op["key"] for op in found}


@pytest.mark.parametrize(("state", "expected"), [("finished", 0), ("failed", 1), ("cancelled", 1)])
def test_export_and_operate_wait_for_their_job(wb, monkeypatch, state, expected):
    done = {
        "job": 7,
        "run_id": "x",
        "state": state,
        "reason": None if state == "finished" else "it differs by 1.",
        "result": {"max_error": 1e-6},
    }
    monkeypatch.setattr("workbench.services.adapters.finish", lambda job: done)
    monkeypatch.setattr("workbench.services.adapters.export", lambda *_: 7)
    monkeypatch.setattr("workbench.services.adapters.operate", lambda *_: 7)
    for words in (
        ("export", "x", "--format", "peft", "--to", "d"),
        ("operate", "average", "a", "b", "--set", "weights=[1, 2]", "--name", "n"),
    ):
        code, found, err = wb(*words, "--json")
        assert (code, found["job"]) == (expected, 7)
        assert err == ("" if state == "finished" else "it differs by 1.\n")


@pytest.mark.parametrize(
    "words",
    [
        ("paper", "hyperformer"),
        ("bench", "x"),
    ],
)
def test_what_is_not_built_yet_says_so(wb, runs, words):
    code, out, err = wb(*words)
    assert (code, out) == (3, "")
    assert "not built yet" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "required"),
        (("fly",), "invalid choice"),
        (("plan",), "required"),
        (("plan", "nowhere.yaml"), "cannot be read"),
        (("plan", "a.yaml", "b.yaml"), "unrecognized"),
        (("cancel", "nope"), "no job is called 'nope'"),
        (("compare", "nope"), "no experiment is called 'nope'"),
        (("compare",), "required"),
        (("export", "1", "--format", "onnx", "--to", "d"), "invalid choice"),
        (("export", "1", "--format", "peft", "--to", "d"), "finished training"),
        (("predict", "1", "file.csv", "--to", "out.csv"), "finished training"),
        (("verify", "nowhere"), "folder that exists"),
        (("import", "nowhere", "--name", "x"), "folder that exists"),
        (("operate", "average", "1", "--name", "../x"), "finished training"),
        (("operate", "average", "1", "--set", "x", "--name", "y"), "name=value"),
        (("logs", "99"), "no job is called"),
    ],
)
def test_bad_input_is_one_sentence(wb, runs, words, said):
    code, out, err = wb(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert len(client.jobs()) == 3


def test_debug_shows_the_traceback(wb):
    code, _, err = wb("compare", "nope", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_an_unexpected_error_is_a_sentence_and_a_failure(wb, monkeypatch):
    def broken(_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(client, "jobs", broken)
    code, out, err = wb("jobs")
    assert (code, out) == (1, "")
    assert err == "division by zero (ZeroDivisionError; the log has the details).\n"


def test_what_a_library_prints_stays_out_of_the_answer(wb, runs, monkeypatch):
    before = client.jobs
    monkeypatch.setattr(client, "jobs", lambda *a: print("noise") or before(*a))
    code, found, err = wb("jobs", "--json")
    assert code == 0
    assert len(found) == 3
    assert err == "noise\n"


def test_jobs_starts_without_the_heavy_libraries(home):
    code = "import sys; from workbench.cli import main; main(['jobs']); print({'torch', 'peft', 'mlflow'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["no jobs", "set()"]


def test_in_a_process_of_its_own(fresh, runs):
    done = fresh("jobs", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)) == 3
    bad = fresh("plan", "nowhere.yaml")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("the spec nowhere.yaml cannot be read")


def test_the_package_exports_lazily():
    code = "import sys, workbench as w; print(w.__version__, 'torch' in sys.modules); print(w.attach.__name__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["0.1.0 False", "attach"]


def test_help_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "COMMAND" in capsys.readouterr().out


def test_the_queue_can_be_arranged(wb, runs, monkeypatch):
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    plant(run_spec("mine-aaaaaa", "bitfit", 0), "queued")
    code, found, _ = wb("move", "4", "first", "--json")
    assert (code, found) == (0, {"job": 4, "turn": 1})
    code, text, _ = wb("move", "4", "down")
    assert (code, text.strip()) == (0, "job 4 is number 2 of those that wait")
    assert wb("hold", "mine", "--json")[1] == {"experiment": "mine-aaaaaa", "runs": 2}
    code, _, err = wb("move", "4", "up")
    assert (code, err.strip()) == (2, "only a waiting job has a place in the queue; job 4 is paused.")
    assert wb("release", "mine")[1].strip() == "2 runs of mine-aaaaaa are queued again"
    code, _, err = wb("move", "4", "last")
    assert code == 2
    assert err.count("\n") == 1
