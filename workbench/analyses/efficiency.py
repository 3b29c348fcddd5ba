"""Efficiency: what a method costs until it is as good as full fine-tuning, and whether it is worth it.

    cost to convergence   steps, seconds and operations up to the best validation of the run's own history
    cost to the same      the same up to the first validation as good as the best one of full fine-tuning, less `tolerance`
    operations            those of one training example, counted on the run's own batches, times the examples seen

The full fine-tuning runs of the same experiments are looked at too; without one there is nothing to compare with. Every ratio
is a run's figure over that of the full run of the same seed (else of the first full run), averaged over seeds; two seeds or
more give a 95 % t interval. Seconds are those of optimizer steps, without validation, and are left out for runs that shared the
machine. Operations are counted for the plain training step: a teacher of a recipe is not in them, nor is a
search over learning rates. Fusion over several
adapters, training with AdapterDrop and one model fine-tuned on several tasks are not covered: nothing here trains them yet.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from workbench.analyses.contract import Result, Run, analysis, chart, device, table
from workbench.core.errors import WorkbenchError
from workbench.data import check_unchanged, load_table
from workbench.evaluate import evaluation, flops, saved
from workbench.tasks import Task, find

FULL = "full"
COSTS = ("steps", "seconds", "flops")
STORED = ("trainable_params", "peak_memory_bytes", "adapter_bytes", "latency_unmerged", "latency_merged")
COLUMNS = (
    "run_id", "label", "seed", "metric", "quality", "best_validation", "steps_to_best", "seconds_to_best", "flops_to_best",
    "steps", "flops_per_example", "steps_to_same", "seconds_to_same", "flops_to_same", *STORED,
)  # fmt: skip
COMPARED = ("seconds_to_best", "flops_to_best", "seconds_to_same", "flops_to_same", *STORED)
NOTHING = "this report compares with full fine-tuning: add the method `full` to the experiment and run it, then ask again."


@analysis(least=1, beside=(FULL,))
def efficiency(
    runs: list[Run],
    *,
    tolerance: Annotated[
        float, Field(ge=0, lt=1, description="Share of full fine-tuning's best validation value that may be missing.")
    ] = 0.01,
    cost: Annotated[
        Literal["seconds", "flops"], Field(description="The cost that decides whether a method is worth it.")
    ] = "seconds",
    batches: Annotated[int, Field(ge=1, le=64, description="Training batches on which operations are counted.")] = 2,
) -> Result:
    """See the module's docstring.

    Raises:
        WorkbenchError: an adapter without a run, or runs of different tasks.
    """
    for run in runs:
        if not run.row:
            raise WorkbenchError(f"efficiency needs runs with their history; {run.reference} is an adapter without a run.")
    tasks = {run.row["task"] for run in runs}
    if len(tasks) != 1:
        raise WorkbenchError(f"efficiency needs runs of one task; these are of {', '.join(sorted(tasks))}.")
    task = find(tasks.pop())
    partners = {run.reference: partner(run, runs) for run in runs}
    if not any(partners.values()):
        return Result({"runs": table([], COLUMNS)}, {}, [NOTHING])
    rows, notes = {}, []
    for run in runs:
        counted, note = _counted(run, batches)
        notes += [note] if note else []
        rows[run.reference] = _row(run, partners[run.reference], task, tolerance, counted)
    ratios = [r for label in dict.fromkeys(run.label for run in runs) for r in _ratios(label, runs, partners, rows)]
    said = _verdicts(runs, partners, rows, task, tolerance, cost)
    ratio_columns = ("label", "figure", "n", "ratio", "ci_low", "ci_high")
    tables = {"runs": table(rows.values(), COLUMNS), "ratios": table(ratios, ratio_columns)}
    return Result(tables, _figures(runs, rows, ratios, cost), [*said, *notes])


def partner(run: Run, runs: Sequence[Run]) -> Run | None:
    """The full fine-tuning run that a run is compared with: of the same experiment, and of the same seed if there is one."""
    full = [r for r in runs if r.row.get("base_method") == FULL and r.row.get("experiment") == run.row.get("experiment")]
    return next((r for r in full if r.seed == run.seed), full[0] if full else None)


def best(history: Sequence[Mapping[str, Any]], task: type[Task]) -> Mapping[str, Any] | None:
    """The validation with the best value of the task's metric, the first of equal ones; None without any."""
    sign = 1 if task.greater_is_better else -1
    return max(history, key=lambda point: sign * point["metrics"][task.metric], default=None)


