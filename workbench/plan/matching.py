"""Matched runs: the size of each method at which all train as many parameters, or the steps at which all take as long."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import ValidationError
from torch import nn

from workbench.core.types import Placement
from workbench.kernel import registry
from workbench.plan.planner import count_method, misfits
from workbench.plan.values import Entry, Plan, Workload

LIST_ALL = 8192
"""Values of a field that are all looked at; of more, those near the budget, which assumes that the count goes one way."""
NEAR = 3
CLOSE = 0.05
"""The first size field of a Config is changed if it comes this close to the budget, else the one that comes closest."""


@dataclass(frozen=True)
class Match:
    """What one method needs to meet a budget.

    Attributes:
        field, value: the size to set; None where nothing is to be set.
        trainable_params: what it trains then.
        off: (trainable_params - budget) / budget.
        reason: why it stays as it is; empty when it is matched.
    """

    field: str | None
    value: int | None
    trainable_params: int | None
    off: float | None
    reason: str = ""


def match(host: nn.Module, head: tuple[str, ...], entry: Entry, work: Workload, budget: int) -> Match:
    """The value of an entry's size field at which it trains as close to `budget` parameters as it can.

    Size fields are found, not listed: the whole numbers of a Config on which the count depends.

    Args:
        host, head, work: as `plan_method` gets them.
        entry: the method with its Config, modifiers and recipe.
        budget: trainable parameters, the head not counted.
    """

    def plan_of(cfg: Placement) -> Plan:
        return count_method(host, head, replace(entry, cfg=cfg), work)

    now = plan_of(entry.cfg)
    if not now.trainable_params and not now.problems:
        return Match(None, None, 0, None, "it trains nothing besides the head, so it has no size")
    names = sizes(entry.cfg) if now.sites else ()
    found = [(name, best) for name in names if (best := _closest(entry, name, budget, now, plan_of))]
    if not found:
        reason = now.problems[0].rstrip(".") if now.problems else "no whole number of its options changes how much it trains"
        count = None if now.problems else now.trainable_params
        return Match(None, None, count, None if count is None else _off(count, budget), reason)
    name, (value, count) = next((f for f in found if abs(_off(f[1][1], budget)) <= CLOSE), None) or min(
        found, key=lambda f: abs(f[1][1] - budget)
    )
    return Match(name, value, count, _off(count, budget))


def steps_for(plan: Plan, seconds: float) -> int | None:
    """Optimizer steps that are predicted to take this long, at least one; None where nothing trains."""
    each = plan.seconds_per_step()
    return max(1, round((seconds - plan.seconds_of(0)) / each)) if each else None


def sizes(cfg: Placement) -> Mapping[str, range]:
    """Whole-number fields of a Config and the values they may take; seeds and placements are none."""
    found = {}
    for name, field in type(cfg).model_fields.items():
        if field.annotation is not int or name in Placement.model_fields or name.endswith("seed"):
            continue
        low, high, step = 0, 1 << 24, 1
        for bound in field.metadata:
            low = bound.ge if isinstance(bound, Ge) else bound.gt + 1 if isinstance(bound, Gt) else low
            high = bound.le if isinstance(bound, Le) else bound.lt - 1 if isinstance(bound, Lt) else high
            step = bound.multiple_of if isinstance(bound, MultipleOf) else step
        found[name] = range(-(-int(low) // int(step)) * int(step), int(high) + 1, int(step))
    return found


def _off(count: int, budget: int) -> float:
    return (count - budget) / budget


def _closest(entry: Entry, name: str, budget: int, now: Plan, plan_of: Callable[[Placement], Plan]) -> tuple[int, int] | None:
    """(value, count) of the field at which the count is closest and nothing is wrong; None if it does not change the count."""
    method, sites = registry.methods()[entry.key], list(now.sites)

    def config(value: int) -> Placement | None:
        try:
            return type(entry.cfg).model_validate({**entry.cfg.model_dump(), name: value})
        except ValidationError:
            return None

    def fits(value: int) -> bool:
        cfg = config(value)
        return cfg is not None and not misfits(entry.key, cfg, sites)

    @cache
    def exact(value: int) -> int | None:
        plan = plan_of(config(value) or entry.cfg)
        return None if plan.problems else plan.trainable_params

    def formula(value: int) -> int | None:  # quick, because sites and base tensors do not depend on a size
        return method.n_params(config(value) or entry.cfg, sites) + now.base_trained_params

    slow = formula(getattr(entry.cfg, name)) != now.trainable_params  # a modifier or a recipe has its say
    values = _possible(sizes(entry.cfg)[name], fits)
    ends = {(exact if slow else formula)(v) for v in (*values[:1], *values[len(values) // 2 :][:1], *values[-1:])}
    if len(ends - {None}) < 2:
        return None
    near = _near(values, exact if slow else formula, budget, all_of=not slow)
    found = (e for v in near if (e := (v, exact(v)))[1] is not None)
    return next(found, None)  # type: ignore[return-value]


def _possible(values: range, fits: Callable[[int], bool]) -> Sequence[int]:
    """The values that fit; of a long range those below the first that does not."""
    if len(values) <= LIST_ALL:
        return [v for v in values if fits(v)]
    return values[: bisect.bisect_left(values, True, key=lambda v: not fits(v))]


def _near(values: Sequence[int], count: Callable[[int], int | None], budget: int, all_of: bool) -> list[int]:
    """Values by how close their count is to the budget, the closest first."""
    if len(values) > LIST_ALL or not all_of:
        sign = 1 if (count(values[-1]) or 0) >= (count(values[0]) or 0) else -1
        place = bisect.bisect_left(values, sign * budget, key=lambda v: sign * (count(v) or 0))
        values = values[max(0, place - NEAR) : place + NEAR]
    return sorted(values, key=lambda v: (abs((count(v) or 0) - budget), v))
