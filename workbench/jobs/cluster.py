"""Trainings on a Ray cluster: the same jobs, started, watched and stopped through Ray's Jobs API.

`WORKBENCH_RAY_ADDRESS` is the address of the cluster's dashboard, e.g. http://head:8265. The workbench's home, this repository
and the Python environment must lie at the same paths on every node (a shared folder), because a worker reads its spec there and
leaves its results there. Locks and pids of another machine mean nothing here: whether a worker lives is asked of Ray.
"""

import hashlib
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.paths import ROOT, home, run_folder
from workbench.jobs import desk
from workbench.jobs.reading import Row
from workbench.jobs.slots import Slot
from workbench.jobs.store import Store

ASK_EVERY, AWAY_FOR = 1.0, 5.0  # seconds between two questions about a job, and until a silent cluster is asked again
VERDICT_WITHIN = 60.0  # a shared folder may show a file that late
NOTICED_WITHIN = 3.0  # the processes of a node die before Ray knows that the node did
LIMIT = 10.0
PREFIX = "ray:"
PASSED = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "MLFLOW_DISABLE_TELEMETRY")
LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_START_FAILURE")
LIVING = ("PENDING", "RUNNING")


def address() -> str:
    """`WORKBENCH_RAY_ADDRESS`; empty = jobs run on this machine."""
    return os.environ.get("WORKBENCH_RAY_ADDRESS", "").strip().rstrip("/")


def _connect(where: str) -> Any:
    problem = "WORKBENCH_RAY_ADDRESS must be the address of a Ray dashboard, e.g. http://head:8265; got {!r}: {}"
    if not where.startswith(("http://", "https://")):
        raise WorkbenchError(problem.format(where, "give it with http:// in front."))
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise WorkbenchError(problem.format(where, "ray is not installed here; pip install -r requirements-ray.txt.")) from None

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": LIMIT, **more})  # Ray itself would wait for ever

    try:
        return Client(where)
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise WorkbenchError(problem.format(where, f"it does not answer ({said}); start the cluster or unset it.")) from None


