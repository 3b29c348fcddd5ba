"""Aligned plain text for terminals."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

COMPARISON = ("label", "seed", "state", "quality", "trainable", "memory", "seconds")


def aligned(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as columns of text; numbers to the right; control characters of names never reach the terminal."""
    cells = [[text(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) if cells else len(name) for i, name in enumerate(columns)]
    right = [bool(rows) and all(isinstance(row.get(name), int | float | None) for row in rows) for name in columns]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(columns), *map(line, cells)])


def text(value: Any) -> str:
    """One cell: `-` for nothing, thousands separated, control characters as `?`."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "".join(c if c.isprintable() else "?" for c in str(value))


def size(value: int | float | None) -> str | None:
    """Bytes for people."""
    if value is None:
        return None
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def progress(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line about some jobs: time, how many are over, what is running and how far it is."""
    over = sum(row["state"] not in ("queued", "starting", "running") for row in rows)
    live = [
        f"{text(r['label'] or r['name'])} seed {r['seed']} {r['state']}" + (f" {r['step']}/{r['steps']}" if r["steps"] else "")
        for r in rows
        if r["state"] in ("starting", "running")
    ]
    return "; ".join([f"{time.strftime('%H:%M:%S')}  {over}/{len(rows)} over", *live])[:150]


def comparison(found: Mapping[str, Any]) -> str:
    """The rows of `results` and, where several seeds ran, their means with 95 % intervals."""
    rows = [_shown(row) for row in found["rows"]]
    parts = [f"experiment {found['experiment']}", "", aligned(rows, COMPARISON)]
    main = next((row["metric"] for row in rows if row["metric"]), None)
    means = [{**s, "interval": _interval(s)} for s in found["summary"] if s["metric"] == main]
    if any(s["n"] > 1 for s in means):
        parts += ["", f"{main} over seeds, with 95 % intervals", aligned(means, ("label", "n", "mean", "interval"))]
    reasons = [f"{text(row['label'])} seed {row['seed']}: {text(row['reason'])}" for row in rows if row["reason"]]
    return "\n".join([*parts, *([""] if reasons else []), *reasons])


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    name, value = next(iter(row["metrics"].items()), (None, None))
    return {
        **row,
        "metric": name,
        "quality": None if name is None else f"{name} {text(value)}",
        "trainable": row["trainable_params"],
        "memory": size(row["peak_memory_bytes"]),
        "seconds": row["train_seconds"],
    }


def _interval(one: Mapping[str, Any]) -> str | None:
    return None if one["ci_low"] is None else f"{one['ci_low']:.4f} to {one['ci_high']:.4f}"


def plan(found: Mapping[str, Any]) -> str:
    """A plan's methods; the problems are marked."""
    rows = [
        {
            **m,
            "trainable": m["trainable_params"],
            "head": m["head_params"],
            "memory": size(m["predicted"]["peak_memory_bytes"]),
            "seconds": m["predicted"]["train_seconds"],
            "problem": " ".join(m["problems"]),
        }
        for m in found["methods"]
    ]
    counts = ", ".join(f"{n:,} {name}" for name, n in found["rows"].items())
    columns = ("label", "trainable", "head", "sites", "memory", "seconds", *(["problem"] if found["problems"] else []))
    return f"experiment {text(found['experiment'])}: {counts} rows\n\n{aligned(rows, columns)}"
