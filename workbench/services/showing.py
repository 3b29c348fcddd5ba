"""Running a paper: its steps in order through the queue, then its claim."""

from collections.abc import Callable, Mapping
from typing import Any

from workbench import compare
from workbench.compare import claims
from workbench.core.errors import WorkbenchError
from workbench.services import adapters, experiments, papers, results
from workbench.services.papers import Operate, Paper, Train

Rows = list[dict[str, Any]]


def run(
    key: str,
    on_change: Callable[[Rows], None] | None = None,
    on_submit: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run a paper's steps through the queue and judge its claim; Ctrl-C leaves the runs alone.

    Returns:
        the paper as in `papers`, with the ids of its `experiments`, its `rows` and `outcome`: [{claim, left, right, holds}];
        `holds` is true when every check does.

    Raises:
        WorkbenchError: a step could not be done, so that the next one has nothing to work on.
    """
    paper, rows, ids = papers.find(key), Rows(), list[str]()
    for step in paper.whole():
        if isinstance(step, Train):
            found = experiments.run(_started(step, rows).spec(paper.key), on_change, on_submit)
            ids.append(found["experiment"])
            rows += found["rows"]
        else:
            rows += _operated(step, rows, ids[-1])
    outcome = _outcome(paper, rows)
    return {
        **papers.card(key),
        "experiments": ids,
        "rows": rows,
        "outcome": outcome,
        "holds": all(one["holds"] for one in outcome),
    }


def latest(key: str) -> dict[str, Any] | None:
    """What the newest experiment of a paper shows: {experiment, live, outcome}; `outcome` is empty while runs are going on.

    None where the paper takes several steps or was not run in this home.

    Raises:
        WorkbenchError: its runs lack a figure that the claim speaks of.
    """
    paper, name = papers.find(key), papers.experiment_name(key)
    found = next((one for one in results.experiments() if one["name"] == name), None)
    if found is None or paper.experiment is None:
        return None
    _, rows = ([], []) if found["live"] else results.rows([found["experiment"]])
    return {"experiment": found["experiment"], "live": found["live"], "outcome": _outcome(paper, rows) if rows else []}


def _outcome(paper: Paper, rows: Rows) -> list[dict[str, Any]]:
    table = compare.frame(rows)
    return [vars(claims.check(text, table)) for text in paper.checks]


def _finished(rows: Rows, label: str) -> dict[int, dict[str, Any]]:
    """The finished rows of a label by seed."""
    found = {row["seed"]: row for row in rows if row["label"] == label and row["state"] == "finished"}
    if not found:
        reasons = [row["reason"] for row in rows if row["label"] == label and row.get("reason")]
        raise WorkbenchError(f"the next step needs {label}, which did not finish: {' '.join(reasons[:1])}".rstrip(": "))
    return found


def _started(step: Train, rows: Rows) -> Train:
    """The step with `init_from: $label` replaced by that label's adapter, the one of its first seed."""

    def resolved(entry: Any) -> Any:
        start = entry.get("init_from") if isinstance(entry, Mapping) else None
        if not isinstance(start, str) or not start.startswith("$"):
            return entry
        found = _finished(rows, start[1:])
        return {**entry, "init_from": found[min(found)]["run_id"]}

    return Train(run={**step.run, "methods": [resolved(entry) for entry in step.run["methods"]]})


def _operated(step: Operate, rows: Rows, experiment: str) -> Rows:
    """One adapter per seed that all of the step's labels share, as rows beside the runs."""
    sources = [_finished(rows, label) for label in step.of]
    made = []
    for seed in sorted(set.intersection(*(set(one) for one in sources))):
        name = f"{experiment}-{experiments.slug(step.name)}-s{seed}"
        references = [one[seed]["run_id"] for one in sources]
        done = adapters.finish(adapters.operate(step.operate, references, step.set, name, judge=True))
        if done["state"] != "finished":
            raise WorkbenchError(f"{step.operate} did not finish for seed {seed}: {done['reason']}")
        told = done["result"]
        figures = {"trainable_params": told["trainable_params"], "metrics": told["metrics"], "run_id": told["name"]}
        made.append({"label": step.name, "method": told["method"], "seed": seed, "state": "finished", **figures})
    return made
