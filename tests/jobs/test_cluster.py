"""Trainings on a planted Ray cluster: what is asked of it, what its answers mean, what never leaves this machine."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests.jobs.living import start_planted
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.jobs import cluster, daemon, desk, detach, wire
from workbench.jobs.slots import Slot

SLOT = Slot("ray:0", ("train",), None, 2)


class Ray:
    """Answers like Ray's JobSubmissionClient."""

    def __init__(self):
        self.jobs, self.stopped, self.silent, self.asked = {}, [], False, 0

    def submit_job(self, **given):
        self.jobs[given["submission_id"]] = SimpleNamespace(
            status="PENDING", error_type=None, driver_exit_code=None, driver_node_id=None, given=given
        )

    def get_job_info(self, name):
        self.asked += 1
        if self.silent:
            raise ConnectionError("no route to host")
        if name not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist")
        return self.jobs[name]

    def stop_job(self, name):
        self.stopped.append(name)


@pytest.fixture
def ray(monkeypatch):
    """A planted cluster with one node of four processors, whose answers are never old."""
    made = Ray()
    monkeypatch.setattr(cluster, "_connect", lambda where: made)
    node = SimpleNamespace(node_id="n1", resources_total={"CPU": 4.0})
    monkeypatch.setattr(cluster.Cluster, "_nodes", lambda self: [node])
    for name in ("ASK_EVERY", "AWAY_FOR"):
        monkeypatch.setattr(cluster, name, 0.0)
    return made


@pytest.fixture
def placed(ray, store):
    """(the cluster, the row of a job that was given to it)."""
    made = cluster.Cluster("http://head:8265", ["python", "-m", "worker"], store)
    run_folder("one").mkdir(parents=True)
    values = {"run_id": "one", "experiment": "e", "name": "e", "kind": "train", "label": "", "method": "", "seed": 0, "spec": "s"}
    store.add([values])
    row = store.claim("ray:0", ("train",))
    made.start(row, SLOT)
    return made, row


def only(ray):
    (job,) = ray.jobs.values()
    return job


def test_a_job_is_given_with_its_processors_and_without_secrets(placed, ray, home, monkeypatch):
    made, row = placed
    given = only(ray).given
    assert (given["entrypoint_num_cpus"], given["entrypoint_num_gpus"]) == (2, 0)
    assert given["entrypoint"].startswith(f"exec python -m worker {run_folder('one')} --desk >> ")
    env = given["runtime_env"]["env_vars"]
    assert (env["WORKBENCH_HOME"], env["OMP_NUM_THREADS"]) == (str(home), "2")
    assert "CUDA_VISIBLE_DEVICES" not in env
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/x")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    made.start({**row, "attempt": 2}, SLOT)
    assert "secret" not in str([job.given for job in ray.jobs.values()])
    assert made.slots() == [Slot("ray:0", ("train",), None, 4)]


def test_ray_says_whether_a_worker_lives_and_silence_says_nothing(placed, ray):
    made, row = placed
    for status, lives in (("PENDING", True), ("RUNNING", True), ("STOPPED", False)):
        only(ray).status = status
        wire.write_json(run_folder("one") / "verdict.json", {})
        assert made.lives(row) is lives
    ray.silent = True
    assert made.lives(row) is True
    assert made.lost(row) is False
    ray.silent = False
    ray.jobs.clear()  # another cluster at the same address
    assert made.lives(row) is False
    assert made.lost(row) is True


def test_a_lost_node_is_told_from_a_failed_worker(placed, ray, monkeypatch):
    made, row = placed
    job = only(ray)
    job.status, job.driver_exit_code, job.driver_node_id = "FAILED", -9, "n1"
    assert made.lives(row) is True  # the cluster may not have noticed yet
    monkeypatch.setattr(cluster, "NOTICED_WITHIN", 0.0)
    assert made.lives(row) is False
    assert made.lost(row) is False
    job.driver_node_id = "n2"
    assert made.lost(row) is True
    job.driver_node_id, job.error_type = "n1", "JOB_SUPERVISOR_ACTOR_DIED"
    assert made.lost(row) is True
    assert made.clear(row) == -9


def test_a_verdict_may_arrive_later_than_the_end(placed, ray, monkeypatch):
    made, row = placed
    only(ray).status, only(ray).driver_exit_code = "SUCCEEDED", 0
    assert made.lives(row) is True
    wire.write_json(run_folder("one") / "verdict.json", {"state": "finished"})
    assert made.lives(row) is False


def test_the_desk_carries_progress_and_wishes(placed, store):
    made, row = placed
    worker = desk.Desk(run_folder("one"))
    assert worker.run("one")["attempt"] == 1
    assert worker.began(row["job"], 1, 5, None)
    made.lives(row)
    assert (store.row(row["job"])["state"], store.row(row["job"])["pid"]) == ("running", None)
    assert worker.progress(row["job"], 1, 3, 9)
    made.lives(store.row(row["job"]))
    assert [store.row(row["job"])[name] for name in ("step", "steps")] == [3, 9]
    store.cancel(row["job"])
    made.lives(store.row(row["job"]))
    assert worker.row(row["job"])["intent"] == "cancel"
    assert not worker.progress(row["job"], 2, 4, 9)
    made.clear(row)
    assert worker.row(row["job"]) is None


def test_a_daemon_of_another_cluster_is_stale(home, monkeypatch):
    monkeypatch.setattr(detach, "code_stamp", lambda: "planted")
    start_planted()
    assert daemon.status()["stale"] is False
    monkeypatch.setenv("WORKBENCH_RAY_ADDRESS", "http://head:8265/")
    assert daemon.status()["stale"] is True


def test_no_ray_no_answer_and_no_address_are_one_sentence(monkeypatch):
    with pytest.raises(
        WorkbenchError, match=r"address of a Ray dashboard, e\.g\. http://head:8265; got 'head:6379': give it with"
    ):
        cluster._connect("head:6379")
    planted = ModuleType("ray.job_submission")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.job_submission", planted)
    with pytest.raises(WorkbenchError, match=r"ray is not installed here; pip install -r requirements-ray\.txt"):
        cluster._connect("http://127.0.0.1:9")

    class Dead:
        def __init__(self, address):
            raise ConnectionError("Failed to connect to Ray at address: http://127.0.0.1:9.")

    planted.JobSubmissionClient = Dead  # type: ignore[attr-defined]
    with pytest.raises(WorkbenchError, match=r"does not answer \(Failed to connect .*; start the cluster or unset it") as told:
        cluster._connect("http://127.0.0.1:9")
    assert "\n" not in str(told.value)
