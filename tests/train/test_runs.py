"""Whole runs: what they write, that they repeat bitwise, that they stop when asked, and what they count."""

import csv
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.train import planted
from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Event, Phase, Silent, Step, Stopped
from workbench.core.spec import DataSpec
from workbench.kernel import state

RESULT = {
    *("trainable_params", "base_trained_params", "peak_trainable_params", "head_params", "total_params", "adapter_bytes"),
    *("peak_memory_bytes", "memory_kind", "train_seconds", "examples_per_second", "load_seconds", "prepare_seconds"),
    *(
        "first_step_seconds",
        "eval_seconds",
        "steps",
        "precision",
        "device",
        "threads",
        "neighbours",
        "learning_rate",
        "metrics",
        "validation",
    ),
    *("versions", "predicted", "base_sha256", "notes", "search", "search_seconds"),
}
KINDS = [("bert", ""), ("llama", "llama"), ("llama", "chat"), ("llama", "text"), ("vit", "")]


def predictions(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "predictions.parquet").to_pylist()


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_run_writes_everything(bench, family, kind):
    folder, result = bench.run(family, kind=kind)
    assert set(result) == RESULT
    assert result["steps"] == 4
    assert result["metrics"].keys() == result["validation"].keys()
    assert all(v == v and abs(v) < float("inf") for v in result["metrics"].values())
    assert result["adapter_bytes"] == (folder / "adapter" / state.WEIGHTS).stat().st_size
    kept = planted.stored(folder)
    assert kept.meta["method"] == "lora"
    assert kept.meta["base"]["sha256"] == result["base_sha256"]
    assert bool(kept.head) == (family != "llama")
    assert "logits" in kept.reference
    assert len(predictions(folder)) == 10
    assert {r["split"] for r in predictions(folder)} == {"test"}


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_equal_runs_are_bitwise_equal_and_another_seed_is_not(bench, family):
    more = {"dropout": 0.1} if family == "bert" else {}
    first, one = bench.run(family, **more)
    again, two = bench.fresh(bench.spec(family, **more))
    other, _ = bench.run(family, seed=1, **more)
    assert planted.equal(planted.stored(first), planted.stored(again))
    assert predictions(first) == predictions(again)
    assert one["metrics"] == two["metrics"]
    assert not planted.equal(planted.stored(first), planted.stored(other))


def test_measuring_the_precision_changes_no_run(bench, home):
    """`auto` measures once and then remembers; the first run must equal the second although dropout draws numbers."""
    spec = bench.spec("bert", dropout=0.1, precision="auto")
    (first, one), (again, two) = bench.fresh(spec), bench.fresh(spec)
    assert one["precision"] == two["precision"]
    assert planted.equal(planted.stored(first), planted.stored(again))


def test_the_head_starts_the_same_for_every_method_and_no_method_leaves_the_base_changed(bench):
    spec = {"learning_rate": 1e-12, "max_steps": 1, "weight_decay": 0}
    heads = [planted.stored(bench.run("bert", m, **spec)[0]).head for m in ("lora", "full", "head_only")]
    assert heads[0].keys() == {"classifier.weight", "classifier.bias"}
    for head in heads[1:]:
        assert all(torch.allclose(head[k], heads[0][k], atol=1e-9) for k in head)
    assert heads[0]["classifier.weight"].std() > 0.01


def test_predictions_are_in_one_order_for_every_method(bench):
    one, two = (predictions(bench.run("bert", m)[0]) for m in ("lora", "full"))
    assert [(r["id"], r["label"]) for r in one] == [(r["id"], r["label"]) for r in two]
    assert [r["loss"] for r in one] != [r["loss"] for r in two]


def test_test_labels_never_reach_the_training(bench, tmp_path):
    texts = planted.sentences(40)
    train = planted.csv(tmp_path / "train.csv", "text,label", texts[:28])
    found = []
    for name, flip in (("a", False), ("b", True)):
        rest = [(t, {"pos": "neg", "neg": "pos"}[k] if flip else k) for t, k in texts[28:]]
        test = planted.csv(tmp_path / f"{name}.csv", "text,label", rest)
        data = DataSpec(source=str(train), test=str(test), validation=0.2)
        spec = planted.spec(bench.base("bert"), "text_classification", data, early_stop=5, eval_every=2)
        found.append((planted.stored(bench.fresh(spec)[0]), rest))
    assert planted.equal(found[0][0], found[1][0])
    assert found[0][0].meta["metrics"]["loss"] != found[1][0].meta["metrics"]["loss"]


def test_bf16_autocast_stays_finite_and_differs(bench):
    _, half = bench.run("bert", precision="bf16")
    _, full = bench.run("bert")
    assert half["precision"] == "bf16"
    assert half["metrics"]["loss"] == pytest.approx(full["metrics"]["loss"], rel=0.2)
    assert half["metrics"]["loss"] != full["metrics"]["loss"]


def test_a_run_learns(bench, tmp_path):
    data = planted.rows("bert", tmp_path, 240)
    spec = planted.spec(
        bench.base("bert"), "text_classification", data, max_steps=None, epochs=8, learning_rate=5e-3, batch_size=8
    )
    _, result = bench.fresh(spec)
    assert result["metrics"]["accuracy"] >= 0.9


# --- stopping -----------------------------------------------------------------------------------------------------


class Impatient(Silent):
    """Wishes to stop once `when(events)` holds, and counts how often it was asked before that had an effect."""

    def __init__(self, when: Any, what: str = "cancel") -> None:
        super().__init__()
        self.when, self.what, self.asked = when, what, 0

    def wish(self) -> Any:
        met = self.when(self)
        self.asked += met
        return self.what if met else None


