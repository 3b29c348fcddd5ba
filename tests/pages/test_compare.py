"""The Compare page: what it shows, what its URL holds, and what goes on from it."""

import re

import pytest

from tests.pages import planting
from workbench.core.paths import jobs_db
from workbench.jobs.store import Store
from workbench.services import analyses, experiments, results
from workbench.ui import comparing

EVIL = "<script>alert(1)</script>"
CHARTS = {"overview": 1, "better": 2, "tradeoffs": 2, "curves": 2, "mistakes": 2, "inside": 0}


def told(at):
    """The sentences in red."""
    return [e.value.replace("\\", "") for e in at.error]


def said(at):
    """Everything written on the page, without its escapes."""
    return "\n".join(one.value for one in [*at.markdown, *at.caption]).replace("\\", "")


def plant(*runs):
    """(method, seed, accuracy[, more]) each as a finished run; more goes to `plant_run`."""
    with Store(jobs_db()) as store:
        for method, seed, accuracy, *more in runs:
            given = more[0] if more else {}
            run_id = f"{method}-s{seed}-{given.get('experiment', 'x')[-6:]}"
            planting.plant_run(store, run_id, method, seed, accuracy=accuracy, **given)


@pytest.fixture
def several(home):
    """Two methods with three seeds each, all finished."""
    plant(*((m, s, a + w) for m, a in (("head_only", 0.6), ("lora", 0.8)) for s, w in ((0, 0.0), (1, 0.02), (2, -0.01))))


def test_nothing_yet_leads_to_build(home, cold):
    at = cold("compare")
    assert "There is nothing to compare yet." in said(at)
    assert not at.dataframe


def test_the_overview_has_a_headline_a_table_a_chart_and_downloads(jobs, cold):
    at = cold("compare", experiment=planting.EXPERIMENT)
    assert not at.exception
    assert "lora has the highest mean accuracy: 0.810" in said(at)
    table = at.dataframe[0].value
    assert list(table["Method"]) == ["head_only", "lora"]
    assert list(table["Runs"]) == ["2 of 2", "2 of 5"]
    assert list(table["Accuracy"]) == pytest.approx([0.61, 0.81])
    assert "1 of 7 runs did not finish" in said(at)
    assert "5 of 7 runs are over" in at.get("progress")[0].proto.text
    assert [one.label for one in at.get("download_button")] == ["CSV", "Report"]


@pytest.mark.parametrize("tab", comparing.TABS)
def test_every_section_opens_by_a_link_and_its_charts_are_described(tab, several, cold):
    at = cold("compare", tab=tab)
    assert not at.exception
    assert told(at) == []
    charts = at.get("plotly_chart")
    assert len(charts) == CHARTS[tab]
    assert all(len(chart.proto.alt) > 20 for chart in charts)


def test_one_seed_is_said_everywhere_and_never_has_an_interval(home, cold):
    plant(("head_only", 0, 0.6), ("lora", 0, 0.8))
    at = cold("compare")
    assert "One seed, no interval" in said(at)
    assert list(at.dataframe[0].value["95 % interval"]) == ["one seed, no interval"] * 2
    assert "really better" not in said(at)
    at = cold("compare", tab="better")
    assert "so nothing can be told" in said(at)


def test_several_seeds_are_judged_in_sentences(several, cold):
    at = cold("compare", tab="better")
    assert "head_only − lora = −20.0 points" in said(at)
    assert list(at.dataframe[0].value["Seeds"]) == [3]
    assert at.query_params["a"] == "head_only"


def test_runs_that_differ_are_not_overlaid(several, cold, monkeypatch):
    other = {"experiment": "other-bbbbbb"}
    usual = planting.spec
    monkeypatch.setattr(planting, "spec", lambda *given: usual(*given).model_copy(update={"task": "causal_lm"}))
    plant(*(("lora", s, 0.5, other) for s in (0, 1)))
    at = cold("compare", experiment=[planting.EXPERIMENT, "other-bbbbbb"])
    assert not at.exception
    assert "These runs are not overlaid: task is text_classification" in said(at)
    assert list(at.dataframe[0].value["Method"]) == ["head_only", f"lora ({planting.EXPERIMENT})"]
    at = cold("compare", experiment=[planting.EXPERIMENT, "other-bbbbbb"], group="1")
    assert list(at.dataframe[0].value["Method"]) == ["lora (other-bbbbbb)"]


