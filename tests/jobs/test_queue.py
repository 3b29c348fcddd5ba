"""The order of the queue, holding it, sharing a GPU, migrating it, and what deleting gives back."""

import sqlite3
import subprocess
import sys

import pytest

from tests.jobs.living import make_spec, until
from tests.jobs.test_store import row
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.jobs import arranging, client, removing, schema, sharing, slots
from workbench.jobs.loop import Loop
from workbench.jobs.store import HELD, NAME, SHORT_KINDS, Store

GB = 10**9


@pytest.fixture
def still(home, monkeypatch):
    """The client without any daemon."""
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    return client


def claimed(store):
    """Take one job after another, each on a slot of its own."""
    found = []
    while one := store.claim(f"cpu:{len(found)}", ("train",)):
        found.append(one["run_id"])
    return found


# --- order


def test_a_waiting_job_moves_first_up_and_down(store):
    a, b, c, d = store.add([row(name) for name in "abcd"])
    assert store.order() == [a, b, c, d]
    assert store.move(d, "first")
    assert store.move(b, "up")
    assert store.order() == [d, b, a, c]
    assert store.move(b, "down")
    assert store.move(d, "up")  # it is first already
    assert store.move(c, "down")  # and this one last
    assert store.order() == [d, a, b, c]
    assert claimed(store) == ["d", "a", "b", "c"]
    assert not store.move(a, "first")  # it waits no more


def test_places_stay_distinct_whatever_is_moved(store):
    jobs = store.add([row(f"r{i}") for i in range(12)])
    for number in range(60):
        store.move(jobs[number * 7 % 12], ("first", "up", "down")[number % 3])
        late = store.add([row(f"late{number}")])[0]
        assert store.order()[-1] == late or number % 3 == 0
    places = [one["position"] for one in store.rows()]
    assert len(set(places)) == len(places) == 72


def test_a_training_moves_among_trainings(store):
    first, short, second = store.add([row("a"), row("b", "export"), row("c")])
    assert store.move(second, "up")
    assert store.claim("cpu:0", ("train",))["job"] == second
    assert store.claim("short", SHORT_KINDS)["job"] == short
    assert store.claim("cpu:1", ("train",))["job"] == first


def test_a_job_put_back_keeps_its_place(store):
    a, b = store.add([row("a"), row("b")])
    store.move(b, "first")
    store.claim("cpu:0", ("train",))
    store.requeue(b, 1)
    assert store.order() == [b, a]


def test_moving_what_does_not_wait_is_refused(still):
    still.submit([make_spec("one"), make_spec("two")])
    assert arranging.move("two", "first")["position"] == 0
    assert arranging.order() == [2, 1]
    still.pause("one")
    with pytest.raises(WorkbenchError, match="only a waiting job has a place in the queue; job 1 is paused"):
        arranging.move("one", "first")
    with pytest.raises(WorkbenchError, match="no place in the queue is called 'last'"):
        arranging.move("two", "last")


# --- hold and release


def test_an_experiment_is_held_and_released_in_its_order(store):
    a, b, c, other = store.add([row("a"), row("b"), row("c"), row("o", experiment="other-abc123")])
    store.move(c, "first")
    store.claim("cpu:0", ("train",))
    assert store.hold_all("first-abc123") == 2
    assert [(store.row(j)["state"], store.row(j)["reason"]) for j in (a, b)] == [("paused", HELD)] * 2
    assert (store.row(c)["state"], store.row(other)["state"]) == ("starting", "queued")
    assert store.hold_all("first-abc123") == 0
    assert store.release_all("first-abc123") == 2
    assert store.order() == [a, b, other]
    assert [(store.row(j)["reason"], store.row(j)["attempt"]) for j in (a, b)] == [(None, 2)] * 2


def test_a_failure_holds_what_waits_where_that_was_asked(still):
    asked = [make_spec("one"), make_spec("two"), make_spec("three")]
    still.submit(asked, on_error="hold")
    still.submit([make_spec("four", experiment="second-abc123")])
    with Store(client.jobs_db()) as store:
        store.claim("cpu:0", ("train",))
        store.claim("cpu:1", ("train",))
        assert store.end(1, 1, "failed", "it broke.")
        states = [(one["state"], one["reason"]) for one in store.rows()]
        assert [state for state, _ in states] == ["failed", "starting", "paused", "queued"]
        assert states[2][1] == (
            "held because job 1 (lora, seed 0) of this experiment failed: see why, then resume or cancel this run."
        )
        assert store.end(2, 1, "cancelled", None)  # only a failure holds
        assert store.resume(3, 1)
        store.claim("cpu:0", ("train",))
        assert not store.end(3, 1, "failed", "a late word of the first attempt")
        assert store.row(4)["state"] == "queued"


