"""The search: what is judged, what is chosen, what it may cost, and that the run ends with the choice in place."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.contract import hosts
from tests.train import planted
from workbench import operations, recipes
from workbench.core.errors import WorkbenchError
from workbench.core.events import Silent
from workbench.evaluate import saved
from workbench.kernel import registry, state
from workbench.kernel.elastic import Elastic
from workbench.recipes.contract import Models
from workbench.recipes.search import Search, SearchConfig, crowding, fronts

METHODS = {
    "lora_nas": {"ranks": [1, 2, 3, 4, 6], "groups": "site", "roles": ["attn.q", "attn.v", "ffn.up"]},
    "glora": {"rank": 2, "roles": ["attn.q", "attn.v"]},
}


class Task:
    """All that a search asks of a task."""

    def __init__(self, metric: str = "accuracy", greater: bool = True) -> None:
        self.metric, self.greater_is_better = metric, greater


def searcher(method: str = "lora_nas", seed: int = 0, task: Task | None = None, **options: Any) -> Search:
    """The recipe on a fresh adapter of a tiny BERT."""
    model = hosts.host("bert")
    adapters = hosts.adapters(model)
    adapter = adapters.attach("adapter", method, registry.configure(method, METHODS[method]), seed)
    models = Models(model, adapters, adapter, task or Task(), ())  # type: ignore[arg-type]
    return Search(SearchConfig.model_validate(options), models, seed)


def planted_scores(recipe: Search, wanted_share: float = 0.5, noise: int = 0) -> Callable[[], dict[str, float]]:
    """A validation with one best choice: every entry has a wanted value, and each step away from it costs."""
    rng = random.Random(noise)
    wanted = [rng.randrange(len(values)) if noise else round(wanted_share * (len(values) - 1)) for values in recipe.space.values]

    def validate() -> dict[str, float]:
        now = [choice for parts in recipe.space.groups.values() for choice in parts[0].chosen()]
        away = sum(abs(values.index(v) - w) for values, v, w in zip(recipe.space.values, now, wanted, strict=True))
        return {"accuracy": 1 - away / (4 * len(wanted)), "loss": float(away)}

    return validate


def dominated(one: Any, others: Any) -> bool:
    """By the definition: another is at least as good in both, and better in one."""
    return any(o.cost[0] <= one.cost[0] and o.size <= one.size and (o.cost[0] < one.cost[0] or o.size < one.size) for o in others)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", ["nsga2", "evolution", "random", "middle"])
@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_never_dominated_never_over_the_budget_never_judged_twice(method: str, strategy: str, budget: float) -> None:
    for noise in (1, 2, 3):
        recipe = searcher(method, strategy=strategy, budget=budget, evaluations=33, population=8)
        calls = []
        score = planted_scores(recipe, noise=noise)
        found = recipe.finish(lambda calls=calls, score=score: calls.append(1) or score())
        judged, best = list(recipe.judged.values()), recipe.best()
        assert len(judged) == len(calls) == (1 if strategy == "middle" else 33)
        whole = recipe.space.size(recipe.space.at(1))
        assert all(one.size <= budget * whole for one in judged)
        assert not dominated(best, judged)
        assert best.cost[0] == min(one.cost[0] for one in judged)
        parts = dict(recipe.models.adapter.named_parts()).values()
        assert sum(p.in_use() for p in parts) == recipe.models.adapter.new_params() == best.size
        assert found == best.metrics == score()


@pytest.mark.parametrize("method", METHODS)
def test_what_counts_is_what_the_formula_counts(method: str) -> None:
    """The size of any candidate is the sum of its parts', the largest that of the whole adapter."""
    recipe = searcher(method)
    assert recipe.space.size(recipe.space.at(1)) == recipe.models.adapter.new_params()
    rng = random.Random(0)
    for _ in range(20):
        candidate = recipe.space.drawn(rng)
        recipe.space.choose(candidate)
        assert recipe.models.adapter.new_params() == recipe.space.size(candidate)


@pytest.mark.parametrize("strategy", ["nsga2", "evolution"])
@pytest.mark.parametrize("method", METHODS)
def test_evolution_gains_on_its_first_generation_and_on_random_draws(strategy: str, method: str) -> None:
    gains, leads = [], []
    for seed in range(4):
        recipe, plain = (searcher(method, seed, strategy=s, evaluations=80, population=10) for s in (strategy, "random"))
        for one in (recipe, plain):
            one.finish(planted_scores(one, noise=seed + 1))
        first = [-j.cost[0] for j in recipe.judged.values() if j.generation == 0]
        drawn = [-j.cost[0] for j in plain.judged.values()]
        gains.append(-recipe.best().cost[0] - max(first))
        leads.append(-recipe.best().cost[0] - max(drawn))
        assert -recipe.best().cost[0] > sum(drawn) / len(drawn)
    assert min(gains) > 0
    assert sum(leads) > 0


def test_equal_seeds_judge_the_same_and_others_do_not() -> None:
    kept = []
    for seed in (0, 0, 1):
        recipe = searcher(seed=seed, evaluations=20, population=5)
        recipe.finish(planted_scores(recipe))
        kept.append(recipe.kept())
    assert kept[0] == kept[1] != kept[2]