def test_further_seeds_of_the_same_setting_join_their_method(several, cold):
    plant(("lora", 7, 0.82, {"experiment": "again-cccccc"}))
    at = cold("compare", experiment=[planting.EXPERIMENT, "again-cccccc"])
    assert list(at.dataframe[0].value["Runs"]) == ["3 of 3", "4 of 4"]


def test_a_link_reproduces_every_choice(several, cold):
    at = cold("compare")
    at.multiselect(key="compare.label").set_value(["lora"]).run()
    assert at.query_params["label"] == "lora"
    at.multiselect(key="compare.label").set_value([]).run()
    assert "label" not in at.query_params
    at = cold("compare", tab="tradeoffs", x="peak_memory_bytes", y="trainable_params", pick="lora", experiment="first")
    assert at.selectbox(key="compare.x").value == "peak_memory_bytes"
    assert at.selectbox(key="compare.y").value == "trainable_params"
    assert at.multiselect(key="compare.pick").value == ["lora"]
    assert at.query_params["experiment"] == planting.EXPERIMENT
    at.selectbox(key="compare.x").set_value("adapter_bytes").run()
    again = cold("compare", **at.query_params)
    assert again.query_params == at.query_params
    assert again.selectbox(key="compare.x").value == "adapter_bytes"


def test_a_link_with_nonsense_falls_back(several, cold):
    at = cold("compare", tab="nowhere", label="nobody", x="nothing", group="9", pick="nobody")
    assert not at.exception
    assert told(at) == []
    assert len(at.dataframe[0].value) == 2


def test_a_changed_address_wins_over_the_widgets(several, cold):
    at = cold("compare", label="lora")
    at.query_params["label"] = "head_only"
    at.run()
    assert at.multiselect(key="compare.label").value == ["head_only"]


def test_chosen_runs_are_all_that_is_shown(several, cold):
    at = cold("compare", run=["lora-s0-x", "head_only-s0-x"])
    assert list(at.dataframe[0].value["Runs"]) == ["1 of 1", "1 of 1"]
    assert "2 chosen runs" in said(at)
    at.button(key="compare.all").click().run()
    assert list(at.dataframe[0].value["Runs"]) == ["3 of 3", "3 of 3"]
    assert "run" not in at.query_params


def test_unknown_experiments_and_runs_get_a_sentence(jobs, cold):
    assert told(cold("compare", experiment="frist"))[0].startswith("No experiment is called 'frist'; closest: first")
    assert told(cold("compare", run="nobody"))[0].startswith("No job is called 'nobody'")


def test_a_method_without_finished_runs_says_so(home, cold):
    with Store(jobs_db()) as store:
        planting.plant_run(store, "lora-s0-eeee0000", "lora", 0, "failed", reason="it broke.")
    assert "None of these runs finished." in said(cold("compare"))


def test_more_seeds_are_shown_first_and_join_the_comparison(several, cold, monkeypatch):
    sent = []

    def submit(spec):
        sent.append(spec)
        plant(("lora", 3, 0.8, {"experiment": "first-ffffff", "state": "queued"}))
        return {"experiment": "first-ffffff", "jobs": []}

    monkeypatch.setattr(experiments, "ask_submit", submit)
    at = cold("compare", tab="tradeoffs", pick="lora")
    assert "seeds:\n- 3\n- 4" in at.code[0].value
    assert sent == []
    at.button(key="compare.queue").click().run()
    assert not at.exception
    assert [(spec["seeds"], spec["methods"], spec["baseline"]) for spec in sent] == [([3, 4], ["lora"], False)]
    assert at.query_params["experiment"] == [planting.EXPERIMENT, "first-ffffff"]
    assert "6 of 7 runs are over" in at.get("progress")[0].proto.text
    assert at.multiselect(key="compare.pick").value == ["lora"]


