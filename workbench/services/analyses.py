"""Analyses of runs: which there are, asking for one, and what those already done found."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.jobs import client, engine, wire
from workbench.services import adapters, catalogue, results, runs

KIND = "analyse"
MOST = 1000  # analyses that are looked through, the newest
EMPTY: Mapping[str, Any] = {
    "analysis": None, "settings": {}, "runs": [], "tables": {}, "figures": {}, "sentences": [], "per_run": {},
    "neighbours": False,
}  # fmt: skip


def known() -> list[dict[str, Any]]:
    """Every analysis: {key, title, text, least, beside, options (JSON Schema)}. Imports no torch here."""
    return catalogue.everything()["analyses"]


def analyse_request(name: str, references: Sequence[str], settings: Mapping[str, Any], title: str) -> int:
    """`analyse` for the engine."""
    return analyse(name, references, settings, title)


def ask_analyse(name: str, references: Sequence[str], settings: Mapping[str, Any] | None = None, title: str = "") -> int:
    """`analyse` without importing torch here: the engine checks and queues; returns the job's number."""
    request = {"name": name, "references": list(references), "settings": dict(settings or {}), "title": title}
    return engine.ask(KIND, request)


def analyse(name: str, references: Sequence[str], settings: Mapping[str, Any] | None = None, title: str = "") -> int:
    """Queue an analysis; `result` has what it found. Returns the job's number.

    Args:
        name: its key.
        references: runs (job number, run id, unique beginning), imported or combined adapters, and experiments, which stand for
            all their finished runs. What the analysis compares with (`beside`) is added by itself.
        settings: options that differ from their default.
        title: what the job is called in the queue.

    Raises:
        WorkbenchError: unknown analysis, option or run, or too few runs; nothing was queued.
    """
    from workbench import analyses

    found = analyses.find(name)
    places = _places(references)
    options = found.checked(settings or {}, len(places))
    places = _with_beside(places, found.beside)
    measured = results_of(list(places))
    looked_at = [_run(reference, folder, measured.get(reference, {})) for reference, folder in places.items()]
    of = {run.get("row", {}).get("experiment", "") for run in looked_at}
    few = ", ".join(references[:3]) + (", ..." if len(references) > 3 else "")
    request = {"analysis": name, "settings": options, "runs": looked_at, "name": title or (f"{name} of {few}" if few else name)}
    return client.submit_short(KIND, {**request, "experiment": of.pop() if len(of) == 1 else ""})


def _places(references: Sequence[str]) -> dict[str, Path]:
    """Run id or adapter name -> adapter folder, each once, in the order asked for."""
    found: dict[str, Path] = {}
    for reference in references:
        try:
            folder = adapters.adapter_folder(reference)
        except WorkbenchError as problem:
            found |= _experiment(reference, problem)
        else:
            found[folder.parent.name if _of_run(folder) else folder.name] = folder
    return found


def _of_run(folder: Path) -> bool:
    """Whether an adapter folder is a run's own; else it was imported or combined."""
    return folder.parent != paths.home() / "adapters"


def _experiment(reference: str, problem: WorkbenchError) -> dict[str, Path]:
    """The adapters of an experiment's finished runs; raises `problem` where there is no such experiment."""
    try:
        jobs = client.jobs(results.find_experiment(reference))
    except WorkbenchError:
        raise problem from None
    found = _finished(jobs)
    if not found:
        raise WorkbenchError(f"an experiment must have a finished run to look at; {reference} has none yet.")
    return found


def _finished(jobs: Sequence[Mapping[str, Any]], methods: Sequence[str] = ()) -> dict[str, Path]:
    places = {j["run_id"]: paths.run_folder(j["run_id"]) for j in jobs if j["kind"] == "train" and j["state"] == "finished"}
    wanted = {n: f for n, f in places.items() if not methods or results.run_spec(f).get("base_method") in methods}
    return {name: folder / "adapter" for name, folder in wanted.items() if (folder / "adapter" / adapters.META).is_file()}


def _with_beside(places: dict[str, Path], methods: Sequence[str]) -> dict[str, Path]:
    """The same with the finished runs of `methods` in the same experiments added."""
    specs = [results.run_spec(folder.parent) for folder in places.values() if methods and _of_run(folder)]
    experiments = {str(spec["experiment"]) for spec in specs if spec}
    return places | {n: f for one in sorted(experiments) for n, f in _finished(client.jobs(one), methods).items()}


