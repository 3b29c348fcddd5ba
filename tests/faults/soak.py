"""F11: hours of tiny jobs on one home while daemons, workers, engines and clients are killed every few seconds.

    WORKBENCH_SOAK_MINUTES=360 python -P tests/faults/soak.py

Rounds of some minutes; after each everything comes to rest, all invariants and every job's history are checked, and its jobs
are deleted, as a person would who makes room. Exit code 1 as soon as a round is broken; its home then stays.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import forking, grid, histories, invariants
from workbench.jobs import client, daemon, engine


def main() -> int:
    """Rounds until the time is up."""
    home = Path(tempfile.mkdtemp(prefix="workbench-soak-")) / "home"
    home.mkdir()
    os.environ |= {"WORKBENCH_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
    client.ensure_daemon = lambda: None
    grid.reference(home)
    reference = home / "runs" / "reference"
    before = invariants.snapshot(reference)
    deadline = time.monotonic() + 60 * float(os.environ.get("WORKBENCH_SOAK_MINUTES") or 360)
    rounds = jobs = asked = kills = 0
    while time.monotonic() < deadline:
        rounds += 1
        plan = histories.Plan(rounds, 6, 30, often=4, rest=5.0, prefix=f"s{rounds:04}x", engines=True)
        found = histories.play(home, plan, reference)
        names = [name for name in grid.rows(home) if name != "reference"]
        broken = found.broken + invariants.i8_others_unchanged(before)
        jobs, asked, kills = jobs + len(names), asked + found.operations, kills + found.kills
        print(f"round {rounds}: {jobs} jobs, {asked} requests, {kills} kills, {len(broken)} broken", flush=True)
        if broken:
            print("\n".join([*broken, f"the home stays at {home}"]), flush=True)
            return 1
        for name in names:
            client.delete(name)
        shutil.rmtree(home / "out", ignore_errors=True)
    engine.stop(5)
    daemon.stop()
    left = [
        *invariants.settled(home, grid.PATIENCE),
        *(f"{path} is left" for path in (home / "runs").iterdir() if path != reference),
    ]
    print("\n".join(left) or f"{jobs} jobs, {kills} kills, nothing broken")
    shutil.rmtree(home.parent)
    return 1 if left else 0


if __name__ == "__main__":
    forking.planted.prepare()
    sys.exit(main())