def same(history: Sequence[Mapping[str, Any]], task: type[Task], goal: float, tolerance: float) -> Mapping[str, Any] | None:
    """The first validation that reaches `goal` up to a share of `tolerance`; None where none does."""
    slack = tolerance * abs(goal)
    values = ((point, point["metrics"][task.metric]) for point in history)
    return next((p for p, v in values if (v >= goal - slack if task.greater_is_better else v <= goal + slack)), None)


def _row(run: Run, full: Run | None, task: type[Task], tolerance: float, counted: float | None) -> dict[str, Any]:
    top = best(run.history, task)
    goal = best(full.history, task) if full else None
    reached = same(run.history, task, goal["metrics"][task.metric], tolerance) if goal else None
    row = {**run.keys, "metric": task.metric, "quality": (run.row.get("metrics") or {}).get(task.metric)}
    row |= {"best_validation": top and top["metrics"][task.metric], "steps": run.row.get("steps"), "flops_per_example": counted}
    for word, point in (("best", top), ("same", reached)):
        row |= {f"{name}_to_{word}": value for name, value in _cost(run, point, counted).items()}
    return row | {name: run.row.get(name, run.measured.get(name)) for name in STORED}


def _cost(run: Run, point: Mapping[str, Any] | None, counted: float | None) -> dict[str, Any]:
    """What a run had cost at one of its validations."""
    if point is None:
        return dict.fromkeys(COSTS)
    seconds = None if run.row.get("neighbours") else point["seconds"]
    return {"steps": point["step"], "seconds": seconds, "flops": counted and counted * point["examples"]}


def _counted(run: Run, batches: int) -> tuple[float | None, str]:
    """Operations of one training example, and a sentence where they cannot be counted."""
    try:
        return per_example(run, batches), ""
    except WorkbenchError as problem:
        return None, f"the operations of {run.name} are not known: {problem}"


