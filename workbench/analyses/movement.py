"""Movement: where an adapter moved the model, by depth and role.

    weight       |dW|_F / |W|_F       every base tensor that the merged adapter changes, those of one depth and role together
    activation   mean |dh| / |h|      outputs of sublayers and blocks on test rows, over real tokens, adapter on against off

Adapters that no weight can hold (bottlenecks, prompts, side networks) have activations only; where both exist both are shown,
because only activations compare across all methods. Depth -1 is outside the blocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.analyses.contract import Result, Run, analysis, chart, device, table
from workbench.core.types import Site
from workbench.evaluate import evaluation, saved
from workbench.evaluate.saved import Revived
from workbench.kernel.attach import first
from workbench.kernel.contract import TokenPart
from workbench.kernel.host import Adapters, adapters_of
from workbench.tasks import Batch

COLUMNS = ("run_id", "label", "seed", "depth", "role", "value", "kind")
WATCHED = ("attn.block", "ffn.block", "block.out", "model.out")


@analysis(least=1)
def movement(
    runs: list[Run],
    *,
    rows: Annotated[int, Field(ge=1, le=1024, description="Test rows on which activations are compared.")] = 32,
) -> Result:
    """See the module's docstring.

    Raises:
        WorkbenchError: the base of a run is gone, or there are no rows to run it on.
    """
    found: list[dict[str, Any]] = []
    sentences: list[str] = []
    for run in runs:
        revived = saved.revive(run.stored, run.adapter, device=device())
        mine = [*_of("weight", weights(revived)), *_of("activation", activations(revived, rows))]
        found += [{**run.keys, **row} for row in mine]
        sentences.append(_sentence(run, mine))
    return Result({"movement": table(found, COLUMNS)}, _figures(runs, found), sentences)


def _of(kind: str, values: dict[tuple[int, str], float]) -> list[dict[str, Any]]:
    return [{"depth": d, "role": r, "value": v, "kind": kind} for (d, r), v in sorted(values.items())]


@torch.no_grad()
def weights(revived: Revived) -> dict[tuple[int, str], float]:
    """(depth, role) -> |dW|_F / |W|_F of all changed tensors there; empty where nothing can be written into weights.

    A tensor that was zero in the base has no ratio and is left out.
    """
    adapters = adapters_of(revived.host)
    sums: dict[tuple[int, str], list[float]] = {}
    for path, name, before, after in _changed(revived, adapters):
        for site in [s for s in adapters.sites if s.path == path and s.kind != "point"]:
            old, new = (_slice(t, site, name).double() for t in (before, after))
            moved, size = float((new - old).square().sum()), float(old.square().sum())
            if moved and size:
                total = sums.setdefault((site.depth, site.role), [0.0, 0.0])
                total[0] += moved
                total[1] += size
    return {key: (moved / size) ** 0.5 for key, (moved, size) in sums.items()}


def _changed(revived: Revived, adapters: Adapters) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(module path, tensor name, base tensor, adapted tensor) of everything that trained or a merge replaces."""
    names = {id(m): path for path, m in revived.host.named_modules()}
    for original, own, where in revived.adapter.originals().values():
        for module, name in where[:1]:
            yield names[id(module)], name, original, own
    if not revived.adapter.method.mergeable(revived.adapter.cfg):
        return
    adapters.merge()
    try:
        for where, original in adapters.merged:
            for module, name in where[:1]:
                yield names[id(module)], name, original, getattr(module, name)
    finally:
        adapters.unmerge()


def _slice(tensor: Tensor, site: Site, name: str) -> Tensor:
    """The part of a module's tensor that belongs to the site's role."""
    if site.rows is None or name not in ("weight", "bias"):
        return tensor
    out = 1 if site.kind == "conv1d" and name == "weight" else 0
    return tensor.narrow(out, site.rows[0], site.rows[1] - site.rows[0])


