"""What a training says while it runs. Events are plain JSON lines; the reporter writes the file first, MLflow second."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Event:
    """Base of all events; `time` is seconds since the epoch."""

    time: float = field(default_factory=time.time, kw_only=True)

    def record(self) -> dict[str, Any]:
        """The JSON line: `event` names the class in lower case."""
        return {"event": type(self).__name__.lower(), **asdict(self)}


@dataclass(frozen=True)
class Started(Event):
    """The worker holds its lock; `steps` is 0 until the plan of the loop is known."""

    steps: int
    attempt: int
    device: str
    threads: int


@dataclass(frozen=True)
class Phase(Event):
    """A recipe's phase, or one of `loading|preparing|training|evaluating|saving`, begins.

    In a search over learning rates the steps are numbered on from rate to rate. There `after` says, for the phase that opens a
    rate and once more for the rate that is kept, how many steps came before: the rate's own are `after` + 1 to `after` + `steps`.
    """

    name: str
    steps: int = 0
    after: int | None = None


@dataclass(frozen=True)
class Step(Event):
    """One optimizer step: `loss` the mean loss of its examples, `lr` the first group's rate, `seconds` its duration."""

    step: int
    loss: float
    lr: float
    seconds: float
    examples: int


@dataclass(frozen=True)
class Evaluated(Event):
    """Metrics of one split (`validation` or `test`) after `step` steps; names without prefix, e.g. `accuracy`."""

    step: int
    split: Literal["validation", "test"]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Measured(Event):
    """Named figures under their tracking names, e.g. `params/trainable`, `mem/peak_bytes`; text goes to `notes`."""

    metrics: dict[str, float]
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved(Event):
    """A folder below the run folder is complete on disk, e.g. `adapter`."""

    what: str
    step: int


class Reporter(Protocol):
    """Where events go, and where the wish to stop comes from."""

    def emit(self, event: Event) -> None:
        """Record one event; must not raise because a tracking server is away."""

    def wish(self) -> Literal["cancel", "pause"] | None:
        """What the person asked of this run meanwhile; asked after each step and each evaluation batch."""

    @property
    def offset(self) -> int:
        """Where the record of events ends now; a run that goes on from a checkpoint cuts it there."""
        ...


class Stopped(Exception):
    """Raised inside a training when `Reporter.wish()` answered; carries `cancel` or `pause`."""


class Silent:
    """A reporter that keeps events in a list; for tests, notebooks and library use."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)

    def wish(self) -> None:
        """Nobody asks a silent run to stop."""
        return None

    @property
    def offset(self) -> int:
        """Events so far."""
        return len(self.events)
