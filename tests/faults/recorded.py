"""The planted daemon and workers of `planted`, with the real record behind them: `recorded.py daemon|worker ...`."""

import sys
from pathlib import Path
from types import SimpleNamespace

from tests.faults import planted
from workbench.core.events import Saved
from workbench.core.paths import home
from workbench.jobs import daemon, detach, record, worker

HERE = [sys.executable, "-P", __file__]


def train(spec, told, folder, placed):
    """The planted training, whose adapter is recorded too."""
    result = planted.train(spec, told, folder, placed)
    told.emit(Saved("adapter", planted.STEPS))
    return result


def start():
    """Start the daemon of this home, if none runs."""
    if not daemon.status()["running"]:
        detach.launch([*HERE, "daemon"], "daemon", lambda: daemon.status()["running"])


def main(what, *rest):
    """Be one of the two."""
    sys.modules["safetensors.torch"] = SimpleNamespace(save_file=planted._save_file)  # type: ignore[assignment]
    detach.code_stamp = lambda: "planted"  # so that an edit while the tests run changes nothing
    if what == "worker":
        return worker.main(Path(rest[0]), worker.Wiring(train, lambda spec, placed: placed, worker._reporter))
    record.LONGEST_WAIT = 2.0
    patience = (0.5, 1.0, 1.5)
    return detach.detach(home() / "daemon.log", lambda ready: daemon.serve(ready, [*HERE, "worker"], patience))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
