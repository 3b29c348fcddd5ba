"""What can stand on an axis of a trade-off: its name, its unit, and how its values are placed and said."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from workbench.figures import words


@dataclass(frozen=True)
class Axis:
    """One figure of a run.

    Attributes:
        name: its column, e.g. `peak_memory_bytes`, or the name of a test metric.
        title: what the axis says, with the unit.
        short: what a choice or a table says.
        say: one value as text.
        unit: what one unit of the axis is in the column's own unit.
        better: which direction is good.
        log: whether its values span decades.
    """

    name: str
    title: str
    short: str
    say: Callable[[float | None], str]
    unit: float = 1.0
    better: Literal["higher", "lower"] = "lower"
    log: bool = False


_MS = 1e-3
KNOWN = {
    one.name: one
    for one in (
        Axis("trainable_params", "Trainable parameters, without the head (log)", "Trainable parameters", words.count, log=True),
        Axis("peak_memory_bytes", "Peak memory of the training (MB)", "Peak memory", words.size, 1e6),
        Axis("step_seconds", "Time of one training step (ms)", "Step time", words.milliseconds, _MS),
        Axis("train_seconds", "Training time (s)", "Training time", words.duration),
        Axis("latency_unmerged", "Latency with the adapter beside the base (ms)", "Latency, unmerged", words.milliseconds, _MS),
        Axis("latency_merged", "Latency with the adapter merged (ms)", "Latency, merged", words.milliseconds, _MS),
        Axis("adapter_bytes", "Adapter on disk (MB, log)", "Adapter size", words.size, 1e6, log=True),
        Axis("forgetting_nll", "Forgetting on held-out text (nats per token)", "Forgetting", words.score),
        Axis("forgetting_drift", "Forgetting: change of the representations (relative)", "Forgetting (drift)", words.score),
    )
}


def axis(name: str, higher: bool = True) -> Axis:
    """The axis of a figure or, under any other name, of a test metric (`higher` says which direction is good there)."""
    if name in KNOWN:
        return KNOWN[name]
    title = words.title(name)
    return Axis(name, f"{title} (test)", title, words.score, better="higher" if higher else "lower")


def floor(values: Iterable[float]) -> float:
    """Where zero stands on a log axis: one decade left of the smallest value."""
    known = [v for v in values if v > 0]
    return 10.0 ** (math.floor(math.log10(min(known))) - 1) if known else 0.1


def place(values: Iterable[Any], one: Axis, zero: float) -> list[float]:
    """Values where the axis shows them; `zero` (in the axis' unit) is the place of zero on a log axis."""
    return [v / one.unit if v > 0 or not one.log else zero for v in values]


def decades(figure: go.Figure, values: Iterable[float], zero: float, vertical: bool = False) -> None:
    """A log axis whose ticks are decades, with a tick for zero where some value is zero.

    Args:
        figure: it is changed.
        values: in the axis' unit, before placing.
        zero: where zero stands.
        vertical: the y axis instead of the x axis.
    """
    held = list(values)
    known = [v for v in held if v > 0] or [1.0]
    powers = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
    ticks = [*([zero] if any(v <= 0 for v in held) else []), *(10.0**p for p in powers)]
    text = ["0" if t == zero else words.short(t) for t in ticks]
    ends = [math.log10(min([*ticks, *known])) - 0.25, math.log10(max([*ticks[-1:], *known])) + 0.15]
    update = figure.update_yaxes if vertical else figure.update_xaxes
    update(type="log", tickvals=ticks, ticktext=text, range=ends)
