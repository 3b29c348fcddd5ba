"""F12, does the net bite: bugs that lose runs, and the faults that must show each; `tests/mutate/run.py --faults`."""

from tests.mutate.mutants import Mutant

DURABLE, LOCKS = "workbench/core/durable.py", "workbench/core/locks.py"
CHECKPOINT, SESSION, TRAINING = (f"workbench/train/{n}.py" for n in ("checkpoint", "session", "loop"))
WIRE, CLIENT, STORE, LOOP, DAEMON, WORKER, READING, REMOVING = (
    f"workbench/jobs/{n}.py" for n in ("wire", "client", "store", "loop", "daemon", "worker", "reading", "removing")
)
EVENTS = "tracking/events.py"
FAULTS = "tests/faults/test_"


def _kill(way: str) -> str:
    return f"{FAULTS}syscalls.py::test_a_kill_at_any_call_leaves_the_old_or_the_new[{way}-all] --slow"


def _error(way: str) -> str:
    return f"{FAULTS}syscalls.py::test_an_error_of_any_call_is_one_sentence_and_leaves_nothing_half_done[{way}-ENOSPC-all] --slow"


def _power(way: str) -> str:
    return f"{FAULTS}power.py::test_a_power_cut_leaves_the_old_or_the_new[{way}-some]"


def _killed(case: str) -> str:
    return f"{FAULTS}signals.py::test_a_killed_process_breaks_no_promise[{case}]"


def _resumed(point: str) -> str:
    return f"{FAULTS}resume.py::test_a_killed_training_taken_up_again_is_bitwise_the_undisturbed_one[weight-{point}]"


T_DAMAGE = f"{FAULTS}damage.py"
T_DAMAGED, T_LATER = (
    f"{T_DAMAGE}::test_{n}" for n in ("a_damaged_queue_is_named_and_left", "a_queue_of_a_later_version_is_named_and_left")
)

