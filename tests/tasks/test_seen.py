"""What the token view shows is what is trained on: the same tokens, the same loss, the same cut."""

import random

import pytest

from workbench import tasks
from workbench.data.table import Table
from workbench.models.bundled import bundled_path
from workbench.tasks.contract import Seen

LENGTHS = (8, 24, 512)
WORDS = ["unbelievable", "café", "the", "of", "[MASK]", "tokenisation", ",,,", "42", "日本", "a", "b"]


def texts(count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(1, 40))) for _ in range(count)]


def table(**columns):
    count = len(next(iter(columns.values())))
    return Table(tuple(range(10, 10 + count)), columns)


def kept(one: Seen):
    """The tokens that are left."""
    return [token for token, keep in zip(one.tokens, one.kept, strict=True) if keep]


@pytest.mark.parametrize("max_length", LENGTHS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pairs", [False, True])
def test_classification_keeps_what_it_encodes(max_length, side, pairs):
    task = tasks.find("text_classification")(bundled_path("minilm"), ("a",), max_length)
    task.tokenizer.truncation_side = side
    rows = table(text=texts(60, 0), **({"text_pair": texts(60, 1)} if pairs else {}))
    whole = tasks.find("text_classification")(bundled_path("minilm"), ("a",), 100_000).encode(rows)
    for one, cut, full in zip(task.seen(rows), task.encode(rows), whole, strict=True):
        assert one.id == cut.id
        assert kept(one) == cut.fields["ids"]
        assert one.tokens == full.fields["ids"]
        assert not any(one.scored)
        cls, sep = task.tokenizer.cls_token_id, task.tokenizer.sep_token_id
        assert all(keep for token, keep in zip(one.tokens, one.kept, strict=True) if token in (cls, sep))
        if not pairs and not all(one.kept):
            start, end = (1, max_length - 1) if side == "right" else (len(one.tokens) - max_length + 1, len(one.tokens) - 1)
            assert [i for i, keep in enumerate(one.kept) if keep] == [0, *range(start, end), len(one.tokens) - 1]


def chats(count):
    said = zip(texts(count, 2), texts(count, 3), strict=True)
    return [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in said]


@pytest.mark.parametrize("max_length", LENGTHS)
@pytest.mark.parametrize("form", ["pairs", "text", "chat"])
def test_a_language_model_scores_what_its_loss_counts(max_length, form):
    columns = {"pairs": {"prompt": texts(40, 4), "completion": texts(40, 5)}, "text": {"text": texts(40, 6)}}
    task = tasks.find("causal_lm")(bundled_path("lm"), (), max_length)
    if form == "chat":
        task.tokenizer.chat_template = (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
        )
        columns["chat"] = {"messages": chats(40)}
    rows = table(**columns[form])
    examples = task.encode(rows)
    batch = task.collate(examples)
    for one, example, targets in zip(task.seen(rows), examples, batch.targets.tolist(), strict=True):
        assert kept(one) == example.fields["head"] + example.fields["tail"]
        counted = [i > 0 and target != -100 for i, target in enumerate(targets)][: example.length]
        assert [score for score, keep in zip(one.scored, one.kept, strict=True) if keep] == counted
        assert all(one.kept) == (len(one.tokens) <= max_length)
    assert any(any(one.scored) for one in task.seen(rows))


def test_the_first_token_of_all_is_never_scored():
    task = tasks.find("causal_lm")(bundled_path("lm"), (), 32)
    task.tokenizer.bos_token = None
    one = task.seen(table(text=["some words"]))[0]
    assert one.scored == [False] + [True] * (len(one.tokens) - 1)


def test_images_are_no_tokens_and_their_facts_undo_what_is_done():
    task = tasks.find("image_classification")(bundled_path("vit"), ("a",), 16)
    import numpy as np

    image = np.full((8, 8), 51, dtype=np.uint8)
    assert task.seen(table(image=[image])) == []
    facts, seen = task.sees(), task.pixels(image)
    assert tuple(seen.shape) == (facts["channels"], facts["height"], facts["width"])
    expected = [(51 * facts["scale"] - m) / s for m, s in zip(facts["mean"], facts["std"], strict=True)]
    assert seen[:, 0, 0].tolist() == pytest.approx(expected[: len(seen)], abs=1e-5)
    assert tasks.find("causal_lm")(bundled_path("lm"), (), 32).sees() == {}
