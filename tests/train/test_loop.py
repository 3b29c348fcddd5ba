"""The loop's parts: batching, accumulation, clipping, schedules, early stopping, and the watch over what trains."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train import planted
from workbench import recipes
from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Phase, Silent, Step
from workbench.core.spec import TrainingSpec
from workbench.kernel.adapter import Adapter
from workbench.recipes.standard import Standard
from workbench.tasks.contract import Example
from workbench.train import batching, optim, session

# --- batching -----------------------------------------------------------------------------------------------------

EPOCHS = {
    "lengths": st.lists(st.integers(1, 200), min_size=1, max_size=300),
    "size": st.integers(1, 40),
    "seed": st.integers(0, 2**31 - 1),
    "number": st.integers(0, 50),
}


def examples(lengths: list[int]) -> list[Example]:
    return [Example(i, n) for i, n in enumerate(lengths)]


@settings(max_examples=80, deadline=None)
@given(**EPOCHS)
def test_an_epoch_holds_every_example_once_in_batches_of_almost_one_size(lengths, size, seed, number):
    batches = batching.epoch(examples(lengths), size, seed, number)
    assert sorted(e.id for b in batches for e in b) == list(range(len(lengths)))
    sizes = {len(b) for b in batches}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    assert len(batches) == math.ceil(len(lengths) / size) == batching.steps_per_epoch(len(lengths), size, 1)


@settings(max_examples=40, deadline=None)
@given(**EPOCHS)
def test_batches_are_of_similar_lengths(lengths, size, seed, number):
    """Within one window batches are slices of a sorted list: no two of them interleave."""
    lengths = lengths[: size * batching.WINDOW]
    ordered = sorted(batching.epoch(examples(lengths), size, seed, number), key=lambda b: (b[0].length, b[-1].length))
    flat = [e.length for b in ordered for e in b]
    assert flat == sorted(lengths)


@settings(max_examples=40, deadline=None)
@given(**EPOCHS)
def test_the_order_follows_from_the_seed_alone(lengths, size, seed, number):
    one, two = (batching.epoch(examples(lengths), size, seed, number) for _ in range(2))
    assert [[e.id for e in b] for b in one] == [[e.id for e in b] for b in two]


def test_seed_and_epoch_change_the_order():
    rows = examples([5] * 50)
    orders = {tuple(e.id for b in batching.epoch(rows, 4, *key) for e in b) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len(orders) == 4


def test_forever_goes_on_with_the_next_epoch():
    stream = batching.forever(examples([1, 2, 3, 4]), 2, 0)
    seen = [e.id for _ in range(6) for e in next(stream)]
    assert sorted(seen[:4]) == sorted(seen[4:8]) == sorted(seen[8:]) == [0, 1, 2, 3]


# --- optimizer ----------------------------------------------------------------------------------------------------


def lrs(scheduler: str, warmup: float, bench: Any, steps: int = 8) -> list[float]:
    reporter = Silent()
    bench.fresh(
        bench.spec("bert", "head_only", eval_every=99, max_steps=steps, scheduler=scheduler, warmup=warmup, learning_rate=0.01),
        reporter,
    )
    return [e.lr for e in reporter.events if isinstance(e, Step)]


def test_schedules_warm_up_and_decay(bench):
    rising = [0.0, 0.005]
    rest = range(6)
    assert lrs("linear", 0.25, bench) == pytest.approx([*rising, *(0.01 * (1 - i / 6) for i in rest)])
    assert lrs("cosine", 0.25, bench) == pytest.approx([*rising, *(0.005 * (1 + math.cos(math.pi * i / 6)) for i in rest)])
    assert lrs("constant", 0.25, bench) == pytest.approx([*rising, *[0.01] * 6])


class Fake:
    """An adapter with one matrix and one vector whose groups a test decides."""

    key = "fake"

    def __init__(self) -> None:
        self.m, self.v = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
        self.groups: list[dict[str, Any]] = [{"params": [self.m, self.v], "lr": 0.1}]

    def named_trainable(self) -> dict[str, torch.nn.Parameter]:
        return {"m": self.m, "v": self.v}

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return self.groups


def test_only_matrices_decay_and_a_group_may_say_how_much():
    fake, head = Fake(), torch.nn.Linear(2, 2)
    fake.groups = [{"params": [fake.m], "lr": 0.3, "weight_decay": 0.5}, {"params": [fake.v], "lr": 0.1}]
    found = {
        id(p): (g["lr"], g["weight_decay"]) for g in optim.groups(fake, [*head.parameters()], 0.2, 0.01) for p in g["params"]
    }
    wanted = {fake.m: (0.3, 0.5), fake.v: (0.1, 0.0), head.weight: (0.2, 0.01), head.bias: (0.2, 0.0)}
    assert found == {id(p): v for p, v in wanted.items()}


@pytest.mark.parametrize("which", ["missing", "twice"])
def test_groups_must_name_every_tensor_once(which):
    fake = Fake()
    fake.groups = [{"params": [fake.m] if which == "missing" else [fake.m, fake.v, fake.v], "lr": 0.1}]
    with pytest.raises(WorkbenchError, match=r"must name each of its 2 trainable tensors once"):
        optim.groups(fake, [], 0.1, 0.0)


# --- updates ------------------------------------------------------------------------------------------------------


def whole_epochs(bench: Any, **more: Any) -> Any:
    """Every optimizer step sees all 16 rows, so that only how they are cut into forward passes can differ."""
    facts = {"max_steps": 3, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup": 0.0, **more}
    spec = bench.spec("bert", kind="bert", **facts)
    return spec.model_copy(update={"data": spec.data.model_copy(update={"limit": 16})})


def test_accumulation_equals_the_larger_batch(bench):
    one = planted.stored(bench.fresh(whole_epochs(bench, batch_size=16))[0])
    four = planted.stored(bench.fresh(whole_epochs(bench, batch_size=4, gradient_accumulation=4))[0])
    for a, b in ((one.tensors, four.tensors), (one.head, four.head)):
        assert all(torch.allclose(a[k], b[k], atol=1e-6, rtol=0) for k in a)
    assert not planted.equal(one, planted.stored(bench.fresh(whole_epochs(bench, batch_size=4))[0]))


class Measuring(Standard):
    """Notes the gradient norm that the optimizer saw."""

    norms: list[float] = []

    def after_step(self, step: int) -> None:
        params = [*self.models.adapter.named_trainable().values(), *self.models.head]
        self.norms.append(float(torch.stack([p.grad.norm() for p in params]).norm()))


def norms(bench: Any, monkeypatch: pytest.MonkeyPatch, clip: float | None) -> list[float]:
    monkeypatch.setattr(Measuring, "norms", [])
    monkeypatch.setattr(session.recipes, "configure", lambda entry: (Measuring, Standard.Config()))
    bench.fresh(bench.spec("bert", clip=clip))
    return Measuring.norms


def test_clipping_limits_the_norm_over_adapter_and_head(bench, monkeypatch):
    free = norms(bench, monkeypatch, None)
    limit = free[0] / 3
    assert norms(bench, monkeypatch, limit)[0] == pytest.approx(limit, rel=1e-3)
    assert norms(bench, monkeypatch, 2 * free[0])[0] == pytest.approx(free[0])


def test_a_loss_that_is_not_a_number_is_one_sentence(bench, monkeypatch):
    class Broken(Standard):
        def step(self, batch: Any) -> torch.Tensor:
            return super().step(batch) * float("nan")

    monkeypatch.setattr(session.recipes, "configure", lambda entry: (Broken, Standard.Config()))
    with pytest.raises(WorkbenchError, match=r"^the loss became nan at step 1; lower learning_rate, or set clip\.$"):
        bench.fresh(bench.spec("bert"))
    assert not (bench.folder / f"run{bench.count}" / "adapter").exists()


# --- early stopping -----------------------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[list[torch.Tensor]]:
    """Validations answer these accuracies in turn; returns the adapter's state at each."""
    real, states, left = session.Session._judge, [], iter(losses)

    def judge(self: Any, models: Any, rows: Any) -> Any:
        predictions, metrics = real(self, models, rows)
        states.append([t.detach().clone() for t in models.adapter.named_trainable().values()])
        return predictions, {**metrics, "accuracy": next(left, 0.123)}

    monkeypatch.setattr(session.Session, "_judge", judge)
    return states


