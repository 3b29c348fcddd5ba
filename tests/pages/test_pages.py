"""Every page, opened cold by a deep link and through `app.py`: the golden path, the empty one and the problems."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.conftest import ROOT
from tests.pages import planting
from workbench.core.errors import WorkbenchError
from workbench.jobs import arranging, client, engine
from workbench.services import adapters, data, experiments, plans, queue
from workbench.ui import boot, doors

PAGES = ("build", "runs", "run", "compare", "adapters", "playground", "methods", "papers")
TITLES = {"build": "Build an experiment"}


def told(at):
    """The sentences in red."""
    return [e.value.replace("\\", "") for e in at.error]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("full", [True, False], ids=["planted", "empty"])
def test_a_page_opens_cold(page, full, home, answers, cold):
    if full:
        planting.plant()
    at = cold(page)
    assert not at.exception
    assert [t.value for t in at.title] == [TITLES.get(page, page.capitalize())]
    assert told(at) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_through_the_app(page, jobs, answers):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).switch_page(f"pages/{page}.py").run()
    assert not at.exception
    assert [t.value for t in at.title] == [TITLES.get(page, page.capitalize())]


def test_the_address_without_a_path_leads_to_build(home, answers):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not at.exception
    assert [t.value for t in at.title] == [TITLES["build"]]


@pytest.mark.parametrize(
    ("address", "hosts", "words"),
    [
        (None, ["localhost"], "every interface"),
        ("192.168.1.5", ["localhost"], "192.168.1.5"),
        ("127.0.0.1", [], "allowedHosts"),
        ("127.0.0.1", ["localhost", "evil.example"], "evil.example"),
    ],
)
def test_a_server_that_others_reach_is_refused(address, hosts, words):
    assert words in doors.exposure(address, hosts)


def test_a_page_stops_where_others_reach_the_server(home, cold, monkeypatch):
    assert doors.exposure("127.0.0.1", ["localhost", "127.0.0.1"]) == ""
    monkeypatch.setattr(doors, "problem", lambda: "the server must listen on 127.0.0.1 only.")
    at = cold("methods")
    assert told(at) == ["the server must listen on 127.0.0.1 only."]
    assert len(at.title) == 0


def test_waking_remembers_why_the_daemon_cannot_start(monkeypatch):
    waking = boot.Waking()
    monkeypatch.setattr(queue, "wake", lambda: (_ for _ in ()).throw(WorkbenchError("the daemon could not be started.")))
    waking.look()
    assert waking.problem == "the daemon could not be started."
    monkeypatch.setattr(queue, "wake", lambda: None)
    waking.look()
    assert waking.problem == ""


def test_build_shows_plan_yaml_and_command_and_launches_once(home, answers, cold, monkeypatch):
    sent = []
    monkeypatch.setattr(experiments, "ask_submit", lambda spec: sent.append(spec) or {"experiment": "mine-abc123", "jobs": []})
    monkeypatch.setattr("streamlit.switch_page", lambda page, query_params: sent.append((page, query_params)))
    at = cold("build")
    at.text_input(key="build.name").set_value("mine")
    at.text_input(key="build.seeds").set_value("0, 1")
    at.number_input(key="build.method.lora.copies").set_value(2)
    at.run()
    assert [m.value for m in at.metric][:2] == ["6", "1,000"]
    assert at.code[0].value == "python -m workbench run mine.yaml"
    text = at.code[1].value
    assert "name: mine" in text
    assert "limit: 1000" in text
    at.number_input(key="build.method.lora..1.config.rank").set_value(4)
    at.run()
    at.button(key="build.launch").click()
    at.run()
    assert not at.exception
    assert sent[0]["methods"] == ["lora", {"method": "lora", "rank": 4}, "head_only"]
    assert sent[0]["seeds"] == [0, 1]
    assert sent[1] == ("pages/runs.py", {"experiment": "mine-abc123"})
    at.button(key="build.launch").click()
    at.run()
    assert len([s for s in sent if isinstance(s, dict)]) == 1


def test_build_maps_columns_and_composes_presets_modifiers_and_recipes(home, answers, cold, monkeypatch):
    asked = []
    monkeypatch.setattr(plans, "ask", lambda spec: asked.append(spec) or planting.plan_of(spec))
    at = cold("build")
    at.multiselect(key="build.methods.text_classification").set_value(["lora", "full"])
    at.run()
    at.selectbox(key="build.method.lora.preset").set_value("lora_plus")
    at.selectbox(key="build.column.text.review,label").set_value("label")
    at.run()
    at.multiselect(key="build.method.lora.lora_plus.0.modifiers").set_value(["sparse"])
    at.selectbox(key="build.method.full..0.recipe").set_value("lt_sft")
    at.run()
    at.number_input(key="build.method.lora.lora_plus.0.sparse.keep").set_value(0.25)
    at.run()
    assert not at.exception
    assert asked[-1]["methods"] == [
        {"method": "lora", "preset": "lora_plus", "modifiers": [{"modifier": "sparse", "keep": 0.25}]},
        {"method": "full", "recipe": {"recipe": "lt_sft"}},
    ]
    assert asked[-1]["data"]["columns"] == {"text": "label", "label": "label"}


def test_a_problem_in_the_plan_blocks_the_launch(home, answers, cold, monkeypatch):
    def troubled(spec):
        found = planting.plan_of(spec)
        found["methods"][0]["problems"] = ["it needs positions, which this task does not provide; choose another method."]
        return {**found, "problems": found["methods"][0]["problems"]}

    monkeypatch.setattr(plans, "ask", troubled)
    at = cold("build")
    assert told(at) == ["Lora: it needs positions, which this task does not provide; choose another method."]
    assert at.button(key="build.launch").disabled


def test_data_that_cannot_be_read_is_one_sentence(home, answers, cold, monkeypatch):
    def missing(*_, **__):
        raise WorkbenchError("data source reviews.csv does not exist; check the path.")

    monkeypatch.setattr(data, "ask", missing)
    at = cold("build")
    assert told(at) == ["Data source reviews.csv does not exist; check the path."]
    assert at.button(key="build.launch").disabled
    assert not at.exception


@pytest.mark.parametrize(
    ("widget", "value", "sentence"),
    [
        ("build.name", "../evil", "must be 1-120 letters"),
        ("build.seeds", "1.5", "Seeds must be whole numbers"),
        ("build.training.learning_rate", "fast", "learning_rate"),
        ("build.test", "1.5", "between 0 and 1"),
    ],
)
def test_bad_input_on_build_is_one_sentence(widget, value, sentence, home, answers, cold):
    at = cold("build")
    at.text_input(key=widget).set_value(value).run()
    assert not at.exception
    assert any(sentence in one for one in told(at)), told(at)


def test_the_real_engine_plans_the_real_form(home, cold, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    try:
        at = cold("build")
        at.run(timeout=120)
        assert not at.exception
        assert told(at) == []
        plan = next(d.value for d in at.dataframe if "Trainable" in d.value.columns)
        assert dict(zip(plan["Method"], plan["Trainable"])) == {"lora": 73_728, "head_only": 0}
        assert not at.button(key="build.launch").disabled
    finally:
        engine.stop(20)


def test_runs_lists_every_state_and_offers_only_what_fits(jobs, cold):
    at = cold("runs")
    table = at.dataframe[0].value
    assert list(table["State"]) == ["queued", "running", "failed", *["finished"] * 4]
    assert table["Progress"][1] == 0.5
    assert table["Left"][1].startswith("≈ 2")
    assert "lower it" in table["Notes"][2]
    rows = {row["job"]: row["actions"] for row in queue.rows()}
    assert rows[jobs["running"]] == ["cancel", "pause"]
    assert rows[jobs["queued"]] == ["cancel", "pause", "delete"]
    assert rows[jobs["failed"]] == ["retry", "delete"]
    assert rows[jobs["lora-0"]] == ["delete"]


def test_runs_follow_the_address(jobs, cold):
    from workbench.core.paths import jobs_db
    from workbench.jobs.store import Store

    with Store(jobs_db()) as store:
        planting.plant_run(store, "lora-s0-eeee0000", "lora", 0, experiment="second-def456")
    assert len(cold("runs", experiment="second-def456").dataframe[0].value) == 1
    assert len(cold("runs").dataframe[0].value) == 8


def test_actions_reach_the_queue_and_their_errors_the_page(jobs):
    from workbench.ui import queueing

    queue.act("cancel", jobs["queued"])
    assert client.find(jobs["queued"])["state"] == "cancelled"
    queue.act("delete", jobs["queued"])
    with pytest.raises(WorkbenchError, match="no job is called"):
        client.find(jobs["queued"])
    with pytest.raises(WorkbenchError, match="live job cannot be deleted"):
        queue.act("delete", jobs["running"])
    assert set(queueing.ICONS) == set(queue.ACTIONS)
    assert set(queueing.MOVES) == set(arranging.PLACES)
    assert set(queueing.DOES) == set(queue.ACTIONS) - {"pause", "resume"}, "what can be undone is not asked twice"
    queue.act("pause", jobs["running"])
    assert client.find(jobs["running"])["intent"] == "pause"


def test_run_shows_a_finished_run(jobs, cold):
    at = cold("run", run="lora-s1-aaaa0001")
    assert not at.exception
    assert {m.label: m.value for m in at.metric}["Accuracy"] == "0.820"
    assert {m.label: m.value for m in at.metric}["Trainable"] == "73.7 k"
    assert any("3 of 4 test rows are right" in c.value for c in at.caption)
    assert "loading the base" in at.code[-1].value
    assert told(at) == []


def test_run_says_why_a_run_failed(jobs, cold):
    assert told(cold("run", run="lora-s2")) == ["The learning rate must be smaller; lower it."]


@pytest.mark.parametrize(
    ("run", "offered"), [("lora-s1", []), ("lora-s2", ["Yes, retry"]), ("lora-s3-cccc0000", ["Yes, cancel", "Pause"])]
)
def test_run_offers_what_fits_and_asks_for_it(run, offered, jobs, cold, monkeypatch):
    asked = []
    monkeypatch.setattr(queue, "act", lambda action, job: asked.append((action, job)) or 0)
    at = cold("run", run=run)
    found = [b for b in at.button if (b.key or "").startswith("runs.")]
    assert [b.label for b in found] == offered
    if offered:
        found[-1].click().run()
        assert not at.exception
        assert asked == [("retry", jobs["failed"]) if run == "lora-s2" else ("pause", jobs["running"])]


def test_run_follows_a_live_run_and_refuses_an_unknown_one(jobs, cold):
    at = cold("run", run="lora-s3-cccc0000")
    assert not at.exception
    assert at.metric[0].value == "–"
    assert told(cold("run", run="nobody"))[0].startswith("No job is called 'nobody'")


def test_adapters_export_is_queued_and_past_ones_are_shown(jobs, cold, monkeypatch):
    sent = []
    monkeypatch.setattr(adapters, "export", lambda *given: sent.append(given) or 99)
    at = cold("adapters", adapter="lora-s1-aaaa0001")
    at.selectbox(key="adapters.format").set_value("lora").run()
    at.button(key="adapters.export").click().run()
    assert not at.exception
    assert sent[0][:2] == ("lora-s1-aaaa0001", "lora")
    assert sent[0][2].endswith("/exports/lora-s1-aaaa0001-lora")


def test_adapters_show_errors_as_sentences(jobs, cold, monkeypatch):
    def refuse(*_):
        raise WorkbenchError("--to must name a new or empty folder; /x holds something already.")

    monkeypatch.setattr(adapters, "export", refuse)
    monkeypatch.setattr(adapters, "ask_import", refuse)
    at = cold("adapters")
    at.button(key="adapters.export").click().run()
    assert told(at) == ["--to must name a new or empty folder; /x holds something already."]
    at.text_input(key="adapters.import.folder").set_value("/x")
    at.text_input(key="adapters.import.name").set_value("mine").run()
    at.button(key="adapters.import").click().run()
    assert told(at)[-1].startswith("--to must name")
    assert not at.exception


def test_adapters_combine_asks_the_engine(jobs, cold, monkeypatch):
    sent = []
    monkeypatch.setattr(adapters, "ask_operate", lambda *given: sent.append(given) or 12)
    at = cold("adapters")
    at.selectbox(key="adapters.operation").set_value("average").run()
    at.multiselect(key="adapters.operands.average").set_value(["lora-s0-aaaa0000", "lora-s1-aaaa0001"])
    at.text_input(key="adapters.options.average.weights").set_value("1, 3").run()
    at.button(key="adapters.combine").click().run()
    assert not at.exception
    assert sent == [("average", ["lora-s0-aaaa0000", "lora-s1-aaaa0001"], {"weights": [1, 3]}, "average-1", True)]


def test_methods_filters_and_shows_a_card(home, cold):
    at = cold("methods", method="lora")
    assert not at.exception
    assert [s.value for s in at.subheader] == ["LoRA"]
    assert any("B" in c.value and "A" in c.value for c in at.code)
    at.text_input(key="methods.search").set_value("houlsby").run()
    keys = list(at.dataframe[0].value["Key"])
    assert "houlsby_adapter" in keys
    assert "lora" not in keys
    at.text_input(key="methods.search").set_value("no such thing").run()
    assert any("No method fits" in one.value for one in at.info)
