"""Events on disk first, in MLflow second: nothing lost, nothing waited for, nothing raised."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tracking import client, events, query, reporter, sender
from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Measured, Saved, Started, Step
from workbench.core.paths import ROOT, run_folder
from workbench.core.run_spec import RunSpec

Make = Callable[..., RunSpec]
AWAY = "http://127.0.0.1:9"


def _never() -> None:
    return None


def _losses(mlflow_id: str) -> dict[int, float]:
    found = query.history(mlflow_id, "train/loss")
    return dict(zip(found["step"], found["value"], strict=True))


def _train(report: reporter.FileReporter, steps: int, first: int = 1) -> None:
    report.emit(Started(steps, 1, "cpu", 2))
    for step in range(first, first + steps):
        report.emit(Step(step, 1 / step, 1e-3, 0.01, 16))


def _finish(report: reporter.FileReporter, folder: Path, step: int) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    report.emit(Saved("adapter", step))
    report.emit(Evaluated(step, "validation", {"accuracy": 0.75}))
    report.emit(Evaluated(step, "test", {"accuracy": 0.5, "bad": float("nan")}))
    report.emit(Measured({"params/trainable": 64, "mem/peak_bytes": float("inf")}, {"mem/kind": "peak RSS"}))


@pytest.fixture
def queued(home: Path, run_spec: Make) -> tuple[Path, str]:
    """A run folder and its MLflow run."""
    return run_folder("first-run"), client.start_run(run_spec())


def test_everything_arrives(queued: tuple[Path, str]) -> None:
    folder, run = queued
    with reporter.FileReporter(folder, 1, run, lambda: "pause") as report:
        assert report.wish() == "pause"
        _train(report, 1500)
        report.emit(Step(1501, float("nan"), 1e-3, 0.01, 16))
        _finish(report, folder, 1501)
        arrived = report.close(60)
    assert arrived or reporter.resend(folder, run)  # a slow machine: the daemon would send the rest
    row = query.runs().iloc[0]
    assert _losses(run) == {step: 1 / step for step in range(1, 1501)}
    assert (row["metrics.eval/accuracy"], row["metrics.test/accuracy"], row["metrics.params/trainable"]) == (0.75, 0.5, 64)
    assert not {"metrics.test/bad", "metrics.mem/peak_bytes"} & set(row.index)
    tags = client.client().get_run(run).data.tags
    assert (tags["mem/kind"], tags["env/device"], tags["env/threads"]) == ("peak RSS", "cpu", "2")
    assert tags["env/mlflow"].startswith("3.")
    assert row["status"] == "RUNNING"  # its end is the daemon's to tell


def test_the_adapter_is_a_ready_model(queued: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    folder, run = queued
    report = reporter.FileReporter(folder, 1, None, _never)
    _finish(report, folder, 1)
    assert reporter.resend(folder, run)
    store = client.client()
    (model,) = store.search_logged_models([client.experiment_id()])
    assert (model.status.value, model.source_run_id, model.model_type) == ("READY", run, "adapter")
    assert model.tags["workbench.run_id"] == "first-run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.address())
    got = mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(tmp_path))
    assert (Path(got) / "adapter_model.safetensors").read_bytes() == b"weights"
    report.emit(Saved("adapter", 2))
    assert reporter.resend(folder, run)
    assert len(store.search_logged_models([client.experiment_id()])) == 1


def test_an_absent_server_costs_nothing_and_loses_nothing(queued: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = queued
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    began = time.monotonic()
    report = reporter.FileReporter(folder, 1, run, _never)
    _train(report, 300)
    _finish(report, folder, 300)
    assert time.monotonic() - began < 1
    assert report.close(20) is False
    assert report.close() is True
    assert reporter.resend(folder, run) is False
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert reporter.resend(folder, run) is True
    assert _losses(run) == {step: 1 / step for step in range(1, 301)}
    assert [m.status.value for m in client.client().search_logged_models([client.experiment_id()])] == ["READY"]


def test_a_server_that_hangs_is_left_in_time(queued: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = queued
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        report = reporter.FileReporter(folder, 1, run, _never)
        _train(report, 10)
        deaf.settimeout(60)
        request, _ = deaf.accept()  # the sender is waiting for us now
        began = time.monotonic()
        assert report.close(1) is False
        assert time.monotonic() - began < 3
        request.close()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert reporter.resend(folder, run)
    assert len(_losses(run)) == 10


def test_the_sender_goes_on_when_the_store_is_back(queued: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = queued
    report = reporter.FileReporter(folder, 1, None, _never)
    real, calls = client.client, []

    def flaky() -> object:
        calls.append(len(calls))
        if len(calls) < 4:
            raise WorkbenchError("the tracking store must answer; it is away.")
        return real()

    monkeypatch.setattr(client, "client", flaky)
    monkeypatch.setattr(sender, "INTERVAL", 0.02)
    monkeypatch.setattr(sender, "LONGEST_PAUSE", 0.05)
    ended, carrier = threading.Event(), sender.Sender(folder, run)
    thread = threading.Thread(target=sender.follow, args=(carrier, ended))
    thread.start()
    _train(report, 50)
    while not carrier.position.sent:
        time.sleep(0.01)
    _train(report, 50, first=51)
    ended.set()
    thread.join(20)
    assert not thread.is_alive()
    assert len(calls) >= 5
    assert _losses(run) == {step: 1 / step for step in range(1, 101)}


KILLED = """
import os, signal, sys, time
from pathlib import Path
from tracking import reporter
from workbench.core.events import Step
report = reporter.FileReporter(Path(sys.argv[1]), 1, sys.argv[2], lambda: None)
for step in range(1, 101):
    report.emit(Step(step, 1 / step, 1e-3, 0.01, 16))
