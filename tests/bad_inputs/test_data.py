"""Bad data that no other test feeds, through the command line: one sentence, exit code 2, nothing started, nothing left.

The rest of the 72 is in `tests/data`, `tests/core/test_safe_yaml.py` and `tests/doors/test_limits.py`.
"""

import io
import json
import os
import re
import threading
import time

import pytest

from tests.services.conftest import home
from workbench.cli import main
from workbench.core.errors import WorkbenchError
from workbench.core.spec import DataSpec
from workbench.data import check_unchanged, resolve
from workbench.data.images import pixels
from workbench.jobs import client

__all__ = ["home"]
ROWS = [(f"a text, number {i}", "ab"[i % 2]) for i in range(30)]
CSV = "text,label\n" + "".join(f'"{t}",{label}\n' for t, label in ROWS)


def rows(*pairs):
    """A csv of (text, label)."""
    return "text,label\n" + "".join(f"{t},{label}\n" for t, label in pairs)


def parquet(change=lambda raw: raw):
    """A parquet file with a dictionary column, its bytes changed."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    out = io.BytesIO()
    labels = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 15), pa.array(["a", "b"]))
    pq.write_table(pa.table({"text": [t for t, _ in ROWS], "label": labels}), out, compression="none", write_page_checksum=True)
    return change(out.getvalue())


BAD = {
    "link to a device": ("link.csv", "/dev/zero", "regular file"),
    "link to itself": ("loop.csv", "loop.csv", "path"),
    "link outside to nothing": ("gone.csv", "/nowhere/at/all.csv", "exist"),
    "no such home folder": (None, "~nobody-of-that-name/rows.csv", "path"),
    "a NUL in the name": (None, "a\0b.csv", "path"),
    "a part of 300 letters": (None, "x" * 300 + ".csv", "path"),
    "a socket": ("socket", "", "regular file"),
    "zip by another name": ("rows.tsv", b"PK\x03\x04" + b"\0" * 40, "zip"),
    "gzip by another name": ("rows.jsonl", b"\x1f\x8b\x08" + b"\0" * 40, "gzip"),
    "database by another name": ("rows.csv", b"SQLite format 3\0" + b"\0" * 80, "SQLite"),
    "UTF-32": ("rows.csv", CSV.encode("utf-32"), "UTF-8"),
    "lone surrogate bytes": ("rows.csv", CSV.encode() + b"\xed\xa0\x80,a\n", "UTF-8"),
    "header twice": ("rows.csv", "text,label,label\na,b,c\n", "each column once"),
    "a page instead": ("rows.csv", "<!doctype html><html><body>Not found</body></html>\n", "only a header|column"),
    "only separators": ("rows.csv", ",,,\n,,,\n", "each column once"),
    "JSON in JSON": ("rows.jsonl", json.dumps(json.dumps({"text": "a", "label": "b"})) + "\n", "one object per row"),
    "nested rows": ("rows.json", json.dumps({"data": {"rows": []}}), "array of objects"),
    "twin keys, nested": ("rows.json", '[{"text": "a", "label": {"x": 1, "x": 2}}]', "twice"),
    "infinity in JSON": ("rows.json", '[{"text": "a", "label": -Infinity}]', "JSON"),
    "cut parquet": ("rows.parquet", lambda: parquet(lambda raw: raw[:-30]), "whole parquet"),
    "parquet with a changed page": (
        "rows.parquet", lambda: parquet(lambda raw: raw.replace(b"number 7", b"number 8", 1)), "whole parquet",
    ),
    "label missing everywhere": ("rows.csv", rows(*((f"t{i}", "") for i in range(30))), "lack|missing|label"),
    "labels as numbers with fractions": ("rows.csv", rows(*((f"t{i}", i / 7) for i in range(60))), "different values"),
    "labels as lists": ("rows.json", json.dumps([{"text": t, "label": [x]} for t, x in ROWS]), "label"),
    "fewer rows than classes": ("rows.csv", rows(("a", "x"), ("b", "y")), "3 different rows"),
    "one text alone": ("rows.csv", rows(*(("the same", "ab"[i % 2]) for i in range(30))), "3 different rows"),
    "texts of blanks": ("rows.csv", rows(*(("  ", "ab"[i % 2]) for i in range(30))), "text in every row|texts|text"),
}  # fmt: skip


@pytest.fixture
def submitted(home, tmp_path, monkeypatch, capsys):
    """submitted(data) -> the one sentence of a refused `submit`; anything else fails the test."""

    def never(*_):
        raise AssertionError("bad data reached the queue")

    monkeypatch.setattr(client, "submit", never)
    monkeypatch.chdir(tmp_path)
    spec = {"name": "x", "model": "bundled/minilm", "task": "text_classification", "methods": ["lora"], "seeds": [0]}

    def call(data):
        (tmp_path / "spec.yaml").write_text(json.dumps({**spec, "data": data}))
        before = sorted(p.name for p in tmp_path.iterdir())
        start = time.process_time()
        code = main(["submit", "spec.yaml", "--json"])
        seconds = time.process_time() - start
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1
        assert re.search(r"[.)]$", err.strip()), err
        assert "Traceback" not in err
        assert len(err) < 700
        assert seconds < 5  # two on a free machine
        assert sorted(p.name for p in tmp_path.iterdir() if p.name != "home") == [n for n in before if n != "home"]
        assert not (home / "runs").exists()
        assert not (home / "jobs.db").exists()
        return err

    return call


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_sentence(case, submitted, tmp_path):
    name, content, words = BAD[case]
    if name is None:
        said = submitted(content)
    elif name == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            os.chdir(tmp_path)
            one.bind("rows.csv")
            said = submitted("rows.csv")
    else:
        content = content() if callable(content) else content
        if name in ("link.csv", "loop.csv", "gone.csv"):
            (tmp_path / name).symlink_to(content)
        else:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        said = submitted(name)
    assert re.search(words, said), said


def test_a_file_that_this_user_may_not_read(submitted, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    path.chmod(0)
    if os.access(path, os.R_OK):  # as root: what the check says is all that can be tested
        pytest.skip("root may read every file; the same case runs where tests do not run as root")
    assert "permission" in submitted("rows.csv")


def test_a_file_that_grows_while_it_is_read_is_seen(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    ref = resolve(DataSpec(source=str(path)))
    stop = threading.Event()

    def grow():
        with path.open("a") as file:
            while not stop.is_set():
                file.write("one more,a\n")
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        time.sleep(0.05)
        with pytest.raises(WorkbenchError, match="changed since"):
            check_unchanged(ref)
    finally:
        stop.set()
        writer.join()


def test_a_class_in_the_validation_file_alone(submitted, tmp_path):
    (tmp_path / "rows.csv").write_text(CSV)
    (tmp_path / "other.csv").write_text(rows(*((f"new {i}", "abc"[i % 3]) for i in range(12))))
    assert "'c'" in submitted({"source": "rows.csv", "validation": "other.csv"})


def test_odd_but_good_labels_are_taken(tmp_path):
    from workbench.data import load_table

    (tmp_path / "rows.csv").write_text(rows(*((f"t{i}", (-100, 1, -1)[i % 3]) for i in range(30))))
    assert load_table(resolve(DataSpec(source=str(tmp_path / "rows.csv"))), {"text": "required", "label": "required"}).labels == (
        "-100", "-1", "1",
    )  # fmt: skip


def test_a_picture_whose_header_lies(tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for width, height, words in ((60_000, 60_000, "million pixels"), (0, 8, "whole image"), (8, 8, "whole image")):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        lie = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(lie)
        with pytest.raises(WorkbenchError, match=words):
            pixels(tmp_path / "a.png")
