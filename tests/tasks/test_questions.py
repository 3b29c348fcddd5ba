"""A language model's prompts without an answer: the same tokens as in training, cut the same way, answered the same way."""

import pytest
import torch

from workbench import tasks
from workbench.core.errors import WorkbenchError
from workbench.data.table import Table


@pytest.fixture
def make(bench):
    return lambda max_length=24: tasks.find("causal_lm")(bench.base("llama"), (), max_length)


def test_a_prompt_is_what_predict_makes_of_it(make):
    for max_length, prompt in ((24, "good film"), (8, "the a is was very so and film book song")):
        task = make(max_length)
        predicted = task.encode(Table((0,), {"prompt": [prompt]}))[0]
        asked = task.question({"prompt": prompt}, len(predicted.fields["tail"]))
        assert asked.fields["head"] == predicted.fields["head"]
        assert asked.fields["cut"] == (0 if max_length == 24 else 11 - 4)


def test_much_room_leaves_half_of_the_length_to_the_prompt(make):
    asked = make(8).question({"prompt": "the a is was very so and film book song"}, 100)
    assert len(asked.fields["head"]) == 4


def test_a_chat_is_asked_as_it_was_trained(make):
    chat = [{"role": "user", "content": "good film"}, {"role": "assistant", "content": "very nice"}]
    task = make()
    trained = task.encode(Table((0,), {"messages": [chat]}))[0]
    assert task.question({"id": 0, "messages": chat[:1]}, 8).fields["head"] == trained.fields["head"]


def test_an_empty_prompt_is_one_sentence(make):
    task = make()
    task.tokenizer.bos_token = None
    with pytest.raises(WorkbenchError, match=r"^a prompt must hold at least one token; it is empty\.$"):
        task.question({"prompt": ""}, 8)


def test_drawing_repeats_and_leaves_the_random_state_alone(make):
    task = make()
    host = task.host(0)
    question = task.question({"prompt": "good film"}, 12)
    before = torch.get_rng_state()
    one, two = (task.generate(host, [question], 12, greedy=False)[0] for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)
    greedy = task.generate(host, [question], 12)[0]
    assert not torch.equal(one, greedy)
    assert task.decode(greedy) == task._answers(host, task.encode(Table((0,), {"prompt": ["good film"]})))[0]
