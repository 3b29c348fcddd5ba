"""Search: after an elastic method has trained, choose the smaller adapter that does best on validation rows.

    candidate c = one value per group of sites and entry, e.g. ranks;  size(c) <= budget * size of the largest
    judged by (validation score, size);  the choice = the best score, among equals the smallest, then the least loss

Training is the standard one; the elastic parts draw what each step trains. Then at most `evaluations` candidates are judged with
the weights as they are. `nsga2` breeds from the candidates that no other dominates in score and size, spread apart by their
crowding distance; `evolution` (GLoRA) from the best-scored, a fifth of a generation, half mutants and half crossovers; both
start from the largest, the middle and the smallest candidate and random ones. `random` only draws; `middle` takes the middle
value everywhere. The adapter keeps its choice, and the run keeps every judged candidate in `search.json`.

Deviates from the papers: candidates over the budget are shrunk at random places until they fit, instead of being drawn again.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from workbench.core.errors import WorkbenchError
from workbench.core.types import Config, Paper
from workbench.kernel import registry
from workbench.kernel.elastic import Elastic
from workbench.recipes.contract import Models, Recipe

Candidate = tuple[int, ...]
TRIES = 20
"""Children bred in vain, because they are known already, before a random candidate takes their place."""


class SearchConfig(Config):
    """Options of the search."""

    strategy: Literal["nsga2", "evolution", "random", "middle"] = Field("nsga2", description="How candidates are found.")
    evaluations: int = Field(30, ge=1, le=5000, description="Most candidates judged on the validation rows.")
    population: int = Field(10, ge=2, le=500, description="Candidates of one generation.")
    mutation: float = Field(0.2, gt=0, le=1, description="Chance of each entry of a mutant to be drawn anew.")
    budget: float = Field(1.0, gt=0, le=1, description="Largest size of the choice, as a share of the whole adapter's.")


@dataclass(frozen=True)
class Judged:
    """A candidate and what it came to; of `cost` = (the score turned round, the loss), less is better."""

    candidate: Candidate
    size: int
    cost: tuple[float, float]
    metrics: dict[str, float]
    generation: int

    @property
    def point(self) -> tuple[float, float]:
        """The two figures that are weighed against each other."""
        return self.cost[0], self.size


class Space:
    """Everything that may be chosen: the entries of all groups in a row, as positions in their lists of values."""

    def __init__(self, parts: Sequence[Elastic]) -> None:
        self.groups: dict[str, list[Elastic]] = {}
        for part in parts:
            self.groups.setdefault(part.group, []).append(part)
        self.values = [values for some in self.groups.values() for values in some[0].choices()]

    def split(self, candidate: Candidate) -> Iterator[tuple[str, list[Elastic], Candidate]]:
        """(group, its parts, their choice)."""
        chosen = iter([values[i] for values, i in zip(self.values, candidate, strict=True)])
        for group, parts in self.groups.items():
            yield group, parts, tuple(next(chosen) for _ in parts[0].choices())

    def size(self, candidate: Candidate) -> int:
        """Scalars in use."""
        return sum(part.size(choice) for _, parts, choice in self.split(candidate) for part in parts)

    def choose(self, candidate: Candidate) -> None:
        """Let it stand in all parts."""
        for _, parts, choice in self.split(candidate):
            for part in parts:
                part.choose(choice)

    def at(self, share: float) -> Candidate:
        """The same place in every list of values: 0 the smallest, 1 the largest."""
        return tuple(math.ceil(share * (len(values) - 1)) for values in self.values)

    def fitted(self, candidate: Candidate, limit: float, rng: random.Random) -> Candidate:
        """The candidate, entries lowered one by one at random until it is within the limit."""
        found = list(candidate)
        while self.size(tuple(found)) > limit:
            found[rng.choice([i for i, place in enumerate(found) if place])] -= 1
        return tuple(found)

    def drawn(self, rng: random.Random) -> Candidate:
        """Any candidate, all equally likely."""
        return tuple(rng.randrange(len(values)) for values in self.values)

    def mutant(self, candidate: Candidate, chance: float, rng: random.Random) -> Candidate:
        """Each entry drawn anew with that chance."""
        return tuple(new if rng.random() < chance else old for old, new in zip(candidate, self.drawn(rng), strict=True))


class Search(Recipe):
    """See the module's docstring."""

    Config = SearchConfig
    paper = Paper("Muñoz et al., 2025", "https://arxiv.org/abs/2501.16372", 118)
    counts_exactly, judges = False, True

    def __init__(self, cfg: SearchConfig, models: Models, seed: int) -> None:
        super().__init__(cfg, models, seed)
        parts = [part for _, part in models.adapter.named_parts() if isinstance(part, Elastic) and part.elastic]
        if not parts:
            raise WorkbenchError(NOTHING.format(models.adapter.key))
        self.space, self.rng = Space(parts), random.Random(f"{seed}/search")
        self.judged: dict[Candidate, Judged] = {}
        least, most = self.space.size(self.space.at(0)), self.space.size(self.space.at(1))
        self.limit = cfg.budget * most
        if least > self.limit:
            raise WorkbenchError(
                f"the budget of a search must be at least {least / most:.3g}, the smallest choice of {models.adapter.key}; "
                f"got {cfg.budget}."
            )

    def finish(self, validate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Judge candidates and let the best one stand; its validation metrics."""
        found = self._generations()
        generation, some = 0, next(found)
        while some and len(self.judged) < self.cfg.evaluations:
            for candidate in some[: self.cfg.evaluations - len(self.judged)]:
                self.judged[candidate] = self._judge(candidate, generation, validate)
            generation, some = generation + 1, next(found, [])
        best = self.best()
        self.space.choose(best.candidate)
        return best.metrics

    def best(self) -> Judged:
        """The best score, then the smallest, then the least loss, then the first."""
        return min(self.judged.values(), key=lambda one: (*one.point, one.cost[1]))

    def kept(self) -> list[dict[str, Any]]:
        """Every judged candidate: {choice: {group: values}, size, metrics, generation, front, chosen}; null where not finite."""
        judged, best = list(self.judged.values()), self.best() if self.judged else None
        ranks = fronts([one.point for one in judged])
        return [
            {
                "choice": {group: list(choice) for group, _, choice in self.space.split(one.candidate)},
                "size": one.size,
                "metrics": {k: v if math.isfinite(v) else None for k, v in one.metrics.items()},
                "generation": one.generation,
                "front": rank == 0,
                "chosen": one is best,
            }
            for one, rank in zip(judged, ranks, strict=True)
        ]

    def _judge(self, candidate: Candidate, generation: int, validate: Callable[[], dict[str, float]]) -> Judged:
        self.space.choose(candidate)
        metrics, task = validate(), self.models.task
        cost = -metrics[task.metric] if task.greater_is_better else metrics[task.metric]
        known = tuple(v if math.isfinite(v) else math.inf for v in (cost, metrics.get("loss", 0.0)))
        return Judged(candidate, self.space.size(candidate), known, metrics, generation)

    def _generations(self) -> Iterator[list[Candidate]]:
        """Candidates to judge next, none twice; ends where no new one is found."""
        cfg, space = self.cfg, self.space
        if cfg.strategy == "middle":
            yield [space.fitted(space.at(0.5), self.limit, self.rng)]
            return
        first = [] if cfg.strategy == "random" else [space.at(share) for share in (1, 0.5, 0)]
        yield self._new(lambda i: first[i] if i < len(first) else space.drawn(self.rng))
        while True:
            parents = self._parents()
            yield self._new(lambda i, parents=parents: self._child(parents, i))

    def _new(self, make: Callable[[int], Candidate]) -> list[Candidate]:
        """A generation of unjudged candidates: `make` of their numbers, or random ones where that brings nothing new."""
        found: dict[Candidate, None] = {}
        for i in range(self.cfg.population):
            for attempt in range(2 * TRIES):
                made = make(i) if attempt < TRIES else self.space.drawn(self.rng)
                fitted = self.space.fitted(made, self.limit, self.rng)
                if fitted not in self.judged and fitted not in found:
                    found[fitted] = None
                    break
        return list(found)

    def _parents(self) -> list[Candidate]:
        """Those to breed from, the best first."""
        cfg, judged = self.cfg, list(self.judged.values())
        if cfg.strategy == "nsga2":
            points = [one.point for one in judged]
            ranks, room = fronts(points), crowding(points)
            order = sorted(range(len(judged)), key=lambda i: (ranks[i], -room[i]))
            return [judged[i].candidate for i in order[: cfg.population]]
        best = sorted(judged, key=lambda one: one.point)
        return [one.candidate for one in best[: max(cfg.population // 5, 2)]]

    def _child(self, parents: list[Candidate], i: int) -> Candidate:
        """Half mutants, half uniform crossovers; `nsga2` takes the better of two parents each time, `evolution` any."""
        space, cfg, rng = self.space, self.cfg, self.rng
        if cfg.strategy == "random":
            return space.drawn(rng)

        def parent() -> Candidate:
            places = [rng.randrange(len(parents)) for _ in range(2 if cfg.strategy == "nsga2" else 1)]
            return parents[min(places)]

        return space.mutant(parent(), cfg.mutation, rng) if i % 2 else crossed(parent(), parent(), rng)

    @classmethod
    def judgements(cls, cfg: SearchConfig) -> int:
        return 1 if cfg.strategy == "middle" else cfg.evaluations

    @classmethod
    def problem(cls, cfg: Any, method: str, select: bool) -> str | None:
        return None if issubclass(registry.methods()[method], Elastic) else NOTHING.format(method)


NOTHING = "the recipe search needs a method with smaller forms to choose from, e.g. lora_nas; {} has none."


def crossed(one: Candidate, two: Candidate, rng: random.Random) -> Candidate:
    """Each entry from one or the other."""
    return tuple(rng.choice(pair) for pair in zip(one, two, strict=True))


def fronts(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which front each point is on, less being better in both figures: nothing dominates front 0, only front 0 front 1, ...

    Source: non-dominated sorting of NSGA-II (Deb et al., 2002).
    """
    found, left, front = [0] * len(points), set(range(len(points))), 0
    while left:
        least, here = math.inf, set()
        for x, y in sorted(points[i] for i in left):  # by the first figure: later ones are worse in it, or equal
            if y < least:
                least = y
                here.add((x, y))
        now = {i for i in left if points[i] in here}
        for i in now:
            found[i] = front
        left, front = left - now, front + 1
    return found


def crowding(points: Sequence[tuple[float, float]]) -> list[float]:
    """How much room each point has within its front: the neighbours' distance in both figures, as shares of their ranges."""
    room, ranks = [0.0] * len(points), fronts(points)
    for front in set(ranks):
        for axis in (0, 1):
            order = sorted((i for i, rank in enumerate(ranks) if rank == front), key=lambda i: points[i][axis])
            span = points[order[-1]][axis] - points[order[0]][axis] or 1.0
            room[order[0]] = room[order[-1]] = math.inf
            for before, i, after in zip(order, order[1:], order[2:], strict=False):
                room[i] += (points[after][axis] - points[before][axis]) / span
    return room
