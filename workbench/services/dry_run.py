"""Three real training steps of one entry in a process of its own: what they took, beside what the plan says.

The caller imports no torch: `python -m workbench.services.dry_run` gets `{spec, label}` on stdin and answers on stdout with
`{"ok": ...}` or `{"error": sentence}`. No job is queued, no run folder is left, nothing is logged.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import home
from workbench.core.spec import ExperimentSpec, parse_spec, with_baseline
from workbench.jobs import client, detach, failures, slots
from workbench.jobs.store import LIVE
from workbench.services.results import PREDICTED

LONGEST = 600.0  # seconds
BUSY = 0.5  # load per core before the start


def ask(spec: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Train a few steps of the entry `label` and measure them.

    Returns:
        {label, device, precision, threads, steps, memory_kind, measured: {peak_memory_bytes, train_seconds,
        seconds_per_step}, predicted: {trainable_params, peak_memory_bytes, train_seconds}, disturbed, notes};
        `measured.train_seconds` is extrapolated from the timed steps to the whole run.

    Raises:
        WorkbenchError: no such entry, or it cannot be trained; one sentence.
    """
    checked = one_entry(parse_spec(spec), label)
    slot = slots.layout()[0]
    before, load = _live(), os.getloadavg()[0]
    found = _child({"spec": checked.model_dump(mode="json"), "device": slot.device(checked.device), "threads": slot.threads},
                   {**detach.environment(), **slot.environment()})  # fmt: skip
    notes = _disturbances(max(before, _live()), load, slots.cores())
    return {**found, "label": label, "threads": slot.threads, "disturbed": bool(notes), "notes": notes}


def one_entry(spec: ExperimentSpec, label: str) -> ExperimentSpec:
    """The experiment with this entry alone.

    Raises:
        WorkbenchError: it has none of that label.
    """
    full = with_baseline(spec)
    entries = [e for e in full.methods if e.label == label]
    if not entries:
        raise unknown("entry of methods", label, [e.label for e in full.methods])
    return full.model_copy(update={"methods": tuple(entries), "baseline": False})


def _live() -> int:
    return sum(client.counts().get(state, 0) for state in LIVE)


def _disturbances(jobs: int, load: float, cores: int) -> list[str]:
    """What makes the measured time too long, in sentences."""
    if jobs:
        return [f"{jobs} other job{'s' * (jobs > 1)} ran on this machine at the same time, so the time is too long."]
    if load > BUSY * cores:
        return [f"Other programs keep the processor busy (load {load:.1f} on {cores} cores), so the time is too long."]
    return []


def _child(request: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            detach.python("workbench.services.dry_run"), input=json.dumps(request), capture_output=True, text=True, cwd=home(),
            env=dict(environment), timeout=LONGEST, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WorkbenchError(
            f"a dry run must end within {LONGEST:.0f} seconds; this one did not: use fewer, shorter rows."
        ) from None
    lines = done.stdout.strip().splitlines()
    if not lines:
        last = (done.stderr.strip().splitlines() or [""])[-1][:160]
        cause = "the system ended it, most likely for want of memory" if done.returncode == -9 else last or "no reason was given"
        raise WorkbenchError(f"the dry run ended with code {done.returncode}: {cause}.")
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise WorkbenchError(answer["error"])
    return answer["ok"]


def rehearsed(request: Mapping[str, Any]) -> dict[str, Any]:
    """The child's work: resolve the one entry, train its steps, and say what they took."""
    from workbench.core.run_spec import Placed
    from workbench.services.experiments import resolve
    from workbench.train.rehearsal import TIMED, rehearse

    run = resolve(parse_spec(request["spec"]))[0]
    found = rehearse(run, Placed(device=request["device"], threads=request["threads"]))
    measured = {name: found[name] for name in ("peak_memory_bytes", "train_seconds", "seconds_per_step")}
    said = {name: run.predicted.get(name) for name in PREDICTED}
    return {
        "device": request["device"],
        "precision": found["precision"],
        "steps": TIMED,
        "memory_kind": found["memory_kind"],
        "measured": measured,
        "predicted": said,
    }


def main() -> int:
    """Answer one request."""
    try:
        with redirect_stdout(sys.stderr):  # whatever a library prints must not mix with the answer
            answer: dict[str, Any] = {"ok": rehearsed(json.loads(sys.stdin.read()))}
    except Exception as error:
        answer = {"error": failures.sentence(error)}
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # no thread of a library may keep the caller waiting
