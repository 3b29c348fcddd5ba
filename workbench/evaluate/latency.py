"""Timing things against each other: in turns, so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

WARM_UP = 3
RESAMPLES = 2000


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", warm_up: int = WARM_UP
) -> dict[str, np.ndarray]:
    """Seconds of each call in each round: A B C A B C ...

    Args:
        calls: name -> what is timed.
        rounds: how often each is timed.
        device: `cuda` waits for the device before and after each call.
        warm_up: rounds before, which are not timed.

    Returns:
        name -> (rounds,).
    """
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, rounds):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(found) for name, found in seconds.items()}


def ratio(seconds: np.ndarray, base: np.ndarray) -> tuple[float, float, float]:
    """Median of the ratios of each round, and its 95 % bootstrap interval over rounds: (median, low, high)."""
    from scipy import stats

    each = seconds / base
    found = stats.bootstrap((each,), np.median, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0))
    return float(np.median(each)), float(found.confidence_interval.low), float(found.confidence_interval.high)
