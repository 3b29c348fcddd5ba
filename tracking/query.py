"""MLflow and run folders read into DataFrames."""

from pathlib import Path
from typing import TYPE_CHECKING

from tracking import events
from workbench.core.paths import safe_name

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("run_id", "mlflow_id", "experiment", "label", "method", "seed", "status", "started", "ended")


def runs(experiment: str | None = None) -> "pd.DataFrame":
    """One row per run in MLflow, oldest first.

    Args:
        experiment: an experiment's full id; None for all.

    Returns:
        Columns run_id, mlflow_id, experiment, label, method, seed, status (MLflow's word), started, ended (seconds since
        the epoch), then `params.*` (text) and `metrics.*` (the last value of each).

    Raises:
        WorkbenchError: the tracking store does not answer.
    """
    import pandas as pd

    from tracking import client

    where = "tags.`workbench.kind` = 'run'"
    if experiment is not None:
        where += f" and tags.`workbench.experiment` = '{safe_name(experiment, 'an experiment')}'"
    store, rows, page = client.client(), [], None
    with client.answering():
        while True:
            found = store.search_runs([client.experiment_id()], where, order_by=["start_time ASC"], page_token=page)
            rows += [_row(run) for run in found]
            page = found.token
            if not page:
                break
    frame = pd.DataFrame(rows)
    others = sorted(c for c in frame.columns if c not in COLUMNS)
    return frame.reindex(columns=[*COLUMNS, *others])


def _row(run: object) -> dict:
    info, tags = run.info, run.data.tags
    row = {key: tags.get(f"workbench.{key}") for key in ("run_id", "experiment", "label", "method")}
    row |= {"mlflow_id": info.run_id, "seed": int(tags.get("workbench.seed", 0)), "status": info.status}
    row |= {"started": info.start_time / 1000, "ended": info.end_time / 1000 if info.end_time else None}
    row |= {f"params.{k}": v for k, v in run.data.params.items()}
    return row | {f"metrics.{k}": v for k, v in run.data.metrics.items()}


def history(mlflow_id: str, metric: str) -> "pd.DataFrame":
    """One metric of one run over its steps: columns step, value; of a step logged twice (after a resume) the last value.

    Raises:
        WorkbenchError: the tracking store does not answer.
    """
    import pandas as pd

    from tracking import client

    store = client.client()
    with client.answering():
        found = store.get_metric_history(mlflow_id, metric)
    latest = {point.step: point.value for point in sorted(found, key=lambda point: point.timestamp)}
    return pd.DataFrame(sorted(latest.items()), columns=["step", "value"]).astype({"step": int, "value": float})


def curves(run_folder: Path) -> "pd.DataFrame":
    """The figures of a run straight from its events.jsonl, without MLflow; for pages that watch a training.

    Returns:
        Columns metric, step, value, time (seconds since the epoch), attempt; the last value of a metric at a step.
    """
    import pandas as pd

    points: dict[tuple[str, int], tuple] = {}
    step = 0
    for record, _ in events.read(Path(run_folder)):
        step = record.get("step", step)
        for name, value in events.figures(record).items():
            points[name, step] = (name, step, value, record.get("time"), record.get("attempt", 1))
    return pd.DataFrame(list(points.values()), columns=["metric", "step", "value", "time", "attempt"])
