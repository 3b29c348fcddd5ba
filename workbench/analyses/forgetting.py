"""Forgetting: how much worse the adapted base has become at what it was pretrained on.

    language models   forgetting = NLL(base + adapter) - NLL(base)           nats per token, own shifted cross-entropy
    other bases       forgetting = mean_t |h'_t - h_t| / |h_t|               h, h': last hidden states before and after

The text is held out: source code (language models) or comments (encoders) of standard-library modules that the bundled bases and
data sets do not hold; image models get drawn pictures. The base is measured before anything was ever attached to it. Without its
language-model head a base has no perplexity, so there the drift of its representation is shown, with mean cosine and linear CKA.
Intervals are over texts: they say how sure the figure of this one run is, not how runs with other seeds would differ.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from workbench import backbones
from workbench.analyses.contract import Result, Run, analysis, chart, device, same_base, table
from workbench.core.errors import WorkbenchError
from workbench.data import Table, held_out
from workbench.evaluate import evaluation
from workbench.kernel.attach import first
from workbench.kernel.host import adapters_of
from workbench.tasks import Task

COLUMNS = (
    "run_id", "label", "seed", "kind", "forgetting", "ci_low", "ci_high", "base_nll", "nll", "base_perplexity", "perplexity",
    "relative_l2", "cosine", "cka", "rows",
)  # fmt: skip
CHARACTERS_PER_TOKEN = 8
"""Pieces of code are this much longer than the tokens asked for, so that nearly every one is cut and none ends early."""
RESAMPLES = 2000


@analysis(least=1)
def forgetting(
    runs: list[Run],
    *,
    texts: Annotated[int, Field(ge=4, le=2000, description="Held-out texts or pictures to look at.")] = 64,
    tokens: Annotated[
        int, Field(ge=8, le=4096, description="Longest text in tokens; never above the runs' own max_length.")
    ] = 128,
    batch_size: Annotated[int, Field(ge=1, le=256, description="Texts per forward pass.")] = 8,
) -> Result:
    """See the module's docstring.

    Raises:
        WorkbenchError: the base of a run is gone, or its task has neither text nor images.
    """
    rows: dict[str, dict[str, Any]] = {}
    for group in same_base(runs):
        longest = min([tokens, *(run.meta["max_length"] for run in group)])
        task, host = group[0].base(device(), longest)
        table_of, measure = (_code, _nll) if _speaks(task, host) else (_inputs, _hidden)
        examples = task.examples(table_of(task, texts, longest))
        before = measure(task, host, examples, batch_size)
        for run in group:
            run.attach(task, host)
            after = measure(task, host, examples, batch_size)
            adapters_of(host).release()
            rows[run.reference] = {**run.keys, "rows": len(examples), **_compared(before, after)}
    found = [rows[run.reference] for run in runs]
    per_run = {r["run_id"]: {"forgetting": r["forgetting"], "forgetting_kind": r["kind"]} for r in found}
    return Result({"runs": table(found, COLUMNS)}, _figures(runs, rows), [_sentence(r) for r in found], per_run)


def _speaks(task: Task, host: nn.Module) -> bool:
    """Whether the host goes on with a text, with the language-model head it was pretrained with."""
    if getattr(host.config, "is_encoder_decoder", False):
        return False
    return not task.has_labels and getattr(host, "get_output_embeddings", lambda: None)() is not None


def _code(task: Task, count: int, tokens: int) -> Table:
    found = held_out.texts("code", count, CHARACTERS_PER_TOKEN * tokens)
    return Table(tuple(range(len(found))), {"text": found})


def _inputs(task: Task, count: int, tokens: int) -> Table:
    parts = task.parts[0]
    if "image" in parts:
        found: list[Any] = held_out.pictures(count)
    elif "text" in parts:
        found = held_out.texts("prose", count, CHARACTERS_PER_TOKEN * tokens)
    else:
        raise WorkbenchError(f"forgetting looks at tasks on text or images; this one reads {', '.join(parts)}.")
    return Table(tuple(range(len(found))), {"image" if "image" in parts else "text": found})


def _nll(task: Task, host: nn.Module, examples: Sequence[Any], batch_size: int) -> np.ndarray:
    """(rows, 2): summed cross-entropy and number of next tokens of each text."""
    said, _ = evaluation.evaluate(task, host, examples, batch_size, device())
    return np.array([(p.loss * p.weight, p.weight) for p in said])


@torch.no_grad()
def _hidden(task: Task, host: nn.Module, examples: Sequence[Any], batch_size: int) -> list[Tensor]:
    """Last hidden states of the real tokens of each row, (tokens, d) in fp32 on the CPU, virtual tokens left out."""
    kept: list[Tensor] = []
    found: list[Tensor] = []
    watched = host.get_submodule(backbones.of(host).inner_path(host))
    hook = watched.register_forward_hook(lambda _module, _args, out: kept.append(first(out).float().cpu()))
    try:
        for start in range(0, len(examples), batch_size):
            batch = task.batch(examples[start : start + batch_size]).to(device())
            kept.clear()
            evaluation.forward(host, batch)
            mask = batch.inputs.get("attention_mask")
            if mask is None:
                found += list(kept[0])
            else:  # encoders keep virtual tokens in front of the text
                found += [h[-mask.shape[1] :][m.bool().cpu()] for h, m in zip(kept[0], mask, strict=True)]
    finally:
        hook.remove()
    return found


def _compared(before: Any, after: Any) -> dict[str, Any]:
    return _worse(before, after) if isinstance(before, np.ndarray) else _drift(before, after)


def _worse(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Figures of a language model from the (rows, 2) of base and adapted model."""
    total = before[:, 1].sum()
    base, adapted = before[:, 0].sum() / total, after[:, 0].sum() / total

    def mean(difference: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray:
        return difference.sum(axis) / count.sum(axis)

    low, high = _interval((after[:, 0] - before[:, 0], before[:, 1]), mean)
    figures = {"base_nll": base, "nll": adapted, "base_perplexity": float(np.exp(base)), "perplexity": float(np.exp(adapted))}
    return {"kind": "nll", "forgetting": float(adapted - base), "ci_low": low, "ci_high": high, **figures}


def _drift(before: Sequence[Tensor], after: Sequence[Tensor]) -> dict[str, Any]:
    """Figures of an encoder from each row's hidden states (tokens, d) of base and adapted model."""
    per_row = [((b - a).norm(dim=1) / b.norm(dim=1).clamp(min=1e-12)).mean().item() for a, b in zip(after, before, strict=True)]
    low, high = _interval((np.array(per_row),), np.mean)
    a, b = torch.cat(list(after)), torch.cat(list(before))
    cosine = nn.functional.cosine_similarity(a, b).mean().item()
    figures = {"relative_l2": float(np.mean(per_row)), "cosine": cosine, "cka": cka(a, b)}
    return {"kind": "drift", "forgetting": figures["relative_l2"], "ci_low": low, "ci_high": high, **figures}


def cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment of two representations (n, d_a) and (n, d_b): 1 = equal up to rotation and scale.

    |B^T A|_F^2 / (|A^T A|_F |B^T B|_F) of the centred matrices (Kornblith et al., 2019, https://arxiv.org/abs/1905.00414).
    """
    a, b = (m.double() - m.double().mean(0) for m in (a, b))
    return float((b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()).clamp(min=1e-30))


def _interval(samples: tuple[np.ndarray, ...], statistic: Callable[..., Any]) -> tuple[float, float]:
    """95 % bootstrap interval over texts."""
    from scipy import stats

    found = stats.bootstrap(
        samples, statistic, paired=len(samples) > 1, vectorized=True, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _figures(runs: Sequence[Run], rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One figure for each kind there is: nats and distances never share an axis."""
    figures = {}
    for kind, axis in (
        ("nll", "loss on held-out text, nats per token above the base"),
        ("drift", "relative change of the output"),
    ):
        mine = [(run.name, rows[run.reference]) for run in runs if rows[run.reference]["kind"] == kind]
        if mine:
            names, found = zip(*mine, strict=True)
            values = {k: [r[key] for r in found] for k, key in (("y", "forgetting"), ("low", "ci_low"), ("high", "ci_high"))}
            series = [{"name": axis, "x": list(names), **values}]
            title = "Forgetting" if kind == "nll" else "Representation drift"
            figures[kind] = chart("bars", f"{title}, 95 % interval over texts", "run", axis, series, 0.0)
    return figures


def _sentence(row: dict[str, Any]) -> str:
    who = row["label"] if row["seed"] is None else f"{row['label']} (seed {row['seed']})"
    if row["kind"] == "drift":
        return (
            f"{who}: the last hidden states moved by {row['relative_l2']:.1%} of their length on held-out inputs "
            f"(representation drift; cosine {row['cosine']:.3f}, CKA {row['cka']:.3f})."
        )
    change = row["forgetting"]
    word = "cannot be told from the base" if row["ci_low"] <= 0 <= row["ci_high"] else "worse" if change > 0 else "better"
    return (
        f"{who}: perplexity on held-out text {row['perplexity']:.2f}, the base's {row['base_perplexity']:.2f} "
        f"({change:+.3f} nats per token, {row['ci_low']:+.3f} to {row['ci_high']:+.3f}: {word})."
    )
