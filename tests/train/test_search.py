"""A list of learning rates: one training per rate from one start, the best on validation is kept, and nothing else is."""

import gc
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.train import planted
from tests.train.test_runs import Impatient, predictions, steps
from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Phase, Saved, Silent, Started, Step, Stopped
from workbench.kernel.host import Adapters
from workbench.recipes import Models
from workbench.recipes.standard import Standard
from workbench.train import session
from workbench.train.search import Search, Trial
from workbench.train.watching import Outcome

RATES = (1e-5, 0.02, 1e-6)
SIX = {"max_steps": 6, "eval_every": 99}


@pytest.fixture(scope="module")
def searched(bench):
    """A run that tries three rates of which the second is judged best; dropout draws numbers in every step."""
    reporter = Silent()
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, [{"accuracy": a} for a in (0.5, 0.75, 0.625)])
        folder, result = bench.fresh(bench.spec("bert", dropout=0.1, learning_rate=RATES, **SIX), reporter)
    return folder, result, reporter.events


def scripted(monkeypatch: pytest.MonkeyPatch, answers: list[dict[str, float]]) -> None:
    """Validations answer these metrics in turn; the test keeps its own."""
    real, left = session.Session._judge, iter(answers)

    def judge(self: Any, models: Any, rows: Any) -> Any:
        predictions, metrics = real(self, models, rows)
        return predictions, metrics | (next(left) if rows is self.examples["validation"] else {})

    monkeypatch.setattr(session.Session, "_judge", judge)


def test_the_kept_adapter_is_bitwise_that_of_a_run_with_the_rate_alone(bench, searched):
    folder, result, _ = searched
    alone, one = bench.run("bert", dropout=0.1, learning_rate=result["learning_rate"], **SIX)
    assert planted.equal(planted.stored(folder), planted.stored(alone))
    assert predictions(folder) == predictions(alone)
    same = ("metrics", "steps", "trainable_params", "total_params", "adapter_bytes")
    assert {k: result[k] for k in same} == {k: one[k] for k in same}


def test_the_result_tells_every_rate(searched):
    _, result, events = searched
    rows = result["search"]
    assert [r["learning_rate"] for r in rows] == list(RATES)
    assert all(r.keys() == {"learning_rate", "metric", "loss", "seconds", "steps", "reason"} for r in rows)
    best = rows[1]
    assert [r["metric"] for r in rows] == [0.5, 0.75, 0.625]
    assert (result["learning_rate"], result["validation"]["accuracy"]) == (0.02, 0.75)
    assert [(r["steps"], r["reason"]) for r in rows] == [(6, None)] * 3
    assert result["search_seconds"] == pytest.approx(sum(r["seconds"] for r in rows))
    assert result["train_seconds"] == best["seconds"]
    seen = sum(e.examples for e in events if isinstance(e, Step) and 6 < e.step <= 12)
    assert result["examples_per_second"] == pytest.approx(seen / best["seconds"])
    assert result["first_step_seconds"] < result["load_seconds"] + 10


def test_a_run_with_one_rate_tells_of_no_search(bench):
    _, result = bench.run("bert")
    assert result["search"] is result["search_seconds"] is None


def test_steps_go_on_over_the_rates_and_only_the_best_is_tested(searched):
    _, _, events = searched
    assert [e.steps for e in events if isinstance(e, Started)] == [18]
    assert [e.step for e in events if isinstance(e, Step)] == list(range(1, 19))
    assert [(e.name, e.steps, e.after) for e in events if isinstance(e, Phase) and e.after is not None] == [
        ("rate 1e-05", 6, 0),
        ("rate 0.02", 6, 6),
        ("rate 1e-06", 6, 12),
        ("rate 0.02 is kept", 6, 6),
    ]
    assert [e.step for e in events if isinstance(e, Evaluated) and e.split == "test"] == [12]
    assert [e.step for e in events if isinstance(e, Saved)] == [12]
    first = [next(e.loss for e in events if isinstance(e, Step) and e.step == n) for n in (1, 7, 13)]
    assert len(set(first)) == 1  # the same rows and the same dropout on the same start


