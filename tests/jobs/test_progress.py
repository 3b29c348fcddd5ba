"""How far a training is, as its events tell: the whole is what was announced at the start, not the phase it is in."""

from types import SimpleNamespace

from workbench.core.events import Phase, Started, Step
from workbench.jobs.worker import Progress


def test_a_phase_is_a_part_of_the_whole():
    said = []
    store = SimpleNamespace(progress=lambda job, attempt, step, steps: said.append((step, steps)) or True)
    progress = Progress(store, {"job": 1, "attempt": 1})
    for event in (
        Started(12, 1, "cpu", 1),
        Phase("rate 0.1", 4, after=0),
        *(Step(n, 1.0, 0.1, 0.1, 8) for n in range(1, 5)),
        Phase("rate 0.2", 4, after=4),
        Step(5, 1.0, 0.2, 0.1, 8),
    ):
        progress.emit(event)
    progress.flush()
    assert said[-1] == (5, 12)