print(report._sender.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_training_leaves_a_readable_run_and_no_process(queued: tuple[Path, str]) -> None:
    folder, run = queued
    client.mark_running(run)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", KILLED, folder, run]
    killed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    pid, deadline = int(killed.stdout), time.monotonic() + 30
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)
    assert reporter.resend(folder, run)
    assert len(_losses(run)) == 100
    assert query.runs().iloc[0]["status"] == "RUNNING"
    client.end(run, "failed")
    assert query.runs().iloc[0]["status"] == "FAILED"


def test_what_mlflow_already_has_may_come_again(queued: tuple[Path, str]) -> None:
    folder, run = queued
    report = reporter.FileReporter(folder, 1, None, _never)
    _train(report, 20)
    assert reporter.resend(folder, run)
    sender.Position().save(folder)
    _train(report, 5, first=21)
    assert reporter.resend(folder, run)
    points = client.client().get_metric_history(run, "train/loss")
    assert sorted(p.step for p in points) == list(range(1, 26))


def test_a_resume_cuts_the_file_and_the_last_value_of_a_step_counts(queued: tuple[Path, str]) -> None:
    folder, run = queued
    first = reporter.FileReporter(folder, 1, None, _never)
    _train(first, 5)
    checkpoint = first.offset
    first.emit(Step(6, 6.0, 1e-3, 0.01, 16))
    assert reporter.resend(folder, run)
    second = reporter.FileReporter(folder, 2, None, _never, offset=checkpoint)
    second.emit(Step(6, 66.0, 1e-3, 0.01, 16))
    assert reporter.resend(folder, run)
    lines = [json.loads(line) for line in (folder / events.NAME).read_text().splitlines()]
    steps = [(line["step"], line["attempt"]) for line in lines if line["event"] == "step"]
    assert steps == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2)]
    assert _losses(run)[6] == 66.0
    third = reporter.FileReporter(folder, 3, None, _never)
    assert third.offset == 0
    assert reporter.resend(folder, run)


def test_a_line_cut_by_a_crash_does_not_swallow_the_next(tmp_path: Path) -> None:
    (tmp_path / events.NAME).write_text('{"event": "step", "step": 1, "loss": 1.0}\n{"event": "st')
    report = reporter.FileReporter(tmp_path, 2, None, _never, offset=10_000)
    report.emit(Step(2, 0.5, 1e-3, 0.01, 16))
    found = query.curves(tmp_path)
    assert list(found[found["metric"] == "train/loss"]["step"]) == [1, 2]


def test_a_run_deleted_in_mlflow_needs_nothing_more(queued: tuple[Path, str]) -> None:
    folder, run = queued
    report = reporter.FileReporter(folder, 1, None, _never)
    _train(report, 3)
    client.client().delete_run(run)
    assert reporter.resend(folder, run) is True
    assert sender.Position.load(folder).gone


def test_a_full_disk_is_one_sentence_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = reporter.FileReporter(tmp_path, 1, None, _never)
    report.emit(Step(1, 1.0, 1e-3, 0.01, 16))
    real = os.write

    def full(file: int, line: bytes) -> int:
        if not line.startswith(b"{"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, line[:7])

    monkeypatch.setattr(events.os, "write", full)
    with pytest.raises(WorkbenchError, match=r"events\.jsonl must be writable; got: No space left on device; free some space"):
        report.emit(Step(2, 1.0, 1e-3, 0.01, 16))
    monkeypatch.setattr(events.os, "write", real)
    report.emit(Step(3, 1.0, 1e-3, 0.01, 16))
    assert [record["step"] for record, _ in events.read(tmp_path)] == [1, 3]


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    import numpy as np

    report = reporter.FileReporter(tmp_path, 1, None, _never)
    report.emit(Step(1, float("nan"), np.float32(0.5), 0.01, 16))
    report.emit(Measured({"a": np.float64("inf"), "b": np.int64(3)}, {"path": "x"}))
    lines = (tmp_path / events.NAME).read_text().splitlines()
    step, measured = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert (step["loss"], step["lr"]) == (None, 0.5)
    assert measured["metrics"] == {"a": None, "b": 3}


def test_the_worker_imports_neither_mlflow_nor_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tracking import client, query, reporter\n"
        "from workbench.core.events import Step\n"
        "reporter.FileReporter(Path(sys.argv[1]), 1, None, lambda: None).emit(Step(1, 1.0, 1.0, 1.0, 1))\n"
        "print(sorted({'mlflow', 'pandas', 'sqlalchemy', 'torch'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-P", "-c", code, tmp_path], env=env, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
