"""T-Few: its three terms by hand, what they do to a model, and the tasks it is for."""

import math
from typing import Any

import pytest
import torch

from tests.train import planted
from workbench import recipes, tasks
from workbench.core.errors import WorkbenchError
from workbench.core.spec import parse_spec
from workbench.data import load_table
from workbench.data.table import Table
from workbench.evaluate import evaluation
from workbench.recipes.contract import Models
from workbench.services.preparing import prepare
from workbench.train.building import build

P = ([[0.5], [0.25], [0.125]], [[0.2], [0.4, 0.1], [0.5, 0.5, 0.5]])
"""Probability of each token of each choice of two rows; the first, and the second choice are right."""
LM = (-math.log(0.5) - (math.log(0.4) + math.log(0.1)) / 2) / 2
UL = (-(math.log(0.75) + math.log(0.875)) / 2 - (math.log(0.8) + 3 * math.log(0.5)) / 4) / 2
LN = (-math.log(0.5 / 0.875) - math.log(0.2 / (0.2 + 0.2 + 0.5))) / 2  # the geometric means are 0.2, 0.2 and 0.5


class Said:
    """A model's output."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def recipe(task: Any, **options: float) -> Any:
    cls, cfg = recipes.configure({"recipe": "tfew", **options})
    return cls(cfg, Models(None, None, None, task, ()), 0)  # type: ignore[arg-type]


@pytest.fixture(params=["llama", "t5"])
def two_rows(bench: Any, request: pytest.FixtureRequest) -> tuple[Any, Any, Said]:
    """The task, a batch of two rows with three choices each, and the output that gives their tokens the probabilities `P`."""
    task = tasks.find("multiple_choice")(bench.base(request.param), (), 24)
    choices = [["good", "bad", "sad"], ["film", "a film", "a good film"]]
    rows = task.examples(Table((0, 1), {"text": ["the", "it was"], "choices": choices, "answer": ["good", "a film"]}))
    if task.decodes:  # its tokenizer ends and begins every text; here only the words count
        for e in rows:
            e.fields["tails"] = [tail[1:-1] for tail in e.fields["tails"]]
    batch = task.batch(rows)
    tokens = batch.inputs["decoder_input_ids" if task.decodes else "input_ids"]
    logits = torch.full((*tokens.shape, len(task.tokenizer)), -30.0)
    flat = [(e, tail, p) for e, ps in zip(rows, P, strict=True) for tail, p in zip(e.fields["tails"], ps, strict=True)]
    for number, (e, tail, chances) in enumerate(flat):
        for step, (token, p) in enumerate(zip(tail, chances, strict=True)):
            place = step if task.decodes else len(e.fields["head"]) + step - 1
            logits[number, place, 0] = math.log(1 - p)
            logits[number, place, token] = math.log(p)
    return task, batch, Said(logits)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.0, 0.0), (2.0, 0.0), (0.0, 0.5), (0.3, 4.0)])
def test_the_terms_by_hand(two_rows, a, b):
    task, batch, output = two_rows
    loss = recipe(task, unlikelihood=a, length_norm=b).loss(output, batch)
    assert float(loss) == pytest.approx(LM + a * UL + b * LN, abs=1e-6)


def test_without_weights_it_is_the_plain_loss(two_rows):
    task, batch, output = two_rows
    cls, cfg = recipes.configure(None)
    plain = cls(cfg, Models(None, None, None, task, ()), 0).loss(output, batch)  # type: ignore[arg-type]
    assert torch.equal(recipe(task, unlikelihood=0, length_norm=0).loss(output, batch), plain)


def test_certain_wrong_tokens_give_finite_gradients(two_rows):
    task, batch, _ = two_rows
    tokens = batch.inputs["decoder_input_ids" if task.decodes else "input_ids"]
    logits = torch.zeros(*tokens.shape, len(task.tokenizer))
    wrong = task.tokenizer.convert_tokens_to_ids("bad")
    logits[..., wrong] = 100.0
    logits.requires_grad_()
    recipe(task).loss(Said(logits), batch).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_twenty_steps_lower_the_loss(bench, family):
    run = planted.spec(bench.base(family), "multiple_choice", bench.rows("choices"), "ia3", recipe={"recipe": "tfew"})
    task = tasks.find("multiple_choice")(bench.base(family), (), 24)
    batch = task.batch(task.examples(load_table(run.data, task.parts).train)[:8])
    models, _ = build(run, task, "cpu", {})
    cls, cfg = recipes.configure(run.recipe)
    trained = cls(cfg, models, 0)
    parameters = list(models.adapter.named_trainable().values())
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = trained.step(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def spec(model: Any, task: str, rows: Any) -> Any:
    methods = [{"method": "ia3", "recipe": {"recipe": "tfew"}}]
    return parse_spec({"name": "t", "model": str(model), "task": task, "data": {"source": rows.source}, "methods": methods})


def test_a_task_without_choices_is_a_problem_of_the_plan(bench):
    plan = prepare(spec(bench.base("llama"), "causal_lm", bench.rows("llama"))).lines[0].plan
    said = "the recipe tfew needs 'choices' from every batch, which this task does not provide; choose another task or recipe."
    assert plan.problems == (said,)
    task = tasks.find("causal_lm")(bench.base("llama"), (), 24)
    with pytest.raises(WorkbenchError, match="multiple_choice; got causal_lm"):
        recipe(task)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_it_can_be_planned(bench, family):
    plan = prepare(spec(bench.base(family), "multiple_choice", bench.rows("choices"))).lines[0].plan
    assert plan.problems == ()
    assert plan.new_params == (640 if family == "t5" else 2 * (32 + 32 + 64))
    assert plan.train_seconds
    assert plan.peak_memory_bytes


def test_a_method_that_reads_positions_is_a_problem_on_an_encoder_decoder(bench):
    given = spec(bench.base("t5"), "multiple_choice", bench.rows("choices"))
    given = parse_spec({**given.model_dump(mode="json", exclude_unset=True), "methods": ["loreft"]})
    assert "needs 'positions'" in prepare(given).lines[0].plan.problems[0]


def test_the_adapter_folder_answers_as_the_run_did(bench):
    """Saved, loaded on a fresh host, the predictions are the run's: on a decoder and on an encoder-decoder."""
    from workbench.evaluate import saved

    for family in ("llama", "t5"):
        run = planted.spec(bench.base(family), "multiple_choice", bench.rows("choices"), "ia3", recipe={"recipe": "tfew"})
        folder, result = bench.fresh(run)
        revived = saved.revive(saved.read(folder / "adapter"), folder / "adapter")
        rows = saved.stored_rows(revived.stored)
        with torch.no_grad():
            now = revived.task.logits(evaluation.forward(revived.host, rows.batches[0]), rows.batches[0])
        assert torch.allclose(now, revived.stored.reference["logits"], atol=1e-5)
        assert 0 <= result["metrics"]["accuracy"] <= 1
