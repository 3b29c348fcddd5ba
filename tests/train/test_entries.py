"""Runs on several data entries: a part that routes by `task`, metrics per entry, and what is stored and used afterwards."""

import csv
import json
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from tests.contract.checks import known
from tests.train import planted
from workbench import export as exports
from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Silent
from workbench.core.spec import DataSpec, parse_spec
from workbench.core.types import Paper, Placement, Site
from workbench.data.table import entry_of
from workbench.evaluate import saved
from workbench.kernel.contract import ActivationPart, Context
from workbench.services.preparing import prepare


class RoutedConfig(Placement):
    """How many data entries there are."""

    tasks: int = Field(2, ge=1, le=10, description="Data entries.")


class Routed(ActivationPart):
    """h' = h + v[task], one vector per data entry."""

    Config, tiny, roles = RoutedConfig, RoutedConfig(), ("block.out",)
    paper = Paper("none", "https://example.org")
    needs = ("task",)
    seen: ClassVar[list[Tensor]] = []

    def __init__(self, cfg: RoutedConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor | None) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.v = nn.Parameter(torch.zeros(cfg.tasks, site.d_out))

    def edit(self, h: Tensor, x: Tensor, ctx: Context) -> Tensor:
        assert ctx["task"].dtype == torch.long
        assert len(ctx["task"]) == len(h)
        self.seen.append(ctx["task"].clone())
        return h + self.v[ctx["task"]][:, None]

    @staticmethod
    def n_params(cfg: RoutedConfig, sites: list[Site]) -> int:
        return sum(cfg.tasks * s.d_out for s in sites)


@pytest.fixture(autouse=True)
def _registered():
    with known(Routed, "routed"):
        yield


@pytest.fixture
def two(tmp_path) -> list[DataSpec]:
    """The same kind of sentences under labels of their own: only who knows the entry can tell which of the two are meant."""
    texts = planted.sentences(160)
    english = planted.csv(tmp_path / "english.csv", "text,label", texts[:80])
    german = planted.csv(tmp_path / "german.csv", "text,label", [(t, GERMAN[k]) for t, k in texts[80:]])
    return [DataSpec(source=str(p), test=0.25, validation=0.2) for p in (english, german)]


def several(bench: Any, two: list[DataSpec], method: str = "routed", **more: Any) -> Any:
    spec = planted.spec(bench.base("bert"), "text_classification", [d.model_copy(update={"id": n}) for d, n in zip(two, IDS)],
                        method, **more)  # fmt: skip
    return spec


IDS = ("english", "german")
GERMAN = {"pos": "gut", "neg": "schlecht"}
LONG = {"max_steps": 150, "learning_rate": 0.02, "batch_size": 8}


def predictions(folder: Any) -> list[dict[str, Any]]:
    return pq.read_table(folder / "predictions.parquet").to_pylist()


def test_a_part_routes_by_the_entry_and_metrics_are_given_per_entry(bench, two):
    reporter = Silent()
    folder, result = bench.fresh(several(bench, two, **LONG), reporter)
    metrics, held = result["metrics"], predictions(folder)
    assert list(metrics) == ["accuracy", "macro_f1", "loss", "accuracy/english", "accuracy/german"]
    assert all((r["prediction"] in GERMAN.values()) == (r["task"] == "german") for r in held)
    plain = predictions(bench.fresh(several(bench, two, "head_only", **LONG))[0])
    assert sum((r["prediction"] in GERMAN.values()) == (r["task"] == "german") for r in plain) < 0.8 * len(plain)
    assert result["validation"].keys() == metrics.keys()
    assert {e.split for e in reporter.events if isinstance(e, Evaluated) and "accuracy/german" in e.metrics} == {
        "validation",
        "test",
    }
    for number, name in enumerate(IDS):
        own = [r for r in held if r["task"] == name]
        assert len(own) == 20
        assert metrics[f"accuracy/{name}"] == pytest.approx(sum(r["label"] == r["prediction"] for r in own) / 20)
        assert {entry_of(r["id"]) for r in own} == {number}
    assert len({r["id"] for r in held}) == len(held) == 40


def test_batches_are_mixed_and_carry_each_rows_entry(bench, two):
    Routed.seen.clear()
    bench.fresh(several(bench, two, max_steps=4, batch_size=8))
    assert {tuple(sorted(set(t.tolist()))) for t in Routed.seen} >= {(0, 1)}


def test_rows_pair_between_methods(bench, two):
    one, other = (predictions(bench.fresh(several(bench, two, method))[0]) for method in ("routed", "lora"))
    assert [(r["id"], r["task"], r["label"]) for r in one] == [(r["id"], r["task"], r["label"]) for r in other]


def test_with_one_entry_nothing_is_added(bench):
    folder, result = bench.run("bert")
    assert not [name for name in result["metrics"] if "/" in name]
    assert "task" not in predictions(folder)[0]
    assert "fact.task" not in planted.stored(folder).reference
    assert planted.stored(folder).meta["entries"] == []