def test_it_starts_from_the_largest_the_middle_and_the_smallest() -> None:
    """The middle is the heuristic: the middle rank everywhere; alone with `middle`, shrunk where the budget is less."""
    recipe = searcher(evaluations=3)
    recipe.finish(planted_scores(recipe))
    values = [{v for choice in one["choice"].values() for v in choice} for one in recipe.kept()]
    assert values == [{6}, {3}, {1}]
    alone = searcher(strategy="middle")
    alone.finish(planted_scores(alone))
    assert [one["choice"] for one in alone.kept()] == [recipe.kept()[1]["choice"]]
    small = searcher(strategy="middle", budget=0.4)
    small.finish(planted_scores(small))
    assert small.best().size <= 0.4 * small.space.size(small.space.at(1))


def test_ties_take_the_smaller_then_the_lower_loss_and_odd_scores_lose() -> None:
    recipe = searcher(evaluations=12, population=6)
    recipe.finish(lambda: {"accuracy": 0.5, "loss": 1.0})
    assert recipe.best().size == min(one.size for one in recipe.judged.values())
    worse = searcher(task=Task("perplexity", greater=False), evaluations=12, population=6)
    scores = iter([float("nan"), 3.0, 5.0, float("inf"), *range(4, 20)])
    assert worse.finish(lambda: {"perplexity": float(next(scores))}) == {"perplexity": 3.0}
    assert [one["metrics"]["perplexity"] for one in worse.kept()][:4] == [None, 3.0, 5.0, None]
    json.dumps(worse.kept(), allow_nan=False)


def test_a_space_smaller_than_the_evaluations_is_searched_whole() -> None:
    recipe = searcher("lora_nas", evaluations=500, population=8)
    recipe.space.values = [(1, 2)] * 2 + [(1,)] * (len(recipe.space.values) - 2)
    recipe.finish(lambda: {"accuracy": 0.0})
    assert len(recipe.judged) == 4


def naive_fronts(points: list[tuple[float, float]]) -> list[int]:
    found, left, number = {}, set(range(len(points))), 0
    while left:
        free = {i for i in left if not any(
            points[j][0] <= points[i][0] and points[j][1] <= points[i][1] and points[j] != points[i] for j in left)}  # fmt: skip
        found |= dict.fromkeys(free, number)
        left, number = left - free, number + 1
    return [found[i] for i in range(len(points))]


def test_fronts_and_crowding_are_those_of_nsga2() -> None:
    rng = random.Random(0)
    for size in (1, 2, 5, 30):
        for spread in (3, 100):  # few values make ties
            points = [(float(rng.randrange(spread)), float(rng.randrange(spread))) for _ in range(size)]
            assert fronts(points) == naive_fronts(points)
    line = [(0.0, 10.0), (1.0, 6.0), (2.0, 5.0), (10.0, 0.0)]
    inf = float("inf")
    assert crowding(line) == [inf, pytest.approx(2 / 10 + 5 / 10), pytest.approx(9 / 10 + 6 / 10), inf]
    assert crowding([(1.0, 1.0)] * 3)[1] == 0.0


# --- whole runs ---------------------------------------------------------------------------------------------------


SEARCH = {"recipe": "search", "evaluations": 8, "population": 4}


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("method", ["lora_nas", "glora"])
def test_a_run_ends_with_its_choice_stored_counted_and_told(bench, method, family):
    config = {"groups": "site"} if method == "lora_nas" else {}
    spec = bench.spec(family, method, config=config, recipe={**SEARCH, "budget": 0.7}, max_steps=6)
    folder, result = bench.fresh(spec, Silent())
    rows = json.loads((folder / "search.json").read_text())
    assert len(rows) == 8
    (chosen,) = [row for row in rows if row["chosen"]]
    assert chosen["front"]
    stored = planted.stored(folder)
    choices = {tuple(t.tolist()) for k, t in stored.tensors.items() if k.endswith(".choice")}
    assert choices == {tuple(choice) for choice in chosen["choice"].values()}
    assert result["trainable_params"] == chosen["size"] <= 0.7 * result["peak_trainable_params"]
    assert result["validation"] == chosen["metrics"]
    revived = saved.revive(stored, folder / "adapter")
    batch = saved.stored_rows(stored, "the stored rows").batches
    logits = saved.logits(revived, batch)[0]
    assert (logits - stored.reference["logits"]).abs().max() <= 1e-5
    assert revived.adapter.new_params() == chosen["size"]
    adapters = revived.host.workbench
    for _, part in revived.adapter.named_parts():
        part.choose(part.largest())
    assert revived.adapter.new_params() > chosen["size"]
    adapters.release()


