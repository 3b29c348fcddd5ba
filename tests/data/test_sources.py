"""Good files of every format give the same rows; bad ones one sentence that says what is wrong, quickly."""

import gzip
import json
import os
import sqlite3
import time
import zipfile

import pytest

from workbench.core.errors import WorkbenchError
from workbench.core.spec import DataSpec
from workbench.data import check_unchanged, load_table, resolve

PARTS = {"text": "required", "text_pair": "optional", "label": "required"}
ROWS = [{"text": f"a text, number {i}", "label": "ab"[i % 2]} for i in range(20)]
CSV = "text,label\n" + "".join(f'"{r["text"]}",{r["label"]}\n' for r in ROWS)
JSONL = "".join(json.dumps(r) + "\n" for r in ROWS)


def load(source, **more):
    return load_table(resolve(DataSpec(source=source, **more)), PARTS)


def one_sentence(call, *words):
    """Run a call that must fail; return its message after checking that it is one readable sentence with `words`."""
    begun = time.monotonic()
    with pytest.raises(WorkbenchError) as caught:
        call()
    message = str(caught.value)
    assert time.monotonic() - begun < 2
    assert message.endswith((".", ")"))
    assert "\n" not in message
    assert len(message) < 700
    assert "Traceback" not in message
    for word in words:
        assert word.lower() in message.lower(), message
    return message


GOOD = {
    "plain.csv": CSV,
    "bom.csv": "\ufeff" + CSV,
    "crlf.csv": CSV.replace("\n", "\r\n"),
    "cr.csv": CSV.replace("\n", "\r"),
    "semicolon.csv": "text;label\n" + "".join(f"{r['text']};{r['label']}\n" for r in ROWS),
    "tabs.tsv": "text\tlabel\n" + "".join(f"{r['text']}\t{r['label']}\n" for r in ROWS),
    "blank-lines.csv": CSV.replace("\n", "\n\n"),
    "rows.json": json.dumps(ROWS),
    "data.json": json.dumps({"data": ROWS}),
    "rows.jsonl": JSONL,
    "blank-lines.jsonl": JSONL.replace("\n", "\n\n"),
    "UPPER.CSV": CSV,
}


@pytest.mark.parametrize("name", GOOD)
def test_formats_agree(write, name):
    splits = load(write(name, GOOD[name]))
    rows = {r["id"]: (r["text"], r["label"]) for t in (splits.train, splits.validation, splits.test) for r in t}
    assert rows == {i: (r["text"], r["label"]) for i, r in enumerate(ROWS)}
    assert splits.labels == ("a", "b")


def test_parquet_agrees_with_csv(write, tmp_path):
    pandas = pytest.importorskip("pandas", reason="parquet needs pandas and pyarrow")
    pandas.DataFrame(ROWS).astype({"label": "category"}).to_parquet(tmp_path / "rows.parquet")
    assert list(load(str(tmp_path / "rows.parquet")).test) == list(load(write("plain.csv", CSV)).test)