def steps(events: list[Event]) -> int:
    return sum(isinstance(e, Step) for e in events)


@pytest.mark.parametrize("what", ["cancel", "pause"])
def test_a_wish_stops_during_training(bench, what):
    reporter = Impatient(lambda r: steps(r.events) >= 2, what)
    with pytest.raises(Stopped, match=what):
        bench.fresh(bench.spec("bert", max_steps=100), reporter)
    assert steps(reporter.events) == 2
    assert not (bench.folder / f"run{bench.count}" / "adapter").exists()


@pytest.mark.parametrize("where", ["validation", "test"])
def test_a_wish_stops_during_evaluation(bench, where):
    def when(r: Impatient) -> bool:
        if where == "test":
            return any(isinstance(e, Phase) and e.name == "evaluating" for e in r.events)
        r.calls = getattr(r, "calls", 0) + 1
        return r.calls > 4  # one question a step, so the fifth comes from the first batch of the validation

    reporter = Impatient(when)
    with pytest.raises(Stopped):
        bench.fresh(bench.spec("bert", eval_every=4), reporter)
    assert steps(reporter.events) == 4
    assert reporter.asked == 1
    assert sum(isinstance(e, Evaluated) for e in reporter.events) == (where == "test")
    assert not (bench.folder / f"run{bench.count}" / "adapter").exists()
    assert not list((bench.folder / f"run{bench.count}").glob("predictions*"))


def test_data_edited_after_planning_is_refused(bench, tmp_path):
    path = planted.csv(tmp_path / "rows.csv", "text,label", planted.sentences(40))
    spec = planted.spec(bench.base("bert"), "text_classification", DataSpec(source=str(path)))
    path.write_text(path.read_text().replace("pos", "neg", 1))
    with pytest.raises(WorkbenchError, match=r"rows\.csv"):
        bench.fresh(spec)


def test_another_base_than_planned_is_refused(bench):
    spec = bench.spec("bert")
    with pytest.raises(WorkbenchError, match="have changed since this run was planned"):
        bench.fresh(spec.model_copy(update={"model": spec.model.model_copy(update={"sha256": "0" * 64})}))


# --- counting (head excluded throughout) --------------------------------------------------------------------------

D, FF, BLOCKS = 32, 64, 2
HEAD = 2 * D + 2


def base_size(bench: Any) -> int:
    from transformers import AutoModelForSequenceClassification

    host = AutoModelForSequenceClassification.from_pretrained(bench.base("bert"), num_labels=2)
    return sum(p.numel() for p in host.parameters()) - HEAD


def counts(result: dict[str, Any]) -> tuple[int, ...]:
    names = ("trainable_params", "base_trained_params", "peak_trainable_params", "head_params", "total_params")
    return tuple(result[n] for n in names)


def test_head_only_counts_nothing_and_trains_the_head(bench):
    folder, result = bench.run("bert", "head_only")
    assert counts(result) == (0, 0, 0, HEAD, base_size(bench) + HEAD)
    assert not planted.stored(folder).tensors
    still, _ = bench.run("bert", "head_only", learning_rate=1e-12, max_steps=1, weight_decay=0)
    assert not torch.equal(planted.stored(folder).head["classifier.weight"], planted.stored(still).head["classifier.weight"])


def test_lora_counts_its_factors(bench):
    _, result = bench.run("bert", config={"rank": 3, "roles": ["attn.q", "attn.v"]})
    own = BLOCKS * 2 * 3 * (D + D)
    assert counts(result) == (own, 0, own, HEAD, base_size(bench) + own + HEAD)


def test_full_counts_the_base(bench):
    _, result = bench.run("bert", "full")
    base = base_size(bench)
    assert counts(result) == (base, base, base, HEAD, base + HEAD)


def test_houlsby_counts_its_norms_as_base(bench):
    _, result = bench.run("bert", "houlsby_adapter", config={"bottleneck": 5})
    norms = (BLOCKS * 2 + 1) * 2 * D
    own = BLOCKS * 2 * (2 * 5 * D + 5 + D)
    assert result["base_trained_params"] in (norms, norms - 2 * D)  # with or without the norm of the embeddings
    assert result["trainable_params"] == own + result["base_trained_params"] == result["peak_trainable_params"]
    assert result["total_params"] == base_size(bench) + own + HEAD


def test_sparse_counts_the_survivors(bench):
    _, result = bench.run("bert", config={"rank": 4, "roles": ["attn.q"]}, modifiers=({"modifier": "sparse", "keep": 0.25},))
    own = BLOCKS * 4 * 2 * D
    assert result["trainable_params"] == own // 4
    assert result["peak_trainable_params"] == own


def test_lt_sft_counts_the_kept_entries(bench):
    _, result = bench.run("bert", "full", recipe={"recipe": "lt_sft", "keep": 0.1})
    norms = (BLOCKS * 2 + 1) * 2 * D
    maskable = base_size(bench) - norms
    assert result["peak_trainable_params"] == maskable
    assert result["trainable_params"] == result["base_trained_params"] == int(0.1 * maskable)


def test_without_pyarrow_predictions_are_csv(bench, monkeypatch):
    usual = predictions(bench.run("bert")[0])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    folder, _ = bench.fresh(bench.spec("bert"))
    with (folder / "predictions.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [int(r["id"]) for r in found] == [r["id"] for r in usual]