def test_by_default_the_others_go_on(still):
    still.submit([make_spec("one"), make_spec("two")])
    with Store(client.jobs_db()) as store:
        store.claim("cpu:0", ("train",))
        store.end(1, 1, "failed", "it broke.")
        assert store.row(2)["state"] == "queued"


def test_a_failing_run_holds_the_rest_for_real(queue):
    jobs = queue.submit([make_spec("one", **{"raise": "ours"}), make_spec("two"), make_spec("three")], on_error="hold")
    rows = queue.wait(jobs)
    assert [one["state"] for one in rows] == ["failed", "paused", "paused"]
    assert arranging.release("first-abc123") == 2
    assert [one["state"] for one in queue.wait(jobs)] == ["failed", "finished", "finished"]


# --- memory


def small(name, gigabytes, exclusive=0, gpus=1):
    return {**row(name), "exclusive": exclusive, "gpus": gpus, "planned_bytes": None if gigabytes is None else gigabytes * GB}


def test_trainings_share_a_gpu_while_their_peaks_fit(store):
    a, b, c, d = store.add([small("a", 5), small("b", 5), small("c", 5), small("d", 1)])
    room = sharing.need(5 * GB) * 2 + sharing.need(2 * GB)
    one = store.claim("gpu:0", ("train",), room)
    assert (one["job"], one["neighbours"]) == (a, 0)
    two = store.claim("gpu:0", ("train",), room)
    assert (two["job"], two["neighbours"], store.row(a)["neighbours"]) == (b, 1, 1)
    assert store.claim("gpu:0", ("train",), room) is None  # d would fit, but c is before it
    assert store.claim("gpu:1", ("train",), room)["job"] == c
    assert store.claim("gpu:0", ("train",), room)["job"] == d
    assert {store.row(job)["slot"] for job in (a, b, d)} == {"gpu:0"}
    store.end(a, 1, "finished", None)
    assert [one["neighbours"] for one in store.rows()] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "room", "fits"),
    [
        ([small("a", 500)], None, True),  # alone it is the plan's matter
        ([small("a", 1), small("b", 1)], None, False),
        ([small("a", 1), small("b", 1, exclusive=1)], 80 * GB, False),
        ([small("a", 1, exclusive=1), small("b", 1)], 80 * GB, False),
        ([small("a", 1), small("b", None)], 80 * GB, False),
        ([small("a", 1, gpus=2), small("b", 1)], 80 * GB, False),
        ([small("a", 1), small("b", 1)], 80 * GB, True),
        ([small("a", 1)] * sharing.MOST, 80 * GB, True),
        ([small("a", 1)] * (sharing.MOST + 1), 80 * GB, False),
        ([small("a", 30), small("b", 30)], 79 * GB, False),  # 60 GB planned, 79.2 with the margins
        ([small("a", 30), small("b", 30)], 80 * GB, True),
    ],
)
def test_what_may_share(rows, room, fits):
    assert sharing.fits(rows, room) is fits


def test_exclusive_is_the_default_and_one_job_a_slot_the_rule(still):
    still.submit([make_spec("one"), make_spec("two")])
    still.submit([make_spec("three", experiment="second-abc123").model_copy(update={"predicted": {"peak_memory_bytes": 2e9}})],
                 exclusive=False)  # fmt: skip
    rows = still.jobs()
    assert [(r["exclusive"], r["planned_bytes"]) for r in rows] == [(1, None), (1, None), (0, 2 * GB)]
    with Store(client.jobs_db()) as store:
        assert store.claim("gpu:0", ("train",), 80 * GB)["job"] == 1
        assert store.claim("gpu:0", ("train",), 80 * GB) is None