def _run(reference: str, folder: Path, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What the job is told of one run: its row and validations, or only the adapter's own words where there is no run."""
    if not _of_run(folder):
        meta = wire.read_json(folder / adapters.META) or {}
        label = str(meta.get("label") or reference)
        return {"reference": reference, "label": label, "adapter": str(folder), "measured": dict(measured)}
    job = client.find(reference)
    row = results._row(job)
    facts = {"row": row, "history": history(folder.parent, job["attempt"]), "measured": dict(measured)}
    return {"reference": reference, "label": row["label"], "adapter": str(folder), **facts}


def history(folder: Path, attempt: int | None = None) -> list[dict[str, Any]]:
    """The validations of a run's last phase, from its own events, with what had been spent by then.

    Args:
        folder: the run folder.
        attempt: only what this attempt emitted, where events carry one.

    Returns:
        [{step, seconds, examples, metrics}]; seconds and examples are sums over all optimizer steps of the run so far. Of a
        search over learning rates only the rate that was kept, its steps numbered from 1.
    """
    spent: dict[int, tuple[float, int]] = {}
    seen: list[dict[str, Any]] = []
    begun, now, after, until = [], 0, 0, math.inf
    for event in runs.events(folder):
        kind = event.get("event")
        if attempt is not None and event.get("attempt", attempt) != attempt:
            continue
        if kind == "step":
            now = event["step"]
            spent[now] = (event["seconds"], event["examples"])
        elif kind == "phase" and event.get("after") is not None:
            now = after = event["after"]
            until = after + event["steps"]
        elif kind == "phase" and event.get("steps"):
            begun.append(now)
        elif kind == "evaluated" and event["split"] == "validation":
            seen.append(event)
    first = max((step for step in begun if after <= step < until), default=after)  # a later phase may rewind an earlier one
    found = []
    for event in (e for e in seen if first < e["step"] <= until):
        done = [both for step, both in spent.items() if after < step <= event["step"]]
        sums = {"seconds": sum(s for s, _ in done), "examples": sum(n for _, n in done)}
        found.append({"step": event["step"] - after, **sums, "metrics": event["metrics"]})
    return wire.plain(found)


def result(job: int | str) -> dict[str, Any]:
    """What an analysis found: {job, state, reason, analysis, settings, runs, tables, figures, sentences, per_run, neighbours}.

    Raises:
        WorkbenchError: no such job, or it is no analysis.
    """
    row = client.find(job)
    if row["kind"] != KIND:
        raise WorkbenchError(f"job {row['job']} must be an analysis; it is of kind {row['kind']}.")
    facts = {name: row[name] for name in ("job", "state", "reason")}
    return {**(_verdict(row) or EMPTY), **facts}


def done(analysis: str | None = None) -> list[dict[str, Any]]:
    """Finished analyses, the newest first: {job, analysis, title, runs, ended, neighbours}."""
    found = []
    for row, verdict in _finished_analyses():
        if analysis in (None, verdict["analysis"]):
            facts = {name: verdict[name] for name in ("analysis", "runs", "neighbours")}
            found.append({"job": row["job"], "title": row["name"], "ended": row["ended"], **facts})
    return found


def results_of(references: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What finished analyses say of runs, each figure from the newest one that has it.

    Args:
        references: run ids.

    Returns:
        {run id: {forgetting, forgetting_kind, latency_base, latency_unmerged, latency_merged}}, with the keys that are known;
        latencies of a job that shared the machine are left out.
    """
    found: dict[str, dict[str, Any]] = {reference: {} for reference in references}
    for _, verdict in reversed(_finished_analyses()):
        shared = verdict["neighbours"]
        for reference in found.keys() & verdict["per_run"].keys():
            figures = verdict["per_run"][reference]
            found[reference] |= {n: v for n, v in figures.items() if not (shared and n.startswith("latency"))}
    return found


def _finished_analyses() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(row, result) of finished analyses, the newest first."""
    rows = client.newest(None, ("finished",), MOST, kinds=(KIND,))
    return [(row, verdict) for row in rows if (verdict := _verdict(row))]


def _verdict(row: Mapping[str, Any]) -> dict[str, Any] | None:
    path = paths.run_folder(row["run_id"]) / "verdict.json"
    try:
        return _read(path, path.stat().st_mtime_ns) if row["state"] == "finished" else None
    except FileNotFoundError:
        return None


@lru_cache(maxsize=512)
def _read(path: Path, changed: int) -> dict[str, Any] | None:
    """The result in a verdict; read once per change, so never edit what it returns."""
    found = (wire.read_json(path) or {}).get("result")
    return found and {**EMPTY, **found}
