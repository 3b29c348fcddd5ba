"""One warm process for the screens' short requests, so that the UI process never imports torch.

Clients call `ask`. The process listens on a unix socket (mode 0600) and speaks newline-delimited JSON: on accept it says
`{"hello": code stamp}`, then answers `{"call", "args"}` with `{"ok": value}` or `{"error": sentence, "kind": class}`. It is
started on demand, replaced when the code changed, and leaves when idle. Only calls of the table can be made.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workbench.core import errors
from workbench.core.errors import WorkbenchError
from workbench.core.locks import Alive, is_held
from workbench.core.paths import home, locks
from workbench.jobs import detach, failures, wire

CALLS = MappingProxyType({
    "ping": "workbench.jobs.engine:ping",
    "plan": "workbench.services.plans:plan_request",
    "matched": "workbench.services.matching:matched_request",
    "resolve_submit": "workbench.services.experiments:submit_request",
    "catalogue": "workbench.services.catalogue:rebuild",
    "preview": "workbench.services.data:preview_request",
    "tokens": "workbench.services.tokens:tokens",
    "shares": "workbench.services.shares:shares",
    "test_rows": "workbench.services.disagreements:texts_request",
    "predict": "workbench.services.adapters:predict_request",
    "play": "workbench.services.playing:play_request",
    "play_examples": "workbench.services.playing:examples_request",
    "import": "workbench.services.adapters:import_request",
    "operate": "workbench.services.adapters:operate_request",
    "analyse": "workbench.services.analyses:analyse_request",
})  # fmt: skip
"""Call -> `module:function`; the function gets `args` as keyword arguments and returns a plain value."""

LONGEST_SOCKET_PATH = 107
LONGEST_MESSAGE = 32_000_000  # bytes
START = tuple(detach.python("workbench.jobs.engine"))
STOP_WITHIN = 30.0


def ping() -> dict[str, Any]:
    """Says that the engine answers: `{pid}`."""
    return {"pid": os.getpid()}


def socket_path() -> Path:
    """`<home>/engine.sock`, or a short private path where that is longer than the kernel allows."""
    wanted = home() / "engine.sock"
    if len(os.fsencode(wanted)) <= LONGEST_SOCKET_PATH:
        return wanted
    digest = hashlib.sha256(os.fsencode(home())).hexdigest()[:16]
    folder = Path("/tmp") / f"workbench-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise WorkbenchError(f"{folder} must be a private folder of ours; it is not: remove it, or use a shorter WORKBENCH_HOME.")
    return folder / "engine.sock"


def _lock_file() -> Path:
    return locks() / "engine.lock"


def _send(stream: Any, value: Any) -> None:
    stream.write(json.dumps(wire.plain(value), ensure_ascii=False).encode() + b"\n")
    stream.flush()


def _receive(stream: Any) -> dict[str, Any]:
    """The next message; empty when the other side is gone."""
    line = stream.readline(LONGEST_MESSAGE)
    value = json.loads(line) if line else {}
    if not isinstance(value, dict):
        raise ValueError("a message must be a JSON object")
    return value


# --- the engine's side


class _Handler(socketserver.StreamRequestHandler):
    server: "_Engine"

    def handle(self) -> None:
        """Serve one connection until the client leaves; that it left never disturbs the engine."""
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            _send(self.wfile, {"hello": self.server.code})
            while True:
                try:
                    message = _receive(self.rfile)
                except ValueError as error:
                    _send(self.wfile, {"error": f"a request must be one JSON object a line; {error}.", "kind": "WorkbenchError"})
                    return
                if not message:
                    return
                _send(self.wfile, self.server.answer(message))


class _Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    timeout = 0.5

    def __init__(self, path: Path, calls: Mapping[str, str]) -> None:
        self.calls, self.code = calls, detach.code_stamp()
        self.working = threading.Lock()  # models are shared: one call at a time
        self.waiting, self.last, self.stopping = 0, time.monotonic(), False
        self.counting = threading.Lock()
        before = os.umask(0o177)
        try:
            super().__init__(str(path), _Handler)
        finally:
            os.umask(before)

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do one call; an error becomes a sentence."""
        if message.get("call") == "stop":
            self.stopping = True
            return {"ok": None}
        with self.counting:
            self.waiting += 1
        try:
            with self.working:
                return {"ok": wire.plain(self._call(message.get("call"), message.get("args") or {}))}
        except (Exception, SystemExit) as error:
            if not isinstance(error, WorkbenchError):
                traceback.print_exc()
            return {"error": failures.sentence(error), "kind": type(error).__name__}
        finally:
            with self.counting:
                self.waiting -= 1
                self.last = time.monotonic()

    def _call(self, name: object, arguments: dict[str, Any]) -> Any:
        if name not in self.calls:
            raise errors.unknown("call of the engine", name, self.calls)
        module, _, function = self.calls[str(name)].partition(":")
        return getattr(import_module(module), function)(**arguments)

    def over(self, idle: float) -> bool:
        """Whether to leave: asked to, or idle for long; never in the middle of a call."""
        with self.counting:
            return self.waiting == 0 and (self.stopping or time.monotonic() - self.last > idle)