def test_the_choice_and_every_single_rank_come_out_as_plain_loras(bench):
    """cut_rank after a search: an ordinary LoRA, zero where a site took fewer ranks, with the logits of the elastic adapter."""
    spec = bench.spec("bert", "lora_nas", config={"groups": "site", "ranks": [1, 2, 4]}, recipe=SEARCH, max_steps=6)
    folder, _ = bench.fresh(spec)
    stored = planted.stored(folder)
    revived = saved.revive(stored, folder / "adapter")
    batch = saved.stored_rows(stored, "the stored rows").batches
    parts = dict(revived.adapter.named_parts())
    for key, rank in zip(parts, itertools.cycle([1, 4, 2]), strict=False):  # the search may have taken one rank everywhere
        parts[key].choose((rank,))
    uneven = replace(stored, tensors=state.pack(revived.adapter))

    def logits(one, options):
        made = operations.find("cut_rank")([one], saved.task_of(stored.meta, saved.base_folder(stored.meta)).host(), options)
        assert made.meta["method"] == "lora"
        return saved.logits(saved.revive(made, folder / "adapter"), batch)[0], made

    apart, made = logits(uneven, {})
    assert made.meta["config"]["rank"] == 4
    assert (apart - saved.logits(revived, batch)[0]).abs().max() <= 1e-6
    assert {int(made.tensors[f"{key}.B"].any(0).sum()) for key in parts} == {1, 2, 4}
    for part in parts.values():
        part.choose((4,))
    whole = replace(stored, tensors=state.pack(revived.adapter))
    for rank in (1, 2, 4):
        for part in parts.values():
            part.choose((rank,))
        apart, made = logits(whole, {"rank": rank})
        assert made.meta["config"]["rank"] == rank
        assert (apart - saved.logits(revived, batch)[0]).abs().max() <= 1e-6
    pruned = bench.run("bert", "sparse_peft", config={"ranks": [2, 4]})[0]
    with pytest.raises(WorkbenchError, match="cut_rank takes adapters of"):
        logits(planted.stored(pruned), {})


def test_equal_runs_choose_equally_and_other_recipes_keep_no_file(bench):
    spec = bench.spec("bert", "lora_nas", recipe=SEARCH, max_steps=5)
    (one, first), (two, second) = bench.fresh(spec), bench.fresh(spec)
    assert (one / "search.json").read_bytes() == (two / "search.json").read_bytes()
    assert planted.equal(planted.stored(one), planted.stored(two))
    assert first["metrics"] == second["metrics"]
    assert not (bench.run("bert", "lora_nas")[0] / "search.json").exists()
    assert "records" not in first


def test_with_several_learning_rates_the_kept_rate_is_the_one_told(bench):
    spec = bench.spec("bert", "lora_nas", recipe=SEARCH, max_steps=5, learning_rate=[1e-4, 0.05])
    folder, result = bench.fresh(spec)
    (chosen,) = [row for row in json.loads((folder / "search.json").read_text()) if row["chosen"]]
    assert result["validation"] == chosen["metrics"]
    assert result["trainable_params"] == chosen["size"]


def test_without_a_search_the_largest_stands(bench):
    folder, result = bench.run("bert", "lora_nas", max_steps=6)
    tensors = planted.stored(folder).tensors
    assert {int(t) for k, t in tensors.items() if k.endswith(".choice")} == {4}
    assert result["trainable_params"] == result["peak_trainable_params"]


BAD = [
    ("lora", {}, "the recipe search needs a method with smaller forms to choose from, e.g. lora_nas; lora has none."),
    ("lora_nas", {"budget": 0.1}, "the budget of a search must be at least 0.5, the smallest choice of lora_nas; got 0.1."),
]


@pytest.mark.parametrize(("method", "options", "sentence"), BAD)
def test_what_it_cannot_do_is_one_sentence(bench, method, options, sentence):
    with pytest.raises(WorkbenchError) as caught:
        bench.fresh(bench.spec("bert", method, recipe={**SEARCH, **options}))
    assert str(caught.value) == sentence


def test_a_fixed_glora_has_nothing_to_choose_and_plans_know_the_methods(bench):
    with pytest.raises(WorkbenchError, match="glora has none"):
        bench.fresh(bench.spec("bert", "glora", config={"elastic": False}, recipe=SEARCH))
    cls, cfg = recipes.configure(SEARCH)
    assert cls.judges
    assert cls.problem(cfg, "lora_nas", False) is cls.problem(cfg, "glora", False) is None
    assert cls.problem(cfg, "lora", False) == BAD[0][2]
    assert not cls.counts_exactly


def test_a_candidate_in_the_host_is_the_candidate_alone() -> None:
    """Choosing leaves the tensors alone: going back to the largest gives the same logits bit for bit."""
    recipe = searcher("glora")
    with torch.no_grad():
        for part in recipe.models.adapter.parts.values():
            for p in part.parameters():
                p.add_(0.1)
        before = hosts.logits(recipe.models.host, "bert")
        recipe.space.choose(recipe.space.at(0))
        base = hosts.logits(recipe.models.host, "bert")
        recipe.space.choose(recipe.space.at(1))
        assert torch.equal(hosts.logits(recipe.models.host, "bert"), before)
        assert torch.equal(base, hosts.logits(hosts.host("bert"), "bert"))
    assert all(isinstance(p, Elastic) for p in recipe.models.adapter.parts.values())
