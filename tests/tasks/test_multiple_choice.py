"""Multiple choice: scores by hand, batches of choices on both kinds of hosts, and which answer a row means."""

import json
import random
from typing import Any

import pytest
import torch

from workbench import tasks
from workbench.core.errors import WorkbenchError
from workbench.core.spec import DataSpec
from workbench.data import doctor, load_table, preview
from workbench.data.choices import right
from workbench.data.table import Table
from workbench.evaluate import evaluation
from workbench.models.bundled import bundled_path
from workbench.tasks.contract import Prediction

FAMILIES = ("llama", "t5")
CLS = tasks.find("multiple_choice")


def table(**columns: list[Any]) -> Table:
    count = len(next(iter(columns.values())))
    return Table(tuple(range(10, 10 + count)), columns)


def asked() -> Table:
    """Three rows with three, two and three choices of several lengths."""
    return table(
        text=["good film is", "the", "the book was a"],
        choices=[["very nice", "so", "bad plot and cast"], ["happy", "sad song"], ["great", "poor", "very very sad"]],
        answer=["very nice", "1", "c"],
    )


@pytest.fixture
def make(bench):
    return lambda family="llama", max_length=24: CLS(bench.base(family), (), max_length)


class Said:
    """A model's output."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def naive(task: Any, host: Any, head: list[int], tail: list[int]) -> list[float]:
    """Log-probabilities of one choice's tokens, one forward pass for each, nothing padded."""
    found = []
    for done, token in enumerate(tail):
        if task.decodes:
            given = {"input_ids": torch.tensor([head]), "decoder_input_ids": torch.tensor([[task.start, *tail[:done]]])}
        else:
            given = {"input_ids": torch.tensor([[*head, *tail[:done]]])}
        found.append(float(host(**given).logits[0, -1].log_softmax(-1)[token]))
    return found


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_choice_is_scored_by_its_mean_log_probability(make, family):
    task = make(family)
    host = task.host(0).double()
    rows = task.examples(asked())
    batch = task.batch(rows)
    output = evaluation.forward(host, batch)
    said, losses = task.predictions(host, output, batch), task.losses(output, batch)
    for e, one, loss in zip(rows, said, losses, strict=True):
        scores = [sum(some) / len(some) for some in (naive(task, host, e.fields["head"], t) for t in e.fields["tails"])]
        best = max(range(len(scores)), key=scores.__getitem__)
        shares = torch.tensor(scores).softmax(0)
        assert one.prediction == e.fields["choices"][best]
        assert one.score == pytest.approx(float(shares[best]), abs=1e-5)
        assert float(loss) == one.loss == pytest.approx(-scores[e.fields["right"]], abs=1e-5)
        assert one.weight == len(e.fields["tails"][e.fields["right"]])
    assert [p.label for p in said] == ["very nice", "sad song", "very very sad"]


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_are_the_texts_of_the_batch(make, family):
    task = make(family)
    batch = task.batch(task.examples(asked()))
    assert batch.facts["choices"].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert batch.targets.tolist() == [0, 1, 2]
    assert batch.ids == [10, 11, 12]
    assert {len(t) for t in batch.inputs.values()} == {8}
    assert set(task.provides) >= set(batch.facts)
    kinds = {"input_ids", "attention_mask"}
    assert set(batch.inputs) == (kinds | {f"decoder_{k}" for k in kinds} if family == "t5" else kinds)


