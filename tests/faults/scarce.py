"""The planted daemon and workers of `planted`; at step 3 of a first attempt something runs out or goes wrong, as `config.fault`
says."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.faults import planted
from workbench.core.events import Step, Stopped
from workbench.core.paths import home
from workbench.jobs import daemon, detach, worker

FILLER = "filler"


def _limit(what: int, soft: int) -> None:
    resource.setrlimit(what, (soft, resource.getrlimit(what)[1]))


def full(folder: Path) -> None:
    """The disk has no byte left."""
    with open(home() / FILLER, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 9, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


def inodes(folder: Path) -> None:
    """The disk has no file left."""
    (home() / FILLER).mkdir()
    try:
        for number in range(1 << 20):
            (home() / FILLER / str(number)).touch()
    except OSError:
        pass


def file_size(folder: Path) -> None:
    """No file may grow large."""
    _limit(resource.RLIMIT_FSIZE, 1 << 16)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * (1 << 20))


def files(folder: Path) -> None:
    """No file can be opened."""
    _limit(resource.RLIMIT_NOFILE, 3)


def memory(folder: Path) -> None:
    """No memory is left."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _limit(resource.RLIMIT_AS, used + (8 << 20))
    bytearray(1 << 30)


def folder_gone(folder: Path) -> None:
    """Somebody deletes the run folder."""
    shutil.rmtree(folder)


def log_gone(folder: Path) -> None:
    """Somebody deletes the log."""
    (folder / "train.log").unlink()


def read_only(folder: Path) -> None:
    """Nothing can be made or renamed in the run folder any more; files that are open stay so."""
    subprocess.run(["chattr", "+i", str(folder)], check=True)


def native(folder: Path) -> None:
    """Native code crashes."""
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves(folder: Path) -> None:
    """Something ends the process as if all were well."""
    os._exit(0)


def floods(folder: Path) -> None:
    """A library prints 50 MB of warnings."""
    for _ in range(50):
        print(("warning: " + "x" * 990 + "\n") * 1000, end="", file=sys.stderr, flush=True)
        time.sleep(0.05)


def recursion(folder: Path) -> None:
    """A function calls itself for ever."""
    recursion(folder)


def interrupt(folder: Path) -> None:
    """Ctrl-C in a library."""
    raise KeyboardInterrupt


def thread(folder: Path) -> None:
    """A library leaves a thread behind that never ends."""
    threading.Thread(target=threading.Event().wait).start()


class Scarce:
    """A reporter at whose third step the fault happens."""

    def __init__(self, inner, act) -> None:
        self.inner, self.act, self.wish = inner, act, inner.wish

    def emit(self, event) -> None:
        """Pass the event on."""
        self.inner.emit(event)
        if isinstance(event, Step) and event.step == 3:
            self.act()

    @property
    def offset(self) -> int:
        """As the inner one's."""
        return self.inner.offset


def train(spec, told, folder, placed):
    """The planted training with its fault."""
    fault = spec.config.get("fault") if placed.attempt == 1 else None
    if fault == "hangs":  # before the first step
        while told.wish() is None:
            time.sleep(0.02)
        raise Stopped(told.wish())
    return PLAIN(spec, Scarce(told, lambda: globals()[fault](folder)) if fault else told, folder, placed)


PLAIN = planted.train


def start() -> None:
    """Start the daemon of this home, if none runs."""
    if not daemon.status()["running"]:
        command = [sys.executable, "-P", __file__, "daemon"]
        detach.launch(command, "daemon", lambda: daemon.status()["running"])


def main(what, *rest):
    """Be one of the planted ones."""
    planted.HERE = [sys.executable, "-P", __file__]
    planted.WIRING = type(planted.WIRING)(train, planted.WIRING.prepare, planted.WIRING.reporter, planted.WIRING.short)
    if what == "daemon" and "UMASK" in os.environ:
        os.umask(int(os.environ["UMASK"], 8))
    code = planted.main(what, *rest)
    return worker._leave(code) if what == "worker" else code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