@pytest.fixture
def loop(home, store, monkeypatch):
    """A loop over two GPUs of 10 GB whose workers are only noted."""
    monkeypatch.setattr(slots, "gpus", lambda: ["0", "1"])
    monkeypatch.setattr(slots, "cores", lambda: 32)
    monkeypatch.setattr(slots, "room", lambda gpu: 10 * GB)
    made = Loop(store, lock=None, farewell=home / "daemon.json")
    made.started = []
    monkeypatch.setattr(made, "_start", lambda one, slot: made.started.append((one["run_id"], slot.name, slot.threads)))
    return made


def test_a_free_gpu_is_filled_before_one_is_shared(loop, store):
    store.add([small(name, 1) for name in "abcd"] + [small("e", 1, exclusive=1)])
    for _ in range(4):
        loop._fill({"train"})
    assert loop.started == [("a", "gpu:0", 4), ("b", "gpu:1", 4), ("c", "gpu:0", 4), ("d", "gpu:1", 4)]
    assert store.order() == [5]
    for job in (1, 3):
        store.end(job, 1, "finished", None)
    loop._fill({"train"})
    assert loop.started[-1] == ("e", "gpu:0", 16)  # alone it gets all the threads of its slot


def test_a_training_over_two_gpus_waits_for_both_and_nobody_overtakes_it(loop, store):
    store.add([small("a", 1), small("b", 1, gpus=2), small("c", 1), small("d", 1)])
    loop._fill({"train"})
    loop._fill({"train"})
    assert loop.started == [("a", "gpu:0", 4)]  # gpu:1 is kept for b, and b does not share gpu:0
    store.end(1, 1, "finished", None)
    loop._fill({"train"})
    assert loop.started[1:] == [("b", "gpu:0,gpu:1", 32)]
    loop._fill({"train"})
    assert store.order() == [3, 4]
    store.end(2, 1, "finished", None)
    loop._fill({"train"})
    assert [name for name, *_ in loop.started] == ["a", "b", "c", "d"]


def test_a_training_over_more_gpus_than_there_are_gets_them_all(loop, store):
    store.add([small("a", 1, exclusive=1, gpus=8)])
    loop._fill({"train"})
    assert loop.started == [("a", "gpu:0,gpu:1", 32)]  # its worker refuses with a sentence


def test_processes_of_a_training_are_the_gpus_it_asks_for(still):
    spec = make_spec("one")
    many = spec.training.model_copy(update={"processes": 2})
    still.submit([spec, *(spec.model_copy(update={"run_id": d, "training": many, "device": d}) for d in ("auto", "cpu"))])
    assert [r["gpus"] for r in still.jobs()] == [1, 2, 1]


def test_several_gpus_are_one_slot_with_all_their_threads():
    one = slots.together([slots.Slot("gpu:0", ("train",), "0", 4, GB), slots.Slot("gpu:3", ("train",), "GPU-a1", 4, GB)])
    assert (one.name, one.threads, one.room) == ("gpu:0,gpu:3", 8, None)
    assert one.environment()["CUDA_VISIBLE_DEVICES"] == "0,GPU-a1"


