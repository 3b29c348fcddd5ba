"""A server in front of a tracking server, which passes requests on or misbehaves as it is told."""

import socket
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Front(ThreadingHTTPServer):
    """Listens on loopback.

    Attributes:
        mode: `fine`, or how it misbehaves, one of MODES.
        refused: requests that were not passed on properly.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.upstream, self.mode, self.refused, self.passed = upstream, "fine", 0, 0
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go when they like."""


def _html(code: int, text: str) -> tuple[int, bytes, str]:
    return code, f"<html><body>{text}</body></html>".encode(), "text/html"


ANSWERS = {
    "500": _html(500, "Internal Server Error"),
    "502": _html(502, "Bad Gateway"),
    "401": (401, b'{"error_code": "UNAUTHENTICATED", "message": "the token has expired"}', "application/json"),
    "403": _html(403, "Forbidden"),
    "portal": _html(200, "Please log in to the network"),
    "moved": _html(404, "Not Found"),
    "read-only": (403, b'{"error_code": "PERMISSION_DENIED", "message": "this server is read-only"}', "application/json"),
    "old": _html(404, "Not Found"),
}


class Passing(BaseHTTPRequestHandler):
    """One request."""

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def _any(self) -> None:
        server: Front = self.server  # type: ignore[assignment]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = server.mode
        reads = self.command == "GET" or self.path.endswith("/search")
        if mode == "fine" or (mode == "read-only" and reads) or (mode == "old" and "logged-models" not in self.path):
            return self._pass(server, body)
        server.refused += 1
        if mode == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
        elif mode == "deaf":
            time.sleep(8)  # longer than the client waits
        elif mode == "slow":
            time.sleep(0.5)
            self._pass(server, body)
        else:
            self._answer(*ANSWERS[mode])
        return None

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def _pass(self, server: Front, body: bytes) -> None:
        server.passed += 1
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length", "accept-encoding")}
        asked = urllib.request.Request(server.upstream + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                self._answer(answer.status, answer.read(), answer.headers.get("Content-Type", "application/json"))
        except urllib.error.HTTPError as error:
            self._answer(error.code, error.read(), error.headers.get("Content-Type", "application/json"))

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
