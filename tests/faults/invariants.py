"""What must hold of a home after any fault: one function per invariant, each returning the broken ones as sentences.

`check(home)` asks all that a home alone can answer, at this moment; `settled(home)` waits up to ten seconds (the limit of I9)
until nothing is broken. A function that needs something to compare with takes it: `snapshot` before the fault, a finished run.
No torch: safetensors files are compared by their hashes.
"""

import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.jobs.living import processes_of
from tracking.client import STATUS
from workbench.core import safe_yaml
from workbench.core.locks import is_held, run_lock
from workbench.core.run_spec import RunSpec
from workbench.jobs import processes, wire
from workbench.jobs.store import ENDED, LIVE, Row, Store
from workbench.train import checkpoint

SETTLE = 10.0
RESTING = (*ENDED, "paused")
ATTEMPT = re.compile(r"^=== attempt (\d+) ", re.MULTILINE)
ADAPTER = "workbench_adapter.json"
EXPORT = "workbench_export.json"
LOCAL = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""127.0.0.1, ::1 and ::ffff:127.0.0.1 as /proc/net/tcp and tcp6 write them."""


def rows(home: Path) -> list[Row]:
    """All rows; none where no queue was made yet."""
    if not (home / "jobs.db").exists():
        return []
    with Store(home / "jobs.db") as store:
        return store.rows()


def folder_of(home: Path, row: Row) -> Path:
    return home / "runs" / row["run_id"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def snapshot(*folders: Path) -> dict[Path, str]:
    """File -> sha256 of everything below these folders; for I8, I11 and I12."""
    return {p: sha256(p) for folder in folders for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()}


# --- the invariants


def i1_acknowledged(home: Path, acknowledged: Iterable[str] = (), deleted: Iterable[str] = (), over: bool = True) -> list[str]:
    """Every acknowledged run id has exactly one row (or was deleted by the person) and, where `over`, rests in one state."""
    found = rows(home)
    names = [row["run_id"] for row in found]
    broken = [f"{name} was acknowledged and has no row" for name in set(acknowledged) - set(names) - set(deleted)]
    broken += [f"{name} has {names.count(name)} rows" for name in set(names) if names.count(name) > 1]
    broken += [f"{row['run_id']} is {row['state']} for good" for row in found if over and row["state"] not in RESTING]
    broken += [f"{r['run_id']} rests without an end time" for r in found if r["state"] in ENDED and r["ended"] is None]
    return broken


def i2_one_attempt(home: Path) -> list[str]:
    """At most one worker process per run; the attempts in log and events only rise, and none is newer than the row's."""
    workers = [(pid, words[-1]) for pid, words in _commands(home) if _is_worker(words)]
    broken = []
    for row in rows(home):
        folder = folder_of(home, row)
        alive = [pid for pid, last in workers if Path(last) == folder and processes.created(pid) is not None]
        if len(alive) > 1:
            broken.append(f"{row['run_id']} has {len(alive)} workers at once: {alive}")
        told = [int(n) for n in ATTEMPT.findall(_text(folder / "train.log"))]
        if told != sorted(set(told)):
            broken.append(f"{row['run_id']} began its attempts in the order {told}")
        lines = [e["attempt"] for e in events(folder) if "attempt" in e]
        if lines != sorted(lines):
            broken.append(f"{row['run_id']} has events of an older attempt after a newer one")
        notes = {name: wire.read_json(folder / name) or {} for name in ("placement.json", "verdict.json")}
        found = {
            "the log": told[-1:],
            "the events": lines[-1:],
            **{n: [v["attempt"]] for n, v in notes.items() if "attempt" in v},
        }
        broken += [
            f"{row['run_id']}: {where} speaks of attempt {n[0]}, the row of {row['attempt']}"
            for where, n in found.items()
            if n and n[0] > row["attempt"]
        ]
    return broken


def i3_shown_is_true(home: Path) -> list[str]:
    """A running row's lock is held, and a resting row's is free (asked of the kernel); wait up to 5 s while a daemon lives."""
    held = {row["run_id"]: is_held(run_lock(home, row["run_id"])) for row in rows(home)}
    shown = rows(home)
    broken = [
        f"{r['run_id']} is shown running, nobody holds its lock"
        for r in shown
        if r["state"] == "running" and not held.get(r["run_id"], True)
    ]
    return broken + [
        f"{r['run_id']} is shown {r['state']}, its lock is held" for r in shown if r["state"] in RESTING and held.get(r["run_id"])
    ]


