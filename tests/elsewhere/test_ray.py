"""The same queue on a real Ray cluster of two nodes: submit, watch, cancel, pause, and a node that goes down."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.conftest import home, queue
from tests.jobs.living import free_port, make_spec, until
from workbench.core.paths import run_folder
from workbench.jobs import client

__all__ = ["home", "queue"]
pytestmark = pytest.mark.slow
LONG = 180.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, object, object]]:
    """(address of the dashboard, the cluster, its second node)."""
    pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster
    from ray.job_submission import JobSubmissionClient

    port = free_port()
    options = {"num_cpus": 1, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    made = Cluster(initialize_head=True, head_node_args=options)
    try:
        second = made.add_node(num_cpus=1)
        made.wait_for_nodes()
        address = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return bool(JobSubmissionClient(address))
            except Exception:  # not up yet, whatever it says; `until` gives up in time
                return False

        until(answers, LONG)
        yield address, made, second
    finally:
        made.shutdown()


@pytest.fixture
def away(queue, cluster, monkeypatch):
    """The client of a queue whose trainings run on the cluster."""
    monkeypatch.setenv("WORKBENCH_RAY_ADDRESS", cluster[0])
    return queue


def state(job: int) -> str:
    return client.find(job)["state"]


def stepping(*jobs: int) -> None:
    """Wait until all these run and have taken a step."""
    until(lambda: all(client.find(job)["state"] == "running" and client.find(job)["step"] for job in jobs), LONG)


def test_trainings_run_there_and_leave_their_record_here(away, home):
    first, second = away.submit([make_spec("one", steps=4), make_spec("two", steps=30, seconds=0.2)])
    stepping(second)
    assert client.find(second)["slot"].startswith("ray:")
    assert client.find(second)["pid"] is None
    short = away.submit_short("operate", {"name": "merge", "seconds": 0.1})
    rows = away.wait([first, second, short])
    assert [(row["state"], row["reason"]) for row in rows] == [("finished", None)] * 3
    assert client.find(short)["slot"] == "short"
    assert (rows[0]["step"], rows[1]["step"]) == (4, 30)
    assert away.verdict(second)["result"]["steps"] == 30
    log = away.logs(second)
    assert log.startswith("=== attempt 1 ")
    assert "'step': 30" in log
    assert f"environment 1 {home}" not in log or Path.cwd() != home
    left = {path.name for path in run_folder("two").iterdir()}
    assert not left & {"desk.json", "progress.json"}


def test_what_fails_there_fails_here_with_its_sentence(away):
    (job,) = away.submit([make_spec("one", **{"raise": "ours"})])
    (row,) = away.wait([job])
    assert (row["state"], row["reason"]) == ("failed", "the learning rate must be smaller; lower it.")


def test_cancel_asks_first_and_then_ray(away):
    heeding, deaf = away.submit(
        [make_spec("one", steps=5000, seconds=0.05), make_spec("two", steps=5000, seconds=0.05, deaf=True)]
    )
    stepping(heeding, deaf)
    away.cancel(heeding)
    away.cancel(deaf)
    rows = away.wait([heeding, deaf])
    assert [row["state"] for row in rows] == ["cancelled", "cancelled"]
    assert rows[0]["reason"] == "cancelled on request"
    assert rows[1]["reason"] == "cancelled; the worker had to be stopped by force"


def test_a_paused_training_goes_on_there(away):
    (job,) = away.submit([make_spec("one", steps=200, seconds=0.05, keeps=True)])
    stepping(job)
    away.pause(job)
    until(lambda: state(job) == "paused", LONG)
    at = client.find(job)["step"]
    away.resume(job)
    (row,) = away.wait([job])
    assert (row["state"], row["attempt"]) == ("finished", 2)
    assert away.verdict(job)["result"]["began_at"] >= at > 0


def test_the_daemon_may_go_and_come_back(away, monkeypatch):
    from tests.jobs.living import start_planted
    from workbench.jobs import daemon

    (job,) = away.submit([make_spec("one", steps=120, seconds=0.1)])
    stepping(job)
    os.kill(daemon.status()["pid"], signal.SIGKILL)
    until(lambda: not daemon.status()["running"])
    time.sleep(1)
    start_planted()
    (row,) = away.wait([job])
    assert (row["state"], row["attempt"], row["step"]) == ("finished", 1, 120)


def test_a_node_that_goes_down_loses_no_job(away, cluster):
    _, made, second = cluster
    jobs = away.submit([make_spec(name, steps=150, seconds=0.2) for name in ("one", "two")])
    stepping(*jobs)
    made.remove_node(second, allow_graceful=False)
    moved = until(lambda: next((job for job in jobs if client.find(job)["attempt"] == 2), None), LONG)
    rows = away.wait(list(jobs))
    assert [row["state"] for row in rows] == ["finished", "finished"]
    assert sorted(row["attempt"] for row in rows) == [1, 2]
    assert [line for line in away.logs(moved).splitlines() if line.startswith("=== attempt")][1].startswith("=== attempt 2")
