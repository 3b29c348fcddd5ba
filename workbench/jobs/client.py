"""What services, pages and the command line ask of the queue. Imports no torch; every answer is a plain value."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core import durable, failpoints, safe_yaml
from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import home, jobs_db, run_folder
from workbench.core.run_spec import RunSpec
from workbench.jobs import daemon, detach, failures, removing, wire
from workbench.jobs.store import ENDED, SHORT_KINDS, Row, Store

LOG_BYTES = 1_000_000
POLL = 0.2
ENSURE_EVERY = 5.0
TELL_WITHIN = 5.0
DELETED = {"state": "deleted"}


def ensure_daemon() -> None:
    """Make sure a daemon runs; an idle one of another code version is replaced.

    Raises:
        WorkbenchError: it cannot be started.
    """
    found = daemon.status()
    if found["stale"]:
        with Store(jobs_db()) as store:
            busy = any(row["state"] != "queued" for row in store.active())
        if not busy:
            daemon.stop()
            found = daemon.status()
    if not found["running"]:
        detach.launch(detach.python("workbench.jobs.daemon", "start"), "daemon", lambda: daemon.status()["running"])


def submit(run_specs: Sequence[RunSpec], exclusive: bool = True, on_error: str = "continue") -> list[int]:
    """Queue trainings in this order: first their run folders, then all rows in one transaction.

    Args:
        run_specs: the runs.
        exclusive: false where they may share a GPU with others that may, too.
        on_error: `continue`, or `hold` to hold back what waits of an experiment when one of its runs fails.

    Raises:
        WorkbenchError: nothing was queued and nothing is left behind.
    """
    texts = {spec.run_id: safe_yaml.dumps(spec.model_dump(mode="json")) for spec in run_specs}
    if not run_specs or len(texts) != len(run_specs):
        raise WorkbenchError(f"submit must get at least one run, each with its own run id; got {len(run_specs)}.")
    asked = {"exclusive": int(exclusive), "on_error": on_error}
    return _queue([_row(s.run_id, s.experiment, "train", "spec.yaml", **asked, **_planned(s)) for s in run_specs], texts)


def _planned(spec: RunSpec) -> Row:
    """What a training's row says of its spec; its seconds are those of all rates of a search together."""
    rates = spec.training.learning_rate
    seconds, peak = (spec.predicted.get(name) for name in ("train_seconds", "peak_memory_bytes"))
    count = len(rates) if isinstance(rates, tuple) else 1
    return {"label": spec.label, "method": spec.method, "seed": spec.seed, "planned_bytes": None if peak is None else int(peak),
            "planned_seconds": None if seconds is None else seconds * count,
            "gpus": 1 if spec.device == "cpu" else spec.training.processes}  # fmt: skip


def submit_short(kind: str, request: Mapping[str, Any]) -> int:
    """Queue an `operate`, `analyse`, `export` or `verify` job; `request` is plain JSON, its `name` and `experiment` are shown.

    Raises:
        WorkbenchError: the kind is unknown or the request has no JSON form; nothing was queued.
    """
    if kind not in SHORT_KINDS:
        raise unknown("short kind of job", kind, SHORT_KINDS)
    try:
        text = json.dumps(wire.plain(dict(request)), ensure_ascii=False, indent=1)
    except TypeError as error:
        raise WorkbenchError(f"the request of {kind} must be plain values; {error}.") from None
    run_id = f"{kind}-{secrets.token_hex(5)}"
    row = _row(run_id, str(request.get("experiment") or ""), kind, "request.json", name=str(request.get("name") or kind))
    return _queue([row], {run_id: text})[0]


def _row(run_id: str, experiment: str, kind: str, file: str, **more: Any) -> Row:
    stem, _, suffix = experiment.rpartition("-")
    name = stem if stem and len(suffix) == 6 else experiment  # experiments are called <name>-<6 hex>
    spec = str((run_folder(run_id) / file).relative_to(home()))
    fields = {"run_id": run_id, "experiment": experiment, "name": name, "kind": kind, "spec": spec}
    return {"label": "", "method": "", "seed": None, **fields, **more}


def _queue(rows: Sequence[Row], texts: Mapping[str, str]) -> list[int]:
    ensure_daemon()  # before anything is written: without a daemon nothing is queued
    aside = removing.new_folder(home() / "runs")
    made: list[Path] = []
    try:
        aside.parent.mkdir(exist_ok=True)
        for folder in _make_folders(rows, texts, aside):
            made.append(folder)
        failpoints.reach("submit.written")
        with Store(jobs_db()) as store:
            jobs = store.add(rows)
    except BaseException as error:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise WorkbenchError(f"the run folders could not be written: {failures.sentence(error)}") from None
        raise
    finally:
        durable.wipe(aside)
    failpoints.reach("submit.acknowledged")
    ensure_daemon()  # it may just have left for idleness; now that rows are there it cannot
    return jobs


def _make_folders(rows: Sequence[Row], texts: Mapping[str, str], aside: Path) -> Iterator[Path]:
    """Write all folders aside, then rename each into place; yields each that is there."""
    for row in rows:
        folder = aside / row["run_id"]
        folder.mkdir(parents=True)
        wire.write_whole(folder / Path(row["spec"]).name, texts[row["run_id"]])
    for row in rows:
        target = run_folder(row["run_id"])
        if target.exists():
            raise WorkbenchError(f"a run id must be new; {row['run_id']} has a folder already: submit under another one.")
        os.rename(aside / row["run_id"], target)
        yield target
    wire.sync_folder(aside.parent)


def jobs(experiment: str | None = None) -> list[Row]:
    """All jobs, oldest first; or those of an experiment id, or of the newest experiment of a bare name."""
    with Store(jobs_db()) as store:
        return store.rows(experiment)


