"""Statistics on finished runs: pure functions on DataFrames. A missing figure is NaN; `records` makes it null.

Rows (one per run) carry `label`, optionally `method`, `seed`, `state`, `neighbours`, figures as columns (`train_seconds`) and
test metrics as `metrics.<name>`; `frame` makes such a frame from the nested rows of `run --json`. Predictions are frames with the
columns id, label, prediction, score, loss, weight: the test rows of one run.
"""

from workbench.compare.crossed import seeds_needed
from workbench.compare.curves import bands
from workbench.compare.frames import frame, records
from workbench.compare.front import FRONT, front
from workbench.compare.guard import Guard, guard
from workbench.compare.pairs import PAIRS, pairs
from workbench.compare.pareto import pareto
from workbench.compare.rowwise import bounds, higher_is_better, right, unit
from workbench.compare.summary import FIGURES, interval, summaries, summary, table

__all__ = [
    "FIGURES", "FRONT", "PAIRS", "Guard", "bands", "bounds", "frame", "front", "guard", "higher_is_better", "interval", "pairs",
    "pareto", "records", "right", "seeds_needed", "summaries", "summary", "table", "unit",
]  # fmt: skip