def serve(ready: Callable[[], None], calls: Mapping[str, str] = CALLS) -> None:
    """Be the engine of this home, or return at once if another one listens."""
    lock, deadline = Alive(_lock_file()), time.monotonic() + 30
    while not lock.take():
        if running():
            ready()
            return
        if time.monotonic() > deadline:
            raise WorkbenchError(f"another engine holds {_lock_file()} but does not listen; stop that process and try again.")
        time.sleep(0.05)
    path, idle = socket_path(), float(os.environ.get("WORKBENCH_IDLE_SECONDS") or 900)
    path.unlink(missing_ok=True)  # left by a killed engine
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with _Engine(path, calls) as engine:
        signal.signal(signal.SIGTERM, lambda *_: setattr(engine, "stopping", True))
        ready()
        while lock.intact() and not engine.over(idle):
            engine.handle_request()
        if lock.intact():
            path.unlink(missing_ok=True)
    sys.stdout.flush()
    os._exit(0)  # threads of idle connections must not keep the process


# --- the clients' side


def _connect(timeout: float) -> tuple[socket.socket, Any, str | None]:
    """A connection that has said hello; raises OSError when no engine listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(str(socket_path()))
        stream = connection.makefile("rwb")
        hello = _receive(stream)
        if "hello" not in hello:
            raise ConnectionResetError("the engine is leaving")
    except BaseException:
        connection.close()
        raise
    return connection, stream, hello["hello"]


def running() -> bool:
    """Whether an engine answers."""
    try:
        connection, stream, _ = _connect(5.0)
    except (OSError, ValueError):
        return False
    stream.close()
    connection.close()
    return True


def stop(patience: float = STOP_WITHIN) -> bool:
    """Ask the engine to leave after its current call and wait for that; False if it still works after `patience` seconds."""
    with contextlib.suppress(OSError, ValueError):
        connection, stream, _ = _connect(5.0)
        with connection, stream:
            _send(stream, {"call": "stop"})
            _receive(stream)
    deadline = time.monotonic() + patience
    while is_held(_lock_file()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _ready_connection(timeout: float) -> tuple[socket.socket, Any]:
    """A connection to an engine with the present code, started or replaced if need be."""
    for _ in range(3):
        try:
            connection, stream, code = _connect(min(timeout, 10.0))
        except (OSError, ValueError):
            detach.launch([*START, "start"], "engine", running)
            continue
        if code == detach.code_stamp():
            connection.settimeout(timeout)
            return connection, stream
        stream.close()
        connection.close()
        stop()
    raise WorkbenchError(f"the engine must answer; it does not: see {home() / 'engine.log'} and ask again.")


def _error(call: str, reply: dict[str, Any]) -> WorkbenchError:
    kind = getattr(errors, str(reply.get("kind")), WorkbenchError)
    known = isinstance(kind, type) and issubclass(kind, WorkbenchError)
    return (kind if known else WorkbenchError)(str(reply.get("error") or f"the engine failed at {call!r}."))


def ask(call: str, args: Mapping[str, Any] | None = None, timeout: float = 120.0) -> Any:
    """Let the engine do one call of the table; starts it if need be. Requests that torch must answer go this way in the UI.

    Args:
        call: a key of `CALLS`.
        args: keyword arguments, plain JSON values.
        timeout: seconds to wait for the answer.

    Raises:
        WorkbenchError: what the call raised, as its sentence; or the engine stopped or did not answer in time.
    """
    connection, stream = _ready_connection(timeout)
    try:
        with connection, stream:  # whose end sends what is still unsent, so that it fails as the sending does
            _send(stream, {"call": call, "args": dict(args or {})})
            reply = _receive(stream)
    except TimeoutError:
        raise WorkbenchError(f"the engine must answer {call!r} within {timeout:g} s; it still works: try later.") from None
    except (OSError, ValueError):
        reply = {}
    if not reply:
        log = home() / "engine.log"
        raise WorkbenchError(f"the engine stopped while it worked on {call!r} (see {log}); ask again, it restarts by itself.")
    if "ok" in reply:
        return reply["ok"]
    raise _error(call, reply)


def main(arguments: Sequence[str]) -> int:
    """`start` or `stop`."""
    match list(arguments):
        case ["start"]:
            return detach.detach(home() / "engine.log", serve)
        case ["stop"]:
            return 0 if stop() else 1
    print("usage: python -m workbench.jobs.engine start|stop", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
