"""Memory and seconds of one training, from what the method touches and the machine it runs on."""

import math
from dataclasses import replace
from typing import Any

from workbench.core.spec import TrainingSpec
from workbench.kernel.host import Adapters
from workbench.plan import cost, counting
from workbench.plan.probe import gemm_flops
from workbench.plan.values import Machine, Plan, Workload

UTILISATION = {("cpu", "fp32"): 0.67, ("cpu", "bf16"): 0.72, ("cuda", "fp32"): 0.35, ("cuda", "bf16"): 0.25}
"""Share of the bare matrix speed that the matrix products of a step reach [processor: measured, CUDA: estimated]."""
NUMBER = {"cpu": 1250, "cuda": 0}
"""What a number costs that is dropped, passes through a part, is a logit or trains, in fp32 operations [measured]."""
BLOCK_SECONDS = {"cpu": 1.4e-3, "cuda": 6e-4}
"""Fixed cost of one block in one step (calls, small operations); bounds tiny models [processor: measured]."""
FIRST_STEP = {"cpu": 0.2, "cuda": 0.0}
"""Seconds by which the first step of a process is longer [processor: measured]."""
CPU_FLOOR = 35_000_000
"""What the first training step adds to a process besides tensors: code pages and buffers of the matrix library [measured]."""
CPU_PAGES = 0.8
"""Share of the weights' file that becomes resident only while the base model is first used [measured]."""
BF16_COPIES = 0.95
"""What autocast and the matrix library hold of the blocks' weights in other forms, as a share of their fp32 bytes [measured]."""
SLACK = 1.15
"""Fragmentation and short-lived copies on top of the tensors that are kept [measured]."""
WIDTH = {"fp32": 4, "bf16": 3}
"""Mean bytes of a kept number: autocast keeps norms and softmax in fp32."""
PASSING = 0.75
"""Share of the widest block's outputs that are alive at once in a pass that keeps nothing [measured]."""
LOGITS_TRAINED, LOGITS_JUDGED = 2, 5
"""Copies of the logits that training and judging hold at once: themselves, in fp32, their softmax ... [measured]."""


def steps_per_epoch(training: TrainingSpec, work: Workload) -> int:
    """Optimizer steps of one pass over the training rows."""
    return math.ceil(math.ceil(work.rows / training.batch_size) / training.gradient_accumulation)


def _steps(training: TrainingSpec, work: Workload) -> int:
    steps = max(1, round(steps_per_epoch(training, work) * training.epochs))
    return min(steps, training.max_steps) if training.max_steps else steps


def memory(
    adapters: Adapters, plan: Plan, reach: cost.Reach, training: TrainingSpec, work: Workload, machine: Machine
) -> dict[str, int]:
    """Bytes at the peak by what holds them.

    On CUDA everything that is allocated, the model included; on a processor what the process grows by once the model and
    the adapter are loaded, as the runs measure it.
    """
    host, on_cpu = adapters.host, machine.device == "cpu"
    trains, weights = plan.peak_trainable_params + plan.head_params, counting.weight_bytes(host)
    found = {
        "weights": int(CPU_PAGES * weights) if on_cpu else weights,
        "adapter": 0 if on_cpu else plan.peak_trainable_params * cost.FULL_BYTES,
        "gradients": trains * cost.FULL_BYTES,
        "optimizer": trains * cost.ADAM_BYTES,
        "activations": int(_activations(adapters, reach, training, work, machine)),
    }
    slack = (SLACK - 1) * (found["gradients"] + found["optimizer"] + found["activations"])
    copies = BF16_COPIES * cost.FULL_BYTES * cost.matrix_size(adapters.sites) if machine.precision == "bf16" else 0
    return {**found, "overhead": int(slack + (CPU_FLOOR + copies) * on_cpu)}


def _activations(adapters: Adapters, reach: cost.Reach, training: TrainingSpec, work: Workload, machine: Machine) -> float:
    """Bytes of a training step on the longest examples, or of judging a batch twice as large: whichever is more."""
    config, on_cpu = adapters.host.config, machine.device == "cpu"
    longest = work.longest + reach.virtual
    drops = on_cpu and bool(_rate(config, ATTENTION_DROPOUT))  # then attention is not fused, and keeps its scores
    masks = (1.0 if on_cpu else 0.25) if _rate(config, HIDDEN_DROPOUT) else 0.0
    kept = cost.kept_floats(adapters.sites, reach, masks, 3 * _heads(config) * longest * drops)
    trained = kept * WIDTH[machine.precision] + _passing(adapters, longest, (4 if drops else 1) * on_cpu, LOGITS_TRAINED)
    judged = _passing(adapters, longest, on_cpu, LOGITS_JUDGED)
    batch = training.batch_size
    return longest * max(min(batch, work.rows) * trained, min(2 * batch, work.judged) * judged)


