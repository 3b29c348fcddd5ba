"""Training: one loop for every method, task and recipe. Knows neither the tracking server nor the screens."""

from pathlib import Path
from typing import Any

from workbench.core.events import Reporter
from workbench.core.run_spec import Placed, RunSpec


def run(spec: RunSpec, reporter: Reporter, folder: Path, placed: Placed) -> dict[str, Any]:
    """Train and judge one run.

    Args:
        spec: everything resolved.
        reporter: gets the events, and says when to stop.
        folder: the run folder; `adapter/` and the predictions are written there.
        placed: device, threads and attempt, as the daemon decided.

    Returns:
        The verdict's `result`: parameters, memory, seconds, metrics.

    Raises:
        Stopped: the person asked for it.
        WorkbenchError: the run cannot be done; one sentence.
    """
    if spec.training.processes > 1:
        from workbench.train import several

        return several.run(spec, reporter, Path(folder), placed)
    from workbench.train.session import Session  # here, because importing torch takes seconds

    return Session(spec, reporter, Path(folder), placed).run()