def i4_whole_or_absent(home: Path, *exports: Path) -> list[str]:
    """Specs, verdicts, placements, checkpoints, adapters and exports are whole and match their sha256, or are not there."""
    broken = []
    for row in rows(home):
        folder = folder_of(home, row)
        broken += [f"{row['run_id']}: {text}" for text in (*_files(folder, row), *_checkpoints(folder))]
    for folder in [*_holding(home, ADAPTER), *_holding(home, EXPORT), *(e for e in exports if e.exists())]:
        broken += unfit(folder)
    return broken


def unfit(folder: Path) -> list[str]:
    """What is wrong with an adapter or export folder that stands under its final name."""
    name = ADAPTER if (folder / ADAPTER).exists() else EXPORT
    claim = wire.read_json(folder / name)
    if claim is None:
        return [f"{folder} stands there without a whole {name}"]
    hashes = claim.get("sha256") if name == ADAPTER else claim.get("files")
    if not isinstance(hashes, dict) or not hashes:
        return [f"{folder / name} names no hashes"]
    return [
        f"{folder / n} is missing or not as {name} says"
        for n, h in hashes.items()
        if not (folder / n).is_file() or sha256(folder / n) != h
    ]


def i5_taken_up_again(folder: Path, reference: Path) -> list[str]:
    """A run that was killed and taken up again left the adapter of the uninterrupted `reference`, bitwise, and each step once."""
    broken = []
    weights = "adapter_model.safetensors"
    ours, theirs = ((f / "adapter" / weights) for f in (folder, reference))
    if not ours.exists() or sha256(ours) != sha256(theirs):
        broken.append(f"{folder.name}: the adapter is missing or differs from the uninterrupted one")
    told, wanted = ([_said(e) for e in events(f) if e.get("event") in ("step", "evaluated")] for f in (folder, reference))
    if told != wanted:
        steps = [e["step"] for e in told if e["event"] == "step"]
        broken.append(
            f"{folder.name}: the steps and evaluations in events.jsonl differ from the uninterrupted run (steps {steps})"
        )
    return broken


def i6_databases(home: Path) -> list[str]:
    """`integrity_check` and `foreign_key_check` of jobs.db and mlflow.db say nothing, and the queue opens."""
    broken = []
    for path in (p for p in (home / "jobs.db", home / "mlflow.db") if p.exists()):
        try:
            db = sqlite3.connect(path, timeout=10)
            try:
                found = [r[0] for r in db.execute("PRAGMA integrity_check")]
                broken += [] if found == ["ok"] else [f"{path.name} is damaged: {found[0]}"]
                broken += [f"{path.name} has a dangling reference in {r[0]}" for r in db.execute("PRAGMA foreign_key_check")]
            finally:
                db.close()
        except sqlite3.DatabaseError as error:
            broken.append(f"{path.name} cannot be read: {error}")
    return broken


def i7_one_story(home: Path) -> list[str]:
    """Row, verdict and MLflow agree: finished rows have a finished verdict of their attempt, and MLflow accepted the same."""
    broken = []
    told = _mlflow(home)
    for row in rows(home):
        verdict = wire.read_json(folder_of(home, row) / "verdict.json")
        ours = verdict if verdict is not None and verdict.get("attempt") == row["attempt"] else None
        if row["state"] == "finished" and (ours is None or ours["state"] != "finished"):
            broken.append(f"{row['run_id']} is finished, its verdict says {ours and ours['state']}")
        elif row["state"] in RESTING and ours is not None and row["started"] and ours["state"] not in (row["state"], "paused"):
            broken.append(f"{row['run_id']} is {row['state']}, its verdict says {ours['state']}")
        if row["told"] and row["told"] == row["state"] and told.get(row["mlflow_id"]) not in (None, STATUS[row["state"]]):
            broken.append(f"{row['run_id']} is {row['state']}, MLflow says {told[row['mlflow_id']]}")
    return broken


def i8_others_unchanged(before: Mapping[Path, str]) -> list[str]:
    """Other jobs' folders are bitwise what `snapshot(their folders)` was before the fault."""
    return [f"{path} changed or went" for path, digest in before.items() if not path.is_file() or sha256(path) != digest]


