"""Numbers for people, and the document."""

import pytest

from workbench.figures import document, words


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (words.count(73_728), "73,728"),
        (words.short(73_728), "73.7 k"),
        (words.size(211_996_672), "212 MB"),
        (words.size(2.5e9), "2.50 GB"),
        (words.milliseconds(0.0254), "25.4 ms"),
        (words.duration(5.25), "5.2 s"),
        (words.duration(125), "2 min 05 s"),
        (words.duration(3725), "1 h 02 min"),
        (words.score(0.8125), "0.812"),
        (words.score(float("nan")), "–"),
        (words.signed(-0.4), "−0.40"),
        (words.share(0.256), "26 %"),
        (words.chance(0.0004), "< 0.001"),
        (words.chance(0.039), "0.039"),
        (words.title("macro_f1"), "Macro F1"),
        (words.rate(2e-3), "0.002"),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.listed(list("abcdefgh"), 4), "a, b, c and 5 more"),
    ],
)
def test_numbers_for_people(said, text):
    assert said == text


def test_a_document_shows_text_never_markup():
    evil = "</pre></td><script>alert('1')</script>"
    rows = [{evil: evil, "n": 1234, "x": None, "y": 0.123456, "b": True}]
    parts = [document.heading(evil), document.paragraph(evil, "note"), document.table(rows), document.code(evil)]
    text = "".join([*parts, document.listing([evil]), document.folded(evil, [])])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 7
    assert "<td class='number'>1,234</td>" in text
    assert "<td>–</td>" in text
    assert "0.1235" in text
