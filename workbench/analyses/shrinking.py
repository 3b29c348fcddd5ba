"""Shrinking: how good a model is on its own rows and on shifted ones when its adapter counts only in part.

    W' = W + a dW      a from 0, the base, to 1, the adapter as trained; the task's head stays as trained

Between the two the model is an ensemble of both in weight space, which often does better on shifted data than either; an average
over time, as `r_adapter` keeps it, helps further. Shifted rows are the same rows with noise, blurred and inverted (images) or
mistyped (text), see `data/shifts.py`. For every method that can be merged; with `full` it interpolates between the base and the
fine-tuned model (WiSE-FT). A factor that is to be used should be chosen on validation rows.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field

from workbench.analyses.contract import Result, Run, analysis, chart, device, table
from workbench.core.errors import WorkbenchError
from workbench.data import Table, check_unchanged, load_table, shifts
from workbench.evaluate import evaluation, saved
from workbench.evaluate.saved import Revived
from workbench.kernel.host import adapters_of
from workbench.tasks import Task

COLUMNS = ("run_id", "label", "seed", "factor", "rows", "metric", "value", "n")
Factor = Annotated[float, Field(ge=0, le=2)]
Split = Literal["test", "validation"]


@analysis(least=1)
def shrinking(
    runs: list[Run],
    *,
    factors: Annotated[
        tuple[Factor, ...], Field(min_length=2, max_length=21, description="Factors a on the adapter; 0 is the base.")
    ] = (0.0, 0.25, 0.5, 0.75, 1.0),
    severity: Annotated[float, Field(gt=0, le=1, description="How strongly rows are shifted.")] = 0.3,
    split: Annotated[Split, Field(description="Rows to look at; choose a factor on validation rows.")] = "test",
    rows: Annotated[int, Field(ge=8, le=100_000, description="At most so many of them, evenly spread.")] = 256,
    batch_size: Annotated[int, Field(ge=1, le=1024, description="Rows per forward pass.")] = 32,
) -> Result:
    """See the module's docstring.

    Raises:
        WorkbenchError: an adapter that cannot be merged, a run whose data is gone, or rows that cannot be shifted.
    """
    found: list[dict[str, Any]] = []
    sentences: list[str] = []
    for run in runs:
        revived = saved.revive(run.stored, run.adapter, device=device())
        _linear(revived)
        mine = _judged(revived, _tables(revived, split, rows, severity), sorted(set(factors)), batch_size)
        found += [{**run.keys, **row} for row in mine]
        sentences.append(_sentence(run, mine, split, type(revived.task)))
    if split == "test":
        sentences.append("This was read off test rows: to choose a factor that is then reported, look at validation rows.")
    return Result({"shrinking": table(found, COLUMNS)}, {"shrinking": _lines(runs, found, split)}, sentences)


def _linear(revived: Revived) -> None:
    """Raise unless the adapter is a change of weights."""
    method = revived.adapter.method
    if not method.mergeable(revived.adapter.cfg):
        reason = method.not_mergeable or "not in this configuration"
        raise WorkbenchError(f"shrinking needs a method that can be merged; {revived.adapter.key} cannot: {reason}.")


def _tables(revived: Revived, split: Split, count: int, severity: float) -> dict[str, Table]:
    """The split's own rows under its name, and each shift of them."""
    spec = saved.spec_of(revived.folder, revived.meta)
    if spec is None:
        raise WorkbenchError("shrinking needs the rows of the run; there is no run of this adapter here.")
    check_unchanged(spec.data)
    whole: Table = getattr(load_table(spec.data, revived.task.parts), split)
    if not len(whole):
        raise WorkbenchError(f"shrinking needs {split} rows; the run has none: look at another split.")
    count = min(count, len(whole))
    own = whole.select([i * len(whole) // count for i in range(count)])
    return {split: own, **shifts.shifted(own, severity)}


def _judged(revived: Revived, tables: dict[str, Table], factors: Sequence[float], batch_size: int) -> list[dict[str, Any]]:
    """The task's metric for every factor and table."""
    task, adapters, found = revived.task, adapters_of(revived.host), []
    for name, some in tables.items():
        examples = task.examples(some)
        for factor in factors:
            with adapters.only({revived.adapter.name: factor}):
                _, metrics = evaluation.evaluate(task, revived.host, examples, batch_size, device())
            facts = {"metric": task.metric, "value": metrics[task.metric], "n": len(examples)}
            found.append({"factor": factor, "rows": name, **facts})
    return found


def _curve(rows: Sequence[dict[str, Any]], kind: str, split: Split) -> dict[float, float]:
    """Factor -> value on the split's own rows, or the mean over the shifted ones."""
    picked = [r for r in rows if (r["rows"] == split) == (kind == split)]
    return {factor: fmean(r["value"] for r in picked if r["factor"] == factor) for factor in sorted({r["factor"] for r in rows})}


def _lines(runs: Sequence[Run], rows: Sequence[dict[str, Any]], split: Split) -> dict[str, Any]:
    series = []
    for run in runs:
        mine = [r for r in rows if r["run_id"] == run.reference]
        for kind in (split, "shifted"):
            curve = _curve(mine, kind, split)
            series.append({"name": f"{run.name} {kind}", "x": list(curve), "y": list(curve.values())})
    title = f"Quality over the factor on the adapter, {split} rows and their shifted copies (mean of the shifts)"
    return chart("lines", title, "factor a", ", ".join(dict.fromkeys(r["metric"] for r in rows)), series)


def _sentence(run: Run, rows: Sequence[dict[str, Any]], split: Split, task: type[Task]) -> str:
    own, other = _curve(rows, split, split), _curve(rows, "shifted", split)
    sign = 1 if task.greater_is_better else -1
    best, low, high = max(other, key=lambda a: (sign * other[a], a)), min(other), max(other)
    kinds = ", ".join(dict.fromkeys(r["rows"] for r in rows if r["rows"] != split))
    return (
        f"{run.name}: on shifted rows ({kinds}) {task.metric} is best at factor {best:g}, {other[best]:.3f}; it is "
        f"{other[low]:.3f} at {low:g} and {other[high]:.3f} at {high:g}. On {split} rows it is {own[best]:.3f} at {best:g}, "
        f"{own[low]:.3f} at {low:g} and {own[high]:.3f} at {high:g}."
    )