def test_nothing_is_left_beside_the_run(searched):
    folder, _, _ = searched
    assert sorted(p.name for p in folder.iterdir()) == ["adapter", "predictions.parquet"]


MORE = [pytest.param(method, marks=pytest.mark.slow) for method in ("adalora", "vera", "head_only")]


@pytest.mark.parametrize("method", ["full", "houlsby_adapter", *MORE])
def test_every_kind_of_adapter_comes_back_bitwise(bench, monkeypatch, method):
    """The best is the first: another is trained after it."""
    scripted(monkeypatch, [{"accuracy": 1.0}, {"accuracy": 0.0}, {}])
    folder, result = bench.fresh(bench.spec("bert", method, learning_rate=(0.02, 1e-6)))
    alone, _ = bench.run("bert", method)
    assert result["learning_rate"] == 0.02
    assert planted.equal(planted.stored(folder), planted.stored(alone))
    assert predictions(folder) == predictions(alone)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lora", {"modifiers": ({"modifier": "sparse", "keep": 0.5, "score": "snip"},)}),
        ("full", {"recipe": {"recipe": "lt_sft", "keep": 0.1}}),
    ],
)
def test_modifiers_and_recipes_start_anew_with_every_rate(bench, monkeypatch, method, more):
    phases = 1 + bool(more.get("recipe"))
    scripted(monkeypatch, [*[{"accuracy": 1.0}] * phases, *[{"accuracy": 0.0}] * phases, {}, {}])
    folder, result = bench.fresh(bench.spec("bert", method, learning_rate=(0.02, 1e-6), **more))
    alone, one = bench.run("bert", method, **more)
    assert planted.equal(planted.stored(folder), planted.stored(alone))
    assert (result["trainable_params"], result["learning_rate"]) == (one["trainable_params"], 0.02)


# --- judging ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        ([{"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.6, "loss": 9.0}, {"accuracy": 0.6, "loss": 9.0}], 1),
        ([{"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.5, "loss": 0.9}, {"accuracy": 0.5, "loss": 0.95}], 1),
        ([{"accuracy": 0.5, "loss": 1.0}] * 3, 0),
        ([{"accuracy": 0.9, "loss": math.nan}, {"accuracy": math.nan, "loss": 0.1}, {"accuracy": 0.1, "loss": 2.0}], 2),
    ],
    ids=["the metric", "then the loss", "then the order", "what is not finite is worst"],
)
def test_the_best_is_chosen_by(tmp_path, answers, chosen):
    found, best = choose(tmp_path, True, answers)
    assert best.costs["learning_rate"] == RATES[chosen]
    assert best.after == 4 * chosen
    assert best.models.head[0].item() == RATES[chosen]
    for row, said in zip(found.rows, answers):
        finite = all(map(math.isfinite, said.values()))
        assert (row["metric"], row["loss"]) == ((said["accuracy"], said["loss"]) if finite else (None, None))
        assert (row["reason"] is None) == finite


def test_a_metric_that_should_be_small_is_chosen_small(tmp_path):
    _, best = choose(tmp_path, False, [{"accuracy": a, "loss": 1.0} for a in (0.5, 0.4, 0.6)])
    assert best.costs["learning_rate"] == RATES[1]


def choose(folder: Path, greater_is_better: bool, answers: list[dict[str, float]]) -> tuple[Search, Trial]:
    """A search whose trainings only write their rate into a tensor and are then judged as given."""

    def start() -> Any:
        none = SimpleNamespace(named_trainable=dict, buffers=tuple)
        return Models(None, None, none, None, (torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)),))  # type: ignore[arg-type]

    def train(rate: float, reporter: Any) -> Trial:
        models = start()
        models.head[0].data.fill_(rate)
        return Trial(models, Outcome(steps=4, validation=answers[RATES.index(rate)]), {"learning_rate": rate})

    task: Any = SimpleNamespace(metric="accuracy", greater_is_better=greater_is_better)
    found = Search(RATES, 4, task, Silent(), train, start, lambda models: {}, folder / "search.safetensors")
    return found, found.run()