def test_early_stopping_restores_the_best_state_and_its_metrics(bench, monkeypatch):
    states = scripted(monkeypatch, [0.5, 0.8, 0.7, 0.6])
    reporter = Silent()
    _, result = bench.fresh(bench.spec("bert", max_steps=20, eval_every=1, early_stop=2, warmup=0.0), reporter)
    seen = [e.metrics["accuracy"] for e in reporter.events if isinstance(e, Evaluated)]
    assert seen == [0.5, 0.8, 0.7, 0.6, 0.123]  # the last is the test split
    assert result["steps"] == 4
    assert result["validation"]["accuracy"] == 0.8
    assert all(torch.equal(a, b) for a, b in zip(states[4], states[1]))
    assert not all(torch.equal(a, b) for a, b in zip(states[4], states[3]))


def test_without_early_stopping_the_last_state_stands(bench, monkeypatch):
    states = scripted(monkeypatch, [0.9, 0.1, 0.1, 0.1])
    _, result = bench.fresh(bench.spec("bert", eval_every=1))
    assert (result["steps"], result["validation"]["accuracy"]) == (4, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(states[4], states[3]))


def test_early_stopping_in_the_first_phase_leaves_the_second_to_run(bench, monkeypatch):
    """A state of the search phase is dense: neither ending the run there nor restoring it later would be sparse."""
    scripted(monkeypatch, [0.9, 0.1, 0.2, 0.3])
    reporter = Silent()
    recipe = {"recipe": "lt_sft", "keep": 0.05}
    folder, result = bench.fresh(
        bench.spec("bert", "full", recipe=recipe, max_steps=8, eval_every=1, early_stop=1, warmup=0.0), reporter
    )
    assert [e.name for e in reporter.events if isinstance(e, Phase)][1:3] == ["search", "sparse"]
    assert result["trainable_params"] > 0
    assert all(k.endswith(("#at", "#to")) for k in planted.stored(folder).tensors)


