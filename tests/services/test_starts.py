"""`init_from` in a spec: which adapter is meant, what is planned, and what is refused before anything is queued."""

import pytest

from tests.services.planted import plant, run_spec
from workbench import tasks
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.core.spec import load_spec, parse_spec
from workbench.kernel import registry, state
from workbench.kernel.host import adapters_of
from workbench.models.bundled import resolve_model, weights_sha256
from workbench.services import experiments, plans

LABELS = ("bad", "good")


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """An adapter folder as a run on the bundled model leaves it: lora of rank 4."""
    base = resolve_model("bundled/minilm", None)
    task = tasks.find("text_classification")(base, LABELS, 16)
    host = task.host(0)
    adapter = adapters_of(host, task.head(host)).attach("adapter", "lora", registry.configure("lora", {"rank": 4}))
    head = {f"{h}.{n}": t for h in task.head(host) for n, t in host.get_submodule(h).state_dict().items()}
    facts = {"source": "bundled/minilm", "revision": None, "sha256": weights_sha256(base)}
    meta = {"run_id": "lora-s0-aaaaaa", "label": "lora", "task": "text_classification", "base": facts, "labels": list(LABELS)}
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    state.save(folder, adapter, {**meta, "max_length": 16, "head": list(task.head(host))}, head)
    return folder


@pytest.fixture
def run(home, saved):
    """The same adapter as that of a finished run; its job's number."""
    job = plant(run_spec("first-aaaaaa", "lora", 0))
    (run_folder("lora-s0-aaaaaa") / "adapter").symlink_to(saved)
    return job


def entry(spec, reference, **more):
    return parse_spec({**spec, "methods": [{"method": "lora", "rank": 4, "init_from": reference, **more}], "seeds": [0]})


def test_a_run_is_named_as_everywhere_and_resolved_with_its_hash(spec, run, saved):
    wanted = (str(saved.resolve()), state.file_sha256(saved / state.WEIGHTS))
    for reference in (run, str(run), "lora-s0-aaaaaa", "lora-s0", str(saved), str(run_folder("lora-s0-aaaaaa"))):
        one, baseline = experiments.resolve(entry(spec, reference))
        assert (one.init_from.path, one.init_from.sha256) == wanted
        assert (one.label, baseline.init_from) == ("lora", None)


def test_two_entries_that_differ_by_their_start_alone_are_told_apart(spec, saved):
    both = parse_spec({**spec, "methods": ["lora", {"method": "lora", "init_from": str(saved)}]})
    assert [m.label for m in both.methods] == ["lora", "lora#2"]
    assert [m.init_from for m in both.methods] == [None, str(saved)]


def test_a_relative_folder_is_taken_from_the_files_folder(spec, saved):
    path = saved.parent / "spec.yaml"
    path.write_text(safe_yaml.dumps({**spec, "methods": [{"method": "lora", "init_from": "adapter"}]}))
    assert load_spec(path).methods[0].init_from == str(saved)


def test_the_plan_says_what_starts_fresh_and_what_differs(spec, home, saved, table):
    assert plans.plan(entry(spec, str(saved)))["notes"] == []
    table.write_text(table.read_text().replace(",good,", ",fine,"))
    fresh, other = plans.plan(entry(spec, str(saved), alpha=3))["notes"]
    assert fresh.startswith("lora: the head starts fresh, not from lora-s0-aaaaaa: its labels are 'bad', 'good', here they are")
    assert other.endswith("alpha is 16.0 there and 3.0 here.")


BAD = {
    "another rank": ({"rank": 8}, "others: rank is 4 there and 8 here"),
    "other sites": ({"roles": ["attn.k"]}, "roles is"),
    "a recipe that goes back": ({"method": "full", "rank": None, "recipe": "lt_sft"}, "goes back to the base"),
    "another method": ({"method": "full", "rank": None}, "of the method full; lora-s0-aaaaaa is one of lora"),
    "no such run": ({"init_from": "nobody"}, "init_from must name a run with an adapter"),
    "no adapter there": ({"init_from": "/nowhere/at/all"}, "must hold workbench_adapter.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_a_problem_of_the_plan(spec, home, saved, case):
    change, words = BAD[case]
    values = {k: v for k, v in {"method": "lora", "rank": 4, "init_from": str(saved), **change}.items() if v is not None}
    asked = parse_spec({**spec, "methods": [values]})
    found = plans.plan(asked)
    (problem,) = found["methods"][0]["problems"]
    assert words in problem
    assert problem.endswith(".")
    assert found["methods"][0]["predicted"]["train_seconds"] is None
    with pytest.raises(WorkbenchError) as caught:
        experiments.resolve(asked)
    assert str(caught.value) == problem


def test_another_base_is_a_problem(spec, home, saved, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for file in resolve_model("bundled/minilm", None).iterdir():
        if file.suffix in (".json", ".txt"):
            (model / file.name).write_bytes(file.read_bytes())
    from safetensors.torch import load_file, save_file

    tensors = load_file(resolve_model("bundled/minilm", None) / "model.safetensors")
    moved = {k: v + 0.001 if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(moved, model / "model.safetensors", {"format": "pt"})
    (problem,) = plans.plan(entry({**spec, "model": str(model)}, str(saved)))["methods"][0]["problems"]
    assert "same base weights" in problem
