"""A9, A10: hostile text is inert wherever it is shown, and secrets of the environment are written nowhere."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from tests.figures.test_figures import all_figures, walk
from workbench.core import safe_yaml, text
from workbench.core.errors import WorkbenchError
from workbench.export import card, predicting
from workbench.figures import document, style
from workbench.jobs import failures
from workbench.kernel import state
from workbench.services import tables as terminal
from workbench.ui import answering, looking, notices, tables

PAYLOADS = {
    "script": "<script>alert(1)</script>", "image": "<img src=x onerror=alert(1)>", "link": "[click](javascript:alert(1))",
    "picture": "![x](http://evil.example/?leak)", "formula": "=cmd|' /C calc'!A0", "plus": "+1+cmd|' /C calc'!A0",
    "minus": "-2+3+cmd",
    "at": "@SUM(1+1)*cmd", "tab": "\t=1+1", "line": "a\n=1+1\n# title\n---\ntags: [evil]",
    "terminal": "\x1b]0;owned\x07\x1b[2J\x1b[31mred",
    "bidi": "abc\u202etxt.exe\u2066", "zero width": "\u200b=1+1\ufeff", "json": '"}]</script><script>alert(1)</script>',
    "long": "<b>" + "x" * 1_000_000,
}  # fmt: skip
OURS = {
    "html", "head", "meta", "title", "style", "script", "body", "h1", "h2", "h3", "p", "ul", "li", "div", "table",
    "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "pre", "details", "summary", "span", "small", "br",
}  # fmt: skip


class Reader(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.names, self.seen = [], set(), []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.seen.append(data)


def inert_page(page, scripts=0):
    """Only our own tags, no handlers, and nothing that turns the direction of the text."""
    read = Reader(page)
    assert set(read.tags) <= OURS, set(read.tags) - OURS
    assert read.tags.count("script") == scripts
    assert not {n for n in read.names if n.startswith("on") or n in ("src", "href", "srcdoc", "action")}
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b\x07]", "".join(read.seen))


def inert_markdown(shown):
    """Every character that Markdown reads stands behind a backslash."""
    bare = re.sub(r"\\[\\`*_{}\[\]<>#$|~:]", "", shown)
    assert not re.search(r"[`*_\[\]<>#|~]", bare), shown[:200]
    assert not re.search(r"(?<!\\)://", shown)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b\x07]", shown)


def inert_csv(content):
    """No cell that a spreadsheet runs."""
    csv.field_size_limit(2_000_000)
    for row in csv.reader(io.StringIO(content)):
        for cell in row:
            start = cell.lstrip(" \t\r\n\u200b\ufeff")[:1]
            assert start not in tuple("=+-@") or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", cell), cell[:80]
            assert cell[:1] not in tuple("\t\r")


def _page(given):
    inert_markdown(notices.plain(given))


def _csv_of_a_comparison(given):
    row = {"label": given, "method": given, "seed": 0, "state": "failed", "reason": given, "trainable_params": -1, "metrics": {}}
    inert_csv(tables.to_csv([row]))


def _csv_of_predictions(given):
    target = WORK / "p.csv"
    predicting._csv([{"id": 0, "prediction": given, "score": -0.5, "label": given}], target)
    inert_csv(target.read_bytes().decode())


def _report_heading(given):
    inert_page(document.heading(given) + document.paragraph(given) + document.listing([given]) + document.code(given))


def _report_table(given):
    inert_page(document.table([{given: given, "n": 1.0}]) + document.folded(given, []))


def _report_title(given):
    page = document.document(given, [])
    inert_page(page[: page.index("<script>")] + page[page.rindex("</script>") + 9 :])


def _figure(given):
    figures = all_figures(given[:200])
    for drawn in figures.values():  # what groups the marks of one method, and the description, are never read as markup
        texts = [v for v in walk(json.loads(drawn.to_json())) if isinstance(v, str)]
        texts = [v for v in texts if v not in (given[:200], style.alt(drawn))]
        assert not any(re.search(r"<(script|img|b>x)", v) for v in texts)
    page = document.figure(figures["quality"])
    inert_page(page, page.count("<script"))
    assert page.count("<script") == page.count("</script>") <= 2


def revived(given):
    """What a model card is written from."""
    meta = {
        "base": {"source": given[:300], "sha256": "ab"}, "task": "text_classification", "label": given, "labels": [given, "b"],
        "metrics": {}, "modifiers": [{"modifier": given[:200]}], "recipe": None, "versions": {},
    }  # fmt: skip
    adapter = SimpleNamespace(key="lora", cfg=SimpleNamespace(model_dump=lambda **_: {"rank": 4}))
    host = type("BertForSequenceClassification", (), {})()
    return SimpleNamespace(meta=meta, adapter=adapter, host=host)


CHECK = {
    "metric": "accuracy",
    "rows": 8,
    "rows_from": "test",
    "max_error": 0.0,
    "mean_error": 0.0,
    "limit": None,
    "metric_before": None,
}


def _model_card(given):
    card.write(WORK, revived(given), "peft", {}, CHECK, "x = 1\n")
    written = (WORK / "README.md").read_text()
    _, front, body = written.split("---\n", 2)
    assert set(safe_yaml.loads(front)) == {"base_model", "library_name", "pipeline_tag", "tags", "metrics"}
    lines = body.splitlines()
    inert_markdown(lines[1].removeprefix("# "))
    inert_markdown(next(one for one in lines if one.startswith("- labels")).removeprefix("- labels: "))
    assert sum(one.startswith(("#", "---", "tags")) for one in lines) == 3
    coded = [re.sub("`[^`]*`", "", one) for one in lines if one.startswith(("- modifiers", "The method", "- base"))]
    assert len(coded) == 3
    assert not re.search(r"[<>\[=@]", "".join(coded))


def _adapter_readme(given):
    written = state._readme({"label": given, "method": "lora", "base": {"source": given[:300]}})
    inert_markdown(written.splitlines()[0].removeprefix("# "))
    assert len(written.splitlines()) == 4


def _terminal(given):
    shown = terminal.aligned([{"label": given, "n": 1}], ("label", "n"))
    assert len(shown.splitlines()) == 2
    assert all(line.isprintable() for line in shown.splitlines())


def _sentence(given):
    for said in (str(WorkbenchError(f"got {given}.")), failures.sentence(ValueError(given))):
        assert said.isprintable()
        assert len(said) < 700


def _token_view(given):
    piece = {"text": given, "special": False, "loss": False, "cut": False}
    inert_page(looking._row({"pieces": [piece], "hidden": 0, "id": given, "split": given, "length": 1}))


def _answer(given):
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering.st, "html", drawn.append)
        answering._text(given, given)
        answering._text(given, "")
    assert len(drawn) == 2
    for page in drawn:
        inert_page(re.sub(r' style="[^"<>]*"', "", page).replace("<mark", "<span").replace("</mark", "</span"))


FIELDS = {
    f.__name__.strip("_"): f
    for f in (
        _page, _csv_of_a_comparison, _csv_of_predictions, _report_heading, _report_table, _report_title, _figure, _model_card,
        _adapter_readme, _terminal, _sentence, _token_view, _answer,
    )
}  # fmt: skip
WORK = None


@pytest.fixture(autouse=True)
def _work(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "WORK", tmp_path)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("field", FIELDS)
def test_a10_hostile_text_is_inert(field, payload):
    FIELDS[field](PAYLOADS[payload])


def test_a10_there_are_as_many_cases_as_promised():
    assert len(PAYLOADS) * len(FIELDS) >= 180


@pytest.mark.parametrize("payload", ["terminal", "bidi", "zero width", "line", "tab"])
def test_a10_a_label_that_cannot_be_printed_is_refused(payload):
    from workbench.core.spec import parse_spec

    spec = {"name": "x", "model": "bundled/minilm", "task": "text_classification", "data": "bundled/docstrings"}
    with pytest.raises(WorkbenchError, match="printable"):
        parse_spec({**spec, "methods": [{"method": "lora", "label": PAYLOADS[payload]}]})


def test_numbers_in_a_csv_stay_numbers():
    assert [text.cell(v) for v in ("-1.5", "+3", "-2e-3", -1, None, "a=b")] == ["-1.5", "+3", "-2e-3", -1, None, "a=b"]


# --- A9 ------------------------------------------------------------------------------------------------------------------

SECRETS = {
    name: f"CANARY-{number:02d}-5f1d0c{number:02d}"
    for number, name in enumerate(
        (
            "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY",
            "OPENAI_API_KEY", "GITHUB_TOKEN", "WANDB_API_KEY", "WORKBENCH_PROXY_SECRET", "PGPASSWORD",
        )
    )
}  # fmt: skip
OPEN = "NO-SECRET-7c1e"
SINKS = ("argv", "log", "events", "MLflow", "spec copy", "HTML report", "model card", "error text")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Sink -> everything that a run, its export, its report and a failure wrote, with ten secrets in the environment."""
    top = tmp_path_factory.mktemp("secrets")
    home = top / "home"
    env = {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
    spec = {
        "name": "canary", "model": "bundled/minilm", "task": "text_classification",
        "methods": [{"method": "lora", "rank": 2, "label": OPEN}],
        "data": {"source": "bundled/docstrings", "limit": 40}, "training": {"max_steps": 2, "batch_size": 4, "max_length": 16},
        "baseline": False,
    }  # fmt: skip
    (top / "spec.yaml").write_text(safe_yaml.dumps(spec))
    (top / "bad.yaml").write_text(safe_yaml.dumps({**spec, "model": "nobody-here/none"}))
    argv = []

    def run(*command, expected=0):
        call = [sys.executable, "-P", "-m", "workbench", *command]
        with subprocess.Popen(call, cwd=top, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                argv.append(command_lines())
                try:
                    process.wait(0.3)
                except subprocess.TimeoutExpired:
                    continue
            said = process.stdout.read()
        assert process.returncode == expected, said.decode()
        return said

    try:
        said = [run("run", "spec.yaml"), run("compare", "canary", "--html", str(top / "report.html"))]
        said += [run("export", "1", "--format", "peft", "--to", str(top / "out"))]
        said += [
            run("submit", "bad.yaml", expected=2),
            run("--debug", "export", "1", "--format", "peft", "--to", "/proc/x", expected=1),
        ]
    finally:
        run("daemon", "stop")
    (runs,) = [p for p in (home / "runs").iterdir() if (p / "events.jsonl").exists()]
    found = {
        "argv": b"\n".join(argv), "log": b"".join(p.read_bytes() for p in home.rglob("*.log")),
        "events": (runs / "events.jsonl").read_bytes(), "spec copy": (runs / "spec.yaml").read_bytes(),
        "MLflow": b"".join(p.read_bytes() for p in [*home.glob("mlflow.db*"), *(home / "artifacts").rglob("*")] if p.is_file()),
        "HTML report": (top / "report.html").read_bytes(), "model card": (top / "out" / "README.md").read_bytes(),
        "error text": b"".join(said),
    }  # fmt: skip
    rest = b"".join(p.read_bytes() for folder in (home, top / "out") for p in folder.rglob("*") if p.is_file())
    return found | {"everything else": rest}


def command_lines():
    """The command lines of all processes of this machine."""
    from pathlib import Path

    lines = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                lines.append(Path(f"/proc/{entry}/cmdline").read_bytes())
            except OSError:
                continue
    return b"\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("sink", [*SINKS, "everything else"])
def test_a9_no_secret_is_written(sink, secret, written):
    assert written[sink]
    assert SECRETS[secret].encode() not in written[sink]


@pytest.mark.slow
def test_a9_what_is_no_secret_is_found_where_the_secrets_are_looked_for(written):
    known = dict.fromkeys(SINKS, OPEN) | {"argv": "compare", "log": "job 1", "events": '"event"', "error text": "nobody-here"}
    assert [sink for sink, word in known.items() if word.encode() not in written[sink]] == []


def test_a9_passwords_of_addresses_are_hidden_in_sentences():
    for address in ("http://user:CANARY@host/x", "postgresql://u:CANARY@host/db", "https://CANARY@host"):
        assert "CANARY" not in str(WorkbenchError(f"the tracking store {address} must answer."))
        assert "CANARY" not in failures.sentence(OSError(f"cannot reach {address}"))


@pytest.mark.slow
def test_a9_a_tracking_store_that_does_not_answer_is_told_without_its_password(tmp_path):
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(tmp_path / "home"), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_TRACKING_URI": "http://me:CANARY@127.0.0.1:9",
    }  # fmt: skip
    code = "from tracking import client; client.client().search_experiments()\n"
    guarded = "from tracking.client import answering, client\nwith answering():\n    client().search_experiments()\n"
    for body in (guarded, code):
        done = subprocess.run(
            [sys.executable, "-P", "-c", body], env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode != 0
        if body is guarded:
            assert "CANARY" not in done.stderr.splitlines()[-1]
