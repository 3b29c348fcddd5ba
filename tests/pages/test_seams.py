"""The services behind the screens: queue rows, uploads, zip, comparison, outcomes; and what the UI process never imports."""

import io
import os
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT
from tests.pages import planting
from workbench.core.errors import WorkbenchError
from workbench.services import comparison, files, outcomes, queue

HEAVY = ("torch", "transformers", "peft", "mlflow", "datasets")


def test_the_ui_process_never_imports_anything_heavy(jobs):
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
from workbench.ui import boot
from workbench.services import playing
boot.waking.nudge = lambda: None
playing.ask_examples = lambda reference: []
for page in ("runs", "run", "compare", "adapters", "playground", "methods"):
    at = AppTest.from_file("pages/" + page + ".py", default_timeout=60).run()
    assert not at.exception, (page, at.exception)
    assert at.title, page
print([m for m in {HEAVY!r} if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_queue_rows_know_share_and_remaining_time(jobs):
    rows = {row["job"]: row for row in queue.rows()}
    running = rows[jobs["running"]]
    assert running["share"] == 0.5
    assert running["remaining"] == pytest.approx(running["seconds"], rel=0.01)
    assert rows[jobs["queued"]]["remaining"] is None
    assert rows[jobs["lora-0"]]["share"] == 1.0


@pytest.mark.parametrize(
    ("name", "kept"),
    [("my reviews.csv", "my-reviews.csv"), ("../../etc/passwd", "passwd"), ("a\\b\\c.tsv", "c.tsv"), ("...", "data")],
)
def test_uploads_stay_under_the_home_and_are_stored_once(home, name, kept):
    path = files.upload(name, b"text,label\nx,y\n")
    assert path.name == kept
    assert path.is_relative_to(home / "uploads")
    assert path.read_bytes() == b"text,label\nx,y\n"
    assert files.upload(name, b"text,label\nx,y\n") == path
    assert len(path.parent.name) == 64


def test_an_empty_upload_is_refused(home):
    with pytest.raises(WorkbenchError, match=r"^an uploaded file must hold something; 'a\.csv' is empty\.$"):
        files.upload("a.csv", b"")


def test_a_zip_holds_the_folder_without_links(home, tmp_path):
    folder = tmp_path / "export"
    (folder / "check").mkdir(parents=True)
    (folder / "README.md").write_text("card")
    (folder / "check" / "rows").write_text("rows")
    (folder / "link").symlink_to("/etc/passwd")
    names = zipfile.ZipFile(io.BytesIO(files.zipped(folder))).namelist()
    assert names == ["export/README.md", "export/check/rows"]
    with pytest.raises(WorkbenchError, match="gone or empty"):
        files.zipped(tmp_path / "nothing")


def test_a_new_place_is_never_taken(home):
    first = files.new_place("exports", "lora/../x")
    assert first.parent == home / "exports"
    first.mkdir()
    assert files.new_place("exports", "lora/../x").name == f"{first.name}-2"


def test_a_spec_is_text_that_reads_back(home):
    from workbench.core import safe_yaml

    spec = {
        "name": "a",
        "model": "bundled/minilm",
        "task": "text_classification",
        "data": {"source": "x.csv"},
        "methods": ["lora"],
        "seeds": [0],
    }
    assert safe_yaml.loads(files.spec_text(spec).encode(), "spec") == spec
    with pytest.raises(WorkbenchError, match="name"):
        files.spec_text({**spec, "name": "../x"})


def test_the_comparison_knows_metric_notes_and_curves(jobs):
    found = comparison.comparison([planting.EXPERIMENT])
    assert (found.metric, found.higher) == ("accuracy", True)
    assert len(found.rows) == 7
    curve = comparison.curves(found.rows, "accuracy")
    own = curve[curve["label"] == "head_only"]
    assert list(own["step"]) == [2, 4]
    assert list(own["mean"]) == pytest.approx([0.4, 0.8])
    assert list(own["n"]) == [2, 2]


def test_outcomes_count_confusions_and_sort_mistakes(jobs):
    found = outcomes.outcome("lora-s0-aaaa0000")
    assert (found["rows"], found["right"], found["labels"]) == (4, 3, ["bad", "good"])
    assert found["counts"] == [[2, 0], [1, 1]]
    assert [row["id"] for row in found["worst"]] == [2]
    assert outcomes.outcome("lora-s4-dddd0000") is None


def test_a_causal_lm_run_has_no_confusion(jobs):
    from workbench.core.paths import run_folder

    path = run_folder("lora-s0-aaaa0000") / "predictions.csv"
    path.write_text(
        "id,split,label,prediction,score,loss\n" + "".join(f"{i},test,text {i},other {i},0.5,{i}.0\n" for i in range(40))
    )
    found = outcomes.outcome("lora-s0-aaaa0000")
    assert found["labels"] == []
    assert found["worst"][0]["id"] == 39