# --- the watch ----------------------------------------------------------------------------------------------------


def with_extra(monkeypatch: pytest.MonkeyPatch, extra: Any) -> None:
    """Every attached adapter runs `extra(adapter, host)` once it stands."""
    real = session.build

    def build(*args: Any) -> Any:
        found = real(*args)
        extra(found[0].adapter, found[0].host)
        return found

    monkeypatch.setattr(session, "build", build)


def test_a_tensor_that_no_gradient_reaches_is_named(bench, monkeypatch):
    with_extra(monkeypatch, lambda adapter, host: adapter.register_parameter("idle", torch.nn.Parameter(torch.ones(3))))
    with pytest.raises(WorkbenchError, match=r"^adapter idle should train but got no gradient"):
        bench.fresh(bench.spec("bert"))


def test_a_tensor_that_stays_is_named(bench, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(WorkbenchError, match=r"should train but did not move in 3 steps"):
        bench.fresh(bench.spec("bert"))


def test_one_step_is_too_short_to_ask_that_everything_moved(bench):
    _, result = bench.fresh(bench.spec("bert", max_steps=1, weight_decay=0.0))  # LoRA's A has no gradient yet
    assert result["steps"] == 1


@pytest.mark.parametrize("how", ["value", "gradient"])
def test_a_changed_frozen_tensor_is_named(bench, monkeypatch, how):
    def meddle(adapter: Adapter, host: Any) -> None:
        frozen = next(p for n, p in host.named_parameters() if "word_embeddings" in n)

        def hook(*_: Any) -> None:
            with torch.no_grad():
                frozen.add_(0.0) if how == "value" else setattr(frozen, "grad", torch.zeros_like(frozen))

        monkeypatch.setattr(Adapter, "on_step", lambda self, step, steps: hook() or [])

    with_extra(monkeypatch, meddle)
    with pytest.raises(WorkbenchError, match=r"^the frozen tensor .*word_embeddings.* was changed by training"):
        bench.fresh(bench.spec("bert"))


def test_the_standard_recipe_has_one_phase_and_a_training_spec_reaches_the_optimizer():
    cls, cfg = recipes.configure(None)
    assert cls is Standard
    assert [(p.name, p.steps) for p in cls(cfg, None, 0).phases(7)] == [("train", 7)]
    adamw, _ = optim.optimizer([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.5}], TrainingSpec(warmup=0), 10)
    assert (adamw.param_groups[0]["lr"], adamw.defaults["betas"], adamw.defaults["eps"]) == (0.5, (0.9, 0.999), 1e-8)
