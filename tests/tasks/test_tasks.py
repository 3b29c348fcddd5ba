"""Every task: scores of perfect and random answers, hosts and heads, encodings, and the loss by hand in float64."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train import planted
from workbench import tasks
from workbench.core.errors import WorkbenchError
from workbench.data.table import Table
from workbench.evaluate import evaluation
from workbench.models.bundled import bundled_path
from workbench.tasks.contract import Prediction
from workbench.tasks.vision.image_classification import Pixels

FAMILY = {"text_classification": "bert", "causal_lm": "llama", "image_classification": "vit", "multiple_choice": "llama"}
ROWS = {"multiple_choice": "choices"}
LABELS = ("neg", "pos")


def table(**columns: list[Any]) -> Table:
    count = len(next(iter(columns.values())))
    return Table(tuple(range(10, 10 + count)), columns)


@pytest.fixture
def make(bench):
    """make("causal_lm", max_length=...) -> the task on its tiny base."""
    return lambda name, max_length=24: tasks.find(name)(bench.base(FAMILY[name]), LABELS, max_length)


# --- all tasks ----------------------------------------------------------------------------------------------------


def test_every_task_is_tested_here():
    assert set(tasks.names()) == set(FAMILY)
    with pytest.raises(WorkbenchError, match=r"no task is called 'text_clasification'; closest: text_classification"):
        tasks.find("text_clasification")


@pytest.mark.parametrize("name", FAMILY)
def test_a_host_is_built_offline_the_same_each_time(make, name):
    one, two, other = (make(name).host(s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], two[k]) for k in one)
    task = make(name)
    head = task.head(task.host(0))
    assert bool(head) == task.has_labels
    differ = {k for k in one if not torch.equal(one[k], other[k])}
    assert differ == ({f"{head[0]}.weight"} if head else set())
    assert not any(one[f"{h}.bias"].any() for h in head)


@pytest.mark.parametrize("name", FAMILY)
def test_a_host_on_the_meta_device_has_the_same_shapes_and_head(make, name):
    real, plan = make(name), make(name)
    host, ghost = real.host(0), plan.host(0, meta=True)
    assert {p.device.type for p in ghost.parameters()} == {"meta"}
    assert {n: p.shape for n, p in ghost.named_parameters()} == {n: p.shape for n, p in host.named_parameters()}
    assert plan.head(ghost) == real.head(host)


@pytest.mark.parametrize(("name", "model"), [("image_classification", "vit"), ("causal_lm", "lm"), ("text_classification", "lm")])
def test_a_shipped_model_can_be_planned(name, model):
    task = tasks.find(name)(bundled_path(model), LABELS, 16)
    ghost = task.host(0, meta=True)
    assert {t.device.type for t in [*ghost.parameters(), *ghost.buffers()]} == {"meta"}
    assert bool(task.head(ghost)) == task.has_labels


@pytest.mark.parametrize("meta", [False, True])
def test_weights_of_another_model_are_one_sentence(tmp_path, meta):
    folder = planted.base("bert", tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(WorkbenchError, match=r"^the weights in b lack bert\.encoder\.layer\.2.*choose another model or task\.$"):
        tasks.find("text_classification")(folder, LABELS, 16).host(0, meta=meta)


@pytest.mark.parametrize("name", FAMILY)
def test_evaluation_keeps_order_and_mode_and_does_not_depend_on_the_batch_size(bench, make, name):
    from workbench.data import load_table

    splits = load_table(bench.rows(ROWS.get(name, FAMILY[name])), tasks.find(name).parts)
    task = tasks.find(name)(bench.base(FAMILY[name]), splits.labels, 24)
    host = task.host(0).train()
    rows = task.encode(splits.test)
    one, few = (evaluation.evaluate(task, host, rows, size) for size in (1, 4))
    assert host.training
    assert [p.id for p in one[0]] == [e.id for e in rows] == list(splits.test.ids)
    assert [p.prediction for p in one[0]] == [p.prediction for p in few[0]]
    assert [p.loss for p in one[0]] == pytest.approx([p.loss for p in few[0]], abs=1e-5)
    assert one[1] == pytest.approx(few[1], abs=1e-4)


class Said:
    """A model's output."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


