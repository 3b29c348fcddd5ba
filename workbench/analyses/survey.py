"""Survey: what kinds of methods there are, and what the runs given trade for what.

The taxonomy has four categories with groups: additive (something is put beside the base), selective (tensors of the base
train), reparameterised (a weight's change is written in fewer numbers), hybrid (parts of several kinds). It follows from what
each method is: the folder it lives in, the kinds of its parts, and its capabilities. The table of trade-offs is measured;
the calculator sets what the plan had predicted beside it. Serving many adapters in one batch is not timed here.
"""

from collections.abc import Sequence
from typing import Any

from workbench.analyses.contract import Result, Run, analysis, chart, table
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.contract import ActivationPart, Method, SelectPart, SidePart, TokenPart
from workbench.kernel.registry import family
from workbench.tasks import find

CATEGORIES = ("additive", "selective", "reparameterised", "hybrid")
FAMILIES = {
    "bottleneck": ("additive", "adapters"),
    "prompt": ("additive", "soft prompts"),
    "intervention": ("additive", "edits of representations"),
    "side": ("additive", "side networks"),
    "routing": ("additive", "routed experts"),
    "selection": ("selective", "chosen tensors"),
    "low_rank": ("reparameterised", "low rank"),
    "shared_bank": ("reparameterised", "shared banks and random projections"),
    "orthogonal": ("reparameterised", "orthogonal transforms"),
    "structured": ("reparameterised", "Kronecker, Hadamard and spectral forms"),
    "hyper": ("hybrid", "generated adapters"),
}
"""Folder of a method -> (category, group); a new folder needs a line here."""
PLACES = {"input": "soft prompts at the input", "layers": "soft prompts in every layer"}
TAXONOMY = (
    "method", "category", "group", "family", "kind", "engine", "mergeable", "hooks", "adds_tokens", "trains_base",
)  # fmt: skip
MEASURED = ("trainable_params", "peak_memory_bytes", "train_seconds")
TRADED = (
    "run_id", "label", "seed", "method", "category", "metric", "quality", "trainable_params", "peak_memory_bytes",
    "latency_unmerged", "latency_merged", "adapter_bytes", "mergeable",
)  # fmt: skip
CALCULATED = ("run_id", "label", "seed", "figure", "predicted", "measured", "error")


@analysis(least=0)
def survey(runs: list[Run]) -> Result:
    """See the module's docstring."""
    known = taxonomy()
    traded = [_traded(run) for run in runs]
    calculated = [row for run in runs for row in _calculated(run)]
    tables = {
        "taxonomy": table(known, TAXONOMY),
        "tradeoffs": table(traded, TRADED),
        "calculator": table(calculated, CALCULATED),
    }
    sentences = [_counts(known), *_exactness(calculated)]
    return Result(tables, {"taxonomy": _bars(known), **({"tradeoffs": _points(traded)} if traded else {})}, sentences)


def taxonomy() -> list[dict[str, Any]]:
    """One row per method file: its one category and group, and its capability record."""
    return [{"method": key, **placed(cls)} for key, cls in registry.methods().items()]


def placed(cls: type[Method], cfg: Any = None) -> dict[str, Any]:
    """Category, group and capabilities of one method in one configuration (its default without any).

    `hooks`: it has to run beside the base; `adds_tokens`: the base sees a longer sequence, or more keys; `trains_base`: base
    tensors are changed by training itself.
    """
    cfg = cls.Config() if cfg is None else cfg
    parts = [part for part, _ in registry.part_classes(cls, cfg)]
    category, group = FAMILIES[family(cls)]
    kinds = {part.kind for part in parts}
    tokens = [part for part in parts if issubclass(part, TokenPart)]
    if len(kinds) > 1:
        category, group = "hybrid", " and ".join(sorted(kinds))
    elif tokens:
        group = PLACES[tokens[0].where]
    elif category == "reparameterised" and _rescales(cls, cfg):
        category, group = "additive", "rescaling vectors"
    elif category == "selective":
        group = "whole tensors" if issubclass(cls, SelectPart) else "entries of tensors"
    return {
        "category": category,
        "group": group,
        "family": family(cls),
        "kind": cls.kind,
        "engine": cls.engine,
        "mergeable": cls.mergeable(cfg),
        "hooks": any(issubclass(part, ActivationPart | SidePart) for part in parts),
        "adds_tokens": bool(tokens),
        "trains_base": issubclass(cls, SelectPart) or bool(cls.also_trains(cfg)),
    }


def _rescales(cls: type[Method], cfg: Any) -> bool:
    """Whether one site gets one number per row or per column of its weight, and no more."""
    site = Site("probe", "attn.k", 0, (64, 128), bias=True)
    return family(cls) == "structured" and cls.n_params(cfg, [site]) in site.shape


def _traded(run: Run) -> dict[str, Any]:
    """What one run trades: its test metric against everything it costs."""
    method = registry.methods()[run.meta["method"]]
    place = placed(method, registry.configure(run.meta["method"], run.meta["config"]))
    metric = find(run.meta["task"]).metric
    figures = {name: run.row.get(name, run.measured.get(name)) for name in TRADED if name not in run.keys}
    facts = {"method": run.meta["method"], "category": place["category"], "mergeable": place["mergeable"]}
    return {**figures, **run.keys, **facts, "metric": metric, "quality": (run.meta.get("metrics") or {}).get(metric)}


def _calculated(run: Run) -> list[dict[str, Any]]:
    """What the plan had said of one run beside what came; relative errors."""
    found = []
    predicted = run.row.get("predicted") or {}
    for figure in MEASURED:
        said, came = predicted.get(figure), run.row.get(figure)
        if said is not None and came is not None:
            error = None if not came else (said - came) / came
            found.append({**run.keys, "figure": figure, "predicted": said, "measured": came, "error": error})
    return found


def _counts(known: Sequence[dict[str, Any]]) -> str:
    parts = [f"{sum(m['category'] == name for m in known)} {name}" for name in CATEGORIES]
    free = sum(m["mergeable"] for m in known)
    return f"Of {len(known)} methods, {', '.join(parts)}; {free} can be merged and then cost nothing at inference."


def _exactness(rows: Sequence[dict[str, Any]]) -> list[str]:
    said = []
    for figure in MEASURED:
        mine = [r for r in rows if r["figure"] == figure]
        if mine and figure == "trainable_params":
            exact = sum(r["predicted"] == r["measured"] for r in mine)
            said.append(f"trainable_params were predicted exactly for {exact} of {len(mine)} runs.")
        elif errors := sorted(abs(r["error"]) for r in mine if r["error"] is not None):
            middle = errors[len(errors) // 2]
            said.append(f"{figure} was predicted within {middle:.0%} for half of {len(errors)} runs, {errors[-1]:.0%} at worst.")
    return said


def _bars(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    groups = list(dict.fromkeys(m["group"] for name in CATEGORIES for m in known if m["category"] == name))
    series = []
    for name in CATEGORIES:
        mine = [m["group"] for m in known if m["category"] == name]
        here = [g for g in groups if g in mine]
        series.append({"name": name, "x": here, "y": [mine.count(g) for g in here]})
    return chart("bars", "The methods by category and group", "group", "methods", series)


def _points(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    series = []
    for label in dict.fromkeys(r["label"] for r in rows):
        mine = [r for r in rows if r["label"] == label]
        values = {"x": [r["trainable_params"] for r in mine], "y": [r["quality"] for r in mine]}
        series.append({"name": label, **values, "text": [r["run_id"] for r in mine]})
    return chart("points", "Quality against size", "trained parameters", "test metric", series, log_x=True)