@torch.no_grad()
def activations(revived: Revived, rows: int) -> dict[tuple[int, str], float]:
    """(depth, role) -> mean |dh| / |h| over the real tokens of test rows."""
    adapters = adapters_of(revived.host)
    sites = [s for s in adapters.sites if s.role in WATCHED]
    total: dict[tuple[int, str], list[Tensor]] = {}
    for batch in (b.to(device()) for b in saved.some_test_rows(revived, rows).batches):
        with adapters.only():
            base = _outputs(revived, batch, sites)
        for key, after in _outputs(revived, batch, sites, base).items():
            before, mask = base[key], batch.inputs.get("attention_mask")
            change = (after - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-12)  # (batch, tokens)
            total.setdefault(key, []).append(change.flatten() if mask is None else change[mask.bool()])
    return {key: float(torch.cat(found).mean()) for key, found in total.items()}


def _outputs(
    revived: Revived, batch: Batch, sites: Sequence[Site], like: dict[tuple[int, str], Tensor] | None = None
) -> dict[tuple[int, str], Tensor]:
    """(depth, role) -> output (batch, tokens, d) in fp32; virtual tokens are left out so that shapes are those of `like`."""
    adapters, found = adapters_of(revived.host), {}

    def watch(site: Site) -> Any:
        def keep(_module: nn.Module, _args: tuple, out: Any) -> None:
            h = first(out).float()
            if like is not None and h.shape != like[site.depth, site.role].shape:
                at = adapters.ctx["positions"]  # moved behind the virtual tokens by the kernel
                h = h.gather(1, at[..., None].expand(-1, -1, h.shape[-1]))
            found[site.depth, site.role] = h

        return keep

    inserted = any(isinstance(p, TokenPart) and p.where == "input" for _, p in revived.adapter.named_parts())
    with ExitStack() as stack:
        for site in sites:
            stack.callback(revived.host.get_submodule(site.path).register_forward_hook(watch(site)).remove)
        if like is not None and inserted:
            size, tokens = next(iter(like.values())).shape[:2]
            batch = Batch(batch.inputs, {**batch.facts, "positions": _numbers(size, tokens)}, batch.targets, batch.examples)
        evaluation.forward(revived.host, batch)
    return found


def _numbers(rows: int, tokens: int) -> Tensor:
    """The number of every token of every row; what the kernel makes of it says where the token went."""
    return torch.arange(tokens, device=device()).expand(rows, tokens)


def _figures(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    figures, series = {}, []
    for run in runs:
        mine = [r for r in rows if r["run_id"] == run.reference]
        if heat := [r for r in mine if r["kind"] == "weight"]:
            figures[f"weight:{run.name}"] = _heat(run, heat)
        blocks = sorted((r["depth"], r["value"]) for r in mine if r["kind"] == "activation" and r["role"] == "block.out")
        series.append({"name": run.name, "x": [d for d, _ in blocks], "y": [v for _, v in blocks]})
    title = "How far the outputs of the blocks moved on test rows"
    return {**figures, "activation": chart("lines", title, "block", "mean |dh| / |h|", series)}


def _heat(run: Run, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    depths, roles = sorted({r["depth"] for r in rows}), sorted({r["role"] for r in rows})
    value = {(r["depth"], r["role"]): r["value"] for r in rows}
    cells = [[value.get((d, role)) for d in depths] for role in roles]
    facts = {"columns": depths, "rows": roles, "values": cells, "value": "|dW| / |W|"}
    return {"type": "heat", "title": f"Where {run.name} moved the weights", "x": "block", "y": "role", **facts}


def _sentence(run: Run, rows: Sequence[dict[str, Any]]) -> str:
    said = []
    for kind, what in (("weight", "weights"), ("activation", "outputs")):
        mine = [r for r in rows if r["kind"] == kind and r["value"]]
        if mine:
            top = max(mine, key=lambda r: r["value"])
            place = f"block {top['depth']}" if top["depth"] >= 0 else "no block"
            said.append(f"its {what} moved most at {top['role']} of {place}, by {top['value']:.1%}")
    return f"{run.name}: {'; '.join(said)}." if said else f"{run.name} did not move the base."