def test_a_language_model_generates_with_the_entries_of_its_rows(bench, tmp_path):
    texts = planted.sentences(48)
    paths = [
        planted.csv(tmp_path / f"{n}.csv", "prompt,completion", [(t, f"very {t.split()[i]}") for t, _ in texts[i::2]])
        for i, n in enumerate("ab")
    ]
    data = [DataSpec(source=str(p), id=p.stem, test=0.25) for p in paths]
    Routed.seen.clear()
    folder, result = bench.fresh(planted.spec(bench.base("llama"), "causal_lm", data, "routed"))
    assert {"perplexity/a", "perplexity/b", "exact_match"} <= result["metrics"].keys()
    rows = {name: [r for r in predictions(folder) if r["task"] == name] for name in "ab"}
    losses = {name: sum(r["loss"] * r["weight"] for r in own) / sum(r["weight"] for r in own) for name, own in rows.items()}
    assert all(result["metrics"][f"perplexity/{n}"] == pytest.approx(float(torch.tensor(v).exp())) for n, v in losses.items())


# --- what is stored, and what comes after -------------------------------------------------------------------------


def test_export_verify_and_predict_know_the_entries(bench, two, tmp_path):
    spec = several(bench, two, **LONG)
    folder, _ = bench.fresh(spec)
    kept = planted.stored(folder)
    assert kept.meta["entries"] == list(IDS)
    assert kept.reference["fact.task"].tolist() == [entry_of(r["id"]) for r in predictions(folder)[:8]]
    (folder / "spec.yaml").write_text(json.dumps(spec.model_dump(mode="json")))
    revived = saved.revive(kept, folder / "adapter")
    rows = saved.some_test_rows(revived, 16)
    assert rows.source == "test rows"
    assert torch.cat([b.facts["task"] for b in rows.batches]).tolist() == [0] * 8 + [1] * 8
    again = saved.logits(revived, saved.stored_rows(kept).batches)
    assert torch.allclose(again[0], kept.reference["logits"], atol=1e-5)
    held = [r for r in predictions(folder) if r["task"] == "german"]
    source = list(csv.DictReader(Path(two[1].source).read_text().splitlines()))
    lines = [(source[entry_row(r["id"])]["text"], r["label"]) for r in held]
    file = planted.csv(tmp_path / "ask.csv", "text,label,task", [(t, k, "german") for t, k in lines])
    exports.predict(folder, file, tmp_path / "said.jsonl")
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [r["prediction"] for r in said] == [r["prediction"] for r in held]
    assert [r["id"] for r in said] == list(range(len(held)))
    other = planted.csv(tmp_path / "other.csv", "text,task", [(t, "english") for t, _ in lines])
    exports.predict(folder, other, tmp_path / "turned.jsonl")
    turned = [json.loads(line)["prediction"] for line in (tmp_path / "turned.jsonl").read_text().splitlines()]
    assert not set(turned) & set(GERMAN.values())


def entry_row(row: int) -> int:
    return row % 1_000_000_000


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [("text", ("good film",), "it has no such column"), ("text,task", ("good film", "mail"), "a row says 'mail'")],
)
def test_predicting_without_the_entries_is_one_sentence(bench, two, tmp_path, header, row, words):
    folder, _ = bench.fresh(several(bench, two))
    file = planted.csv(tmp_path / "ask.csv", header, [row])
    with pytest.raises(WorkbenchError) as caught:
        exports.predict(folder, file, tmp_path / "said.jsonl")
    assert "the column 'task' of ask.csv must hold english or german" in str(caught.value)
    assert words in str(caught.value)
    assert not (tmp_path / "said.jsonl").exists()


def test_a_method_that_does_not_ask_predicts_any_file(bench, two, tmp_path):
    folder, _ = bench.fresh(several(bench, two, "lora"))
    file = planted.csv(tmp_path / "ask.csv", "text,task", [("good film", "whatever")])
    assert exports.predict(folder, file, tmp_path / "said.jsonl")["rows"] == 1


# --- the plan -----------------------------------------------------------------------------------------------------


def test_one_entry_is_a_problem_of_the_plan_and_several_are_not(bench, two, home):
    common = {"name": "many", "model": str(bench.base("bert")), "task": "text_classification", "methods": ["routed"],
              "baseline": False, "training": {"max_steps": 2}}  # fmt: skip
    sources = [d.model_dump(exclude_defaults=True) for d in two]
    ready = prepare(parse_spec({**common, "data": sources}))
    assert ready.problems() == []
    assert [ref.id for ref in ready.data] == list(IDS)
    assert ready.rows == {"train": 88, "validation": 32, "test": 40}
    assert ready.lines[0].plan.new_params == 2 * 2 * 32
    assert prepare(parse_spec({**common, "data": sources[0]})).problems() == [
        "routed needs the data entry of every row ('task'), and there is only one; give several or choose another method."
    ]