def test_facts_of_data_entries_are_there_once_per_choice(make):
    rows = make().examples(Table(asked().ids, asked().columns, (1, 0, 1)))
    assert make().batch(rows).facts["task"].tolist() == [1, 1, 1, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_distribution_per_token_of_the_right_choices(make, family):
    task = make(family)
    rows = task.examples(asked())
    batch = task.batch(rows)
    with torch.no_grad():
        output = evaluation.forward(task.host(0), batch)
    logits, row = task.scored(output, batch)
    tails = [e.fields["tails"][e.fields["right"]] for e in rows]
    assert row.tolist() == [i for i, tail in enumerate(tails) for _ in tail]
    right_tokens = torch.tensor([token for tail in tails for token in tail])
    nll = torch.nn.functional.cross_entropy(logits, right_tokens, reduction="none")
    means = [float(nll[row == i].mean()) for i in range(3)]
    assert means == pytest.approx(task.losses(output, batch).tolist(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_perfect_answers_score_one_and_random_ones_chance(make, family):
    task, rng = make(family), random.Random(0)
    words = ["film", "book", "song", "plot"]
    rows = table(text=["the"] * 400, choices=[words] * 400, answer=[rng.choice(words) for _ in range(400)])
    batch = task.batch(task.examples(rows))
    ids = batch.inputs["decoder_input_ids" if family == "t5" else "input_ids"]
    noise = torch.randn(*ids.shape, len(task.tokenizer), generator=torch.Generator().manual_seed(0))
    guessed = task.metrics(task.predictions(None, Said(noise), batch))
    assert guessed["accuracy"] == pytest.approx(0.25, abs=0.06)
    sure = noise.clone()
    for number, (e, at) in enumerate((e, i) for e in batch.examples for i in range(4)):
        place = slice(0, 0) if at != e.fields["right"] else slice(None)
        sure[number, place] = 0.0
        tail, start = e.fields["tails"][at], 0 if family == "t5" else len(e.fields["head"]) - 1
        for step, token in enumerate(tail if at == e.fields["right"] else ()):
            sure[number, start + step, token] = 60.0
    perfect = task.metrics(task.predictions(None, Said(sure), batch))
    assert perfect == {"accuracy": 1.0, "loss": pytest.approx(0.0, abs=1e-6)}


def test_the_loss_weighs_tokens_and_accuracy_rows(make):
    said = [Prediction(0, "a", "a", 1.0, 0.5, 3), Prediction(1, "b", "c", 0.0, 2.0, 1)]
    assert make().metrics(said) == {"accuracy": 0.5, "loss": pytest.approx((0.5 * 3 + 2.0) / 4)}


def test_answers_are_kept_and_questions_cut_from_the_left(make):
    task = make(max_length=6)
    row = task.examples(table(text=["film " * 30 + "good"], choices=[["very nice", "sad"]], answer=["0"]))[0]
    assert task.tokenizer.convert_ids_to_tokens(row.fields["head"]) == ["film", "film", "film", "good"]
    assert [len(t) for t in row.fields["tails"]] == [2, 1]
    assert row.length == 2 * 6
    seen = task.seen(table(text=["film " * 30 + "good"], choices=[["very nice", "sad"]], answer=["0"]))[0]
    assert [t for t, k in zip(seen.tokens, seen.kept, strict=True) if k] == row.fields["head"] + row.fields["tails"][0]
    assert sum(seen.scored) == 2


def test_a_blank_stands_between_question_and_choice():
    task = CLS(bundled_path("lm"), (), 32)
    for text in ("import", "import ", "import\n"):
        row = task.examples(table(text=[text], choices=[["sys", "os"]], answer=["os"]))[0]
        joined = task.tokenizer.decode(row.fields["head"][1:] + row.fields["tails"][0])
        assert joined == (text if text[-1].isspace() else text + " ") + "sys"


def test_a_row_without_choices_is_a_text(make):
    task = make()
    row = task.examples(table(text=["good film is nice"]))[0]
    tokens = row.fields["head"] + row.fields["tails"][0]
    assert task.tokenizer.convert_ids_to_tokens(tokens) == ["[CLS]", "good", "film", "is", "nice"]
    assert len(task.batch([row]).inputs["input_ids"]) == 1


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "which"), [("yes", 0), (" no ", 1), ("1", 1), ("C", 2), ("b", 1)])
def test_an_answer_is_a_text_a_number_or_a_letter(answer, which):
    assert right(("yes", "no", "maybe"), answer) == which


@pytest.mark.parametrize(
    ("choices", "answer", "words"),
    [(("yes", "no"), "maybe", "none of them"), (("yes", "no"), "2", "none of them"), (("3", "0"), "0", "both '3' and '0'")],
)
def test_an_unclear_answer_is_one_sentence(choices, answer, words):
    with pytest.raises(WorkbenchError, match=rf"^an answer must be one of its row's 2 choices, .*means {words}\.$"):
        right(choices, answer)


def loaded(tmp_path: Any, name: str, content: str, **more: Any) -> Any:
    (tmp_path / name).write_text(content)
    return load_table(DataSpec(source=str(tmp_path / name), **more), CLS.parts)


def test_lists_and_columns_of_answers_are_found_by_name(tmp_path):
    rows = [{"question": f"q{i}", "options": ["left", "right"], "label": i % 2} for i in range(20)]
    one = loaded(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)), columns={"text": "question"})
    assert one.mapping == {"text": "question", "choices": "options", "answer": "label"}
    assert one.labels == ()
    lines = ["text,option_a,option_b,option_c,answer", *(f"q{i},left,right,{'both' if i % 2 else ''},A" for i in range(20))]
    two = loaded(tmp_path, "b.csv", "\n".join(lines))
    assert two.mapping == {"text": "text", **{f"choice_{x}": f"option_{x}" for x in "abc"}, "answer": "answer"}
    task = CLS(bundled_path("lm"), (), 32)
    assert {len(e.fields["tails"]) for e in task.examples(two.train)} == {2, 3}


