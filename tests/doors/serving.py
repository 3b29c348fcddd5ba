"""Real servers, and what a browser or an attacker sends them."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time

import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.conftest import ROOT
from tests.jobs.living import free_port


def command(port, *options):
    """The command line of `make app` on another port."""
    return [sys.executable, "-P", "-m", "streamlit", "run", str(ROOT / "app.py"), "--server.port", str(port), *options]


def environment(home, **more):
    """What a server sees; its home is new."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(home), "WORKBENCH_IDLE_SECONDS": "5", **more}


@contextlib.contextmanager
def served(home, *options, cwd=ROOT, **env):
    """Serve the app on a free port until the body ends; gives the port."""
    port = free_port()
    with open(home.parent / "server.log", "ab") as log:
        process = subprocess.Popen(command(port, *options), cwd=cwd, env=environment(home, **env), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        assert process.poll() is None, (home.parent / "server.log").read_text()[-2000:]
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def refused_start(home, *options, cwd=ROOT, **env):
    """(exit code, last line) of a server that must not start."""
    done = subprocess.run(
        command(free_port(), *options), cwd=cwd, env=environment(home, **env), capture_output=True, text=True, timeout=90,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


def get(port, path="/", host=None, **headers):
    """One GET without redirects; `path` is sent as it stands."""
    with socket.create_connection(("127.0.0.1", port), 60) as stream:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", "Connection: close"]
        stream.sendall("\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode("utf-8", "replace"))
        raw = b"".join(iter(lambda: stream.recv(65536), b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/") else 0
    fields = dict(re.findall(r"(?m)^([\w-]+): (.*?)\r?$", head.decode("latin-1").lower()))
    return status, fields, body


def talk(port, page="methods", host=None, origin="own", cookies=None, seconds=90.0, **headers):
    """Open a page over its WebSocket.

    Returns:
        (status, text): 101 and the whole text of what the page sent until it was done, or the status of the refusal.
    """
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    host = host or f"127.0.0.1:{port}"
    origin = f"http://{host}" if origin == "own" else origin
    token = (cookies or {}).get("_streamlit_xsrf", "PLACEHOLDER")
    more = {**headers, "Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())} if cookies else headers
    raw = socket.create_connection(("127.0.0.1", port), 60)
    try:
        address, protocols = f"ws://{host}/_stcore/stream", ["streamlit", token]
        with connect(
            address, sock=raw, origin=origin, subprotocols=protocols, additional_headers=more, max_size=None, open_timeout=60
        ) as stream:
            message = BackMsg()
            message.rerun_script.page_name = page
            stream.send(message.SerializeToString())
            text, deadline = [], time.monotonic() + seconds
            while time.monotonic() < deadline:
                got = ForwardMsg()
                got.ParseFromString(stream.recv(timeout=deadline - time.monotonic()))
                text.append(str(got))
                if got.WhichOneof("type") == "script_finished" and got.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                    break
            return 101, "\n".join(text)
    except InvalidStatus as error:
        return error.response.status_code, ""
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else 0, ""
    finally:
        raw.close()


def token(port):
    """The cookie against cross-site requests that the server hands out."""
    answer = requests.get(f"http://127.0.0.1:{port}/_stcore/health", timeout=20)
    return answer.cookies.get("_streamlit_xsrf")
