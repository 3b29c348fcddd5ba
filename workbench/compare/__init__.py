"""Statistics on finished runs: pure functions on DataFrames. A missing figure is NaN; `records` makes it null.

Rows (one per run) carry `label`, optionally `method`, `seed`, `state`, `neighbours`, figures as columns (`train_seconds`) and
test metrics as `metrics.<name>`; `frame` makes such a frame from the nested rows of `run --json`.
"""

from workbench.compare.curves import bands
from workbench.compare.frames import frame, records
from workbench.compare.pareto import pareto
from workbench.compare.summary import FIGURES, interval, summaries, summary, table

__all__ = ["FIGURES", "bands", "frame", "interval", "pareto", "records", "summaries", "summary", "table"]
