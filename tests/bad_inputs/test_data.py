"""The 72 data of the bad-input matrix, and some more, at the doors where a spec names its data."""

import gzip
import io
import json
import os
import pickle
import socket
import sqlite3
import struct
import threading
import zipfile
import zlib

import pytest

from tests.bad_inputs.conftest import SPEC
from tests.bad_inputs.refusing import Case, accepted, by_id, counted, planned, warned
from workbench.cli import main
from workbench.core.errors import WorkbenchError
from workbench.core.events import Silent
from workbench.core.run_spec import Placed
from workbench.jobs import client

TEXTS = [f"a text, number {i}" for i in range(120)]
ROWS = [(text, "ab"[i % 2]) for i, text in enumerate(TEXTS)]
CSV = "text,label\n" + "".join(f'"{t}",{label}\n' for t, label in ROWS)
DIFFERENT, LACK = "must have at least 3 different rows", "must have a label in every row"


class Evil:
    """Unpickles to a call that leaves the canary."""

    def __reduce__(self):
        return (os.mkdir, ("canary",))


class Later:
    """Good data that another process changes once the runs are queued."""

    def __init__(self, change):
        self.change = change


def file(name, content):
    """Puts a file of bytes, text or what a call makes; data is its name."""

    def put(folder):
        raw = content() if callable(content) else content
        (folder / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass"))
        return name

    return put


def several(*puts):
    """The same mistake in several dresses; each is fed alone."""
    return lambda folder: [put(folder) for put in puts]


def csv(text):
    """Puts rows.csv."""
    return file("rows.csv", text)


def pairs(rows):
    """Puts rows.jsonl from (text, label)."""
    return file("rows.jsonl", "".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows))


def labelled(*labels):
    """Puts 120 different texts whose labels take turns."""
    return pairs((text, labels[i % len(labels)]) for i, text in enumerate(TEXTS))


def told(*texts):
    """Puts 120 rows whose texts take turns, made different by their numbers."""
    return pairs((f"{texts[i % len(texts)]} {i}", "ab"[i % 2]) for i in range(120))


def with_validation(rows):
    """Puts good rows and a validation file of (text, label)."""

    def put(folder):
        csv(CSV)(folder)
        (folder / "other.jsonl").write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows))
        return {"source": "rows.csv", "validation": "other.jsonl"}

    return put


def zipped(*names):
    """Bytes of a zip of good rows."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names or ("rows.csv",):
            archive.writestr(name, CSV)
    return packed.getvalue()


def parquet(change=lambda raw: raw, field=None, **options):
    """A parquet file with a dictionary column, its bytes changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out, labels = io.BytesIO(), pa.DictionaryArray.from_arrays(pa.array([0, 1] * 60), pa.array(["alpha", "bravo"]))
    schema = pa.schema([pa.field("text", pa.string(), metadata=field), pa.field("label", labels.type)])
    pq.write_table(pa.table([pa.array(TEXTS), labels], schema=schema), out, compression="none", **options)
    return change(out.getvalue())


def pickled():
    """A parquet file whose text column claims a type that is a pickle."""
    return parquet(field={b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Evil())})


def database(folder):
    """A SQLite file under its own name and as a csv."""
    for name in ("rows.sqlite", "rows.csv"):
        base = sqlite3.connect(folder / name)
        base.execute("create table rows (text, label)")
        base.close()
    return ["rows.sqlite", "rows.csv"]


def pipes(folder):
    """What would never end: a pipe that nobody writes, a device, and a link to it."""
    os.mkfifo(folder / "pipe.csv")
    (folder / "link.csv").symlink_to("/dev/zero")
    return ["pipe.csv", "/dev/zero", "link.csv"]


def no_permission(folder):
    """A file that belongs to somebody else."""
    (folder / csv(CSV)(folder)).chmod(0)
    return "rows.csv"


def link_outside(folder):
    """A link to good data beside the folder."""
    outside = folder.parent / f"{folder.name}-outside.csv"
    outside.write_text(CSV)
    (folder / "link.csv").symlink_to(outside)
    return "link.csv"


def sparse(folder):
    """5 GB that take no room."""
    with (folder / "rows.csv").open("wb") as rows:
        rows.truncate(5_000_000_000)
    return "rows.csv"


def growing(folder):
    """More rows, while the training begins."""
    with (folder / "rows.csv").open("a") as rows:
        for number in range(200):
            rows.write(f"one more {number},a\n")
            rows.flush()


def replaced(folder):
    """Other rows under the same name."""
    (folder / "new.csv").write_text(CSV.replace("number", "figure"))
    os.replace(folder / "new.csv", folder / "rows.csv")


def columns(count):
    """A table that is too wide."""
    return ",".join(["text", "label", *(f"c{i}" for i in range(count - 2))]) + "\n" + "," * (count - 1) + "\n"