def per_example(run: Run, batches: int) -> float:
    """Operations of one step forward and backward per example, on rows of the run's training split, batched by length.

    Raises:
        WorkbenchError: the run's data is gone or changed.
    """
    spec = saved.spec_of(run.adapter, run.meta)
    if spec is None:
        raise WorkbenchError("the run is not here any more.")
    check_unchanged(spec.data)
    revived = saved.revive(run.stored, run.adapter, device=device())
    train = load_table(spec.data, revived.task.parts).train
    count = min(len(train), batches * spec.training.batch_size)
    examples = revived.task.examples(train.select([i * len(train) // count for i in range(count)]))
    for path in revived.task.head(revived.host):
        revived.host.get_submodule(path).requires_grad_(True)
    revived.host.train()
    if not any(p.requires_grad for p in revived.host.parameters()):
        return 0.0
    total = 0
    for group in evaluation.by_length(examples, spec.training.batch_size):
        batch = revived.task.batch(group).to(device())

        def loss(batch: Any = batch) -> torch.Tensor:
            return revived.task.losses(evaluation.forward(revived.host, batch), batch).mean()

        total += flops.counted(loss).step
    return total / len(examples)


def _ratios(
    label: str, runs: Sequence[Run], partners: Mapping[str, Run | None], rows: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Mean ratio to full fine-tuning of every figure that both have, over the seeds of one label."""
    pairs = [(rows[r.reference], rows[p.reference]) for r in runs if r.label == label and (p := partners[r.reference])]
    found = []
    for figure in COMPARED:
        values = [mine[figure] / full[figure] for mine, full in pairs if mine[figure] is not None and full[figure]]
        if values:
            low, high = _interval(values)
            mean = sum(values) / len(values)
            found.append({"label": label, "figure": figure, "n": len(values), "ratio": mean, "ci_low": low, "ci_high": high})
    return found


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % t interval of the mean over seeds; one seed has none."""
    from scipy import stats

    if len(values) < 2:
        return None, None
    found = stats.ttest_1samp(values, 0.0).confidence_interval() if len(set(values)) > 1 else None
    return (values[0], values[0]) if found is None else (float(found.low), float(found.high))


def _verdicts(
    runs: Sequence[Run], partners: Mapping[str, Run | None], rows: Mapping[str, dict[str, Any]], task: type[Task],
    tolerance: float, cost: str,
) -> list[str]:  # fmt: skip
    """One sentence for each label that is not full fine-tuning itself."""
    said = []
    for label in dict.fromkeys(run.label for run in runs if run.row.get("base_method") != FULL):
        pairs = [(rows[r.reference], rows[p.reference]) for r in runs if r.label == label and (p := partners[r.reference])]
        if pairs:
            said.append(f"{label}: {_verdict(pairs, task, tolerance, cost)}")
    return said


def _verdict(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], task: type[Task], tolerance: float, cost: str) -> str:
    reached = [(mine, full) for mine, full in pairs if mine["steps_to_same"] is not None]
    goal = f"full fine-tuning's best validation {task.metric} (within {tolerance:.0%})"
    bytes_ = [
        mine["adapter_bytes"] / full["adapter_bytes"] for mine, full in pairs if mine["adapter_bytes"] and full["adapter_bytes"]
    ]
    stored = f"; a task takes {sum(bytes_) / len(bytes_):.2%} of its stored bytes" if bytes_ else ""
    if all(full["best_validation"] is None for _, full in pairs):
        return "full fine-tuning has no validation to compare with, so nothing can be said about its cost."
    if not reached:
        return (
            f"it does not reach {goal} in any of {_runs(len(pairs))}, so it is not worth it where that quality is needed{stored}."
        )
    name = f"{cost}_to_same"
    values = [mine[name] / full[name] for mine, full in reached if mine[name] is not None and full[name]]
    missed = f" in {len(reached)} of {_runs(len(pairs))}" if len(reached) < len(pairs) else ""
    if not values:
        return f"it reaches {goal}{missed}, but its {cost} are not known or were shared with other jobs{stored}."
    ratio = sum(values) / len(values)
    word = "it is worth it" if ratio <= 1 else "it is not worth it for the training alone"
    return f"{word}: it reaches {goal}{missed} at {ratio:.2f} times the {cost}{stored}."


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _figures(
    runs: Sequence[Run], rows: Mapping[str, dict[str, Any]], ratios: Sequence[dict[str, Any]], cost: str
) -> dict[str, dict[str, Any]]:
    labels = dict.fromkeys(run.label for run in runs)
    metric = next(iter(rows.values()))["metric"]
    points, bars = [], []
    for label in labels:
        mine = [rows[run.reference] for run in runs if run.label == label]
        values = {"x": [r[f"{cost}_to_best"] for r in mine], "y": [r["quality"] for r in mine]}
        points.append({"name": label, **values, "text": [r["run_id"] for r in mine]})
        own = [r for r in ratios if r["label"] == label]
        spans = {"low": [r["ci_low"] for r in own], "high": [r["ci_high"] for r in own]}
        bars.append({"name": label, "x": [r["figure"] for r in own], "y": [r["ratio"] for r in own], **spans})
    where = {"x": f"{cost} up to the best validation", "y": f"{metric} on the test rows"}
    title = "Against full fine-tuning, mean over seeds with 95 % interval"
    return {
        "cost_quality": chart("points", "Cost to convergence and quality", where["x"], where["y"], points, log_x=True),
        "ratios": chart("bars", title, "figure", "times full fine-tuning", bars, 1.0, log_y=True),
    }
