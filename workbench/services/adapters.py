"""Trained adapters: which there are, and exporting, verifying, importing, combining and using them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core import paths
from workbench.core.errors import WorkbenchError, unknown
from workbench.jobs import client, engine, wire
from workbench.services import results

FORMATS = ("peft", "lora", "merged", "bundle")
META, EXPORTED = "workbench_adapter.json", "workbench_export.json"


def adapters() -> list[dict[str, Any]]:
    """Every adapter: those of finished runs, newest first, then imported and combined ones.

    Returns:
        [{reference, label, experiment, method, task, base, metrics, folder}]; `reference` is what commands accept as RUN.
    """
    runs = [j for j in reversed(client.jobs()) if j["kind"] == "train" and j["state"] == "finished"]
    places = [(j["run_id"], j["label"], j["experiment"], paths.run_folder(j["run_id"]) / "adapter") for j in runs]
    own = paths.home() / "adapters"
    places += [(f.name, f.name, "", f) for f in sorted(own.iterdir()) if f.is_dir()] if own.is_dir() else []
    return [_described(*place) for place in places if (place[3] / META).is_file()]


def _described(reference: str, label: str, experiment: str, folder: Path) -> dict[str, Any]:
    meta = wire.read_json(folder / META) or {}
    base = meta.get("base") or {}
    return {
        "reference": reference,
        "label": label,
        "experiment": experiment,
        "method": meta.get("method"),
        "task": meta.get("task"),
        "base": base.get("source"),
        "metrics": meta.get("metrics") or {},
        "folder": str(folder),
    }


def adapter_folder(reference: str) -> Path:
    """The adapter folder of a finished run (job number, run id, unique beginning) or of an imported or combined adapter.

    Raises:
        WorkbenchError: nothing of that name, or the run has no adapter (yet).
    """
    named = paths.home() / "adapters" / reference
    if paths.SAFE_NAME.fullmatch(reference) and (named / META).is_file():
        return named
    job = client.find(reference)
    folder = paths.run_folder(job["run_id"]) / "adapter"
    if job["kind"] != "train" or not (folder / META).is_file():
        state = job["state"] if job["kind"] == "train" else f"of kind {job['kind']}"
        raise WorkbenchError(f"{reference} must be a finished training with an adapter; job {job['job']} is {state}.")
    return folder


def export(reference: str, format: str, to: str | Path, max_error: float | None = None) -> int:
    """Queue the export of an adapter; returns the job's number, its verdict holds the measured error.

    Args:
        reference: run or adapter.
        format: `peft`, `lora`, `merged` or `bundle`.
        to: folder to write: new, empty, or an earlier export, which is replaced.
        max_error: for `lora`, the largest accepted error of the logits; None = report it only.

    Raises:
        WorkbenchError: unknown format or run, or the folder holds something already; nothing was queued.
    """
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    if max_error is not None and not 0 <= max_error < float("inf"):
        raise WorkbenchError(f"--max-error must be a number from 0 up; got {max_error}.")
    folder, target = adapter_folder(reference), paths.named(to, "--to")
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / EXPORTED).is_file())):
        raise WorkbenchError(f"--to must name a new or empty folder, or an earlier export; {target} holds something else.")
    request = {
        "adapter": str(folder),
        "format": format,
        "to": str(target),
        "max_error": max_error,
        "name": f"export {format} {reference}",
    }
    return client.submit_short("export", {**request, "experiment": _experiment(folder)})


def verify(folder: str | Path) -> dict[str, Any]:
    """Check an exported folder in a fresh process: {ok, max_error, ...}.

    Raises:
        WorkbenchError: it is no export, or does not behave like the run.
    """
    path = _existing(folder, "the folder to verify")
    from workbench import export as exports

    return exports.verify(path)


def ask_verify(folder: str | Path) -> int:
    """Queue `verify` as a short job, for the screens; returns its number."""
    path = _existing(folder, "the folder to verify")
    return client.submit_short("verify", {"folder": str(path), "name": f"verify {path.name}"})


def import_folder(folder: str | Path, name: str) -> dict[str, Any]:
    """Take a peft or workbench adapter folder in under a name: {name, folder, method, ...}.

    Raises:
        WorkbenchError: the name is taken or unsafe, or the folder is no adapter that can be read.
    """
    path, free = _existing(folder, "the adapter to import"), free_name(name)
    from workbench import export as exports

    return exports.import_folder(path, free)


def predict(reference: str, file: str | Path, to: str | Path) -> dict[str, Any]:
    """Predict every row of a file with a run's adapter and write a table: {rows, to}.

    Raises:
        WorkbenchError: no such run or file, a missing column, or `to` exists already.
    """
    folder, source, target = adapter_folder(reference), paths.named(file, "the file to predict"), paths.named(to, "--to")
    if not source.is_file():
        raise WorkbenchError(f"the file to predict must exist; {source} does not.")
    if target.exists() or not target.parent.is_dir():
        raise WorkbenchError(f"--to must name a new file in a folder that exists; got {target}.")
    from workbench import export as exports

    return exports.predict(folder, source, target)


def predict_request(reference: str, file: str, to: str) -> dict[str, Any]:
    """`predict` for the engine."""
    return predict(reference, file, to)


def ask_predict(reference: str, file: str | Path, to: str | Path) -> dict[str, Any]:
    """`predict` without importing torch here: the engine answers."""
    return engine.ask("predict", {"reference": reference, "file": str(file), "to": str(to)}, timeout=600)


def import_request(folder: str, name: str) -> dict[str, Any]:
    """`import_folder` for the engine."""
    return import_folder(folder, name)


def ask_import(folder: str | Path, name: str) -> dict[str, Any]:
    """`import_folder` without importing torch here: the engine answers."""
    return engine.ask("import", {"folder": str(folder), "name": name}, timeout=600)


def operate_request(operation: str, references: Sequence[str], settings: Mapping[str, Any], name: str, judge: bool) -> int:
    """`operate` for the engine."""
    return operate(operation, references, settings, name, judge)


def ask_operate(operation: str, references: Sequence[str], settings: Mapping[str, Any], name: str, judge: bool = False) -> int:
    """`operate` without importing torch here: the engine checks and queues; returns the job's number."""
    request = {"operation": operation, "references": list(references), "settings": dict(settings), "name": name, "judge": judge}
    return engine.ask("operate", request)


