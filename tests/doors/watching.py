"""What an attack must not do: run, write outside the workspace, or talk to anybody but this machine."""

import contextlib
import hashlib
import ipaddress
import os
import sys
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MADE = {"os.mkdir": 0, "os.rename": 1, "os.symlink": 1, "os.link": 1}
RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pty.spawn")


class Watch:
    """Everything that this process did while the watch was on."""

    def __init__(self):
        self.on, self.written, self.connected, self.looked_up, self.ran = False, [], [], [], []

    def __call__(self, event, args):
        """Python's audit hook."""
        if not self.on:
            return
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            flags = args[2] if isinstance(args[2], int) else 0
            if flags & WRITES or (isinstance(args[1], str) and set(args[1]) & set("wax+")):
                self.written.append(os.fsdecode(args[0]))
        elif event in MADE:
            self.written.append(os.fsdecode(args[MADE[event]]))
        elif event == "socket.connect":
            self.connected.append(args[1])
        elif event == "socket.getaddrinfo":
            self.looked_up.append(args[0])
        elif event in RUNS:
            self.ran.append((event, args[0]))

    @contextlib.contextmanager
    def watching(self):
        """Record from here to the end of the body."""
        for one in (self.written, self.connected, self.looked_up, self.ran):
            one.clear()
        self.on = True
        try:
            yield self
        finally:
            self.on = False


WATCH = Watch()
sys.addaudithook(WATCH)


def is_local(address):
    """Whether a socket's address is a file or this machine."""
    if isinstance(address, str | bytes):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address[0]).is_loopback
    return address[0] == "localhost"


def hashes(*tops):
    """Path -> sha256 of every file below some folders."""
    files = (p for top in tops for p in sorted(Path(top).rglob("*")) if p.is_file() and not p.is_symlink())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def is_sentence(text):
    """One complete, printable, short sentence without a traceback."""
    lines = "\n" not in text and "\r" not in text and "Traceback" not in text
    return lines and text.rstrip().endswith((".", ")")) and len(text) < 700 and text.isprintable()
