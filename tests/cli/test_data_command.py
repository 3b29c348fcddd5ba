"""`data SPEC`: the doctor's findings, the mapping with its reasons and the truncation share, as text and as JSON."""

import json

from workbench.core import safe_yaml

KEYS = {"experiment", "entries", "truncation", "suggestion", "unknown", "limit", "scores", "image", "problem"}
ENTRY = {"id", "source", "total", "counts", "mapping", "reasons", "proposed", "unused", "labels", "doctor", "problem"}


def write(tmp_path, spec, **more):
    path = tmp_path / "spec.yaml"
    path.write_text(safe_yaml.dumps({**spec, **more}))
    return path


def test_data(wb, spec, table, tmp_path):
    table.write_text(table.read_text() + "lovely \ufffd thing,good,0\nlovely \ufffd thing,good,0\n")
    file = write(tmp_path, spec)
    code, found, err = wb("data", file, "--json")
    assert (code, err, found["problem"]) == (0, "", None)
    assert found.keys() == KEYS
    (entry,) = found["entries"]
    assert entry.keys() == ENTRY
    assert entry["reasons"]["label"] == '"label" has that name: 2 different values.'
    assert {one["what"] for one in entry["doctor"]} >= {"duplicates", "lost_characters"}
    assert 0 <= found["truncation"]["share"] <= 1
    code, text, _ = wb("data", file)
    assert code == 0
    assert "warning: 1 of 122 rows repeats an earlier row" in text
    assert '"label" has that name' in text
    assert "max_length 16 cuts 0.0 %" in text


def test_data_that_cannot_be_used(wb, spec, table, tmp_path):
    table.write_text(table.read_text() + " ,good,0\n")
    code, found, err = wb("data", write(tmp_path, spec), "--json")
    assert code == 2
    assert err.strip() == found["problem"]
    assert "1 row lacks it" in err
    assert [one["what"] for one in found["entries"][0]["doctor"]] == ["empty"]
    assert found["truncation"] is None


def test_proposed_columns_are_told_apart(wb, spec, tmp_path):
    (tmp_path / "odd.csv").write_text("words,stars\n" + "".join(f"a text of some length {i},{i % 3}\n" for i in range(20)))
    code, text, err = wb("data", write(tmp_path, spec, data={"source": "odd.csv"}))
    assert code == 2
    assert 'text: "words" has the longest texts: 24 characters in the middle row. Not in force' in text
    assert "column for text" in err


def test_several_entries_and_no_nan(fresh, spec, tmp_path):
    file = write(tmp_path, spec, data=[spec["data"], {"source": "bundled/docstrings", "limit": 30}], model="bundled/minilm")
    done = fresh("data", file, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert [one["id"] for one in found["entries"]] == ["reviews", "docstrings"]
    assert found["truncation"]["of"] == 84 + 30
