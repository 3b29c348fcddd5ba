"""The playground answers exactly as `predict` does, whatever else is attached, and leaves the base as it was."""

import base64
import csv
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract import hosts
from workbench import export as exports
from workbench import operations
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.events import Silent
from workbench.core.paths import run_folder
from workbench.core.run_spec import Placed, RunSpec
from workbench.core.spec import DataSpec
from workbench.data import Table, pixels, resolve
from workbench.evaluate import evaluation, hotswap, playing, saved
from workbench.services import playing as service

TEXTS = ("good film", "the plot is very very dull and sad", "nice")
# native weights, activations, tokens, base tensors, head alone, and one that peft computes
METHODS = ("lora", "loreft", "prompt_tuning", "bitfit", "full", "head_only", "vera")


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    """No base stays loaded between tests."""
    hotswap.forget()
    yield
    hotswap.forget()


def folder(run: Path) -> Path:
    return run / "adapter"


def ask(runs: dict[str, Path], inputs: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
    """Reference -> column."""
    reply = playing.play({name: folder(run) for name, run in runs.items()}, inputs, **more)
    return {column["reference"]: column for column in reply["columns"]}


def predicted(run: Path, text: str, column: str, tmp_path: Path) -> dict[str, str]:
    """What `predict` says of a file with one row."""
    number = len(list(tmp_path.iterdir()))
    rows, out = tmp_path / f"rows{number}.csv", tmp_path / f"out{number}.csv"
    rows.write_text(f"{column}\n{text}\n")
    exports.predict(run, rows, out)
    return next(csv.DictReader(out.open()))


def other_labels(trained: Any, tmp_path: Path) -> Path:
    """A run on the same base with three labels."""
    spec = RunSpec.model_validate(safe_yaml.loads((trained("lora") / "spec.yaml").read_bytes(), "spec"))
    rows = [
        f"{a} {b} {c},{a}" for a, b, c in itertools.product(("good", "bad", "fine"), ("film", "book", "song"), ("the", "a", "is"))
    ]
    (tmp_path / "three.csv").write_text("\n".join(["review,verdict", *rows]) + "\n")
    data = resolve(DataSpec(source=str(tmp_path / "three.csv"), columns={"text": "review", "label": "verdict"}, test=0.3))
    spec = spec.model_copy(update={"run_id": "three-labels", "label": "three", "data": data})
    home = run_folder(spec.run_id)
    if not home.exists():
        home.mkdir(parents=True)
        (home / "spec.yaml").write_text(safe_yaml.dumps(spec.model_dump(mode="json")))
        from workbench.train import run

        run(spec, Silent(), home, Placed())
    return home


@pytest.mark.parametrize("order", [METHODS, METHODS[::-1]], ids=["one way", "the other way"])
def test_each_adapter_says_what_predict_says(trained: Any, tmp_path: Path, order: tuple[str, ...]) -> None:
    for text, some in zip(TEXTS, (order[:4], order[3:])):
        runs = {name: trained(name) for name in some}
        said = ask(runs, {"text": text})
        for name, run in runs.items():
            alone = predicted(run, text, "review", tmp_path)
            column = said[name]
            assert column["problem"] is None
            assert column["prediction"] == alone["prediction"] == column["probabilities"][0]["label"]
            assert column["probabilities"][0]["p"] == float(alone["score"])  # bitwise
            assert sum(one["p"] for one in column["probabilities"]) == pytest.approx(1)


@torch.no_grad()
def test_logits_are_bitwise_those_of_the_adapter_alone_in_any_order(trained: Any) -> None:
    table, wanted, batches = Table((0, 1, 2), {"text": list(TEXTS)}), {}, {}
    for name in ("lora", "loreft", "bitfit", "vera"):
        alone = saved.revive(saved.read(folder(trained(name))), folder(trained(name)))
        batches[name] = alone.task.batch(alone.task.examples(table))
        wanted[name] = evaluation.forward(alone.host, batches[name]).logits
    swap = hotswap.opened(hotswap.meta_of(folder(trained("lora"))))
    for some in itertools.permutations(wanted):
        for name in some:
            swap.load(folder(trained(name)))
        for name in some:
            with swap.only(swap.load(folder(trained(name)))) as host:
                assert torch.equal(evaluation.forward(host, batches[name]).logits, wanted[name])


def test_the_base_comes_back_bitwise(trained: Any, tmp_path: Path) -> None:
    swap = hotswap.opened(hotswap.meta_of(folder(trained("full"))))
    host, before = swap.host, hosts.snapshot(swap.host)
    for run in (*(trained(name) for name in METHODS), other_labels(trained, tmp_path)):
        with swap.only(swap.load(folder(run))):
            pass
        assert {k: i for k, (i, _, _) in hosts.snapshot(host).items()} == {k: i for k, (i, _, _) in before.items()}
    hotswap.forget()
    after = {k: (i, v, before[k][2]) for k, (i, v, _) in hosts.snapshot(host).items()}  # it was frozen when opened
    assert hosts.differences(before, after) == []
    assert not any("forward" in module.__dict__ for module in host.modules())


def test_heads_of_different_labels_share_one_base(trained: Any, tmp_path: Path) -> None:
    three = other_labels(trained, tmp_path)
    for runs in ({"two": trained("lora"), "three": three}, {"three": three, "two": trained("lora")}):
        hotswap.forget()
        said = ask(runs, {"text": "good film"})
        assert {one["label"] for one in said["two"]["probabilities"]} == {"pos", "neg"}
        assert {one["label"] for one in said["three"]["probabilities"]} == {"good", "bad", "fine"}
        for name, run in runs.items():
            alone = predicted(run, "good film", "review", tmp_path)
            assert said[name]["probabilities"][0] == {"label": alone["prediction"], "p": float(alone["score"])}


def test_the_base_shows_a_trained_head_or_says_that_it_has_none(trained: Any) -> None:
    said = ask({"lora": trained("lora")}, {"text": "good film"})
    assert list(said) == ["base", "lora"]
    assert said["base"]["problem"].startswith("the base alone has no trained head")
    assert (said["base"]["prediction"], said["base"]["probabilities"], said["base"]["latency_ms"]) == (None, [], None)
    said = ask({"lora": trained("lora"), "bare": trained("head_only")}, {"text": "good film"})
    assert said["base"]["shows"] == "bare"
    assert said["base"]["probabilities"] == said["bare"]["probabilities"]
    assert said["base"]["probabilities"] != said["lora"]["probabilities"]


def test_the_base_of_a_language_model_answers_by_itself(trained: Any, tmp_path: Path) -> None:
    runs = {"lora": trained("lora", "llama"), "loreft": trained("loreft", "llama"), "prefix": trained("prefix_tuning", "llama")}
    said = ask(runs, {"prompt": "good film"}, max_new_tokens=12)  # half of the trained length: what predict asks for
    for name, run in runs.items():
        assert said[name]["output"] == predicted(run, "good film", "prompt", tmp_path)["prediction"]
    task = saved.task_of(hotswap.meta_of(folder(runs["lora"])), trained.base("llama"))
    bare = task.host(0).float().eval()
    alone = task.decode(task.generate(bare, [task.question({"prompt": "good film"}, 12)], 12)[0])
    assert said["base"]["output"] == alone
    assert said["base"]["probabilities"] == []
    assert 1 <= said["base"]["tokens"] <= 12
    drawn = [ask({"lora": runs["lora"]}, {"prompt": "good film"}, max_new_tokens=12, greedy=False) for _ in range(2)]
    assert drawn[0]["lora"]["output"] == drawn[1]["lora"]["output"]


def test_an_image_is_a_file_or_a_picture_of_the_data(trained: Any, tmp_path: Path) -> None:
    run = trained("lora", "vit")
    example = playing.examples(folder(run), 3)[0]
    said = ask({"lora": run}, example["inputs"])["lora"]
    revived = saved.revive(saved.read(folder(run)), folder(run))
    kept = {p.id: p for p in evaluation.evaluate(revived.task, revived.host, digits(revived, example["id"]), 1)[0]}
    assert said["probabilities"][0]["p"] == kept[example["id"]].score
    content = base64.b64decode(example["inputs"]["image"].partition(",")[2])
    (tmp_path / "digit.png").write_bytes(content)
    assert ask({"lora": run}, {"image": str(tmp_path / "digit.png")})["lora"]["probabilities"] == said["probabilities"]
    assert pixels(base64.b64decode(example["picture"].partition(",")[2])).shape == (96, 96, 3)
    for bad, sentence in (("data:image/png;base64,!", "base64"), (str(tmp_path / "none.png"), "none.png")):
        with_bad = {"image": bad}
        if "base64" in sentence:
            with pytest.raises(WorkbenchError, match=sentence):
                ask({"lora": run}, with_bad)
        else:
            assert sentence in ask({"lora": run}, with_bad)["lora"]["problem"]


def digits(revived: saved.Revived, row: int) -> list[Any]:
    from workbench.data.bundled import digit_table

    raw = digit_table()
    return revived.task.examples(Table((row,), {"image": [raw["image"][row]], "label": [raw["label"][row]]}))


def test_examples_are_test_rows_of_the_run(trained: Any) -> None:
    import pyarrow.parquet as pq

    run = trained("lora")
    found = playing.examples(folder(run), 5)
    rows = {row["id"]: row for row in pq.read_table(run / "predictions.parquet").to_pylist()}
    assert len({one["id"] for one in found}) == 5
    assert all(rows[one["id"]]["label"] == one["answer"] for one in found)
    assert all(set(one["inputs"]) == {"text"} for one in found)
    written = playing.examples(folder(trained("lora", "llama")), 2)[0]
    assert written["answer"] == f"very {written['inputs']['prompt'].split()[0]}"


def test_combined_adapters_work_and_have_the_examples_of_their_runs(trained: Any, near: None) -> None:
    request = {"operation": "average", "adapters": [str(folder(trained("lora")))], "settings": {}, "name": "average-play"}
    operations.run_job(request, Path("unused"))
    reply = service.play_request(["average-play"], {"text": "good film"}, {})
    assert reply["columns"][1]["probabilities"] == ask({"lora": trained("lora")}, {"text": "good film"})["lora"]["probabilities"]
    assert service.examples_request("average-play") == playing.examples(folder(trained("lora")))


def test_adapters_that_cannot_stand_together_are_one_sentence(trained: Any) -> None:
    runs = {"a": trained("lora"), "b": trained("lora", "llama")}
    with pytest.raises(WorkbenchError, match=r"^adapters side by side must share one base model and one task; got a \(text"):
        ask(runs, {"text": "good"})
    swap = hotswap.opened(hotswap.meta_of(folder(runs["a"])))
    with pytest.raises(WorkbenchError, match="of another"):
        swap.load(folder(runs["b"]))


@pytest.mark.parametrize(
    ("family", "inputs", "sentence"),
    [
        ("bert", {"prompt": "good"}, r"^the input must be text, text_pair \(optional\); got prompt\.$"),
        ("bert", {"text": "  "}, "got nothing"),
        ("llama", {"text": "good"}, r"^the input must be prompt or messages; got text\.$"),
        ("llama", {"messages": [{"role": "assistant", "content": "x"}]}, "ends with the person's turn"),
        ("llama", {"messages": "good"}, "ends with the person's turn"),
        ("vit", {}, "must be image; got nothing"),
    ],
)
def test_an_input_that_does_not_fit_is_one_sentence(trained: Any, family: str, inputs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        ask({"lora": trained("lora", family)}, inputs)
    assert hotswap._open is None  # nothing was loaded for it


def test_a_damaged_adapter_has_a_problem_and_the_others_answer(trained: Any, tmp_path: Path) -> None:
    import json
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(trained("loreft"), broken)
    meta = json.loads((broken / "adapter/workbench_adapter.json").read_text())
    meta["config"] = {**meta["config"], "rank": 3}
    (broken / "adapter/workbench_adapter.json").write_text(json.dumps(meta))
    said = ask({"broken": broken, "lora": trained("lora")}, {"text": "good film"})
    assert "shape" in said["broken"]["problem"]
    assert said["broken"]["probabilities"] == []
    assert said["lora"]["problem"] is None
    again = ask({"lora": trained("lora")}, {"text": "good film"})
    assert again["lora"]["probabilities"] == said["lora"]["probabilities"]


def test_one_base_and_a_few_adapters_stay_in_memory(trained: Any) -> None:
    first = hotswap.opened(hotswap.meta_of(folder(trained("lora"))))
    for name in ("lora", "loreft", "bitfit", "full", "prompt_tuning", "lora"):
        first.load(folder(trained(name)))
        assert len(first.adapters.members) == len(first._loaded) <= hotswap.MOST
    assert first.load(folder(trained("lora"))) is first.load(folder(trained("lora")))
    assert hotswap.opened(hotswap.meta_of(folder(trained("loreft")))) is first
    assert hotswap.opened(hotswap.meta_of(folder(trained("lora", "llama")))) is not first
    assert not hasattr(first.host, "workbench")


def test_latency_says_how_it_was_measured(trained: Any) -> None:
    reply = playing.play({"lora": folder(trained("lora"))}, {"text": "good film " * 40})
    column = reply["columns"][1]
    assert column["latency_ms"] > 0
    assert 1 <= column["latency_runs"] <= playing.PASSES
    assert "not merged" in reply["note"]
    assert column["cut"] == 80 - 24  # words, and the longest input of the run
