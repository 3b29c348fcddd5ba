"""F9: the tracking server and the network fail in every way; no training notices, and the record is whole in the end."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.elsewhere.serving import MLflowServer, mlflow_server
from tests.faults import invariants, recorded
from tests.faults.front import Front
from tests.jobs.living import make_spec, until
from tracking import client as tracked
from tracking import query
from workbench.core.paths import ROOT, run_folder
from workbench.jobs import client

pytestmark = pytest.mark.slow
FAULTS = ("500", "502", "401", "403", "portal", "moved", "read-only", "reset", "deaf", "slow")
SPEC = """
name: away
model: {model}
task: text_classification
data: {{source: {data}}}
methods: [lora]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """A real server on a SQLite file."""
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(f"sqlite:///{folder / 'served.db'}", folder) as started:
        yield started


@pytest.fixture
def front(server: MLflowServer) -> Iterator[Front]:
    """What stands between the workbench and that server."""
    made = Front(server.address)
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def away(home: Path, front: Front, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that records through the front; its requests are short of patience."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", front.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setattr(client, "ensure_daemon", recorded.start)
    tracked._clients.clear()
    return home


def whole(job: int) -> None:
    """The story of a finished run is the same in its row, its verdict, its events and MLflow."""
    row = until(lambda: (r := client.find(job))["told"] == "finished" and r, 90)
    run = tracked.client().get_run(row["mlflow_id"])
    assert run.info.status == "FINISHED"
    told = [e for e in invariants.events(run_folder(row["run_id"])) if e["event"] == "step"]
    losses = query.history(row["mlflow_id"], "train/loss")
    assert list(losses["step"]) == [e["step"] for e in told] == list(range(1, 7))
    assert list(losses["value"]) == [e["loss"] for e in told]
    assert "test/accuracy" in run.data.metrics


def sentences(home: Path, name: str) -> list[str]:
    """What the log and the daemon said about tracking."""
    text = (run_folder(name) / "train.log").read_text() + (home / "daemon.log").read_text()
    return [line for line in text.splitlines() if line.startswith("tracking")]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_from_the_start(away: Path, front: Front, fault: str, record_property) -> None:
    record_property("F9", 1)
    front.mode = fault
    (job,) = client.submit([make_spec("one")])
    began = time.monotonic()
    (row,) = client.wait([job])
    assert (row["state"], row["reason"]) == ("finished", None)
    assert time.monotonic() - began < 60
    until(lambda: front.refused, 60)
    if fault != "slow":
        said = until(lambda: sentences(away, "one"), 60)
        assert all("must answer" in line or "must take the last events" in line for line in said), said
        assert not any("Traceback" in line for line in said)
    front.mode = "fine"
    whole(job)
    assert invariants.settled(away) == []


@pytest.mark.parametrize("fault", ["500", "reset", "deaf", "401"])
def test_a_server_that_fails_in_the_middle(away: Path, front: Front, fault: str, record_property) -> None:
    record_property("F9", 1)
    (job,) = client.submit([make_spec("one", seconds=2.0)])
    until(lambda: client.find(job)["mlflow_id"] and client.find(job)["step"] >= 1 and front.passed > 8, 60)
    front.mode = fault
    (row,) = client.wait([job])
    assert row["state"] == "finished"
    front.mode = "fine"
    whole(job)
    assert invariants.settled(away) == []


def test_a_server_that_is_down_and_comes_up(
    home: Path, server: MLflowServer, tmp_path: Path, monkeypatch, record_property
) -> None:
    record_property("F9", 1)
    own = MLflowServer(f"sqlite:///{tmp_path / 'late.db'}", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own.address)
    monkeypatch.setattr(client, "ensure_daemon", recorded.start)
    tracked._clients.clear()
    (job,) = client.submit([make_spec("one")])
    assert client.wait([job])[0]["state"] == "finished"
    assert client.find(job)["told"] is None
    own.start()
    try:
        whole(job)
    finally:
        own.stop()
    assert invariants.settled(home) == []


def test_a_server_from_before_logged_models_gets_the_adapter_as_artifacts(away: Path, front: Front, record_property) -> None:
    record_property("F9", 1)
    front.mode = "old"
    (job,) = client.submit([make_spec("one")])
    assert client.wait([job])[0]["state"] == "finished"
    whole(job)
    front.mode = "fine"  # for this client, which is newer; the workbench asked the old server
    found = {info.path for info in tracked.client().list_artifacts(client.find(job)["mlflow_id"], "adapter")}
    assert found == {"adapter/adapter_model.safetensors", "adapter/workbench_adapter.json"}


def without_network(*more: str) -> list[str]:
    """A command line without any network but loopback; skips where the kernel does not allow it."""
    made = ["unshare", "-n", *more]
    if not shutil.which("unshare") or subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -n is not allowed here")
    return made


@pytest.mark.parametrize("what", ["model", "data"])
@pytest.mark.parametrize("how", ["no network", "black hole"])
def test_a_hub_id_without_a_network_is_one_sentence(home: Path, tmp_path: Path, what: str, how: str, record_property) -> None:
    record_property("F9", 1)
    names = {"model": "bundled/minilm", "data": "bundled/docstrings", what: "no-such-team/no-such-thing"}
    (tmp_path / "spec.yaml").write_text(SPEC.format(**names))
    outside = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE") and "proxy" not in k.lower()}
    env = {**outside, "WORKBENCH_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub")}
    command = without_network()
    if how == "black hole":  # names are asked of a server that never answers
        (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        command = without_network("-m", "sh", "-c", f"""
            mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && ip link set lo up && exec "$@" """, "sh")  # fmt: skip
    began = time.monotonic()
    done = subprocess.run([*command, sys.executable, "-P", "-m", "workbench", "plan", str(tmp_path / "spec.yaml")],
                          env=env, capture_output=True, text=True, timeout=240, check=False)  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert invariants.i10_sentence(done.stderr, "no-such-team/no-such-thing") == []
    assert time.monotonic() - began < 120
