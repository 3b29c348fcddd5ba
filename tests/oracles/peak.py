"""Counting what a computation allocates: structured products must stay below the dense form."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes of CPU tensors that `call` holds at one time beyond those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = call()
    changes = sorted((e.start_ns(), e.nbytes()) for e in seen.profiler.kineto_results.events() if e.name() == "[memory]")
    del kept
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most