def i9_nothing_left(home: Path, ours: Iterable[int] = ()) -> list[str]:
    """No process but daemon, engine, live workers and `ours`; no lock without an owner's row, slot, temporary file or folder."""
    found = rows(home)
    live = [row for row in found if row["state"] in LIVE]
    groups = {row["pgid"] for row in live}
    broken = []
    for pid, words in _commands(home):
        served = any(w in ("daemon", "engine") or w.endswith((".daemon", ".engine")) for w in words)
        young = (
            bool(live) and _is_worker(words) and any(words[-1].endswith(row["run_id"]) for row in live)
        )  # not written to its row yet
        if not (served or young or pid in set(ours)) and _group(pid) not in groups:
            broken.append(f"process {pid} is left: {' '.join(words)[:120]}")
    known = {f"run-{row['run_id']}.lock" for row in live}
    locks = (home / "locks").glob("run-*.lock") if (home / "locks").is_dir() else ()
    broken += [f"the lock {path.name} is held for no live job" for path in locks if path.name not in known and is_held(path)]
    slots = [row["slot"] for row in live]
    broken += [f"slot {slot} is taken {slots.count(slot)} times" for slot in set(slots) if slots.count(slot) > 1]
    broken += [f"{path.relative_to(home)} is left" for path in temporary(home, {r["run_id"] for r in live})]
    shared = Path("/dev/shm").glob(f"torch_{os.getpid()}_*")
    return broken + [f"{path} is left" for path in shared]


def temporary(home: Path, live: Iterable[str] = ()) -> list[Path]:
    """What writers leave when they are killed: `.name.tmp`, `.new-`, `.gone-`, `.old`; not below `live` runs or caches."""
    found = []
    for folder, names, files in os.walk(home):
        here = Path(folder)
        names[:] = [n for n in names if not (here == home / "runs" and n in set(live)) and not (here == home and n == "cache")]
        half = [
            n for n in (*names, *files) if n.startswith((".new-", ".gone-")) or re.fullmatch(r"\..*\.(tmp|old)|.*\.tmp\w*", n)
        ]
        found += [here / n for n in half]
    return found


def i10_sentence(text: str | None, *words: str) -> list[str]:
    """One true sentence for a person: not empty, one line, no traceback, ends like a sentence and holds `words`."""
    if not text or not text.strip():
        return ["nothing was said"]
    line = text.strip()
    broken = [f"more than one line was said: {line[:200]!r}"] if "\n" in line else []
    broken += [f"a traceback was shown: {line[:200]!r}"] if "Traceback" in line else []
    broken += [f"{word!r} was not said in {line[:200]!r}" for word in words if word not in line]
    return broken


def i10_reasons(home: Path) -> list[str]:
    """Every failed row says why, in one sentence."""
    return [f"{row['run_id']}: {text}" for row in rows(home) if row["state"] == "failed" for text in i10_sentence(row["reason"])]


def i11_base_unchanged(before: Mapping[Path, str]) -> list[str]:
    """Base models and data are bitwise what `snapshot(their folders)` was."""
    return i8_others_unchanged(before)


def i12_nothing_outside(
    home: Path, outside: Path | None = None, before: Mapping[Path, str] | None = None, canary: Path | None = None
) -> list[str]:
    """The canary was not made, nothing in `outside` is new against `before`, and no process of the home talks off loopback."""
    broken = [f"the canary {canary} was made"] if canary is not None and canary.exists() else []
    if outside is not None:
        broken += [
            f"{path} was written outside the home"
            for path in snapshot(outside)
            if path not in (before or {}) and home not in path.parents
        ]
    return broken + [f"process {pid} has a connection to {where}" for pid in processes_of(home) for where in foreign(pid)]


# --- together

ALONE: Mapping[str, Callable[[Path], list[str]]] = {
    "I2": i2_one_attempt,
    "I3": i3_shown_is_true,
    "I4": i4_whole_or_absent,
    "I6": i6_databases,
    "I7": i7_one_story,
    "I9": i9_nothing_left,
    "I10": i10_reasons,
    "I12": i12_nothing_outside,
}
"""What a home alone can answer."""