def experiments() -> list[Row]:
    """Every experiment, newest first: {experiment, name, submitted, runs, finished, live}; counted by the store."""
    with Store(jobs_db()) as store:
        return store.experiments()


def newest(experiment: str | None, states: Sequence[str], count: int, skip: int = 0, kinds: Sequence[str] = ()) -> list[Row]:
    """`count` jobs after `skip`, the newest first; of one experiment's id, of `states` and `kinds`, where given."""
    with Store(jobs_db()) as store:
        return store.newest(experiment, states, count, skip, kinds)


def counts(experiment: str | None = None) -> dict[str, int]:
    """State -> number of jobs, of one experiment's id where given."""
    with Store(jobs_db()) as store:
        return store.counts(experiment)


def find(reference: int | str) -> Row:
    """The job with this number, run id, or unique beginning of a run id.

    Raises:
        WorkbenchError: none or several match.
    """
    text = str(reference).encode("utf-8", "replace").decode()  # SQLite takes no lone surrogates
    with Store(jobs_db()) as store:
        row = store.run(text) or (store.row(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None)
        found = [row] if row else store.starting_with(text) if text else []
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(row["run_id"] for row in found[:3])
            raise WorkbenchError(f"{text!r} must mean one job; it fits {len(found)}: {some}{', ...' if len(found) > 3 else ''}.")
        raise unknown("job", text, [name for row in store.rows() for name in (str(row["job"]), row["run_id"])])


def wait(job_ids: Sequence[int], on_change: Callable[[list[Row]], None] | None = None) -> list[Row]:
    """Wait until all these jobs are over (or paused) and return their rows; Ctrl-C leaves the runs alone.

    Args:
        job_ids: what `submit` returned; deleted ones are left out.
        on_change: called with all rows at first and whenever one changed.
    """
    before: list[Row] | None = None
    ensured = 0.0
    with Store(jobs_db()) as store:
        while True:
            rows = store.some(job_ids) if job_ids else []
            if rows != before and on_change is not None:
                on_change(rows)
            before = rows
            if all(row["state"] in (*ENDED, "paused") for row in rows):
                return rows
            if time.monotonic() - ensured > ENSURE_EVERY:
                ensure_daemon()  # a killed daemon must not make us wait for ever
                ensured = time.monotonic()
            time.sleep(POLL)


def _now(row: Row) -> Row:
    """The row as it stands; what was asked of it is done, even if somebody has deleted it since."""
    with Store(jobs_db()) as store:
        return store.row(row["job"]) or row


def cancel(job: int | str) -> Row:
    """End a waiting job at once, ask a live one to stop (signals follow if it does not); returns the row.

    Raises:
        WorkbenchError: the job is unknown or over already.
    """
    row = find(job)
    with Store(jobs_db()) as store:
        if not store.cancel(row["job"]):
            state = (store.row(row["job"]) or DELETED)["state"]
            raise WorkbenchError(f"only a job that is not over can be cancelled; job {row['job']} is {state}.")
    failpoints.reach("cancel.written")
    ensure_daemon()
    return _now(row)


def pause(job: int | str) -> Row:
    """Hold a waiting job back, or let a live training store where it stands and free its slot; returns the row.

    Raises:
        WorkbenchError: the job is unknown, short work, paused or over.
    """
    row = find(job)
    if row["kind"] != "train":
        raise WorkbenchError(f"only a training can be paused; job {row['job']} is of kind {row['kind']}: cancel it instead.")
    with Store(jobs_db()) as store:
        if not store.pause(row["job"]):
            state = (store.row(row["job"]) or DELETED)["state"]
            raise WorkbenchError(f"only a job that waits or runs can be paused; job {row['job']} is {state}.")
    failpoints.reach("pause.written")
    return _now(row)


def resume(job: int | str) -> Row:
    """Queue a paused job again; it goes on bitwise where it stood; returns the row.

    Raises:
        WorkbenchError: the job is unknown or not paused.
    """
    return _again(job, Store.resume, "only a paused job can be resumed")


def retry(job: int | str) -> Row:
    """Queue a failed or cancelled job again under the same run id, its log goes on; returns the row.

    It starts afresh, unless its worker was killed and left a checkpoint: then it goes on from there.

    Raises:
        WorkbenchError: the job is unknown or in another state.
    """
    return _again(job, Store.retry, "only a failed or cancelled job can be retried")


def _again(job: int | str, change: Callable[[Store, int, int], bool], rule: str) -> Row:
    """Queue a job once more by a change of the store, which refuses a row that is elsewhere."""
    row = find(job)
    ensure_daemon()
    with Store(jobs_db()) as store:
        if not change(store, row["job"], row["attempt"]):
            state = (store.row(row["job"]) or DELETED)["state"]
            raise WorkbenchError(f"{rule}; job {row['job']} is {state}.")
    ensure_daemon()
    return _now(row)


def delete(job: int | str) -> int:
    """Forget a job and give its disk back, see `removing.delete`; returns the bytes freed.

    Raises:
        WorkbenchError: the job is unknown or live.
    """
    return removing.delete(find(job), TELL_WITHIN)


def logs(job: int | str) -> str:
    """The text of a job's train.log, at most its last megabyte; empty before it started."""
    path = run_folder(find(job)["run_id"]) / "train.log"
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def verdict(job: int | str) -> dict[str, Any] | None:
    """The verdict of a job's current attempt; None while there is none."""
    row = find(job)
    found = wire.read_json(run_folder(row["run_id"]) / "verdict.json")
    return found if found is not None and found.get("attempt") == row["attempt"] else None