MUTANTS = [
    # --- what is on disk when
    Mutant(DURABLE, "            sync(path)\n", "            pass\n", "a folder's files are not synced", _power("export")),
    Mutant(DURABLE, "        sync(folder.parent)\n", "", "a rename is not synced", _power("export")),
    Mutant(DURABLE, 'if half["kind"] == "old"', "if False", "an older export stays aside", _kill("export")),
    Mutant(
        DURABLE,
        "        wipe(work)\n        if old",
        "        if old",
        "a failed write leaves rubbish",
        _error("export"),
    ),
    Mutant(
        DURABLE,
        "        folder.rename(aside)\n        wipe(aside)",
        "        shutil.rmtree(folder)",
        "a folder goes file by file",
        _kill("checkpoint"),
    ),
    Mutant(CHECKPOINT, "        sync(events)", "        pass", "a checkpoint outlives its events", _power("checkpoint")),
    Mutant(
        CHECKPOINT,
        '    write_whole(home / f"step-{step:08d}", fill)\n',
        '    (home / f"step-{step:08d}").mkdir(exist_ok=True)\n    fill(home / f"step-{step:08d}")\n',
        "a checkpoint is written in its place",
        _kill("checkpoint"),
    ),
    Mutant(
        CHECKPOINT,
        '    write_whole(home / f"step-{step:08d}", fill)\n',
        '    for old in _all(folder):\n        remove(old)\n    write_whole(home / f"step-{step:08d}", fill)\n',
        "the older checkpoint goes before the new one is there",
        _kill("checkpoint"),
    ),
    Mutant(WIRE, "            os.fsync(file.fileno())\n", "", "a verdict is renamed before it is synced", _power("result")),
    Mutant(
        WIRE,
        "        os.replace(temporary, path)\n",
        "        path.write_text(text)\n        temporary.unlink()\n",
        "a placement is written in its place",
        _kill("claim"),
    ),
    Mutant(
        WIRE,
        "        temporary.unlink(missing_ok=True)\n        raise\n",
        "        temporary.unlink(missing_ok=True)\n        return\n",
        "a full disk is swallowed",
        _error("result"),
    ),
    Mutant(WIRE, "        raise\n    sync_folder(path.parent)\n", "        raise\n", "a verdict's name is not synced",
           _power("result")),
    Mutant(EVENTS, "            os.fsync(self._file)\n", "", "a finished run loses its last events", _power("result")),
    Mutant(CLIENT, "    wire.sync_folder(aside.parent)\n", "", "an acknowledged run loses its folder", _power("submit")),
    Mutant(
        CLIENT,
        "        for folder in made:\n            shutil.rmtree(folder, ignore_errors=True)\n",
        "",
        "a refused submit leaves its folders",
        _error("submit"),
    ),
    # --- what goes on after a kill
    Mutant(EVENTS, "            os.ftruncate(self._file, self.offset)\n            if", "            if", "steps are told twice",
           _killed("checkpoint.written@2-KILL")),
    Mutant(SESSION, '"offset": self.reporter.offset', '"offset": 0', "steps before a checkpoint are lost", _resumed("event@7")),
    Mutant(
        TRAINING,
        "            standing.put_back_optimizer(begin, run.adamw, run.schedule)\n",
        "",
        "a resumed run forgets its optimizer",
        _resumed("checkpoint.renamed@3"),
    ),
    Mutant(LOOP, "        self._clear(row)\n", "", "half an adapter stays", _killed("adapter.written-KILL")),
    Mutant(LOOP, "        if isinstance(target, str):\n", "        if False:\n", "half an export stays",
           _killed("export.written/export-KILL")),
    Mutant(LOOP, 'if unborn or row["state"] == "queued":', "if False:", "half a placement stays",
           "tests/jobs/test_daemon.py::test_half_made_folders_are_swept_unless_a_submit_is_going_on"),
    Mutant(WORKER, "    if not away and not lock.take(wait=2.0):", "    if False:", "a worker works without its lock",
           "tests/jobs/test_daemon.py::test_a_second_worker_or_a_stale_one_does_nothing"),
    Mutant(
        LOOP,
        "    verdict = wire.read_json(run_folder",
        "    return None\n    verdict = wire.read_json(run_folder",
        "a verdict is not believed",
        _killed("verdict.written-KILL"),
    ),
    Mutant(LOCKS, "os.register_at_fork(after_in_child=_close_in_child)", "", "a child of a worker keeps its lock",
           "tests/jobs/test_locks.py"),
    Mutant(STORE, "AND attempt=coalesce(?, attempt)", "AND coalesce(?, attempt) > 0", "a stale attempt may write",
           "tests/jobs/test_store.py"),
    Mutant(STORE, '{"cancel": {**CANCELLED, "ended": time.time()}, "pause": PAUSED}.get(', "{}.get(",
           "a wish is lost with a worker that never came to life",
           "tests/jobs/test_store.py::test_what_was_asked_of_a_job_holds_when_its_worker_never_came_to_life"),
    Mutant(STORE, 'if state == "paused" and row.get("intent") == "cancel"', "if False", "a wish is lost to an earlier one",
           "tests/jobs/test_store.py::test_a_cancel_that_comes_while_a_worker_pauses_is_kept"),
    Mutant(REMOVING, "return not busy and set(", "return set(", "the folders of a living submit are swept",
           "tests/jobs/test_daemon.py::test_half_made_folders_are_swept_unless_a_submit_is_going_on"),
    Mutant(LOOP, "        removing.sweep(self.store)\n", "", "the folders of a dead submit stay", _killed("submit.written-KILL")),
    Mutant(LOOP, '        logs.bound(run_folder(row["run_id"]) / "train.log")\n', "", "a flood of warnings fills the disk",
           f"{FAULTS}planted.py::test_a_worker_that_prints_without_end_does_not_fill_the_disk --slow"),
    # --- damage
    Mutant(DAEMON, "        sound(store.path)\n", "", "a daemon works on a damaged queue", T_DAMAGED),
    Mutant(READING, "        if schema.emptied(path):", "        if False:", "an emptied queue is taken for a new one",
           f"{T_DAMAGE}::test_an_emptied_queue_is_named_and_left"),
    Mutant(READING, "        if found != schema.VERSION:", "        if False:", "a later queue is written to", T_LATER),
]  # fmt: skip