BAD_FILES = {
    "empty.csv": ("", "empty"),
    "blank.csv": ("  \n\n", "blanks"),
    "header.csv": ("text,label\n", "only a header"),
    "short-row.csv": ("text,label\na,x\nb\n", "line 3", "has 1"),
    "long-row.csv": ("text,label\na,x\nb,y,z\n", "line 3", "has 3"),
    "twins.csv": ("text,label,text\na,x,b\n", "'text' appears 2"),
    "quote.csv": ('text,label\n"open,x\nb,y\n', "line"),
    "nul.csv": ("text,label\na\0,x\n", "line 2", "NUL"),
    "utf16.csv": (CSV.encode("utf-16"), "UTF-16", "UTF-8"),
    "latin1.csv": ("text,label\nok,a\ncafé,b\n".encode("latin-1"), "line 3", "0xe9", "UTF-8"),
    "mixed.csv": ("text,label\ncafé,b\n".encode() + "café,a\n".encode("latin-1"), "line 3"),
    "gz.csv": (gzip.compress(CSV.encode()), "gzip"),
    "lines.jsonl": ('{"text": "a", "label": 1}\n{"text": "b", "lab', "line 2"),
    "array.jsonl": ("[1, 2]\n", "one object per row", "row 1 is list"),
    "cut.json": (json.dumps(ROWS)[:-30], "line 1"),
    "syntax.json": ('[{"text": "a"},\n {"text": b}]', "line 2"),
    "other.json": ('{"rows": []}', "array of objects", "rows"),
    "scalar.json": ("3", "int"),
    "none.json": ("[]", "rows"),
    "twin-keys.jsonl": ('{"text": "a", "text": "b", "label": 1}\n', "twice"),
    "nan.json": ('[{"text": NaN}]', "NaN"),
    "deep.json": ("[" * 100_000, "deep"),
    "cut.parquet": (b"PAR1\0\0\0", "parquet"),
    "text.parquet": (CSV, "parquet"),
    "rows.xlsx": (b"PK\x03\x04", "must end in .csv"),
    "rows.pkl": (b"\x80\x04\x95", "must end in .csv"),
    "no-text.csv": ("words,label\na,x\nb,y\n", "column for text", "'words', 'label'"),
    "one-class.csv": ("text,label\na,x\nb,x\n", "two different labels", "'x'"),
    "gaps.csv": ("text,label\na,x\nb,\nc,y\nd,\n", "2 of 4 rows lack it", "row 2"),
    "no-words.csv": ("text,label\na,x\n ,y\n", "text in every row", "1 row"),
    "one-row.csv": ("text,label\na,x\n", "two different labels"),
    "two-rows.csv": ("text,label\na,x\nb,y\n", "3 different rows"),
    "same.csv": ("text,label\n" + "a,x\na,y\n" * 9, "3 different rows"),
    "numbers.csv": ("text,label\n" + "".join(f"t{i},{i / 7}\n" for i in range(60)), "60 different values"),
    "surrogate.jsonl": ('{"text": "\\ud800", "label": 1}\n{"text": "b", "label": 2}\n', "surrogate"),
    "nested.jsonl": ('{"text": ["a"], "label": 1}\n{"text": "b", "label": 2}\n', "plain text", "list"),
    "infinite.jsonl": ('{"text": "a", "label": 1e999}\n{"text": "b", "label": 2}\n', "infinite"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_gives_one_sentence(write, name):
    content, *words = BAD_FILES[name]
    path = write(name, content)
    one_sentence(lambda: load(path), *words)


def test_archives_and_databases_in_disguise(tmp_path):
    with zipfile.ZipFile(tmp_path / "book.csv", "w") as archive:
        archive.writestr("a.csv", CSV)
    one_sentence(lambda: load(str(tmp_path / "book.csv")), "zip archive")
    base = sqlite3.connect(tmp_path / "base.csv")
    base.execute("create table t (a)")
    base.close()
    one_sentence(lambda: load(str(tmp_path / "base.csv")), "SQLite")


def test_missing_folder_device_and_address(tmp_path, write):
    one_sentence(lambda: load(str(tmp_path / "nothing.csv")), "must exist", "nothing.csv")
    one_sentence(lambda: load("reviews.csv"), "must exist", "bundled/docstrings")
    one_sentence(lambda: load(str(tmp_path)), "one sub-folder of images per class")
    one_sentence(lambda: load("https://example.org/a.csv"), "local file")
    one_sentence(lambda: load("bundled/docstring"), "closest: docstrings")
    one_sentence(lambda: load("/dev/zero"), "regular file")
    one_sentence(lambda: load("a\0b"), "must be a path")
    one_sentence(lambda: load("x" * 900 + ".csv"), "path")
    os.mkfifo(tmp_path / "pipe.csv")
    one_sentence(lambda: load(str(tmp_path / "pipe.csv")), "pipe")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    one_sentence(lambda: load(str(tmp_path / "gone.csv")), "must exist")


def test_too_big_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "big.csv").open("wb") as file:
        file.truncate(5_000_000_000)
    one_sentence(lambda: resolve(DataSpec(source=str(tmp_path / "big.csv"))), "2 GB")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_no_permission(write):
    path = write("secret.csv", CSV)
    os.chmod(path, 0)
    one_sentence(lambda: load(path), "permission")


def test_odd_content_is_kept_as_it_is(write):
    odd = [
        "=cmd()|calc",
        "<script>alert(1)</script>",
        "\u202eright to left",
        "a" * 1_000_000,
        "line\nbreak",
        "0",
        "-1.50",
        "NA",
        "null",
    ]
    rows = [{"text": text, "label": i % 2 == 0} for i, text in enumerate(odd)]
    splits = load(write("odd.jsonl", "".join(json.dumps(r) + "\n" for r in rows)))
    found = {r["id"]: r["text"] for t in (splits.train, splits.validation, splits.test) for r in t}
    assert found == dict(enumerate(odd))
    assert splits.labels == ("False", "True")


def test_wide_table_is_read(write):
    names = [f"c{i}" for i in range(9_000)]
    path = write(
        "wide.csv", ",".join([*names, "text", "label"]) + "\n" + "".join("1," * 9_000 + f"t{i},{i % 2}\n" for i in range(6))
    )
    assert len(load(path).train) >= 3
    one_sentence(lambda: load(path, columns={"text": "text", "label": "lable"}), "closest: 'label'", "9002 in all")


def test_labels_are_text_in_natural_order(write):
    rows = [{"text": f"t{i}", "label": [10, 9.0, " 10 ", "9", -1][i % 5]} for i in range(30)]
    assert load(write("mixed.jsonl", "".join(json.dumps(r) + "\n" for r in rows))).labels == ("-1", "9", "10")


def test_hashes_pin_the_file(write):
    path = write("plain.csv", CSV)
    ref = resolve(DataSpec(source=path))
    assert list(ref.files) == [os.path.realpath(path)]
    assert resolve(ref) == ref
    check_unchanged(ref)
    os.utime(path)
    check_unchanged(ref)
    write("plain.csv", CSV + "more,a\n")
    one_sentence(lambda: check_unchanged(ref), "changed since")
    os.remove(path)
    one_sentence(lambda: check_unchanged(ref), "must exist")


def test_paths_become_absolute(write, tmp_path, monkeypatch):
    write("plain.csv", CSV)
    write("more/test.csv", CSV.replace("number", "figure"))
    monkeypatch.chdir(tmp_path)
    ref = resolve(DataSpec(source="plain.csv", test="more/test.csv"))
    monkeypatch.chdir("/")
    assert len(load_table(ref, PARTS).test) == 20
    assert sorted(os.path.relpath(p, tmp_path) for p in ref.files) == ["more/test.csv", "plain.csv"]


def test_split_that_is_nothing(write):
    path = write("plain.csv", CSV)
    one_sentence(lambda: load(path, test="nothing.csv"), "fraction, a file or a split", "nothing.csv")
    one_sentence(lambda: load(path, validation="validation"), "fraction, a file or a split")
    one_sentence(lambda: load("bundled/docstrings", test="test"), "fraction, a file or a split")
    one_sentence(lambda: load(path, test=path), "must be different data")
    copy = write("copy.csv", CSV)
    one_sentence(lambda: load(path, validation=copy), "must be different data")