BAD = {
    "no list": ({"choices": "left, right"}, "must hold a list of answers; row 1 is str: use jsonl"),
    "one choice": ({"choices": ["left"]}, "row 1 must offer at least two different choices without a gap; it has 'left'"),
    "twice": ({"choices": ["left", "left"]}, "row 1 must offer at least two different"),
    "empty": ({"choices": ["left", " "]}, "it has an empty one"),
    "no answer": ({"label": None}, "must have a answer in every row"),
    "another answer": ({"label": "up"}, "row 1: an answer must be one of its row's 2 choices"),
}


@pytest.mark.parametrize(("changed", "words"), BAD.values(), ids=BAD)
def test_bad_rows_are_one_sentence(tmp_path, changed, words):
    rows = [{"text": f"q{i}", "choices": ["left", "right"], "label": "left"} | (changed if i == 0 else {}) for i in range(9)]
    with pytest.raises(WorkbenchError) as error:
        loaded(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert words in str(error.value)


def test_a_gap_between_answer_columns_is_one_sentence(tmp_path):
    with pytest.raises(WorkbenchError, match=r"^row 2 must offer .* it leaves one out before the last\.$"):
        loaded(tmp_path, "a.csv", "text,a,b,c,d,label\nq,x,y,z,w,a\np,x,y,,w,a\nr,x,y,z,,a\n")


def test_the_same_question_stays_on_one_side_whatever_its_answer(tmp_path):
    rows = [{"text": f"q{i // 2}", "choices": ["left", "right"], "label": i % 2} for i in range(60)]
    found = loaded(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)), test=0.3)
    assert not {r["text"] for r in found.train} & {r["text"] for r in found.test}


def test_columns_without_names_are_proposed_and_the_doctor_reads_choices(tmp_path):
    rows = [{"asked": f"how far is number {i} away", "which": ["far", "near"], "label": "far"} for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = preview(DataSpec(source=str(tmp_path / "a.jsonl")), CLS.parts)
    assert found["proposed"] == {"text": "asked", "choices": "which"}
    assert "holds lists of answers: 2 answers in the middle row" in found["reasons"]["choices"]
    twice = table(text=["how far is it"] * 2, choices=[["far", "near"]] * 2, answer=["far"] * 2)
    assert [one["what"] for one in doctor.examine({"train": twice})] == ["duplicates"]
