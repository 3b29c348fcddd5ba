"""The five commit paths that F3 and F4 break: submit, claim, checkpoint, result, export; each with what must hold afterwards."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tests.faults import invariants, planted
from tests.faults.syscalls import KILLED, POWER, Way
from tests.jobs.living import make_spec
from workbench.core import durable
from workbench.core.errors import WorkbenchError
from workbench.core.locks import Alive
from workbench.core.run_spec import Placed
from workbench.evaluate import saved
from workbench.export import exporting
from workbench.jobs import client, wire, worker
from workbench.jobs.loop import Loop
from workbench.jobs.store import NAME, Store
from workbench.train import checkpoint

SPEC = make_spec("one")
RUN = Path("runs", "one")
OUT = Path("out", "exported")


def daemon(home: Path, act: Callable[[Loop], Any]) -> None:
    """Let a loop of this process do something, as the next daemon would; its worker ends at once."""
    lock = Alive(home / "locks" / "daemon.lock")
    assert lock.take(wait=5)
    try:
        with Store(home / NAME) as store:
            act(Loop(store, lock, home / "daemon.json", ["/bin/true"]))
    finally:
        lock.release()


def rest(home: Path) -> None:
    """What a daemon does when it starts."""
    daemon(home, lambda loop: loop.reconcile())


def queued(home: Path) -> None:
    """One queued run."""
    client.submit([SPEC])


# --- submit


def _first_store(home: Path) -> None:
    Store(home / NAME).close()


def _submit(home: Path, _: Any) -> None:
    client.submit([SPEC])


def _submitted(home: Path, code: int, said: str) -> list[str]:
    broken = [] if code == KILLED or said == POWER else [f"I9: {p} is left" for p in invariants.temporary(home)]
    before = [row["run_id"] for row in invariants.rows(home)]
    if code not in (0, KILLED) and (home / RUN).exists() and "one" not in before:
        broken.append("I4: a refused submit left its folder")
    rest(home)
    broken += invariants.check(home, acknowledged=["one"] if code == 0 else [], over=False)
    if not before:
        try:
            client.submit([SPEC])
        except WorkbenchError as error:
            broken.append(f"I1: it cannot be submitted again: {error}")
    return broken


# --- claim


def _loop(home: Path) -> tuple[Loop, Alive]:
    lock = Alive(home / "locks" / "daemon.lock")
    lock.take()
    return Loop(Store(home / NAME), lock, home / "daemon.json", ["/bin/true"]), lock


def _claim(home: Path, opened: tuple[Loop, Alive]) -> None:
    opened[0]._fill({"train"})


def _claimed(home: Path, code: int, said: str) -> list[str]:
    rest(home)
    broken = [f"I9: {p} is left" for p in invariants.temporary(home)]  # the job may be cancelled before it is started again
    daemon(home, lambda loop: loop.tick())
    broken += invariants.check(home, acknowledged=["one"], over=False)
    with Store(home / NAME) as store:
        row = store.rows()[0]
    return broken + ([] if row["state"] in ("queued", "starting", "failed") else [f"I1: the job is {row['state']}"])


# --- checkpoint


def _tensors(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((40,), float(step)), "moment": torch.arange(30.0)}


def _one_checkpoint(home: Path) -> None:
    queued(home)
    (home / RUN / "events.jsonl").write_text('{"event": "step", "step": 1, "attempt": 1}\n')
    checkpoint.write(home / RUN, SPEC, 1, {"offset": 40}, _tensors(1), 1)


def _checkpoint(home: Path, _: Any) -> None:
    with (home / RUN / "events.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 2, "attempt": 1}\n')
    checkpoint.write(home / RUN, SPEC, 2, {"offset": 80}, _tensors(2), 1)


def _checkpointed(home: Path, code: int, said: str) -> list[str]:
    place = home / RUN / checkpoint.FOLDER
    broken = [] if code == KILLED or said == POWER else [f"I9: {p} is left" for p in invariants.temporary(home)]
    durable.sweep(place, everything=True)
    found = checkpoint.read(home / RUN, SPEC)
    if found is None:
        return [*broken, "I5: no checkpoint can be used any more"]
    wanted = (2.0,) if code == 0 else (1.0, 2.0)
    if float(found.tensors["weight"][0]) not in wanted:
        broken.append(f"I4: the checkpoint of step {found.tensors['weight'][0]} is the newest")
    if (home / RUN / "events.jsonl").stat().st_size < found.plain["offset"]:
        broken.append("I5: events.jsonl is shorter than the checkpoint says")
    return broken + invariants.check(home, over=False)


# --- result


def _placed(home: Path) -> None:
    queued(home)
    with Store(home / NAME) as store:
        store.claim("cpu:0", ("train",))
    wire.write_json(home / RUN / "placement.json", Placed())


def _hashes(tensors: Any, path: Any, metadata: Any = None) -> None:
    planted._save_file(tensors, path)


def _work(home: Path, _: Any) -> int:
    import safetensors.torch as files

    files.save_file = _hashes  # this is a fork: planted checkpoints hold text
    planted.EVERY = planted.STEPS  # one checkpoint, written and cleared, is enough here
    return worker.main(home / RUN, planted.WIRING)


def _judged(home: Path, code: int, said: str) -> list[str]:
    rest(home)
    row = invariants.rows(home)[0]
    broken = invariants.check(home, acknowledged=["one"], over=row["state"] != "queued")
    if row["state"] == "finished" and not (home / RUN / "adapter").is_dir():
        broken.append("I4: the job is finished and has no adapter")
    told = [e["step"] for e in invariants.events(home / RUN) if e["event"] in ("step", "evaluated")]
    if row["state"] == "finished" and told != [*range(1, planted.STEPS + 1), planted.STEPS]:
        broken.append(f"I5: the job is finished and its events are of the steps {told}")
    if code == 0 and row["state"] != "finished":
        broken.append(f"I1: the worker ended well and its job is {row['state']}")
    return broken


# --- export


def _old_export(home: Path) -> None:
    (home / "runs").mkdir()
    _first_store(home)
    durable.write_whole(home / OUT, planted.write_export)
    (home / OUT / "old").touch()


def _export(home: Path, _: Any) -> None:
    saved.place = saved.read = lambda source: Path(source)
    saved.revive = lambda stored, where: None
    for module in exporting.FORMATS.values():
        module.refusal = lambda revived: ""
    exporting._fill = lambda revived, format, work, max_error, rank: planted.write_export(work) or {}
    exporting.export(home / RUN, "bundle", home / OUT)


def _exported(home: Path, code: int, said: str) -> list[str]:
    broken = [] if code == KILLED or said == POWER else [f"I9: {p} is left" for p in invariants.temporary(home)]
    durable.sweep((home / OUT).parent, OUT.name)
    if not (home / OUT).is_dir():
        return [*broken, "I4: the earlier export is gone and the new one is not there"]
    if code == 0 and (home / OUT / "old").exists():
        broken.append("I1: the export ended well and the earlier one is still there")
    return broken + [f"I4: {text}" for text in invariants.unfit(home / OUT)]


WAYS = MappingProxyType({
    "submit": Way(_first_store, lambda home: None, _submit, _submitted),
    "claim": Way(queued, _loop, _claim, _claimed),
    "checkpoint": Way(_one_checkpoint, lambda home: None, _checkpoint, _checkpointed),
    "result": Way(_placed, lambda home: None, _work, _judged),
    "export": Way(_old_export, lambda home: None, _export, _exported),
})  # fmt: skip
