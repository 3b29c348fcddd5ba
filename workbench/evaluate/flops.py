"""Floating point operations of a training step, counted while it runs: matrix products, convolutions and attention."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Flops:
    """Operations of one pass forward and of one backward; a product of (m, k) with (k, n) is 2 m k n."""

    forward: int
    backward: int

    @property
    def step(self) -> int:
        """Both together; what the optimizer does is not counted."""
        return self.forward + self.backward


def counted(loss: Callable[[], Tensor]) -> Flops:
    """Run a loss forward and backward once and count.

    What is counted is what is computed: a frozen matrix gets no gradient of its own, so its backward is half of a trained
    one's, and below the lowest tensor that trains there is no backward at all.

    Args:
        loss: the forward pass; its scalar has a gradient.
    """
    with sdpa_kernel(SDPBackend.MATH):  # fused attention is one operation that the counter does not know on every device
        with FlopCounterMode(display=False) as ahead:
            value = loss()
        with FlopCounterMode(display=False) as back:
            value.backward()
    return Flops(ahead.get_total_flops(), back.get_total_flops())