# --- classification -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text_classification", "image_classification"])
def test_perfect_answers_score_one_and_random_ones_about_chance(make, name):
    task, rng = make(name), random.Random(0)
    truth = [rng.choice(LABELS) for _ in range(2000)]
    perfect = task.metrics([Prediction(i, t, t, 1.0, 0.0) for i, t in enumerate(truth)])
    assert perfect == {"accuracy": 1.0, "macro_f1": 1.0, "loss": 0.0}
    guessed = task.metrics([Prediction(i, t, rng.choice(LABELS), 0.5, math.log(2)) for i, t in enumerate(truth)])
    assert guessed["accuracy"] == pytest.approx(0.5, abs=0.04)
    assert guessed["macro_f1"] == pytest.approx(0.5, abs=0.04)
    assert guessed["loss"] == pytest.approx(math.log(2))


def test_a_label_that_training_never_saw_is_one_sentence(make):
    with pytest.raises(WorkbenchError, match=r"^the label 'meh' is not one of the 2 labels of this task\.$"):
        make("text_classification").encode(table(text=["good film"], label=["meh"]))


def test_predictions_name_the_likeliest_class_its_probability_and_the_loss(make):
    task = make("text_classification")
    batch = task.collate(task.encode(table(text=["good film", "bad film"], label=["pos", "pos"])))
    first, second = task.predictions(None, Said(torch.tensor([[0.0, 2.0], [1.0, 0.0]])), batch)
    sure = math.exp(2) / (1 + math.exp(2))
    assert first[:5] == (10, "pos", "pos", pytest.approx(sure), pytest.approx(-math.log(sure)))
    assert (second.label, second.prediction) == ("pos", "neg")
    assert second.loss == pytest.approx(math.log(1 + math.e))


def test_pairs_are_joined_and_truncated_together(make):
    task = make("text_classification", max_length=8)
    long = "film " * 30
    rows = task.encode(table(text=["good film", long], text_pair=["bad book", long], label=["pos", "neg"]))
    ids = task.tokenizer.convert_ids_to_tokens(rows[0].fields["ids"])
    assert ids == ["[CLS]", "good", "film", "[SEP]", "bad", "book", "[SEP]"]
    assert rows[0].fields["types"] == [0, 0, 0, 0, 1, 1, 1]
    assert rows[1].length == 8
    assert 1 in rows[1].fields["types"]
    batch = task.collate(rows)
    assert batch.inputs["attention_mask"].tolist() == [[1] * 7 + [0], [1] * 8]
    assert batch.facts["positions"].tolist() == [[0, 7], [0, 8]]


