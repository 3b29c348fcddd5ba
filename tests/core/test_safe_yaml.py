"""YAML from strangers: YAML 1.2 scalars, and one sentence for everything else."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("2.0e-3", 0.002), ("-.5", -0.5), ("017", 17), ("no", "no"), ("on", "on"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"), ("true", True), ("~", None), ("", None), ("0x1F", "0x1F"), ("1_000", "1_000"),
        (".inf", float("inf")),
    ],
)  # fmt: skip
def test_scalars_are_yaml_1_2(text, value):
    assert safe_yaml.loads(f"a: {text}") == {"a": value}


BAD = {
    "twice": ("a: 1\na: 2", "twice"),
    "alias": ("a: &x 1\nb: *x", "alias"),
    "list": ("- 1", "mapping"),
    "scalar": ("word", "mapping"),
    "empty": ("", "mapping"),
    "comments": ("# only\n# this", "mapping"),
    "deep": ("[" * 3000, "nested"),
    "latin": ("a: ü".encode("latin-1"), "UTF-8"),
    "utf16": ("a: 1".encode("utf-16"), "UTF-8"),
    "tag": ("a: !!python/object:os.system x", "tags"),
    "unknown tag": ("a: !thing x", "tags"),
    "open": ("a: [", "valid YAML"),
    "quote": ('a: "x', "valid YAML"),
    "tab": ("a:\n\t- b", "valid YAML"),
    "digits": ("a: " + "9" * 5000, "digits"),
    "two": ("a: 1\n---\nb: 2", "valid YAML"),
    "nul": ("a: \0", "valid YAML"),
    "merge": ("a: {<<: 1, b: 2, <<: 3}", "twice"),
    "list key": ("? [1]\n: 2", "plain word"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_documents_get_one_sentence(name):
    text, word = BAD[name]
    with pytest.raises(WorkbenchError, match=word) as caught:
        safe_yaml.loads(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_byte_order_mark_and_windows_line_ends_are_fine():
    assert safe_yaml.loads(b"\xef\xbb\xbfa: 1\r\nb: x\r\n") == {"a": 1, "b": "x"}


def test_large_documents_are_refused():
    with pytest.raises(WorkbenchError, match="at most 1 MB"):
        safe_yaml.loads("a: " + "x" * 1_000_001)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.-_ ", min_size=1, max_size=6), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["name", "rank", "no", "1e-3", "true"]), plain, max_size=4))
def test_what_is_written_reads_back_equal(value):
    assert safe_yaml.loads(safe_yaml.dumps(value)) == value


@settings(max_examples=300, deadline=2000)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_anything_else_raises_only_our_error(data):
    with contextlib.suppress(WorkbenchError):
        assert isinstance(safe_yaml.loads(data), dict)
