"""`make fuzz`: at least 20,000 drawn inputs, other ones each time; prints what was fed and how long the slowest took."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable

SHARES = {"spec": 0.4, "table": 0.25, "adapter": 0.15, "command line": 0.2}


def fuzzed(name: str, inputs: int) -> Callable[[], None]:
    """A call that feeds one target."""
    from hypothesis import HealthCheck, given, settings

    from tests.fuzz import targets

    @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(targets.TARGETS[name][0])
    def feed(drawn):
        targets.once(name, drawn)

    return feed


def main() -> int:
    """Feed every target; 1 as soon as one lets something through."""
    from tests.fuzz import targets

    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=20_000)
    wanted = parser.parse_args().inputs
    targets.warm()
    begun = time.monotonic()
    for name in targets.TARGETS:
        start, share = time.monotonic(), int(wanted * SHARES[name])
        while targets.counts[name, "inputs"] < share:  # a strategy may run out of new inputs early
            fuzzed(name, share)()
        fed, taken, refused = (targets.counts[name, what] for what in ("inputs", "taken", "refused"))
        print(
            f"{name:13} {fed:7,} inputs, {taken:6,} taken, {refused:7,} refused, slowest {targets.slowest[name]:.2f} s, "
            f"{time.monotonic() - start:.0f} s in all",
            flush=True,
        )
    total = sum(n for (_, what), n in targets.counts.items() if what == "inputs")
    print(f"{total:,} inputs in {time.monotonic() - begun:.0f} s: only our own errors came out.")
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="fuzz-home-") as home:
        os.environ["WORKBENCH_HOME"] = home
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ[name] = "1"
        sys.exit(main())
