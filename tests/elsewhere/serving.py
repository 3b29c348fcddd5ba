"""Real servers for one test: a PostgreSQL cluster on a Unix socket, and an MLflow server on loopback."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.jobs.living import free_port

MLFLOW_READY = 120.0


def programs() -> Path:
    """The folder of PostgreSQL's programs; skips the test where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    return found[-1].parent


def as_somebody(command: list[str]) -> list[str]:
    """The command as a user that PostgreSQL accepts: it refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command


@contextmanager
def postgres() -> Iterator[str]:
    """A fresh cluster; yields the address of its database `mlflow`."""
    pytest.importorskip("psycopg2", reason="pip install -r requirements-postgres.txt")
    bin = programs()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has at most 107 bytes
    owner = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    shutil.chown(folder, owner)
    data = str(folder / "data")

    def call(name: str, *arguments: str) -> None:
        done = subprocess.run(as_somebody([str(bin / name), *arguments]), capture_output=True, text=True, timeout=120, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        call("initdb", "-D", data, "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-sync")
        call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -c listen_addresses= -F", "start")
        try:
            call("createdb", "-h", str(folder), "-U", "mlflow", "mlflow")
            yield f"postgresql+psycopg2://mlflow@/mlflow?host={folder}"
        finally:
            call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class MLflowServer:
    """`mlflow server` on loopback, which can be stopped and started again at the same address."""

    def __init__(self, store: str, folder: Path, port: int = 0) -> None:
        self.store, self.folder, self.port = store, folder, port or free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {"backend-store-uri": self.store, "artifacts-destination": str(self.folder / "served"), "workers": "1",
                   "host": "127.0.0.1", "port": str(self.port)}  # fmt: skip
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = [sys.executable, "-P", "-m", "mlflow", "server", *given]
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_TRACKING", "WORKBENCH"))}
        env = {**outside, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self.folder / "mlflow-server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + MLFLOW_READY
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "mlflow-server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the MLflow server does not answer"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it with everything it started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def mlflow_server(store: str, folder: Path) -> Iterator[MLflowServer]:
    """A running server on a backend store."""
    server = MLflowServer(store, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