class Cluster:
    """Workers on a Ray cluster.

    Raises:
        WorkbenchError: ray is not installed, or the address does not answer.
    """

    def __init__(self, where: str, worker: Sequence[str], store: Store) -> None:
        self.worker, self.store, self._where = tuple(worker), store, where
        self._ray = _connect(where)
        self._asked: dict[str, tuple[float, Any]] = {}  # submission id -> when Ray was asked last, what it said
        self._ended: dict[str, float] = {}  # submission id -> when it was first seen to be over
        self._silent_until = 0.0
        self._home = hashlib.sha256(str(home()).encode()).hexdigest()[:8]

    def slots(self) -> list[Slot]:
        """One training slot per GPU of the cluster, or per node where it has none."""
        found = [(int(n.resources_total.get("CPU", 0)), int(n.resources_total.get("GPU", 0))) for n in self._nodes()]
        cards = any(gpus for _, gpus in found)
        threads = [max(1, cpus // max(1, gpus)) for cpus, gpus in found for _ in range(gpus if cards else min(cpus, 1))]
        return [Slot(f"{PREFIX}{i}", ("train",), "0" if cards else None, count) for i, count in enumerate(sorted(threads))]

    def _nodes(self) -> list[Any]:
        from ray.util.state import list_nodes

        try:
            return list_nodes(address=self._where, filters=[("state", "=", "ALIVE")], timeout=int(LIMIT))
        except Exception as error:
            raise WorkbenchError(f"the Ray cluster {self._where} must list its nodes; got {error}; start it again.") from error

    def start(self, row: Row, slot: Slot) -> None:
        """Hand the row's attempt to Ray, with its slot's processors and GPU.

        Raises:
            WorkbenchError: Ray does not take it.
        """
        folder = run_folder(row["run_id"])
        desk.lay(folder, row)
        (folder / desk.PROGRESS).unlink(missing_ok=True)
        command = f"exec {shlex.join([*self.worker, str(folder), '--desk'])} >> {shlex.quote(str(folder / 'train.log'))} 2>&1"
        try:
            self._ray.submit_job(
                entrypoint=command, submission_id=self._id(row), runtime_env={"env_vars": self._environment(slot)},
                entrypoint_num_cpus=slot.threads, entrypoint_num_gpus=int(slot.gpu is not None),
            )  # fmt: skip
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise WorkbenchError(f"the Ray cluster {self._where} must take the job; got: {said}; retry the run.") from error

    def _environment(self, slot: Slot) -> dict[str, str]:
        """What a worker must see; no secrets, because Ray shows this to whoever may look at the cluster."""
        chosen = {k: v for k, v in slot.environment().items() if not k.startswith("CUDA")}  # Ray chooses the card
        chosen |= {name: os.environ[name] for name in PASSED if name in os.environ}
        tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
        if tracking and "@" not in tracking:
            chosen["MLFLOW_TRACKING_URI"] = tracking
        return {**chosen, "WORKBENCH_HOME": str(home()), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}

    def _id(self, row: Row) -> str:
        return f"workbench-{self._home}-{int(row['submitted'] * 1000)}-{row['job']}-{row['attempt']}"

    def _info(self, row: Row, fresh: bool = False) -> Any:
        """Ray's details of the row's attempt; None if Ray knows no such job. An answer may be a second old.

        Raises:
            ConnectionError: the cluster does not answer; nothing can be said.
        """
        name, now = self._id(row), time.monotonic()
        when, last = self._asked.get(name, (-ASK_EVERY, None))
        if not fresh and now - when < ASK_EVERY:
            return last
        if now < self._silent_until:
            raise ConnectionError
        try:
            last = self._ray.get_job_info(name)
        except Exception as error:
            if "does not exist" not in str(error):
                self._silent_until = time.monotonic() + AWAY_FOR
                raise ConnectionError(str(error)) from error
            last = None
        self._asked[name] = time.monotonic(), last
        return last

    def lives(self, row: Row) -> bool:
        """Whether the worker waits or runs, as Ray says; while the cluster is silent nobody is called dead."""
        folder: Path = run_folder(row["run_id"])
        if folder.is_dir():
            desk.lay(folder, row)
            desk.collect(folder, row, self.store)
        try:
            info = self._info(row)
        except ConnectionError:
            return True
        if info is None or str(info.status) in LIVING:
            return info is not None
        since = time.monotonic() - self._ended.setdefault(self._id(row), time.monotonic())
        if not folder.is_dir() or (folder / "verdict.json").exists():
            return False
        return since < (VERDICT_WITHIN if info.driver_exit_code in (0, 1) else NOTICED_WITHIN)

    def stop(self, row: Row) -> None:
        """Ask Ray to end the job: TERM to its processes, KILL a few seconds later."""
        try:
            self._ray.stop_job(self._id(row))
        except Exception as error:  # it may just have ended, or the cluster is away: the next look tells
            print(f"job {row['job']}: Ray did not take the stop: {error}", flush=True)

    def clear(self, row: Row) -> int | None:
        """The exit status of an attempt that is over, where Ray knows it."""
        _, info = self._asked.pop(self._id(row), (0.0, None))
        self._ended.pop(self._id(row), None)
        for name in (desk.DESK, desk.PROGRESS):
            (run_folder(row["run_id"]) / name).unlink(missing_ok=True)
        code = getattr(info, "driver_exit_code", None)
        return int(code) if code is not None else None

    def lost(self, row: Row) -> bool:
        """Whether the attempt ended because its node did."""
        try:
            info = self._info(row, fresh=True)
        except ConnectionError:
            return False
        if info is None or str(getattr(info.error_type, "value", info.error_type)) in LOST:
            return True
        return bool(info.driver_node_id) and info.driver_node_id not in {node.node_id for node in self._nodes()}


def of_cluster(row: Mapping[str, Any]) -> bool:
    """Whether a row was placed on a cluster."""
    return str(row["slot"] or "").startswith(PREFIX)
