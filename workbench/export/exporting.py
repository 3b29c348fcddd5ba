"""Exporting an adapter: write, load in a fresh process, compare with the run's own model, and only then keep the folder."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from workbench.core import failpoints
from workbench.core.durable import write_whole
from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import named
from workbench.evaluate import saved
from workbench.evaluate.saved import Revived, Rows
from workbench.export import bundle, card, fresh, lora_svd, manifest, merged, peft

FORMATS: dict[str, ModuleType] = {"peft": peft, "lora": lora_svd, "merged": merged, "bundle": bundle}
CHILD = {"peft": "peft", "lora": "peft", "merged": "merged", "bundle": "bundle"}
"""Format -> how a fresh process loads it."""
STORED_ROWS = 8
EXACT = 1e-4
"""Largest difference of fp32 logits between the run's model and an export that claims to be the same."""


@dataclass(frozen=True)
class Checked:
    """What the fresh process showed: rows compared, errors of the logits, the headline metric before and after."""

    rows: int
    rows_from: str
    max_error: float
    mean_error: float
    limit: float | None
    metric: str
    metric_before: float | None
    metric_after: float | None
    checked: bool = True


def export(
    source: str | Path, format: str, to: str | Path, max_error: float | None = None, rank: int | None = None
) -> dict[str, Any]:
    """Write a run's adapter in a format and prove that it behaves like the run.

    Args:
        source: run folder or adapter folder.
        format: peft, lora, merged or bundle.
        to: target folder; new, empty, or an earlier export of ours, which is replaced.
        max_error: for `lora` (and `merged` over a base that is not in fp32) the largest accepted error of the logits.
        rank: for `lora`; None = the smallest that reaches max_error or, without one, a relative error of 1e-3 per weight.

    Returns:
        {format, folder, files, bytes, rows, max_error, mean_error, metric, metric_before, metric_after, checked, ...}.

    Raises:
        WorkbenchError: refused, or the check failed; nothing is left behind.
    """
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    target = free_target(Path(to))
    where = saved.place(source)
    revived = saved.revive(saved.read(where), where)
    if reason := FORMATS[format].refusal(revived):
        works = ", ".join(f for f, module in FORMATS.items() if not module.refusal(revived))
        raise WorkbenchError(f"this adapter cannot be exported as {format}: {reason}; formats that work: {works}.")
    found: dict[str, Any] = {}
    with free_disk(target):
        write_whole(target, lambda work: found.update(_fill(revived, format, work, max_error, rank)))
    failpoints.reach("export.renamed")
    files = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    size = sum((target / f).stat().st_size for f in files)
    return {"format": format, "folder": str(target), "files": files, "bytes": size, **found}


@contextmanager
def free_disk(target: Path) -> Iterator[None]:
    """Turn what can go wrong with a disk into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        what = "the disk is full: free some space" if full else f"{reason}: choose another folder"
        raise WorkbenchError(f"{target} could not be written; {what} and try again.") from None


def free_target(target: Path) -> Path:
    """The absolute target folder.

    Raises:
        WorkbenchError: something that is no export of ours lies there.
    """
    target = named(target, "the target of an export")
    if target.exists() and not target.is_dir():
        raise WorkbenchError(f"the target of an export must be a folder; {target} is a file.")
    if target.is_dir() and any(target.iterdir()) and not (target / manifest.NAME).is_file():
        raise WorkbenchError(f"the target must be a new or empty folder, or an earlier export; {target} holds something else.")
    return target


def _fill(revived: Revived, format: str, work: Path, max_error: float | None, rank: int | None) -> dict[str, Any]:
    rows = saved.some_test_rows(revived)
    kept = saved.shorter(rows.batches[0], revived.host, revived.task, STORED_ROWS)
    batches = [*rows.batches, kept]
    ours = saved.logits(revived, batches)
    approximate = format == "lora" or (format == "merged" and not merged.is_exact(revived))
    usage = peft.usage if format == "lora" else FORMATS[format].usage
    if format == "lora":
        facts = lora_svd.write(revived, work, lambda: fresh.distance(ours, saved.logits(revived, batches))[0], rank, max_error)
    else:
        facts = FORMATS[format].write(revived, work)
    request = {
        "kind": CHILD[format], "folder": str(work), "dtype": "float32", "base": str(revived.base),
        "auto": "AutoModel" + peft.head_class(revived.host), "settings": peft.settings(revived),
    }  # fmt: skip
    theirs = fresh.logits(request, batches)
    checked = compared(revived, rows, ours[:-1], theirs[:-1], max_error if approximate else EXACT)
    manifest.write(work, revived, format, request, facts, asdict(checked), kept, (theirs if approximate else ours)[-1])
    card.write(work, revived, format, facts, asdict(checked), usage(revived))
    failpoints.reach("export.written")
    return {**facts, **asdict(checked)}


def compared(revived: Revived, rows: Rows, ours: list[Tensor], theirs: list[Tensor], limit: float | None) -> Checked:
    """Both sides' logits and metric.

    Raises:
        WorkbenchError: they differ by more than `limit`.
    """
    largest, mean = fresh.distance(ours, theirs)
    if limit is not None and not largest <= limit:
        raise WorkbenchError(
            f"the export must behave like the run: in a fresh process its logits differ by up to {largest:.2g} over "
            f"{len(rows)} rows (allowed: {limit:.2g}); nothing was kept."
        )
    before, after = (saved.metric(revived.task, rows.batches, side) if rows.scored else None for side in (ours, theirs))
    return Checked(len(rows), rows.source, largest, mean, limit, revived.task.metric, before, after)


def run_job(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The `export` job: request {adapter, format, to, max_error?, rank?}."""
    for name in ("adapter", "format", "to"):
        if not isinstance(request.get(name), str):
            raise WorkbenchError(f"an export request must name {name}; it does not: submit it again.")
    return export(request["adapter"], request["format"], request["to"], request.get("max_error"), request.get("rank"))