def check(
    home: Path,
    acknowledged: Iterable[str] = (),
    deleted: Iterable[str] = (),
    over: bool = True,
    before: Mapping[Path, str] | None = None,
    ours: Iterable[int] = (),
    exports: Iterable[Path] = (),
) -> list[str]:
    """Every invariant that can be checked now; the broken ones as "I4: sentence".

    Args:
        home: the home.
        acknowledged, deleted: run ids of submits and deletes that answered.
        over: whether every job must rest by now.
        before: files that must not have changed (other jobs, base models), as of `snapshot`.
        ours: processes of the home that belong to the test.
        exports: folders outside the home that must be whole or absent.
    """
    damaged = [f"I6: {text}" for text in i6_databases(home)]
    if damaged:  # the others read the queue
        return damaged
    more: dict[str, list[str]] = {
        "I1": i1_acknowledged(home, acknowledged, deleted, over),
        "I8": i8_others_unchanged(before or {}),
        "I4": i4_whole_or_absent(home, *exports),
        "I9": i9_nothing_left(home, ours),
    }
    found = {**{name: ask(home) for name, ask in ALONE.items() if name not in more}, **more}
    return [f"{name}: {text}" for name, texts in sorted(found.items()) for text in texts]


def settled(home: Path, seconds: float = SETTLE, **more: Any) -> list[str]:
    """`check` again and again until nothing is broken or the time is up; what is broken then."""
    deadline = time.monotonic() + seconds
    while (broken := check(home, **more)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return broken


# --- what the functions above look at


def events(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of events.jsonl; a cut last line does not count."""
    lines = _text(folder / "events.jsonl").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]


def foreign(pid: int) -> list[str]:
    """Addresses off loopback that a process is connected to or listens on."""
    mine = set()
    for fd in _listed(Path(f"/proc/{pid}/fd")):
        try:
            mine.add(os.readlink(fd))
        except OSError:
            continue  # closed meanwhile
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in _text(Path(f"/proc/{pid}/net/{table}")).splitlines()[1:]:
            words = line.split()
            ends = [words[1], *([words[2]] if words[3] != "0A" else [])]
            if f"socket:[{words[9]}]" in mine and any(end.partition(":")[0] not in LOCAL for end in ends):
                found.append(f"{words[1]} -> {words[2]}")
    return found


def _said(event: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event.items() if k not in ("time", "seconds", "attempt")}


def _files(folder: Path, row: Row) -> list[str]:
    broken = []
    if not folder.is_dir():
        return [f"its folder is gone while it is {row['state']}"] if row["state"] in ("queued", *LIVE, "finished") else []
    for name in ("placement.json", "verdict.json"):
        if (folder / name).exists() and wire.read_json(folder / name) is None:
            broken.append(f"{name} is not whole")
    wanted = Path(row["spec"]).name
    try:
        text = (folder / wanted).read_bytes()
        RunSpec.model_validate(safe_yaml.loads(text, wanted)) if row["kind"] == "train" else json.loads(text)
    except Exception as error:  # whatever it is, the request of an acknowledged job must be readable
        broken.append(f"{wanted} cannot be read: {type(error).__name__}")
    return broken


def _checkpoints(folder: Path) -> list[str]:
    broken = []
    for path in _listed(folder / checkpoint.FOLDER):
        if path.name.startswith("step-"):
            facts, tensors = wire.read_json(path / checkpoint.STATE), path / checkpoint.TENSORS
            if facts is None or not tensors.is_file() or sha256(tensors) != facts.get("sha256"):
                broken.append(f"checkpoint {path.name} is there and not whole")
    return broken


def _holding(home: Path, name: str) -> list[Path]:
    return [p.parent for p in home.rglob(name) if not any(part.startswith(".") for part in p.relative_to(home).parts)]


def _mlflow(home: Path) -> dict[str, str]:
    if not (home / "mlflow.db").exists():
        return {}
    db = sqlite3.connect(home / "mlflow.db", timeout=10)
    try:
        return dict(db.execute("SELECT run_uuid, status FROM runs"))
    finally:
        db.close()


def _commands(home: Path) -> list[tuple[int, list[str]]]:
    found = []
    for pid in processes_of(home):
        words = _text(Path(f"/proc/{pid}/cmdline")).split("\0")[:-1]
        if words and processes.created(pid) is not None:
            found.append((pid, words))
    return found


def _is_worker(words: list[str]) -> bool:
    return len(words) > 2 and (words[-2] == "worker" or words[-2].endswith(".worker"))


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
