"""Carries events.jsonl into MLflow: `python -m tracking.sender FOLDER MLFLOW_ID`, a process beside each training.

It is a process and not a thread because importing MLflow costs 100 MB and two seconds under the interpreter's lock: in the worker
both would appear in the measured memory and in the time to the first step. It tails the file, so nothing is buffered and whatever
a store refused is read again; what MLflow already has (same name, step, time and value) it ignores when it comes twice.
"""

import contextlib
import json
import os
import platform
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from tracking import client, events
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.paths import inside
from workbench.core.run_spec import RunSpec

INTERVAL, LONGEST_PAUSE, LAST_CALL = 2.0, 30.0, 8.0  # seconds
CHUNK = 200_000  # bytes of events per round: about 1500 steps
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "mlflow")


@dataclass
class Position:
    """How far MLflow has the run; `tracking.json` of the run folder.

    Attributes:
        sent: bytes of events.jsonl that MLflow has.
        step: the last training step among them.
        model: id of the adapter's LoggedModel.
        gone: the run was deleted from MLflow, so nothing more is sent.
        stamp: the newest time among them, milliseconds since the epoch; a clock that is set back must not make what comes
            later look older, for of a step that was logged twice the newest value counts.
    """

    sent: int = 0
    step: int = 0
    model: str | None = None
    gone: bool = False
    stamp: int = 0

    @classmethod
    def load(cls, folder: Path) -> "Position":
        """What is stored; the beginning where nothing readable is."""
        try:
            return cls(**json.loads((folder / "tracking.json").read_text()))
        except (OSError, ValueError, TypeError):
            return cls()

    def save(self, folder: Path) -> None:
        """Store in one step."""
        fresh = folder / "tracking.json.new"
        fresh.write_text(json.dumps(asdict(self)))
        os.replace(fresh, folder / "tracking.json")

    def complete(self, folder: Path) -> bool:
        """Whether nothing is left to send."""
        path = folder / events.NAME
        return self.gone or not path.exists() or self.sent >= path.stat().st_size


class Sender:
    """Sends what a run folder's events.jsonl holds beyond the stored position."""

    def __init__(self, folder: Path, mlflow_id: str) -> None:
        """`mlflow_id` is the run in MLflow; empty = the one of the folder's spec.yaml, created if it does not exist."""
        self._folder, self._id = folder, mlflow_id
        self.position = Position.load(folder)

    def send(self) -> None:
        """Send every complete line.

        Raises:
            WorkbenchError: the tracking store does not answer; call again later.
        """
        try:
            self._id = self._id or client.start_run(_spec(self._folder))
            while self._send_chunk():
                continue
        except client.Gone:
            self.position.gone = True
            self.position.save(self._folder)

    def _send_chunk(self) -> bool:
        records = list(events.read(self._folder, self.position.sent, CHUNK))
        if not records:
            return False
        from mlflow.entities import Metric, RunTag

        step, stamp, metrics, tags, adapter = self.position.step, self.position.stamp, [], {}, None
        for record, _ in records:
            step = record.get("step", step)
            stamp = max(stamp, int(record.get("time", 0) * 1000))
            metrics += [Metric(client.key_name(k), v, stamp, step) for k, v in events.figures(record).items()]
            tags |= events.words(record) | (environment() if record.get("event") == "started" else {})
            if record.get("event") == "saved" and record.get("what") == "adapter":
                adapter = record["what"]
        store = client.client()
        with client.answering():
            labels = [RunTag(client.key_name(k), v[: client.MAX_TAG]) for k, v in tags.items()]
            store.log_batch(self._id, metrics=metrics, tags=labels)
        if any(record.get("event") == "started" for record, _ in records):
            client.mark_running(self._id)
        if adapter and (self._folder / adapter).is_dir():  # gone when the run was deleted meanwhile
            self.log_adapter(inside(self._folder, adapter))
        self.position.sent, self.position.step, self.position.stamp = records[-1][1], step, stamp
        self.position.save(self._folder)
        return True

    def log_adapter(self, folder: Path) -> None:
        """Store the adapter's folder as this run's LoggedModel, READY at the end; a second time replaces its files.

        A server from before LoggedModels (MLflow 2) gets the files as the run's artifacts.

        Raises:
            WorkbenchError: the folder is missing or the tracking store does not answer.
        """
        if not folder.is_dir():
            raise WorkbenchError(f"the adapter must be a folder in the run folder; got {folder}; train the run again.")
        try:
            self._log_model(folder)
        except client.Unknown:
            with client.answering():
                client.client().log_artifacts(self._id, str(folder), folder.name)

    def _log_model(self, folder: Path) -> None:
        store = client.client()
        with client.answering():
            if self.position.model is None:
                run = store.get_run(self._id)
                tags = {k: v for k, v in run.data.tags.items() if k.startswith("workbench.")}
                name = "".join(c if c.isalnum() else "-" for c in tags.get("workbench.run_id", self._id))
                made = store.create_logged_model(
                    run.info.experiment_id, name=name, source_run_id=self._id, tags=tags, model_type="adapter"
                )
                self.position.model = made.model_id
                self.position.save(self._folder)
            store.log_model_artifacts(self.position.model, str(folder))
            store.finalize_logged_model(self.position.model, "READY")


def _spec(folder: Path) -> RunSpec:
    try:
        return RunSpec.model_validate(safe_yaml.loads((folder / "spec.yaml").read_bytes(), "spec.yaml"))
    except ValueError as error:
        raise WorkbenchError(f"{folder.name}/spec.yaml must hold the run; got: {' '.join(str(error).split())[:200]}.") from error


def environment() -> dict[str, str]:
    """Versions and machine, as tags."""
    found = {"env/python": platform.python_version(), "env/machine": f"{platform.system()} {platform.machine()}"}
    found["env/cpus"] = str(os.cpu_count())
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[f"env/{package}"] = metadata.version(package)
    return found


def follow(sender: Sender, ended: threading.Event) -> None:
    """Send every few seconds until `ended` is set and a last attempt went through, or two did not."""
    pause, complaint, refused = INTERVAL, "", 0
    while refused < 2:
        last = ended.is_set()
        try:
            sender.send()
            if last:
                return
            pause = INTERVAL
        except (WorkbenchError, OSError) as error:
            if str(error) != complaint:
                print(f"tracking: {error} Events are kept and sent later.", file=sys.stderr, flush=True)
            complaint, pause = str(error), min(pause * 2, LONGEST_PAUSE)
            refused += last
        ended.wait(pause)


def main(folder: str, mlflow_id: str) -> int:
    """Send until the training closes our standard input, however it ended, and then for a bounded last call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # signals of the group are for the training; we end with it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(5)
    sender, ended = Sender(Path(folder), mlflow_id), threading.Event()
    thread = threading.Thread(target=follow, args=(sender, ended), daemon=True)
    thread.start()
    sys.stdin.buffer.read()
    ended.set()
    thread.join(LAST_CALL)
    return 0 if sender.position.complete(Path(folder)) else 1


if __name__ == "__main__":
    code = main(*sys.argv[1:3])
    sys.stderr.flush()
    os._exit(code)  # a thread that hangs in a request must not keep the process
