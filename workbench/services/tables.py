"""Aligned plain text for terminals."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.figures import words

MOST_SENTENCES = 30
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
    """Bytes for people; nothing for nothing, which `text` shows in its own way."""
    return None if value is None else words.size(value)


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
    """The rows of `results`, where several seeds ran their means with 95 % intervals, and a sentence for every pair."""
    rows = [_shown(row) for row in found["rows"]]
    parts = [f"experiment {found['experiment']}", "", aligned(rows, COMPARISON)]
    main = next((row["metric"] for row in rows if row["metric"]), None)
    means = [{**s, "interval": _interval(s)} for s in found["summary"] if s["metric"] == main]
    if any(s["n"] > 1 for s in means):
        parts += ["", f"{main} over seeds, with 95 % intervals", aligned(means, ("label", "n", "mean", "interval"))]
    said = [text(pair["sentence"]) for pair in found["pairs"]]
    left = [f"... and {len(said) - MOST_SENTENCES} more pairs: see --json."] if len(said) > MOST_SENTENCES else []
    said = [*map(text, (*found["guard"]["sentences"], *found["guard"]["notes"])), *said[:MOST_SENTENCES], *left]
    parts += ["", *said] if said else []
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


def analysis(found: Mapping[str, Any]) -> str:
    """What an analysis found: its sentences, then its tables without what is empty in every row."""
    parts = [*found["sentences"]]
    if found["neighbours"]:
        parts.append("Other jobs ran meanwhile: these times are not to be trusted.")
    for name, rows in found["tables"].items():
        columns = [c for c in (rows[0] if rows else ()) if any(row[c] is not None for row in rows)]
        parts += ["", name, aligned(rows, columns)] if rows else []
    return "\n".join(parts)


def plan(found: Mapping[str, Any]) -> str:
    """A plan's methods, what past predictions were worth, and what does not fit; the problems are marked."""
    rows = [
        {
            **m,
            "trainable": m["trainable_params"] if m["exact_params"] is not False else f"at most {m['trainable_params']:,}",
            "share": None if m["share_of_base"] is None else f"{m['share_of_base']:.3%}",
            "head": m["head_params"],
            "memory": size(m["predicted"]["peak_memory_bytes"]),
            "seconds": m["predicted"]["train_seconds"],
            "search": m["search"] and f"{len(m['search']['rates'])} rates, {text(m['search']['seconds'])} s",
            "problem": " ".join(m["problems"]),
        }
        for m in found["methods"]
    ]
    counts = ", ".join(f"{n:,} {name}" for name, n in found["rows"].items())
    some = [name for name in ("search", "problem") if any(row[name] for row in rows)]
    columns = ("label", "trainable", "share", "head", "sites", "memory", "fits", "seconds", *some)
    lines = [found["calibration"]["sentence"], *found["warnings"]]
    tried = [{"label": m["label"], **_tried(m["dry_run"])} for m in found["methods"] if "dry_run" in m]
    dry = (
        ["", "a few real steps", aligned(tried, ("label", "memory", "predicted", "seconds", "expected", "note"))] if tried else []
    )
    return "\n".join([f"experiment {text(found['experiment'])}: {counts} rows", "", aligned(rows, columns), "", *lines, *dry])


def _tried(one: Mapping[str, Any]) -> dict[str, Any]:
    """A dry run beside its prediction: memory and seconds of the whole run."""
    return {
        "memory": size(one["measured"]["peak_memory_bytes"]),
        "predicted": size(one["predicted"]["peak_memory_bytes"]),
        "seconds": one["measured"]["train_seconds"],
        "expected": one["predicted"]["train_seconds"],
        "note": " ".join(one["notes"]),
    }


def data(found: Mapping[str, Any]) -> str:
    """What `data` found out: columns with their reasons, findings, and what the model sees."""
    parts: list[str] = []
    for entry in found["entries"]:
        counts = ", ".join(f"{n:,} {name}" for name, n in entry["counts"].items())
        parts.append(f"{text(entry['source'])}: {entry['total']:,} rows" + (f" ({counts})" if counts else ""))
        for part, reason in entry["reasons"].items():
            column = entry["mapping"].get(part)
            parts.append(f"  {part}: {text(reason)}" + ("" if column else " Not in force: write it under data.columns."))
        parts += [f"  {one['severity']}: {text(one['sentence'])}" for one in entry["doctor"]] or ["  the doctor found nothing"]
    if cut := found["truncation"]:
        parts += [
            f"max_length {cut['at_max_length']:,} cuts {100 * cut['share']:.1f} % of {cut['n']:,} training rows looked at "
            f"(tokens: median {cut['p50']:,}, 95 % at most {cut['p95']:,}, longest {cut['longest']:,})"
        ]
    return "\n".join([*parts, *(text(found[name]["sentence"]) for name in ("suggestion", "unknown", "image") if found[name])])
