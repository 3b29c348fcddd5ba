"""Latency: seconds of one forward pass by batch size: the base, the adapter beside it, and the adapter merged into it.

    ratio = median over rounds of seconds(variant) / seconds(base),  every round timed in turns: base, unmerged, merged

The merged model is what a `merged` export holds: the plain base class with the changed weights, nothing attached. Inputs are
drawn and all of one length, in fp32, on the card if there is one. The interval is over rounds of this one run on this machine.
"""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.analyses.contract import Result, Run, analysis, chart, device, table
from workbench.core.errors import WorkbenchError
from workbench.evaluate import evaluation, saved
from workbench.evaluate import latency as timing
from workbench.kernel.host import adapters_of
from workbench.tasks import Batch, Task

COLUMNS = ("run_id", "label", "seed", "batch_size", "variant", "seconds", "ratio", "ci_low", "ci_high", "rounds")
VARIANTS = ("base", "unmerged", "merged")
BatchSize = Annotated[int, Field(ge=1, le=1024)]


@analysis(least=1, timed=True)
def latency(
    runs: list[Run],
    *,
    batch_sizes: Annotated[tuple[BatchSize, ...], Field(min_length=1, max_length=8, description="Rows of a batch.")] = (1, 8, 32),
    rounds: Annotated[int, Field(ge=30, le=1000, description="How often each variant is timed, in turns.")] = 30,
    tokens: Annotated[
        int | None, Field(ge=1, le=4096, description="Length of every text in tokens; empty = the run's max_length.")
    ] = None,
) -> Result:
    """See the module's docstring.

    Raises:
        WorkbenchError: the base of a run is gone, or it does not take that many tokens.
    """
    rows: list[dict[str, Any]] = []
    sentences: list[str] = []
    for run in runs:
        task, models, reason = variants(run)
        length = min(tokens or task.max_length, task.max_length)
        found = [r for size in batch_sizes for r in _timed(run, models, inputs(models["base"], size, length), rounds)]
        rows += found
        sentences.append(_sentence(run, found, reason))
    figures = {"latency": _lines(runs, rows), "ratio": _bars(runs, rows, batch_sizes[0])}
    return Result({"latency": table(rows, COLUMNS)}, figures, sentences, _per_run(rows, batch_sizes[0]))


def variants(run: Run) -> tuple[Task, dict[str, nn.Module], str]:
    """The task, the models by variant in eval mode, and why there is no merged one (empty if there is).

    The three share the tensors that are equal, so that they take little more memory than one.
    """
    revived = saved.revive(run.stored, run.adapter, device=device())
    host, adapters = revived.host, adapters_of(revived.host)
    with adapters.only():
        models = {"base": _plain(revived.task, host), "unmerged": host}
    try:
        adapters.merge()
    except WorkbenchError as error:
        return revived.task, models, str(error)
    models["merged"] = _plain(revived.task, host)
    adapters.unmerge()
    return revived.task, models, ""


def _plain(task: Task, host: nn.Module) -> nn.Module:
    """The same class with the tensors that stand in the host now, and nothing attached."""
    model = task.host(0)
    model.load_state_dict({n: t for n, t in host.state_dict().items() if not n.startswith("workbench.")}, assign=True)
    return model.float().to(device()).requires_grad_(False).eval()


def inputs(host: nn.Module, rows: int, tokens: int) -> Batch:
    """A batch of drawn rows, all of the same length: token ids, or noise as images."""
    gen, config = torch.Generator().manual_seed(0), host.config
    nothing: Any = torch.zeros(0)
    if getattr(config, "image_size", None):
        shape = (rows, config.num_channels, config.image_size, config.image_size)
        return Batch({"pixel_values": torch.randn(*shape, generator=gen)}, {}, nothing, ()).to(device())
    ids = torch.randint(1, config.get_text_config().vocab_size, (rows, tokens), generator=gen)
    pad: int = getattr(config, "pad_token_id", None) or 0
    ids[ids == pad] = pad + 1 if pad + 1 < config.get_text_config().vocab_size else pad - 1
    positions = torch.tensor([[0, tokens]]).expand(rows, 2)
    given: dict[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(given, {"positions": positions}, nothing, ()).to(device())


@torch.inference_mode()
def _timed(run: Run, models: dict[str, nn.Module], batch: Batch, rounds: int) -> list[dict[str, Any]]:
    """One row per variant for one batch."""
    size = len(next(iter(batch.inputs.values())))

    def call(model: nn.Module) -> Callable[[], object]:
        return lambda: evaluation.forward(model, batch)

    seconds = timing.in_turns({name: call(model) for name, model in models.items()}, rounds, device())
    rows = []
    for name, found in seconds.items():
        against = (None, None, None) if name == "base" else timing.ratio(found, seconds["base"])
        facts = dict(zip(("ratio", "ci_low", "ci_high"), against, strict=True))
        rows.append(
            {**run.keys, "batch_size": size, "variant": name, "seconds": float(np.median(found)), "rounds": rounds} | facts
        )
    return rows


def _of(rows: list[dict[str, Any]], run: Run, variant: str) -> list[dict[str, Any]]:
    return [r for r in rows if r["run_id"] == run.reference and r["variant"] == variant]


def _lines(runs: list[Run], rows: list[dict[str, Any]]) -> dict[str, Any]:
    series = []
    for run in runs:
        for variant in VARIANTS:
            if mine := _of(rows, run, variant):
                values = {"x": [r["batch_size"] for r in mine], "y": [r["seconds"] for r in mine]}
                series.append({"name": f"{run.name} {variant}", **values})
    return chart("lines", "Latency, median of rounds", "rows in the batch", "seconds per batch", series, log_x=True, log_y=True)


def _bars(runs: list[Run], rows: list[dict[str, Any]], size: int) -> dict[str, Any]:
    series = []
    for variant in VARIANTS[1:]:
        mine = [(run.name, r) for run in runs for r in _of(rows, run, variant) if r["batch_size"] == size]
        values = {key: [r[name] for _, r in mine] for key, name in (("y", "ratio"), ("low", "ci_low"), ("high", "ci_high"))}
        series.append({"name": variant, "x": [name for name, _ in mine], **values})
    title = f"Latency against the base, batch of {size}, 95 % interval over rounds"
    return chart("bars", title, "run", "times the base's", series, 1.0)


def _per_run(rows: list[dict[str, Any]], size: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["batch_size"] == size:
            found.setdefault(row["run_id"], {f"latency_{v}": None for v in VARIANTS})[f"latency_{row['variant']}"] = row[
                "seconds"
            ]
    return found


def _sentence(run: Run, rows: list[dict[str, Any]], reason: str) -> str:
    said = []
    for variant in VARIANTS[1:]:
        for row in _of(rows, run, variant)[:1]:
            same = row["ci_low"] <= 1 <= row["ci_high"]
            word = "as fast as the base within noise" if same else "slower" if row["ratio"] > 1 else "faster"
            span = f"{row['ci_low']:.2f} to {row['ci_high']:.2f}"
            said.append(f"{variant} takes {row['ratio']:.2f} times the base's time ({span}: {word})")
    text = f"{run.name}, batch of {rows[0]['batch_size']}: {'; '.join(said)}"
    return f"{text}; {reason}" if reason else f"{text}."
