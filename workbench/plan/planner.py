"""One method on one base: sites, scalars, bytes, seconds and what stands in the way. Nothing is allocated."""

import math
from typing import Any

from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.core.spec import TrainingSpec
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.contract import Method, SidePart
from workbench.kernel.host import Adapters, adapters_of
from workbench.plan import cost, counting
from workbench.plan.probe import gemm_flops
from workbench.plan.values import Entry, Machine, Plan, Workload

UTILISATION = {("cpu", "fp32"): 0.58, ("cpu", "bf16"): 0.40, ("cuda", "fp32"): 0.35, ("cuda", "bf16"): 0.25}
"""Share of the bare matrix speed that a whole step reaches."""
BLOCK_SECONDS = {"cpu": 4e-4, "cuda": 6e-4}
"""Fixed cost of one block in one step (launches, small operations); bounds tiny models."""
CPU_FLOOR = 80_000_000
"""What the first training step adds to a process besides tensors: code pages and buffers of the matrix library."""
SLACK = 1.15
"""Fragmentation and short-lived copies on top of the tensors that are kept."""
WIDTH = {"fp32": 4, "bf16": 3}
"""Mean bytes of a kept number: autocast keeps norms and softmax in fp32."""
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
    adapters = adapters_of(host, head)
    known = {"head_params": counting.head_size(host, head), "base_params": counting.base_size(host, head)}
    method = registry.methods()[entry.key]
    try:
        sites = tuple(counting.matched(adapters, entry))
        problems = _problems(adapters, method, entry, list(sites), work)
        base = counting.trained_base(adapters, method, entry.cfg, list(sites))
        if method.kind == "select":  # its sites are those where something trains
            sites = tuple(s for s in sites if any(path.rpartition(".")[0] == s.path for path in base))
        counted = _counted(adapters, method, entry, list(sites), base)
    except WorkbenchError as error:
        return Plan(problems=(str(error),), **known)
    plan = Plan(sites=sites, problems=tuple(problems), **known, **counted)
    if problems:
        return plan
    reach = _reach(adapters, method, entry, sites, base)
    figures = {
        "peak_memory_bytes": _memory(adapters, plan, reach, training, work, machine),
        "train_seconds": _seconds(adapters, plan, reach, training, work, machine),
    }
    return Plan(sites=sites, **known, **counted, **figures)


def _problems(adapters: Adapters, method: type[Method], entry: Entry, sites: list[Site], work: Workload) -> list[str]:
    needed = {n for cls in (method, *(c for c, _ in registry.part_classes(method, entry.cfg))) for n in cls.needs}
    found = [
        f"{entry.key} needs {key!r} from every batch, which this task does not provide; choose another task or method."
        for key in sorted(needed - set(work.provides))
    ]
    rank, narrow = getattr(entry.cfg, "rank", None), min((min(s.shape) for s in sites), default=0)
    if isinstance(rank, int) and rank > narrow:
        found.append(
            f"rank of {entry.key} must be at most {narrow}, the narrowest side of its sites on this base model; got {rank}."
        )
    recipe, cfg = entry.recipe
    chosen = counting.trained_base(adapters, method, entry.cfg, sites)
    return found + [p for p in (method.problem(entry.cfg, sites), recipe.problem(cfg, entry.key, bool(chosen))) if p]


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


def _reach(
    adapters: Adapters, method: type[Method], entry: Entry, sites: tuple[Site, ...], base: dict[str, nn.Parameter]
) -> cost.Reach:
    """How far the backward pass goes: down to the lowest block that is edited or has a tensor that trains."""
    parts = [cls for cls, _ in registry.part_classes(method, entry.cfg)]
    beside = bool(parts) and all(issubclass(cls, SidePart) for cls in parts)
    owners = {path.rpartition(".")[0] for path in base}
    carried = () if beside or method.kind == "select" else sites
    touched = [s for s in adapters.sites if s.path in owners] + list(carried)
    lowest = min((s.depth for s in touched if s.role not in ABOVE), default=None)
    trained = frozenset(path.rpartition(".")[0] for path, p in base.items() if p.dim() > 1)
    taps = tuple(s.d_out for s in adapters.sites if beside and s.role in {cls.reads for cls in parts})  # type: ignore[attr-defined]
    return cost.Reach(lowest, trained, tuple(s for s in carried if s.role not in ("model.in", *ABOVE)), taps)


def _steps(training: TrainingSpec, work: Workload) -> int:
    per_epoch = math.ceil(math.ceil(work.rows / training.batch_size) / training.gradient_accumulation)
    steps = max(1, round(per_epoch * training.epochs))
    return min(steps, training.max_steps) if training.max_steps else steps


def _memory(adapters: Adapters, plan: Plan, reach: cost.Reach, training: TrainingSpec, work: Workload, machine: Machine) -> int:
    config, on_cpu = adapters.host.config, machine.device == "cpu"
    trains = plan.peak_trainable_params + plan.head_params
    positions = min(training.batch_size, work.rows) * work.longest
    dropped, heads = _rate(config, HIDDEN_DROPOUT), _heads(config)
    copies = (3 if _rate(config, ATTENTION_DROPOUT) else 0) if on_cpu else 0  # fused attention keeps no scores
    dropout = (1.0 if on_cpu else 0.25) if dropped else 0.0
    kept = cost.activation_floats(adapters.sites, reach, dropout, copies * heads * work.longest) * WIDTH[machine.precision]
    passing = (cost.passing_floats(adapters.sites) + 2 * heads * work.longest * on_cpu) * 4
    outputs = _output_width(adapters) * 4 * 3  # logits, their softmax and its gradient
    tensors = trains * (cost.FULL_BYTES + cost.ADAM_BYTES) + positions * (kept + passing + outputs)
    if on_cpu:
        return int(CPU_FLOOR + SLACK * tensors)
    return int(_weight_bytes(adapters.host) + plan.peak_trainable_params * cost.FULL_BYTES + SLACK * tensors)


def _seconds(
    adapters: Adapters, plan: Plan, reach: cost.Reach, training: TrainingSpec, work: Workload, machine: Machine
) -> float:
    sites = adapters.sites
    forward = cost.forward_flops(sites) + cost.attention_flops(sites, work.tokens)
    token = forward + cost.backward_flops(sites, reach, work.tokens) + 6.0 * plan.new_params
    steps = _steps(training, work)
    examples = min(training.batch_size, work.rows) * training.gradient_accumulation
    blocks = adapters.n_blocks * training.gradient_accumulation
    step = examples * work.tokens * token / (gemm_flops(machine) * UTILISATION[machine.device, machine.precision])
    return round(steps * (step + blocks * BLOCK_SECONDS[machine.device]), 3)


HIDDEN_DROPOUT = ("hidden_dropout_prob", "dropout", "resid_pdrop")
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


def _rate(config: Any, names: tuple[str, ...]) -> float:
    return next((float(getattr(config, n)) for n in names if isinstance(getattr(config, n, None), float | int)), 0.0)


def _heads(config: Any) -> int:
    return int(next((getattr(config, n) for n in ("num_attention_heads", "n_heads", "n_head") if getattr(config, n, None)), 1))


def _output_width(adapters: Adapters) -> int:
    """Numbers per position that a language model's output layer makes; 0 where one label is predicted per example."""
    found = getattr(adapters.host, "get_output_embeddings", lambda: None)()
    return 0 if found is None else int(found.weight.shape[0])


def _weight_bytes(host: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for n, p in host.named_parameters() if not n.startswith("workbench."))
