"""One method on one base: sites, scalars, bytes, seconds and what stands in the way. Nothing is allocated."""

from dataclasses import replace

from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.core.spec import TrainingSpec
from workbench.core.types import Placement, Site
from workbench.kernel import registry
from workbench.kernel.contract import Method, SidePart
from workbench.kernel.host import Adapters, adapters_of
from workbench.plan import cost, counting, figures, sharing
from workbench.plan.values import Entry, Machine, Plan, Workload

ABOVE = ("model.out", "head.in", "head")
"""Roles outside the blocks that lie above all of them."""


def plan_method(
    host: nn.Module, head: tuple[str, ...], entry: Entry, training: TrainingSpec, work: Workload, machine: Machine
) -> Plan:
    """Predict one entry.

    Args:
        host: the task's model on the meta device.
        head: module paths of the task's head.
        entry: the method with its Config, modifiers and recipe.
        training: the procedure; batch size, epochs and accumulation matter here.
        work: size of the data as the task sees it.
        machine: where it will run.

    Returns:
        The plan; with `problems`, the counts that could still be made and no figures.
    """
    plan = count_method(host, head, entry, work)
    method, recipe = registry.methods()[entry.key], entry.recipe[0]
    unshared = sharing.problems(entry.key, method, recipe, machine.device, training.processes)
    plan = replace(plan, problems=(*plan.problems, *unshared))
    if plan.problems:
        return plan
    adapters = adapters_of(host, head)
    reach = _reach(adapters, method, entry, plan.sites)
    memory = figures.memory(adapters, plan, reach, training, work, machine)
    steps, seconds = figures.seconds(adapters, plan, reach, training, work, machine)
    after = figures.judging(adapters, recipe.judgements(entry.recipe[1]), training, work, machine)
    for other, its_head in entry.others:
        more, longer = figures.beside(adapters_of(other, its_head), training, work, machine, steps)
        memory, seconds = {**memory, "other_models": memory.get("other_models", 0) + more}, seconds + longer
    told = {"steps": steps, "train_seconds": round(seconds + after, 3), "after_seconds": after}
    return replace(plan, memory=memory, peak_memory_bytes=sum(memory.values()), **told)


def count_method(host: nn.Module, head: tuple[str, ...], entry: Entry, work: Workload) -> Plan:
    """The part of a plan that is exact: sites, counts and problems; arguments as for `plan_method`."""
    adapters = adapters_of(host, head)
    method = registry.methods()[entry.key]
    known = {"head_params": counting.head_size(host, head), "base_params": counting.base_size(host, head)}
    known |= {"exact": method.counts_exactly(entry.cfg) and entry.recipe[0].counts_exactly}
    try:
        sites = tuple(counting.matched(adapters, entry))
        problems = _problems(adapters, method, entry, list(sites), work)
        base = counting.trained_base(adapters, method, entry.cfg, list(sites))
        if method.kind == "select":  # its sites are those where something trains
            sites = tuple(s for s in sites if any(path.rpartition(".")[0] == s.path for path in base))
        counted = _counted(adapters, method, entry, list(sites), base)
    except WorkbenchError as error:
        return Plan(problems=(str(error),), **known)
    return Plan(sites=sites, problems=tuple(problems), **known, **counted)


def _problems(adapters: Adapters, method: type[Method], entry: Entry, sites: list[Site], work: Workload) -> list[str]:
    found = [
        f"{entry.key} needs the data entry of every row ('task'), and there is only one; give several or choose another method."
        if key == "task"
        else f"{entry.key} needs {key!r} from every batch, which this task does not provide; choose another task or method."
        for key in sorted(registry.needs(method, entry.cfg) - set(work.provides))
    ]
    recipe, cfg = entry.recipe
    chosen = counting.trained_base(adapters, method, entry.cfg, sites)
    other, name = recipe.problem(cfg, entry.key, bool(chosen)), recipe.__module__.rpartition(".")[2]
    if other is None and (lacks := [key for key in recipe.needs if key not in work.provides]):
        lack = f"the recipe {name} needs {lacks[0]!r} from every batch, which this task does not provide"
        other = f"{lack}; choose another task or recipe."
    if other is None and recipe.judges and not work.judged:
        other = f"the recipe {name} chooses on validation rows, and there are none; set validation."
    return [*found, *misfits(entry.key, entry.cfg, sites), *([other] if other else [])]


def misfits(key: str, cfg: Placement, sites: list[Site]) -> list[str]:
    """Why a method's Config does not fit its sites, in sentences."""
    rank, narrow = getattr(cfg, "rank", None), min((min(s.shape) for s in sites), default=0)
    found = []
    if isinstance(rank, int) and rank > narrow:
        found.append(f"rank of {key} must be at most {narrow}, the narrowest side of its sites on this base model; got {rank}.")
    own = registry.methods()[key].problem(cfg, sites)
    return [*found, own] if own else found


def _counted(
    adapters: Adapters, method: type[Method], entry: Entry, sites: list[Site], base: dict[str, nn.Parameter]
) -> dict[str, int]:
    """new_params, base_trained_params and peak_trainable_params of an entry."""
    new = dense = method.n_params(entry.cfg, sites)
    chosen = counting.size(base.values())
    if entry.modifiers:
        shapes = counting.dense_shapes(adapters, entry)
        if not counting.matrices(shapes):
            names = ", ".join(cls.__module__.rpartition(".")[2] for cls, _ in entry.modifiers)
            raise WorkbenchError(f"the modifier {names} needs an adapter with matrices; {entry.key} has none.")
        new = min(cls.count(cfg, shapes) for cls, cfg in entry.modifiers)
    recipe, cfg = entry.recipe
    norms = {s.path for s in adapters.sites if s.role == "norms"}
    maskable = counting.size(p for path, p in base.items() if path.rpartition(".")[0] not in norms)
    kept = recipe.count(cfg, new + chosen, maskable)
    return {"new_params": new, "base_trained_params": kept - new, "peak_trainable_params": dense + chosen}


def _reach(adapters: Adapters, method: type[Method], entry: Entry, sites: tuple[Site, ...]) -> cost.Reach:
    """How far the backward pass goes: down to the lowest block that is edited or has a tensor that trains."""
    base = counting.trained_base(adapters, method, entry.cfg, list(sites))
    parts = [cls for cls, _ in registry.part_classes(method, entry.cfg)]
    beside = bool(parts) and all(issubclass(cls, SidePart) for cls in parts)
    owners = {path.rpartition(".")[0] for path in base}
    carried = () if beside or method.kind == "select" else sites
    touched = [s for s in adapters.sites if s.path in owners] + list(carried)
    lowest = min((s.depth for s in touched if s.role not in ABOVE), default=None)
    trained = frozenset(path.rpartition(".")[0] for path, p in base.items() if p.dim() > 1)
    adapted = [s for s in carried if s.role not in ("model.in", *ABOVE)]
    if method.kind == "weight":
        return cost.Reach(lowest, trained, sum(s.d_in + s.d_out for s in adapted))
    rows = sum(shape[0] for shape in counting.dense_shapes(adapters, entry).values() if len(shape) > 1)
    times = sum(s.role in {cls.reads for cls in parts} for s in adapters.sites) if beside else 1  # type: ignore[attr-defined]
    within = rows * times if beside or adapted else 0
    tokens, copied = counting.virtual(adapters, entry)
    return cost.Reach(lowest, trained, sum(s.d_in for s in adapted) + within + copied, tokens)
