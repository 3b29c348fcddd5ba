"""Architecture families: the only place where an architecture's module names are known."""

import importlib
import pkgutil
from functools import cache

from torch import nn

from workbench.backbones.family import Family, blocks_in
from workbench.core.errors import WorkbenchError
from workbench.core.types import Placement, Site

__all__ = ["Family", "blocks_in", "chosen", "families", "of"]


@cache
def families() -> dict[str, Family]:
    """File name -> family, found by walking this folder."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if m.name not in ("family", "discovery", "tokens")]
    return {n: importlib.import_module(f"{__name__}.{n}").FAMILY for n in names}


def of(host: nn.Module) -> Family:
    """The family of a model, by `config.model_type`; unknown architectures are discovered by shape and graph.

    Raises:
        WorkbenchError: the model has no config, or discovery finds no blocks.
    """
    config = getattr(host, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise WorkbenchError(f"a base model must carry a transformers config; got {type(host).__name__}.")
    for family in families().values():
        if config.model_type in family.model_types:
            return family
    from workbench.backbones import discovery

    return discovery.discover(host)


def chosen(sites: list[Site], cfg: Placement, default_roles: tuple[str, ...], n_blocks: int, method: str) -> list[Site]:
    """The sites a placement means; select methods without roles mean every site of the base.

    Raises:
        WorkbenchError: a role that was asked for, or every default role, matches nothing; a depth outside the stack.
    """
    if not (cfg.roles or default_roles):
        default_roles = tuple({s.role for s in sites} - {"head"})
    beyond = [d for d in cfg.block_numbers(n_blocks) if not 0 <= d < n_blocks] if cfg.depths is not None else []
    if beyond:
        raise WorkbenchError(f"depths must name blocks 0 to {n_blocks - 1} of this base model; got {beyond[0]}.")
    picked = [s for s in sites if cfg.picks(s, default_roles, n_blocks)]
    there = {s.role for s in sites}
    missing = [r for r in cfg.roles or () if r not in there]
    if missing or not picked:
        wanted = missing or list(default_roles)
        raise WorkbenchError(
            f"{method} needs the role {' or '.join(wanted)}, which matches nothing in this base model; "
            f"it has {', '.join(sorted(there - {'other', 'head', 'model.in'}))}."
        )
    return picked
