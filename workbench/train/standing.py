"""Where a training stands: everything that the next step depends on, taken out of the live objects and put back into them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.recipes import Models, Recipe
from workbench.train.checkpoint import Checkpoint


@dataclass(frozen=True)
class Place:
    """A point between two optimizer steps.

    Attributes:
        phase: number of the recipe's phase; one beyond the last when all are over.
        local: steps done in it.
        judged: False where a validation of this very step is still to come.
        finished: whether `Recipe.finish` is over too.
    """

    phase: int
    local: int
    judged: bool = True
    finished: bool = False


def taken(models: Models, recipe: Recipe, adamw: Any = None, schedule: Any = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(JSON values, tensors) of adapter, head, recipe, optimizer, schedule and random generators."""
    tensors = {f"adapter.{n}": t for n, t in _own(models)} | {f"head.{i}": p for i, p in enumerate(models.head)}
    tensors |= {f"progress.{n}": t for n, t in models.adapter.progress().items()}
    tensors |= {f"recipe.{n}": t for n, t in recipe.progress().items()} | {f"random.{n}": t for n, t in _random().items()}
    plain: dict[str, Any] = {}
    if adamw is not None:
        held = adamw.state_dict()
        tensors |= {f"moments.{i}.{n}": t for i, state in held["state"].items() for n, t in state.items()}
        plain["groups"] = [{k: v for k, v in group.items() if k != "params"} for group in held["param_groups"]]
        plain["schedule"] = {k: v for k, v in schedule.state_dict().items() if k != "lr_lambdas"}
    return plain, tensors


@torch.no_grad()
def put_back(found: Checkpoint, models: Models, recipe: Recipe) -> None:
    """Adapter, head and recipe as they were taken."""
    for name, tensor in _own(models):
        tensor.copy_(found.tensors[f"adapter.{name}"])
    for i, param in enumerate(models.head):
        param.copy_(found.tensors[f"head.{i}"])
    models.adapter.resume(found.plain["done"]["steps"], dict(_below("progress", found.tensors)))
    recipe.resume(dict(_below("recipe", found.tensors)))


def put_back_optimizer(found: Checkpoint, adamw: Any, schedule: Any) -> None:
    """Moments and rates as they were taken, then the random generators: nothing may draw between this and the next step."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("moments", found.tensors):
        index, _, what = name.partition(".")
        state.setdefault(int(index), {})[what] = tensor
    params = [group["params"] for group in adamw.state_dict()["param_groups"]]
    groups = [{**group, "params": own} for group, own in zip(found.plain["groups"], params, strict=True)]
    adamw.load_state_dict({"state": state, "param_groups": groups})
    schedule.load_state_dict({**found.plain["schedule"], "lr_lambdas": [None] * len(groups)})
    drawn = dict(_below("random", found.tensors))
    torch.set_rng_state(drawn["cpu"])
    if "cuda" in drawn and torch.cuda.is_available():
        torch.cuda.set_rng_state(drawn["cuda"])


def _own(models: Models) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the adapter, buffers that are not saved with it too."""
    yield from models.adapter.named_parameters()
    yield from models.adapter.named_buffers()


def _random() -> dict[str, Tensor]:
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() and torch.cuda.is_initialized() else {})


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    start = f"{prefix}."
    return ((name.removeprefix(start), t) for name, t in tensors.items() if name.startswith(start))
