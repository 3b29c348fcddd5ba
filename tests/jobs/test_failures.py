"""Reasons, slots and plain values: the small pure parts of the runner."""

import dataclasses
import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.living import make_spec
from workbench.core.errors import WorkbenchError
from workbench.jobs import detach, failures, processes, slots, wire


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorkbenchError("this must be that; change it."), "this must be that; change it."),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU ran out of memory; "),
        (MemoryError(), "the machine ran out of memory; "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the machine ran out of memory; "),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "the disk is full ("),
        (RuntimeError("SafetensorError: No space left on device (os error 28)"), "the disk is full ("),
        (ModuleNotFoundError("No module named 'x'", name="x"), "a module is missing in this installation ("),
        (ValueError("a\nb\x1b[31m"), "a b [31m (ValueError; "),
        (KeyError(), "it failed without a message (KeyError; "),
    ],
)
def test_a_reason_is_one_sentence(error, reason):
    said = failures.sentence(error)
    assert said.startswith(reason)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(failures.sentence(ValueError("long " * 1000))) < failures.LONGEST + 60


@pytest.mark.parametrize(
    ("log", "last"),
    [
        ("=== attempt 1 x\nfirst\nValueError: no\n\n---\n", "ValueError: no"),
        ("=== attempt 1 x\nold words\n=== attempt 2 x\n", ""),
        ("", ""),
    ],
)
def test_the_last_line_of_the_newest_attempt_is_quoted(tmp_path, log, last):
    (tmp_path / "train.log").write_text(log)
    assert failures.log_tail(tmp_path / "train.log") == last
    reason = failures.without_verdict(tmp_path, 2).sentence
    assert reason.startswith("the worker ended with exit code 2 and no verdict; ")
    assert reason.endswith(last or "it logged nothing.")


def test_a_full_disk_explains_a_missing_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(failures.shutil, "disk_usage", lambda _: os.terminal_size((0, 0)) and type("U", (), {"free": 0}))
    assert failures.without_verdict(tmp_path, 1).sentence.startswith("the disk is full")


@pytest.mark.parametrize(
    ("installed", "visible", "expected"),
    [
        (["0", "1"], None, ["0", "1"]),
        (["0", "1"], "1", ["1"]),
        (["0", "1"], "1,0", ["1", "0"]),
        (["0", "1"], "", []),
        (["0", "1"], "-1", []),
        (["0", "1"], "0,7,1", ["0"]),
        (["0", "1"], "GPU-abc", ["GPU-abc"]),
        ([], "0", []),
    ],
)
def test_visible_gpus_are_honoured(monkeypatch, installed, visible, expected):
    monkeypatch.setattr(slots, "_installed", lambda: installed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots.gpus() == expected


def test_gpus_are_counted_by_the_driver(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\necho '  MIG 1g (UUID: MIG-1)'\necho 'GPU 1: x'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert slots._installed() == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert slots._installed() == []


def test_slots_share_the_processors(monkeypatch):
    monkeypatch.setattr(slots, "cores", lambda: 16)
    monkeypatch.setattr(slots, "gpus", lambda: ["0", "3"])
    made = slots.layout()
    assert [(slot.name, slot.threads, slot.gpu) for slot in made] == [("gpu:0", 8, "0"), ("gpu:3", 8, "3"), ("short", 8, "0")]
    assert [made[1].device(wanted) for wanted in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    assert made[1].environment()["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.setattr(slots, "gpus", list)
    made = slots.layout()
    assert [(slot.name, slot.threads, slot.device()) for slot in made] == [("cpu:0", 16, "cpu"), ("short", 16, "cpu")]


@pytest.mark.parametrize(
    ("text", "most"), [("max 100000", math.inf), ("150000 100000", 2), ("10000 100000", 1), ("rubbish", math.inf)]
)
def test_a_containers_share_limits_the_threads(tmp_path, text, most):
    (tmp_path / "cpu.max").write_text(text)
    assert slots.cores(tmp_path / "cpu.max") == min(most, len(os.sched_getaffinity(0)))
    assert slots.cores(tmp_path / "none") == len(os.sched_getaffinity(0))


def test_plain_values(tmp_path):
    @dataclasses.dataclass
    class Pair:
        left: float
        right: Path

    class Scalar:
        def tolist(self):
            return 2.5

    value = {"a": [Pair(math.inf, Path("x"))], 1: (Scalar(), True), "spec": make_spec("one").model}
    plain = wire.plain(value)
    assert plain["a"] == [{"left": None, "right": "x"}]
    assert plain["1"] == [2.5, True]
    assert plain["spec"]["source"] == "bundled/minilm"
    wire.write_json(tmp_path / "x.json", value)
    assert wire.read_json(tmp_path / "x.json") == plain
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(TypeError, match="no JSON form"):
        wire.write_json(tmp_path / "x.json", {"a": object()})
    assert wire.read_json(tmp_path / "x.json") == plain
    (tmp_path / "x.json").write_text('{"half')
    assert wire.read_json(tmp_path / "x.json") is None


def test_a_process_is_known_by_pid_and_start():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    start = processes.created(process.pid)
    assert processes.alive(process.pid, start)
    assert not processes.alive(process.pid, start - 1)
    assert processes.members(process.pid, start - 1) == []
    assert not processes.signal_group(process.pid, start - 1, signal.SIGKILL)
    assert processes.members(process.pid, start) == [process.pid]
    processes.kill_rest(process.pid, start)
    assert processes.created(process.pid) is None  # a zombie is dead
    assert process.wait() == -signal.SIGKILL
    assert not processes.alive(None, None)


def test_a_changed_file_changes_the_code_stamp(tmp_path, monkeypatch):
    monkeypatch.setattr(detach, "ROOT", tmp_path)
    (tmp_path / "workbench" / "__pycache__").mkdir(parents=True)
    (tmp_path / "workbench" / "a.py").write_text("1")
    first = detach.code_stamp()
    (tmp_path / "workbench" / "__pycache__" / "b.py").write_text("1")
    (tmp_path / "workbench" / "notes.txt").write_text("1")
    assert detach.code_stamp() == first
    (tmp_path / "workbench" / "a.py").write_text("12")
    assert detach.code_stamp() != first
