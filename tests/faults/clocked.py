"""The planted daemon and workers of `planted` with a clock that a test may set: `<home>/clock` holds the seconds it is off."""

import sys
import time

from tests.faults import planted
from workbench.core.paths import home
from workbench.jobs import daemon, detach

REAL = time.time


def now():
    """Seconds since the epoch, as this clock shows them."""
    try:
        return REAL() + float((home() / "clock").read_text())
    except (OSError, ValueError):
        return REAL()


def start():
    """Start the daemon of this home, if none runs."""
    if not daemon.status()["running"]:
        command = [sys.executable, "-P", __file__, "daemon"]
        detach.launch(command, "daemon", lambda: daemon.status()["running"])


def main(what, *rest):
    """Be one of the planted ones."""
    time.time = now
    planted.HERE = [sys.executable, "-P", __file__]
    return planted.main(what, *rest)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