def picture(mode: str, colour: int = 200) -> Image.Image:
    grey = Image.fromarray(np.full((5, 9), colour, np.uint8))
    if mode == "P":
        return grey.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    if mode == "RGBA":
        return Image.merge("RGBA", [grey, grey, grey, Image.fromarray(np.full((5, 9), 255, np.uint8))])
    return grey.convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_mode_becomes_the_same_tensor(tmp_path: Path, channels: int):
    (tmp_path / "config.json").write_text(json.dumps({"num_channels": channels, "image_size": 8}))
    facts = {"size": {"height": 8, "width": 8}, "image_mean": [0.25], "image_std": [0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    pixels = Pixels(tmp_path)
    for mode in ("L", "RGB", "RGBA", "P"):
        path = tmp_path / f"{mode}.png"
        picture(mode).save(path)
        for form in (picture(mode), path, {"bytes": path.read_bytes()}):
            found = pixels(form)
            assert found.shape == (channels, 8, 8)
            assert torch.allclose(found, torch.full_like(found, (200 / 255 - 0.25) / 0.5), atol=1e-2)
    assert torch.equal(pixels(np.full((5, 9), 200, np.uint8)), pixels(picture("L")))


def test_an_image_base_without_its_settings_is_one_sentence(tmp_path: Path):
    with pytest.raises(WorkbenchError, match=r"must ship preprocessor_config\.json"):
        Pixels(tmp_path)


# --- language modelling -------------------------------------------------------------------------------------------


def asked(make: Any, prompts: list[str], answers: list[str], max_length: int = 24) -> tuple[Any, list[Any]]:
    task = make("causal_lm", max_length)
    return task, task.encode(table(prompt=prompts, completion=answers))


def words(task: Any, ids: list[int]) -> list[str]:
    return task.tokenizer.convert_ids_to_tokens(ids)


@torch.no_grad()
def test_the_loss_counts_the_completion_only(make):
    task, rows = asked(make, ["good film is", "the"], ["very nice", "plot was so sad"])
    host = task.host(0).double()
    batch = task.collate(rows)
    losses = task.losses(evaluation.forward(host, batch), batch)
    for row, loss in zip(rows, losses):
        head, tail = row.fields["head"], row.fields["tail"]
        assert words(task, head)[0] == "[CLS]"
        assert words(task, tail)[-1] == "[SEP]"
        total = 0.0
        for done, right in enumerate(tail):
            seen = torch.tensor([[*head, *tail[:done]]])
            total -= float(host(input_ids=seen).logits[0, -1].log_softmax(-1)[right])
        assert float(loss) == pytest.approx(total / len(tail), abs=1e-6)


@torch.no_grad()
def test_padding_changes_no_loss(make):
    task, rows = asked(make, ["good film", "the book is a very sad plot and the cast was"], ["nice", "so awful"])
    host = task.host(0)
    alone, together = task.collate(rows[:1]), task.collate(rows)
    assert together.inputs["input_ids"].shape[1] > alone.inputs["input_ids"].shape[1]
    short, long = (task.losses(evaluation.forward(host, b), b)[0] for b in (alone, together))
    assert float(short) == pytest.approx(float(long), abs=1e-5)
    assert task.logits(evaluation.forward(host, together), together)[0, alone.inputs["input_ids"].shape[1] :].abs().max() == 0


def test_truncation_keeps_the_completion(make):
    task, rows = asked(make, ["film " * 30 + "good"], ["very nice"], max_length=6)
    assert words(task, rows[0].fields["tail"]) == ["very", "nice", "[SEP]"]
    assert words(task, rows[0].fields["head"]) == ["film", "film", "good"]
    _, longer = asked(make, ["good"], ["film " * 30], max_length=6)
    assert longer[0].length == 6
    assert len(longer[0].fields["tail"]) == 5


def test_positions_say_where_the_prompt_ends(make):
    task, rows = asked(make, ["good film", "the"], ["nice", "sad plot"])
    assert task.collate(rows).facts["positions"].tolist() == [[0, 3], [0, 2]]


def test_plain_text_is_scored_whole(make):
    task = make("causal_lm")
    row = task.encode(table(text=["good film is nice"]))[0]
    assert words(task, row.fields["head"] + row.fields["tail"]) == ["[CLS]", "good", "film", "is", "nice", "[SEP]"]
    targets = task.collate([row]).targets[0].tolist()
    assert targets == [-100, *row.fields["tail"]]
    said = task.predictions(task.host(0), evaluation.forward(task.host(0), task.collate([row])), task.collate([row]))
    assert (said[0].prediction, said[0].asked, said[0].weight) == ("", False, 5)
    assert "exact_match" not in task.metrics(said)


def test_messages_go_through_the_chat_template(make):
    task = make("causal_lm")
    turns = [("system", "a film"), ("user", "good film"), ("assistant", "very nice")]
    chat = [{"role": r, "content": c} for r, c in turns]
    row = task.encode(table(messages=[chat]))[0]
    assert words(task, row.fields["tail"]) == ["very", "nice", "[SEP]"]
    assert words(task, row.fields["head"])[-5:] == ["user", "good", "film", "[SEP]", "assistant"]
    assert task.tokenizer.bos_token not in words(task, row.fields["head"])  # templates write their own


BAD_CHATS = {
    "text": "hello",
    "one turn": [{"role": "assistant", "content": "nice"}],
    "ends with the person": [{"role": "assistant", "content": "nice"}, {"role": "user", "content": "good"}],
    "no content": [{"role": "user"}, {"role": "assistant", "content": "nice"}],
    "no mapping": ["user", "assistant"],
}


@pytest.mark.parametrize("chat", BAD_CHATS.values(), ids=BAD_CHATS)
def test_bad_messages_are_one_sentence(make, chat):
    with pytest.raises(WorkbenchError, match=r"^messages of row 10 must be a list of \{role, content\} that ends with the"):
        make("causal_lm").encode(table(messages=[chat]))


def test_a_template_that_is_missing_or_rewrites_the_past_is_one_sentence(make):
    task = make("causal_lm")
    chat = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "nice"}]
    task.tokenizer.chat_template = "{{ messages | length }} {{ messages[0].content }}"
    with pytest.raises(WorkbenchError, match="rewrites earlier turns"):
        task.encode(table(messages=[chat]))
    task.tokenizer.chat_template = None
    with pytest.raises(WorkbenchError, match="has no chat template"):
        task.encode(table(messages=[chat]))