class Explosive(Standard):
    """The loss is not a number from the second step on where the rate is above 0.1."""

    rate = 0.0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen = 0

    def step(self, batch: Any) -> Any:
        self.seen += 1
        return super().step(batch) * (float("nan") if self.seen > 1 and Explosive.rate > 0.1 else 1.0)


@pytest.fixture
def explosive(monkeypatch):
    monkeypatch.setattr(session.recipes, "configure", lambda entry: (Explosive, Standard.Config()))
    real = session.Session._train

    def train(self: Any, rate: float, reporter: Any) -> Any:
        Explosive.rate = rate
        return real(self, rate, reporter)

    monkeypatch.setattr(session.Session, "_train", train)


def test_a_rate_that_diverges_is_the_worst_and_fails_nothing(bench, explosive):
    folder, result = bench.fresh(bench.spec("bert", learning_rate=(0.5, 0.02)))
    assert result["learning_rate"] == 0.02
    bad = result["search"][0]
    assert (bad["metric"], bad["loss"], bad["steps"]) == (None, None, 1)
    assert bad["reason"].startswith("the loss became nan at step 2")
    assert bad["seconds"] > 0
    assert (folder / "adapter").is_dir()


def test_a_rate_too_small_to_move_anything_is_not_the_end_either(bench):
    _, result = bench.fresh(bench.spec("bert", learning_rate=(1e-30, 0.02), weight_decay=0.0))
    assert "did not move" in result["search"][0]["reason"]
    assert result["learning_rate"] == 0.02


def test_the_run_fails_when_every_rate_does(bench, explosive):
    words = r"^none of the 2 learning rates could be trained with; the first: the loss became nan at step 2"
    with pytest.raises(WorkbenchError, match=words):
        bench.fresh(bench.spec("bert", learning_rate=(0.5, 0.6)))
    assert not list((bench.folder / f"run{bench.count}").iterdir())


@pytest.mark.parametrize("after", [2, 6])
def test_a_search_can_be_cancelled_in_any_rate(bench, after):
    reporter = Impatient(lambda r: steps(r.events) >= after)
    with pytest.raises(Stopped, match="cancel"):
        bench.fresh(bench.spec("bert", learning_rate=(0.02, 0.01)), reporter)
    assert steps(reporter.events) == after
    assert not list((bench.folder / f"run{bench.count}").iterdir())


def test_a_rate_that_early_stopping_ends_leaves_the_numbers_of_the_next_alone(bench, monkeypatch):
    scripted(monkeypatch, [{"accuracy": a} for a in (0.5, 0.4, 0.6, 0.5)])
    reporter = Silent()
    spec = bench.spec("bert", learning_rate=(0.01, 0.02), max_steps=10, eval_every=1, early_stop=1)
    _, result = bench.fresh(spec, reporter)
    assert [e.step for e in reporter.events if isinstance(e, Step)] == [1, 2, 11, 12]
    assert [(r["metric"], r["steps"]) for r in result["search"]] == [(0.5, 2), (0.6, 2)]
    assert [e.step for e in reporter.events if isinstance(e, Evaluated) and e.split == "test"] == [12]


def test_the_losers_are_gone_before_the_next_training(bench, monkeypatch):
    """One host and one adapter at a time: neither two models nor the best state wait in memory."""
    alive = []
    real = Search._one

    def one(self: Any, *args: Any) -> Any:
        alive.append(sum(type(o) is Adapters for o in gc.get_objects()))
        return real(self, *args)

    monkeypatch.setattr(Search, "_one", one)
    gc.collect()
    bench.fresh(bench.spec("bert", learning_rate=RATES))
    assert alive == [alive[0]] * 3