def seconds(
    adapters: Adapters, plan: Plan, reach: cost.Reach, training: TrainingSpec, work: Workload, machine: Machine
) -> tuple[int, float]:
    """(optimizer steps, seconds of all of them); no steps where nothing trains."""
    trains = plan.peak_trainable_params + plan.head_params
    if not trains:
        return 0, 0.0
    config, sites, length = adapters.host.config, adapters.sites, work.tokens + reach.virtual
    steps = _steps(training, work)
    positions = min(training.batch_size, work.rows) * training.gradient_accumulation * length
    logits = _output_width(adapters)
    operations = _forward(adapters, length) + cost.backward_flops(sites, reach, length)
    operations += 0.0 if reach.lowest is None else 2.0 * logits * cost.width(sites)
    scores = _heads(config) * length if _rate(config, ATTENTION_DROPOUT) else 0.0
    numbers = cost.dropped_floats(sites, bool(_rate(config, HIDDEN_DROPOUT)), scores) + reach.numbers + logits
    products = positions * operations / (gemm_flops(machine) * UTILISATION[machine.device, machine.precision])
    others = (positions * numbers + trains) * NUMBER[machine.device] / gemm_flops(replace(machine, precision="fp32"))
    fixed = adapters.n_blocks * training.gradient_accumulation * BLOCK_SECONDS[machine.device]
    return steps, round(steps * (products + others + fixed) + FIRST_STEP[machine.device], 3)


def _passing(adapters: Adapters, longest: int, scores: int, logits: int) -> float:
    """Bytes per position alive at once in a pass that keeps nothing.

    Args:
        adapters: of the model.
        longest: positions of the longest example.
        scores: copies of the attention's scores that are held.
        logits: copies of the output layer's numbers that are held.
    """
    wide = cost.passing_floats(adapters.sites) + scores * _heads(adapters.host.config) * longest
    return 4 * (PASSING * wide + logits * _output_width(adapters))


def _forward(adapters: Adapters, length: float) -> float:
    """Operations per position of one forward pass, the output layer's included."""
    sites = adapters.sites
    own = cost.forward_flops(sites) + cost.attention_flops(sites, length)
    return own + 2.0 * _output_width(adapters) * cost.width(sites)


def beside(adapters: Adapters, training: TrainingSpec, work: Workload, machine: Machine, steps: int) -> tuple[int, float]:
    """(bytes, seconds) that a further, frozen model adds: its forward pass on every training batch, which keeps nothing.

    Its weights count where `memory` counts those of the base: all of them on CUDA, the pages touched at first use on a processor.
    """
    on_cpu, longest, weights = machine.device == "cpu", work.longest, counting.weight_bytes(adapters.host)
    batch = min(training.batch_size, work.rows)
    held = int(CPU_PAGES * weights if on_cpu else weights)
    held += int(batch * longest * _passing(adapters, longest, on_cpu, LOGITS_TRAINED))
    accumulated = training.gradient_accumulation
    return held, steps * _looking(adapters, batch * accumulated, accumulated, work, machine)


def judging(adapters: Adapters, times: int, training: TrainingSpec, work: Workload, machine: Machine) -> float:
    """Seconds in which a recipe judges the validation rows so many times after training."""
    if not times:
        return 0.0
    return times * _looking(adapters, work.judged, math.ceil(work.judged / (2 * training.batch_size)), work, machine)


def _looking(adapters: Adapters, rows: int, batches: int, work: Workload, machine: Machine) -> float:
    """Seconds of forward passes that keep nothing."""
    operations = rows * work.tokens * _forward(adapters, work.tokens)
    products = operations / (gemm_flops(machine) * UTILISATION[machine.device, machine.precision])
    return products + batches * adapters.n_blocks * BLOCK_SECONDS[machine.device] / 3  # forward, no backward


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
