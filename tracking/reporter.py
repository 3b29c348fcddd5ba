"""Where a training's events go: events.jsonl first, MLflow second and beside the training, never in its way."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tracking import events, sender
from workbench.core.errors import WorkbenchError
from workbench.core.events import Event
from workbench.core.paths import ROOT

Wish = Literal["cancel", "pause"]


class FileReporter:
    """The worker's `Reporter`: writes lines, asks for wishes, and lets a sender process feed MLflow from the file."""

    def __init__(
        self, folder: Path, attempt: int, mlflow_id: str | None, wish: Callable[[], Wish | None], offset: int = 0
    ) -> None:
        """Open events.jsonl and start the sender.

        Args:
            folder: the run folder.
            attempt: 1 for the first; written into every line.
            mlflow_id: the run in MLflow; empty to let the sender find or create it, None to keep events in the file only.
            wish: answers what the person asked of this run meanwhile.
            offset: bytes of events.jsonl that stay: 0 starts anew, a checkpoint's `offset` continues.

        Raises:
            WorkbenchError: events.jsonl cannot be written.
        """
        self._wish = wish
        self._file = events.EventFile(folder, attempt, offset)
        position = sender.Position.load(folder)
        if position.sent > self._file.offset:
            position.sent, position.stamp = self._file.offset, position.stamp + 1
            position.save(folder)
        self._sender = _start(folder, mlflow_id) if mlflow_id is not None and not position.gone else None

    @property
    def offset(self) -> int:
        """Bytes of events.jsonl so far; a checkpoint stores it so that a resume can cut the file there."""
        return self._file.offset

    def emit(self, event: Event) -> None:
        """Write one event (about 20 microseconds).

        Raises:
            WorkbenchError: the disk is full; never because of MLflow.
        """
        self._file.append(event)

    def wish(self) -> Wish | None:
        """What the person asked of this run meanwhile."""
        return self._wish()

    def close(self, limit: float = 10.0) -> bool:
        """Let the sender finish, for at most `limit` seconds; safe to call again.

        Returns:
            Whether MLflow has everything; if not, `resend` does it later.
        """
        self._file.close()
        process, self._sender = self._sender, None
        if process is None:
            return True
        process.stdin.close()
        try:
            return process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False

    def __enter__(self) -> "FileReporter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start(folder: Path, mlflow_id: str) -> subprocess.Popen | None:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-m", "tracking.sender", str(folder.resolve()), mlflow_id]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # the sender itself tries again
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env)
    except OSError as error:  # no process or memory left: the training goes on, `resend` brings the events later
        print(f"tracking: the sender cannot start: {error}. Events are kept and sent later.", file=sys.stderr, flush=True)
        return None


def resend(folder: Path, mlflow_id: str) -> bool:
    """Send what a run's own sender could not; for the daemon after a run has ended, cheap when nothing is left.

    Returns:
        Whether MLflow has everything (or the run was deleted there); False means try again later.
    """
    carrier = sender.Sender(folder, mlflow_id)
    if carrier.position.complete(folder):
        return True
    try:
        carrier.send()
    except (WorkbenchError, OSError):
        return False
    return True
