"""Columns proposed from their contents: told with a reason, never in force by themselves."""

import pytest

from tests.data.test_columns import CAUSAL
from tests.data.test_sources import PARTS
from workbench.core.spec import DataSpec
from workbench.data import preview
from workbench.data.columns import Mapped, guess
from workbench.data.proposals import explained, propose

TEXTS = [f"a text of some length, number {i}" for i in range(20)]
IDS, STARS, LONGER = list(range(20)), [str(i % 5) for i in range(20)], [f"{t} and then much more of it" for t in TEXTS]
CHATS = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]] * 20


@pytest.mark.parametrize(
    ("raw", "wanted", "expected"),
    [
        ({"words": TEXTS, "stars": STARS}, PARTS, {"text": "words", "label": "stars"}),
        ({"stars": STARS, "short": TEXTS, "long": LONGER, "n": IDS}, PARTS, {"text": "long", "label": "stars"}),
        ({"asked": TEXTS, "said": LONGER}, CAUSAL, {"prompt": "asked", "completion": "said"}),
        ({"words": TEXTS, "stars": STARS}, CAUSAL, {"text": "words"}),
        ({"talk": CHATS, "stars": STARS}, CAUSAL, {"messages": "talk"}),
        (
            {"photo": [f"{i}.png" for i in range(20)], "kind": STARS},
            {"image": True, "label": True},
            {"image": "photo", "label": "kind"},
        ),
        ({"words": TEXTS, "n": IDS}, PARTS, {}),
        ({"x": STARS, "y": STARS}, PARTS, {}),
    ],
)
def test_propose(raw, wanted, expected):
    found = propose(raw, wanted, Mapped({}, {}))
    assert found.columns == expected
    assert set(found.reasons) == set(expected)


def test_only_what_no_name_settles_is_proposed():
    raw = {"label": STARS, "n": IDS, "words": TEXTS}
    mapped = guess(raw, PARTS)
    found = propose(raw, PARTS, mapped)
    assert found.columns == {"text": "words"}
    assert explained(mapped, raw) == {"label": '"label" has that name: 5 different values.'}
    assert explained(found, raw) == {"text": '"words" has the longest texts: 32 characters in the middle row.'}


def test_a_proposal_is_not_in_force(write):
    path = write("rows.csv", "words,stars\n" + "".join(f"{t},{s}\n" for t, s in zip(STARS, STARS)))
    texts = write("texts.csv", "words,stars\n" + "".join(f'"{t}",{s}\n' for t, s in zip(TEXTS, STARS)))
    shown = preview(DataSpec(source=texts), PARTS)
    assert "column for text" in shown["problem"]
    assert shown["mapping"] == {}
    assert shown["proposed"] == {"text": "words", "label": "stars"}
    assert shown["reasons"]["label"] == '"stars" repeats a few values: 5 different values.'
    taken = preview(DataSpec(source=texts, columns=shown["proposed"]), PARTS)
    assert taken["problem"] is None
    assert preview(DataSpec(source=path), PARTS)["proposed"] == {}
