"""Whether a training fits: warned of when the prediction says so, forbidden only when the weights alone cannot."""

import pytest

from workbench.core.errors import WorkbenchError
from workbench.core.spec import parse_spec
from workbench.plan import Machine, Plan, Room, fitting, probe
from workbench.services import plans

PLAN = Plan(peak_memory_bytes=2_000_000_000, train_seconds=1.0, steps=1)


@pytest.mark.parametrize(
    ("device", "free", "fits"),
    [("cuda", 3e9, True), ("cuda", 1.9e9, False), ("cpu", 4e9, True), ("cpu", 3e9, False), ("cpu", None, None)],
)
def test_on_a_processor_the_model_and_the_process_count_too(device, free, fits):
    room = Room(free and int(free), 8_000_000_000)
    found, sentence = fitting.fits(PLAN, 1_000_000_000, Machine(device), room)
    assert found is fits
    assert bool(sentence) == (fits is False)
    if sentence:
        assert sentence.startswith("about ")
        assert "smaller batch_size" in sentence


def test_what_could_not_be_planned_says_nothing():
    assert fitting.fits(Plan(problems=("no.",)), 1, Machine(), Room(1, 1)) == (None, "")


def test_the_calibrated_prediction_decides():
    plan = Plan(peak_memory_bytes=100, train_seconds=1.0, steps=1, memory_factor=3.0)
    assert fitting.fits(plan, 0, Machine("cuda"), Room(299, 500))[0] is False
    assert fitting.fits(plan, 0, Machine("cuda"), Room(300, 500))[0] is True


def test_this_machine_has_memory():
    room = probe.room("cpu")
    assert 0 < room.free <= room.total


def test_a_plan_warns_but_does_not_block(home, spec, monkeypatch):
    monkeypatch.setattr(probe, "room", lambda device: Room(120_000_000, 16_000_000_000))
    found = plans.plan(parse_spec(spec))
    assert [m["fits"] for m in found["methods"]] == [False, False]
    assert not found["problems"]
    assert found["warnings"][0].startswith("lora: about ")
    assert found["device"]["free_bytes"] == 120_000_000


def test_weights_beyond_the_whole_memory_block(home, spec, monkeypatch):
    monkeypatch.setattr(probe, "room", lambda device: Room(50_000_000, 60_000_000))
    with pytest.raises(WorkbenchError, match="the base model's weights must fit into memory"):
        plans.plan(parse_spec(spec))