def test_an_empty_row_is_one_sentence(make):
    task = make("causal_lm")
    task.tokenizer.eos_token = None
    with pytest.raises(WorkbenchError, match="row 10 must hold at least two tokens"):
        task.encode(table(text=[""]))


def test_perplexity_weighs_tokens_and_not_rows(make):
    task = make("causal_lm")
    said = [Prediction(0, "a", "", 1.0, 0.5, 30), Prediction(1, "b", "", 0.0, 2.0, 10)]
    found = task.metrics(said)
    assert found["loss"] == pytest.approx((0.5 * 30 + 2.0 * 10) / 40)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["token_accuracy"] == pytest.approx(0.75)


def test_exact_match_is_over_the_rows_that_were_asked(make):
    task = make("causal_lm")
    right, wrong = Prediction(0, "nice", "nice", 1, 0.1, 2, True), Prediction(1, "sad", "", 0, 3.0, 2, True)
    unasked = Prediction(2, "long", "", 0, 3.0, 90)
    assert task.metrics([right, wrong, unasked])["exact_match"] == 0.5
    assert task.metrics([wrong, unasked])["exact_match"] == 0.0  # a model that says nothing is wrong, not unmeasured
    assert "exact_match" not in task.metrics([unasked])


@torch.no_grad()
def test_perfect_and_random_language_models(make):
    task, rows = asked(make, [t for t, _ in planted.sentences(60)], ["very nice"] * 60)
    batch = task.collate(rows)
    ids = batch.inputs["input_ids"]
    size = len(task.tokenizer)
    right = torch.full((*ids.shape, size), -50.0)
    right[:, :-1].scatter_(2, ids[:, 1:, None], 50.0)
    perfect = task.metrics(task.predictions(None, Said(right), batch))
    assert perfect == {"perplexity": pytest.approx(1.0), "token_accuracy": 1.0, "loss": pytest.approx(0.0, abs=1e-6)}
    noise = torch.randn(right.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    guessed = task.metrics(task.predictions(None, Said(noise), batch))
    assert guessed["perplexity"] == pytest.approx(size, rel=0.01)
    assert guessed["token_accuracy"] < 0.15


def test_answers_are_greedy_and_repeat(make):
    task, rows = asked(make, [t for t, _ in planted.sentences(6)], ["very nice"] * 6)
    host = task.host(0)
    host.generation_config.update(do_sample=True, temperature=3.0, top_k=5, top_p=0.9, num_beams=3)
    batch = task.collate(rows)
    output = evaluation.forward(host, batch)
    torch.manual_seed(0)
    said = [p.prediction for p in task.predictions(host, output, batch)]
    assert said == [p.prediction for p in task.predictions(host, output, batch)]
    for row, answer in zip(rows, said):
        ids = list(row.fields["head"])
        for _ in row.fields["tail"]:
            ids.append(int(host(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == task.tokenizer.eos_token_id:
                break
        assert task.tokenizer.decode(ids[len(row.fields["head"]) :], skip_special_tokens=True).strip() == answer