def test_a_gpu_that_does_not_tell_its_memory_is_not_shared(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for text, bytes_ in (("echo 81559", 81559 << 20), ("echo '[N/A]'", None), ("echo", None), ("exit 9", None)):
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        assert slots.room("0") == bytes_
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slots.room("0") is None
    cpu = slots.Slot("cpu:0", ("train",), None, 8)
    assert (cpu.room, cpu.part()) == (None, cpu)


# --- earlier versions


def version_1(path, rows=()):
    """A queue as the first version made it."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(f"BEGIN; {schema.FIRST} PRAGMA user_version=1; COMMIT;")
        for one in rows:
            names = ",".join(one)
            db.execute(f"INSERT INTO jobs ({names}) VALUES ({','.join('?' * len(one))})", tuple(one.values()))
    db.close()


def test_a_queue_of_the_first_version_is_taken_over_whole(home):
    before = [{**row(f"r{i}"), "submitted": float(i), "state": state, "reason": "why" if state == "failed" else None}
              for i, state in enumerate(("finished", "failed", "running", "queued", "queued"))]  # fmt: skip
    version_1(home / NAME, before)
    with Store(home / NAME) as store:
        found = store.rows()
        assert [{name: one[name] for name in before[0]} for one in found] == before
        new = ("position", "on_error", "exclusive", "planned_bytes", "planned_seconds", "failure")
        assert [tuple(one[name] for name in new) for one in found] == [(n, "continue", 1, None, None, None) for n in range(1, 6)]
        assert store.order() == [4, 5]
        store.move(5, "first")
        assert store.add([row("new")]) == [6]
        assert store.order() == [5, 4, 6]
        assert store.gone() == []
    with sqlite3.connect(home / NAME) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_client_of_the_first_version_that_is_still_open_goes_on(home):
    version_1(home / NAME)
    old = sqlite3.connect(home / NAME)
    with Store(home / NAME) as store:
        names = {**row("late"), "submitted": 1.0}
        old.execute(f"INSERT INTO jobs ({','.join(names)}) VALUES ({','.join('?' * len(names))})", tuple(names.values()))
        old.commit()
        assert store.order() == [1]
        assert store.row(1)["position"] == 1
    old.close()


def test_many_take_over_a_first_version_at_once(home):
    version_1(home / NAME, [{**row("a"), "submitted": 1.0}])
    script = "import sys\nfrom pathlib import Path\nfrom workbench.jobs.store import Store\n"
    script += "print(Store(Path(sys.argv[1])).order())"
    running = [subprocess.Popen([sys.executable, "-c", script, str(home / NAME)], stdout=subprocess.PIPE) for _ in range(6)]
    assert [process.communicate(timeout=60)[0] for process in running] == [b"[1]\n"] * 6


def test_a_take_over_that_fails_leaves_the_first_version(home, monkeypatch):
    version_1(home / NAME, [{**row("a"), "submitted": 1.0}])
    monkeypatch.setattr(schema, "STEPS", (schema.FIRST, schema.SECOND + "INSERT INTO nowhere VALUES (1);"))
    with pytest.raises(WorkbenchError, match="no such table: nowhere"):
        Store(home / NAME)
    with sqlite3.connect(home / NAME) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert "position" not in [column[1] for column in db.execute("PRAGMA table_info(jobs)")]
    monkeypatch.undo()


# --- delete


def test_deleting_says_what_it_freed_and_leaves_no_copy(still, home):
    still.submit([make_spec("one"), make_spec("two")])
    with Store(client.jobs_db()) as store:
        for job in (1, 2):
            store.named(job, f"ml{job}")
            store.cancel(job)
            store.told(job, 1, "cancelled")
    folder = run_folder("one")
    (folder / "checkpoint" / "step-1").mkdir(parents=True)
    (folder / "checkpoint" / "step-1" / "state.safetensors").write_bytes(b"x" * 300_000)
    (folder / "tracking.json").write_text('{"model": "m-1"}')
    mine, other = (home / "artifacts" / "models" / name for name in ("m-1", "m-2"))
    for place in (mine, other):
        place.mkdir(parents=True)
        (place / "adapter.safetensors").write_bytes(b"x" * 200_000)
    whole = removing.held([1])
    assert 500_000 <= whole <= 600_000
    assert removing.held([1, 2]) > whole
    assert removing.held([]) == removing.held([99]) == 0
    assert still.delete(1) == whole
    assert not mine.exists()
    assert other.exists()
    assert not folder.exists()
    assert list((home / "runs").glob(".*")) == []
    with Store(client.jobs_db()) as store:
        assert store.gone() == ["ml1"]
        store.forget("ml1")
        assert store.gone() == []


@pytest.mark.parametrize("model", ['"../../runs"', '"a/b"', "7", "null", '"."', '".."', '""'])
def test_only_a_copy_of_ours_is_removed(still, home, model):
    still.submit([make_spec("one"), make_spec("two")])
    (home / "artifacts" / "models" / "a" / "b").mkdir(parents=True)
    (run_folder("one") / "tracking.json").write_text(f'{{"model": {model}}}')
    still.delete("one")
    assert run_folder("two").exists()
    assert (home / "artifacts" / "models" / "a" / "b").exists()


def test_a_paused_run_leaves_its_checkpoint_to_the_deletion(queue, home):
    (job,) = queue.submit([make_spec("one", steps=400, seconds=0.05, keeps=True)])
    until(lambda: queue.find(job)["step"] >= 1)
    queue.pause(job)
    queue.wait([job])
    until(lambda: (run_folder("one") / "checkpoint" / "at.json").exists())
    assert queue.delete(job) > 0
    assert not run_folder("one").exists()