def chunk(kind, content):
    """One part of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, pixels):
    """A PNG that says it has a size and holds so many grey pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * pixels)) + chunk(b"IEND", b"")


def picture(content):
    """Puts a folder of good images and this one among them."""

    def put(folder):
        for label in "ab":
            (folder / "images" / label).mkdir(parents=True)
            for i in range(12):
                (folder / "images" / label / f"{i}.png").write_bytes(png(16, 16 + i + 20 * (label == "b"), 17 * 60))
        (folder / "images" / "a" / "odd.png").write_bytes(content)
        return "images"

    return put


FILE = {
    "missing": Case(lambda f: "nowhere.csv", "a data file must exist"),
    "0 B": Case(csv(""), "must hold rows; .* is empty"),
    "header only": Case(csv("text,label\n"), "must hold rows; it has only a header"),
    "folder": Case(lambda f: str((f / "rows").mkdir() or "rows"), "must hold one sub-folder of images per class"),
    "no permission": Case(no_permission, "must be readable; you have no permission"),
    "fifo and /dev/zero must not hang": Case(pipes, "must be a regular file"),
    "link outside": accepted(link_outside, '"train": 84'),
    "wrong extension": Case(file("rows.txt", CSV), "must end in .csv"),
    "zip": Case(several(file("rows.zip", zipped), file("rows.csv", zipped)), "must end in .csv|must be a plain text table"),
    "gz": Case(
        several(file("rows.csv.gz", gzip.compress(CSV.encode())), file("rows.csv", gzip.compress(CSV.encode()))),
        "must end in .csv|must be a plain text table",
    ),
    "sparse 5 GB": Case(sparse, "must be at most 2 GB"),
    "growing": Case(Later(growing), "must be the data that was submitted; its content has changed since: submit again"),
    "replaced between plan and run": Case(Later(replaced), "must be the data that was submitted"),
    "URL": Case(lambda f: "https://example.org/rows.csv", "must be a local file.*download it"),
    "xlsx": Case(
        several(file("rows.xlsx", lambda: zipped("xl/workbook.xml")), file("rows.csv", lambda: zipped("xl/workbook.xml"))),
        r"must end in .csv|must be a plain text table; it is a zip archive \(an .xlsx is one too\)",
    ),
    "sqlite": Case(database, "must end in .csv|must be a plain text table; it is a SQLite database"),
}
TEXT = {
    "UTF-16": Case(csv(CSV.encode("utf-16")), "must be UTF-8 text; it is UTF-16: save it again"),
    "Latin-1": Case(csv((CSV + "café,b\n").encode("latin-1")), "must be UTF-8 text; line 122.*0xe9"),
    "mixed": Case(csv((CSV + "café,b\n").encode() + "café,a\n".encode("latin-1")), "must be UTF-8 text; line 123"),
    "BOM": accepted(csv("\ufeff" + CSV), '"train": 84'),
    "NUL": Case(csv(CSV + "a\0,b\n"), "must be plain text; line 122 holds a NUL byte: remove it"),
    "surrogates": Case(
        several(csv(CSV.encode() + b"\xed\xa0\x80,a\n"), file("rows.jsonl", '{"text": "\\ud800", "label": 1}\n')),
        "must be UTF-8 text|must hold valid Unicode",
    ),
    "lone CR": accepted(csv(CSV.replace("\n", "\r")), '"train": 84'),
    "open quote": Case(csv(CSV + '"open,b\n'), "must be a proper csv"),
    ";": accepted(csv("text;label\n" + "".join(f"{t};{label}\n" for t, label in ROWS)), '"train": 84'),
    "short rows": Case(csv(CSV + "b\n"), "must have 2 fields in every row; line 122 has 1"),
    "long rows": Case(csv(CSV + "b,y,z\n"), "must have 2 fields in every row; line 122 has 3: quote"),
    "twin columns": Case(csv(CSV.replace("text,label", "text,text")), "must name each column once; 'text' appears 2 times"),
    "10 k columns": Case(csv(columns(10_001)), "must have at most 10,000 columns"),
    "1 MB cell": warned(pairs([*ROWS, ("x" * 1_000_000, "a")]), "1 of 121 rows has a text at least 10 times as long"),
}
STRUCTURED = {
    "cut last line": Case(file("rows.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "lab'), "must be valid jsonl.* line 2"),
    "array": Case(file("rows.jsonl", "[1, 2]\n"), "must hold one object per row"),
    "nested": Case(pairs([*ROWS, ({"words": "a"}, "b")]), "must hold plain text for text; row 121 is dict"),
    "mixed types": accepted(pairs([*ROWS, (777, "a"), (True, "b"), (0.5, "a")]), '"train": 86'),
    "twin keys": Case(
        file("rows.jsonl", '{"text": "a", "text": "b", "label": 1}\n'), "must be valid jsonl.*'text' appears twice"
    ),
    "NaN literal": Case(
        file("rows.json", '[{"text": "a", "label": NaN}]'), r"must be valid json.*NaN is no JSON value \(write null\)"
    ),
    "depth": Case(file("rows.json", "[" * 100_000), "must be valid json.*nested too deep"),
    "cut parquet": Case(file("rows.parquet", lambda: parquet(lambda raw: raw[:-30])), "must be a whole parquet file"),
    "pickled extension": accepted(file("rows.parquet", pickled), '"train": 84'),
    "bad dictionary": Case(
        file("rows.parquet", lambda: parquet(lambda raw: raw.replace(b"\5\0\0\0alpha", b"\xff\0\0\0alpha", 1))),
        "must be a whole parquet file",
    ),
}
LABELS = {
    "one class": Case(labelled("x"), "must hold at least two different labels; every row says 'x'"),
    "class only in validation": Case(
        with_validation([(f"new {i}", "abc"[i % 3]) for i in range(30)]),
        "must also occur in the training data; 'c' does not",
    ),
    "class with 1 row": warned(pairs([*ROWS, ("alone", "c")]), "1 of 3 labels have fewer than 5 rows"),
    "1e5 classes": Case(
        csv(lambda: "text,label\n" + "".join(f"text {i},label {i}\n" for i in range(100_000))),
        "must hold classes that repeat; it has 100,000",
    ),
    "missing": Case(several(labelled("a", "b", None), csv(CSV + "more,\n")), LACK),
    "case/space variants": warned(labelled("good", "Good ", "bad"), "2 labels differ only in case or blanks.*spell them alike"),
    '"1" and 1': accepted(labelled("1", 0, 1, "0"), '"labels": \\["0", "1"\\]'),
    "floats": Case(pairs((t, i / 7) for i, t in enumerate(TEXTS)), "must hold classes that repeat; it has 120 different values"),
    "strings for regression": Case(
        lambda f: {"task": "text_regression", "data": labelled("low", "high")(f)},
        "no task is called 'text_regression'; closest: ",
    ),
    "inf": Case(
        file("rows.jsonl", "".join(f'{{"text": "t{i}", "label": 1e999}}\n' for i in range(9))), "every row; row 1 is infinite"
    ),
    "constant": Case(labelled(1), "must hold at least two different labels; every row says '1'"),
    "bool": accepted(labelled(True, False), '"labels": \\["False", "True"\\]'),
    "-100": accepted(labelled(-100, 1), '"labels": \\["-100", "1"\\]'),
    "negative": accepted(labelled(-1, 1), '"labels": \\["-1", "1"\\]'),
}
CONTENT = {
    "empty": Case(pairs([*ROWS, ("", "a")]), "must have a text in every row; 1 row lacks it"),
    "blanks": Case(pairs([*ROWS, (" \t ", "a")]), "must have a text in every row; 1 row lacks it"),
    "all equal": Case(pairs([("the same", "ab"[i % 2]) for i in range(120)]), DIFFERENT),
    "leak across the split": warned(
        with_validation([*ROWS[:20], *((f"new {i}", "ab"[i % 2]) for i in range(20))]),
        "left out because another split holds",
    ),
    "100x too long": warned(
        pairs([(f"{'word ' * 1600}{i}", "ab"[i % 2]) for i in range(24)]), "max_length 16 cuts 100.0 %.*512 would cut"
    ),
    "only unknown tokens": warned(told("\U00010000 \U00010001"), "of the text is unknown to this model"),
    "bidi": accepted(told("\u202eright to left"), '"train": 84'),
    "HTML": accepted(told("<script>alert(1)</script>"), '"train": 84'),
    "formula cells": accepted(told("=cmd()|calc", "@sum(a)", "+1"), '"train": 84'),
    "1 row": Case(pairs(ROWS[:1]), "must hold at least two different labels"),
    "rows < batch": warned(lambda f: {"training": {"batch_size": 64}, "data": pairs(ROWS[:20])(f)}, "fewer than 5 rows"),
    "rows < classes": Case(pairs([("a", "x"), ("b", "y")]), DIFFERENT),
}
OTHER = {
    "image bomb": Case(picture(png(60_000, 60_000, 10)), "must have at most 50 million pixels; .*odd.png has more: shrink it"),
    "cut PNG": Case(picture(png(16, 16, 17 * 16)[:-30]), "odd.png must be a whole image"),
    "empty wav": Case(file("sound.wav", b"RIFF\x24\0\0\0WAVEfmt "), "must end in .csv"),
    "lying header": Case(picture(png(16, 16, 10)), "odd.png must be a whole image"),
    "edge out of range": Case(
        csv("source,target\n" + "".join(f"{i},{10**9}\n" for i in range(9))), "must have a column for text"
    ),
    "unsorted timestamps": Case(
        csv("time,value\n2024-02-01,1\n2024-01-01,2\n"), "must have a column for text; it has 'time', 'value'"
    ),
}
DATA = {"file": FILE, "text": TEXT, "JSON/parquet": STRUCTURED, "labels": LABELS, "content": CONTENT, "other": OTHER}


def bound(folder):
    """A socket where a file is wanted."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("rows.csv")
    return "rows.csv"


def linked(target):
    """Puts a link that leads nowhere."""
    return lambda folder: str((folder / "link.csv").symlink_to(target) or "link.csv")


MORE = {
    "link to itself": Case(linked("link.csv"), "path"),
    "link to nothing": Case(linked("/nowhere/at/all.csv"), "exist"),
    "no such home folder": Case(lambda f: "~nobody-of-that-name/rows.csv", "path"),
    "a NUL in the name": Case(lambda f: "a\0b.csv", "path"),
    "a part of 300 letters": Case(lambda f: "x" * 300 + ".csv", "path"),
    "a socket": Case(bound, "regular file"),
    "UTF-32": Case(csv(CSV.encode("utf-32")), "must be UTF-8 text; it is UTF-32"),
    "a page instead": Case(csv("<!doctype html><html><body>Not found</body></html>\n"), "only a header|column"),
    "only separators": Case(csv(",,,\n,,,\n"), "each column once"),
    "JSON in JSON": Case(file("rows.jsonl", json.dumps(json.dumps({"text": "a"})) + "\n"), "one object per row"),
    "nested rows": Case(file("rows.json", json.dumps({"data": {"rows": []}})), "array of objects"),
    "twin keys, nested": Case(file("rows.json", '[{"text": "a", "label": {"x": 1, "x": 2}}]'), "twice"),
    "infinity in JSON": Case(file("rows.json", '[{"text": "a", "label": -Infinity}]'), "JSON"),
    "parquet with a changed page": Case(
        file("rows.parquet", lambda: parquet(lambda raw: raw.replace(b"number 7", b"number 8", 1), write_page_checksum=True)),
        "whole parquet",
    ),
    "label missing everywhere": Case(labelled(None), LACK),
    "labels as lists": Case(labelled(["a"], ["b"]), "label"),
    "images of no size": Case(picture(png(0, 8, 10)), "whole image"),
}
CASES = by_id({**DATA, "more": MORE})


def write(folder, fed):
    """The spec on these data, with what else of it is said."""
    more = fed if isinstance(fed, dict) and "data" in fed else {"data": fed}
    pictures = {"model": "bundled/vit", "task": "image_classification", "methods": ["lora"]} if fed == "images" else {}
    (folder / "spec.yaml").write_text(json.dumps({**SPEC, **pictures, **more}))


@pytest.mark.parametrize("case", CASES)
def test_bad_data_is_one_sentence(case, terminal, monkeypatch):
    found = CASES[case]
    if isinstance(found.put, Later):
        return changed_later(terminal, found, monkeypatch)
    fed = found.put(terminal.work)
    if case == "file: no permission" and os.access(terminal.work / "rows.csv", os.R_OK):  # root may read everything
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    for one in fed if isinstance(fed, list) else [fed]:
        write(terminal.work, one)
        planned(terminal, found)
    assert not (terminal.work / "canary").exists(), "the pickle ran"


def changed_later(terminal, case, monkeypatch):
    """Plan and queue good data, let it change, and begin: the run must end in the sentence before anything is trained."""
    from workbench import train

    queued = []
    monkeypatch.setattr(client, "submit", lambda runs, *_: queued.extend(runs) or list(range(len(runs))))
    csv(CSV)(terminal.work)
    write(terminal.work, "rows.csv")
    assert terminal.taken("plan", "spec.yaml")["problems"] == []
    assert main(["submit", "spec.yaml"]) == 0
    changing = threading.Thread(target=case.put.change, args=(terminal.work,))
    changing.start()
    changing.join(timeout=0.05)
    reporter = Silent()
    with pytest.raises(WorkbenchError, match=case.words):
        train.run(queued[0], reporter, terminal.work / "run", Placed())
    changing.join()
    assert not (terminal.work / "run").exists()


def test_the_matrix_is_whole():
    assert {name: len(group) for name, group in DATA.items()} == {
        "file": 16,
        "text": 14,
        "JSON/parquet": 10,
        "labels": 14,
        "content": 12,
        "other": 6,
    }
    assert counted(*DATA.values()) == {"all": 72, "refused": 52, "warned": 7, "accepted": 13}
    assert len(CASES) == 72 + len(MORE)