def operate(operation: str, references: Sequence[str], settings: Mapping[str, Any], name: str, judge: bool = False) -> int:
    """Queue an operation on adapters; the result is kept under `name`. Returns the job's number.

    Args:
        operation, settings: which, and its options.
        references: the runs or adapters it works on.
        name: a new one.
        judge: also measure the result on the test rows of the first one's run.

    Raises:
        WorkbenchError: unknown operation, option or run, or the name is taken; nothing was queued.
    """
    from pydantic import ValidationError

    from workbench import operations
    from workbench.core.errors import from_pydantic

    found = operations.find(operation)
    try:
        options = found.options.model_validate(dict(settings))
    except ValidationError as error:
        raise from_pydantic(error, operation, found.options.model_fields) from None
    if len(references) < found.least or (found.most is not None and len(references) > found.most):
        wanted = str(found.least) if found.most == found.least else f"{found.least} or more"
        raise WorkbenchError(f"{operation} takes {wanted} adapters; got {len(references)}.")
    folders = [str(adapter_folder(r)) for r in references]
    request = {"operation": operation, "adapters": folders, "settings": options.model_dump(mode="json", exclude_unset=True)}
    request |= {"judge": judge, "name": free_name(name), "experiment": _experiment(Path(folders[0]))}
    return client.submit_short("operate", request)


def setting(text: str) -> tuple[str, Any]:
    """One `--set k=v`: the value as JSON where it reads as such, else as text.

    Raises:
        WorkbenchError: there is no `=`.
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise WorkbenchError(f"--set must be written name=value; got {text[:80]!r}.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def free_name(name: str) -> str:
    """`name` if no adapter is called so yet."""
    if (paths.home() / "adapters" / paths.safe_name(name, "--name")).exists():
        raise WorkbenchError(f"an adapter is called {name!r} already; choose another --name.")
    return name


def _existing(folder: str | Path, what: str) -> Path:
    path = paths.named(folder, what)
    if not path.is_dir():
        raise WorkbenchError(f"{what} must be a folder that exists; {path} is not.")
    return path


def _experiment(folder: Path) -> str:
    return str(results.run_spec(folder.parent).get("experiment") or "")


def finish(job: int) -> dict[str, Any]:
    """Wait for a short job: {job, state, reason, result}."""
    row = client.wait([job])[0]
    verdict = client.verdict(job) or {}
    return {"job": job, "run_id": row["run_id"], "state": row["state"], "reason": row["reason"], "result": verdict.get("result")}
