"""A comparison as one HTML file that needs nothing else: tables, figures, sentences, specs and versions."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import workbench
from workbench.core.errors import WorkbenchError
from workbench.core.paths import named, run_folder
from workbench.services import analyses, clone, comparison, files, stored, tradeoffs
from workbench.services.comparison import Comparison

MEASURED = (
    "Quality, sizes, memory and times are measured by the runs; none is predicted. Derived from them are means, intervals, "
    "differences, p values and the probability of standing on a front. Peak memory on a CPU is what training adds over "
    "the loaded model; times of runs that shared the machine are left out. An interval needs at least two seeds."
)
FRONTS = ("trainable_params", "peak_memory_bytes", "step_seconds")


def write(references: Sequence[str], path: str | Path) -> Path:
    """Write the report of some experiments; whatever stood at `path` is replaced only once the new file is whole.

    Raises:
        WorkbenchError: no such experiment, or the file cannot be written.
    """
    target = named(path, "--html")
    text = html(comparison.comparison(references))
    work = target.with_name(f".{target.name}.part")
    try:
        work.write_text(text, encoding="utf-8")
        work.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            work.unlink(missing_ok=True)
        reason = error.strerror or error
        raise WorkbenchError(
            f"--html must name a file that can be written; {str(path)[:200]}: {reason}; choose another place."
        ) from None
    return target


def html(found: Comparison) -> str:
    """The report of a comparison; runs that may not be overlaid get sections of their own."""
    from workbench.figures import document as doc

    title = f"Comparison: {', '.join(found.experiments)}"
    made = time.strftime("%Y-%m-%d %H:%M %Z")
    parts = [doc.heading(title, 1), doc.paragraph(f"Made {made} by Adapter Workbench {workbench.__version__}.", "faint")]
    parts += [doc.paragraph(sentence, "note") for sentence in (*found.guard, *found.notes)]
    groups = sorted(set(found.groups.values()))
    for group in groups or [0]:
        own = found if len(groups) < 2 else _part(found, [label for label, of in found.groups.items() if of == group])
        labels = list(dict.fromkeys(row["label"] for row in own.rows))
        parts += [doc.heading(f"Group {group + 1}: {', '.join(labels)}")] if len(groups) > 1 else []
        parts += _sections(own)
    parts += [doc.heading("Every run"), doc.table(_runs(found))]
    parts += [doc.heading("What was run"), *_specs(found)]
    parts += [doc.heading("Where it ran"), doc.table(_places(found))]
    parts += [doc.heading("Measured and derived"), doc.paragraph(MEASURED)]
    return doc.document(title, parts)


def _part(found: Comparison, labels: Sequence[str]) -> Comparison:
    ids = {row["run_id"] for row in found.rows}
    return comparison.comparison(found.experiments, labels=labels, runs=ids)


def _sections(found: Comparison) -> Iterable[str]:
    """Quality, pairs, trade-offs, curves, mistakes and analyses of runs that may be overlaid."""
    from workbench.figures import curves, quality, words
    from workbench.figures import document as doc

    metric = found.metric
    if not metric:
        return [doc.paragraph("No run has finished yet.")]
    parts = [doc.paragraph(quality.headline(found.table, found.pairs, metric, found.higher)), doc.table(_means(found))]
    parts += [doc.figure(quality.by_label(found.runs, found.table, metric, found.higher))]
    parts += [doc.heading("Is it really better?", 3), *_pairs(found)]
    parts += [doc.heading("Trade-offs", 3), *_fronts(found)]
    parts += [doc.heading("Learning curves", 3)]
    for name, title in ((metric, f"{words.title(metric)} (validation)"), ("loss", "Training loss (nats)")):
        parts.append(doc.figure(curves.bands(comparison.curves(found.rows, name), title)))
    return [*parts, *_mistakes(found), *_inside(found), *_analyses(found)]


def _means(found: Comparison) -> list[dict[str, Any]]:
    from workbench.figures import words

    rows = []
    for one in found.table.to_dict("records"):
        low, high = one.get(f"{found.metric}.ci_low"), one.get(f"{found.metric}.ci_high")
        known = not (words.missing(low) or words.missing(high))
        none = "one seed, no interval" if one["n"] == 1 else words.DASH
        row = {"Method": one["label"], "Runs": f"{one['n']} of {one['runs']}", words.title(found.metric): one.get(found.metric)}
        row["95 % interval"] = f"{words.score(low)} to {words.score(high)}" if known else none
        row |= {words.title(name): one.get(name) for name in found.metrics if name != found.metric}
        row |= {"Trainable parameters": words.count(one.get("trainable_params")), "Adapter": words.size(one.get("adapter_bytes"))}
        row |= {"Peak memory": words.size(one.get("peak_memory_bytes")), "Training": words.duration(one.get("train_seconds"))}
        rows.append(row)
    return rows


def _pairs(found: Comparison) -> Iterable[str]:
    from workbench import compare
    from workbench.figures import document as doc
    from workbench.figures import pairs, words

    if found.pairs.empty:
        return [doc.paragraph("There is no pair of methods to compare.")]
    unit = compare.unit(found.metric)
    rows = [
        {
            "Sentence": one["sentence"],
            "p (Holm)": words.chance(one["p_holm"]),
            "Seeds": one["n"],
            "Test rows": one["examples"] or None,
        }
        for one in found.pairs.to_dict("records")
    ]
    drawn = [doc.figure(pairs.forest(found.pairs, found.runs, unit, found.higher)), doc.figure(pairs.verdicts(found.pairs, unit))]
    how = "Paired by seed, and by test row where predictions are stored; verdicts at 5 % over all pairs together (Holm)."
    return [*drawn, doc.table(rows), doc.paragraph(how, "faint")]


def _fronts(found: Comparison) -> Iterable[str]:
    from workbench.figures import axes, front, many
    from workbench.figures import document as doc

    wide = tradeoffs.widened(found)
    y = axes.axis(found.metric, found.higher)
    analysed = [name for name in tradeoffs.ANALYSED if len(wide.runs.dropna(subset=[name]))]
    parts = []
    for name in (*FRONTS, *analysed):
        x = axes.axis(name)
        standing = comparison.front(wide, x.name, y.name, x.better, y.better)
        if len(standing.dropna(subset=["x", "y"])):
            rows = [
                {"Method": one["label"], x.short: x.say(one["x"]), "Standing": front.standing(one)}
                for one in standing.to_dict("records")
            ]
            parts += [doc.figure(front.front(wide.runs, standing, x, y)), doc.folded(f"Standing: {x.short}", [doc.table(rows)])]
    held = [axes.axis(name) for name in (*tradeoffs.MEASURED, *analysed)]
    return [*parts, doc.figure(many.parallel(wide.runs, held, y))]


def _mistakes(found: Comparison) -> Iterable[str]:
    from workbench.figures import counts
    from workbench.figures import document as doc

    parts = []
    for label in dict.fromkeys(row["label"] for row in found.rows if row["state"] == "finished"):
        table = comparison.confusion(found, label)
        if table["labels"]:
            parts.append(doc.folded(label, [doc.figure(counts.confusion(table["labels"], table["counts"]))]))
    return [doc.heading("Confusion on the test split, over seeds", 3), *parts] if parts else []


def _inside(found: Comparison) -> Iterable[str]:
    import pandas as pd

    from workbench.figures import depth
    from workbench.figures import document as doc

    frame = pd.DataFrame(tradeoffs.movement(found)[0])
    kinds = [kind for kind in ("weight", "activation") if kind in set(frame.get("kind", ()))]
    drawn = [doc.figure(depth.movement(frame, kind)) for kind in kinds]
    return [doc.heading("Where the adapters moved the model", 3), *drawn] if drawn else []


def _analyses(found: Comparison) -> Iterable[str]:
    """Sentences and figures of the newest finished analysis of each kind that looked at these runs."""
    from workbench.figures import document as doc
    from workbench.figures import drawn

    mine, seen, parts = {row["run_id"] for row in found.rows}, {"movement"}, []
    for one in analyses.done():
        if one["analysis"] in seen or not mine & set(one["runs"]):
            continue
        seen.add(one["analysis"])
        result = analyses.result(one["job"])
        shared = ["Other work shared the machine; its times say little."] if one["neighbours"] else []
        figures = [doc.figure(drawn.drawn(figure)) for figure in result["figures"].values()]
        parts += [doc.heading(f"Analysis: {one['analysis']}", 3), doc.listing([*shared, *result["sentences"]]), *figures]
    return parts


def _runs(found: Comparison) -> list[dict[str, Any]]:
    from workbench.figures import words

    rows = []
    for row in found.rows:
        one = {"Run": row["run_id"], "Method": row["label"], "Seed": row["seed"], "State": row["reason"] or row["state"]}
        one |= {words.title(name): row["metrics"].get(name) for name in found.metrics}
        one |= {"Trainable": row["trainable_params"], "Memory": words.size(row["peak_memory_bytes"])}
        rows.append({**one, "Seconds": row["train_seconds"], "Learning rate": row["learning_rate"]})
    return rows


def _specs(found: Comparison) -> Iterable[str]:
    """Each experiment's YAML, as one would write it to run it again."""
    from workbench.figures import document as doc

    parts = []
    for experiment in found.experiments:
        try:
            text = files.spec_text(clone.clone(experiment))
        except WorkbenchError as error:
            text = str(error)
        parts += [doc.heading(experiment, 3), doc.code(text)]
    return parts


def _places(found: Comparison) -> list[dict[str, Any]]:
    """Every different environment, and how many runs it held."""
    counted: dict[tuple[Any, ...], int] = {}
    names = ("Device", "Precision", "Threads", "Base model sha256", "Versions")
    for row in found.rows:
        result = stored.verdict(run_folder(row["run_id"])).get("result") or {}
        if row["state"] == "finished":
            versions = ", ".join(f"{k} {v}" for k, v in sorted((result.get("versions") or {}).items()))
            key = (row["device"], row["precision"], row["threads"], str(result.get("base_sha256") or "")[:16], versions)
            counted[key] = counted.get(key, 0) + 1
    return [{"Runs": count, **dict(zip(names, key, strict=True))} for key, count in counted.items()]