def test_the_chosen_can_be_exported(several, cold):
    at = cold("compare", tab="tradeoffs", pick=["lora", "head_only"])
    text = said(at)
    assert text.count("/adapters?adapter=lora-s") == 3
    assert "/adapters?adapter=head_only-s0-x" in text


def test_a_missing_analysis_is_offered_and_waited_for(several, cold, monkeypatch):
    asked, state = [], results.state
    monkeypatch.setattr(analyses, "ask_analyse", lambda name, runs: asked.append((name, sorted(runs))) or 99)
    monkeypatch.setattr(results, "state", lambda job: "queued" if job == 99 else state(job))
    at = cold("compare", tab="tradeoffs", x="latency_merged")
    assert "Latency has not been measured for 6 of these runs." in said(at)
    assert "No method has both" in said(at)
    at.button(key="compare.ask.latency").click().run()
    assert not at.exception
    assert asked[0][0] == "latency"
    assert len(asked[0][1]) == 6
    assert "Job 99 is measuring it" in said(at)
    at = cold("compare", tab="inside")
    assert "has not been looked at for 6 of these runs" in said(at)


def test_figures_of_analyses_stand_on_the_axes(several, cold, monkeypatch):
    known = {run["run_id"]: {"latency_unmerged": 0.02, "latency_merged": 0.01} for run in results.job_rows()}
    monkeypatch.setattr(analyses, "results_of", lambda runs: {run: known[run] for run in runs})
    at = cold("compare", tab="tradeoffs", x="latency_merged")
    assert "has not been measured" not in said(at)
    assert list(at.dataframe[0].value["Latency, merged"]) == ["10.0 ms"] * 2


def test_movement_is_drawn_from_the_newest_look(several, cold, monkeypatch):
    runs = [row["run_id"] for row in results.job_rows()]
    shared = {"analysis": "movement", "title": "", "ended": 1.0, "neighbours": False}
    monkeypatch.setattr(
        analyses, "done", lambda name: [{"job": 2, "runs": runs[:1], **shared}, {"job": 1, "runs": runs, **shared}]
    )
    site = {"label": "?", "seed": 0, "depth": 0, "role": "attn.q", "kind": "weight"}
    tables = {2: [{"run_id": runs[0], "value": 0.5, **site}], 1: [{"run_id": run, "value": 0.1, **site} for run in runs]}
    monkeypatch.setattr(analyses, "result", lambda job: {"tables": {"movement": tables[job]}})
    at = cold("compare", tab="inside")
    assert not at.exception
    assert len(at.get("plotly_chart")) == 1
    assert "the largest is head_only" in at.get("plotly_chart")[0].proto.alt
    assert "has not been looked at" not in said(at)


def test_two_methods_stand_side_by_side_with_what_they_disagree_on(several, cold, monkeypatch):
    from workbench.services import comparison

    monkeypatch.setattr(comparison, "texts", lambda found, label, ids: {i: f"text {i}" for i in ids})
    for seed in (0, 1, 2):
        path = planting.run_folder(f"lora-s{seed}-x") / "predictions.csv"
        path.write_text(path.read_text().replace("2,test,good,bad", "2,test,good,good"))
    at = cold("compare", tab="mistakes", a="lora", b="head_only")
    row = at.dataframe[0].value.iloc[0]
    assert (row["Row"], row["Text"]) == (2, "text 2")
    assert row["lora"] == "100 % right, says good"
    assert row["head_only"] == "0 % right, says bad"


def test_a_label_is_never_markup(home, cold):
    with Store(jobs_db()) as store:
        for seed in (0, 1):
            planting.plant_run(store, f"evil-s{seed}", "lora", seed, accuracy=0.7 + 0.01 * seed)
        store._db.execute("UPDATE jobs SET label=?", (EVIL,))
    for tab in comparing.TABS:
        at = cold("compare", tab=tab)
        assert not at.exception
        assert not any(re.search(r"(?<!\\)<script", one.value) for one in [*at.markdown, *at.caption, *at.info])
