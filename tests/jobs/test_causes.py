"""One real fixture for every cause of a failure: the libraries' own exceptions, whole log files, killed processes."""

import http.server
import json
import os
import signal
import threading

import pytest

from tests.jobs.living import make_spec, until
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.core.spec import DataSpec, ExperimentSpec
from workbench.jobs import causes, failures, memory
from workbench.services import results, runs


def raised(act):
    """What a call raises, as a worker would see it."""
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


# --- the libraries' own exceptions


def gpu_memory():
    import torch

    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.02 GiB is free. "
        "Including non-PyTorch memory, this process has 14.75 GiB memory in use."
    )


def cpu_memory():
    import torch

    torch.empty(1 << 55)


def disk():
    with open("/dev/full", "w") as file:
        file.write("x" * 100_000)


def not_a_number():
    from workbench.train.watching import RateFailed

    raise RateFailed("the loss became nan at step 3; lower learning_rate, or set clip.")


def unknown_target():
    import torch

    torch.nn.functional.cross_entropy(torch.zeros(1, 2), torch.tensor([5]))


def no_cuda():
    import torch

    if torch.version.cuda is not None:
        raise AssertionError("Torch not compiled with CUDA enabled")  # as the CPU build says
    torch.zeros(1).cuda()


def old_driver():
    raise RuntimeError(
        "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading and "
        "installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
    )


def other_driver():
    raise RuntimeError("Failed to initialize NVML: Driver/library version mismatch NVML library version: 550.54")


def assertion_on_the_gpu():
    raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported")


def no_module():
    import a_module_that_is_not_there  # noqa: F401


def never_kept():
    from huggingface_hub import hf_hub_download

    hf_hub_download("some/model", "config.json", local_files_only=True, cache_dir="nowhere")


def no_permission():
    raise PermissionError(13, "Permission denied", "/data/reviews.csv")


CASES = [
    (gpu_memory, "gpu_memory", "the GPU ran out of memory; ", "training.batch_size", "Tried to allocate 2.00 GiB"),
    (cpu_memory, "memory", "the machine ran out of memory; ", "training.batch_size", "tried to allocate"),
    (lambda: "x" * (1 << 62), "memory", "the machine ran out of memory; ", "training.batch_size", "MemoryError"),
    (disk, "disk", "the disk is full ([Errno 28] No space left", "", "OSError: [Errno 28]"),
    (not_a_number, "not_a_number", "the loss became nan at step 3; lower", "training.learning_rate", "became nan at step 3"),
    (unknown_target, "label", "a row has a label that the head does not know (Target 5", "data.columns", "IndexError"),
    (no_cuda, "driver", "the GPU's driver and this torch do not work together (Torch not compiled", "device", "AssertionError"),
    (old_driver, "driver", "the GPU's driver and this torch do not work together (The NVIDIA", "device", "found version 11040"),
    (other_driver, "driver", "the GPU's driver and this torch", "device", "Driver/library version mismatch"),
    (assertion_on_the_gpu, "gpu", "the GPU reported an error (CUDA error: device-side", "device", "device-side assert"),
    (no_module, "module", "a module is missing in this installation (No module named 'a_module", "", "ModuleNotFoundError"),
    (never_kept, "hub", "the Hub cannot be reached (", "model.source", "LocalEntryNotFoundError"),
    (no_permission, "permission", "a file may not be read or written (", "", "PermissionError"),
    (lambda: {}["x"], "other", "'x' (KeyError; the log has the details).", "", "KeyError: 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "cause", "sentence", "field", "line"), CASES, ids=lambda v: getattr(v, "__name__", None))
def test_a_cause_is_a_sentence_a_field_and_lines(act, cause, sentence, field, line):
    found = failures.explain(raised(act))
    assert (found.cause, found.field) == (cause, field)
    assert found.sentence.startswith(sentence)
    assert found.sentence.endswith(".")
    assert "\n" not in found.sentence
    assert 1 <= len(found.lines) <= failures.MOST_LINES
    assert line in " ".join(found.lines)
    assert json.loads(found.text()) == found.plain()


def test_every_field_is_one_of_the_spec():
    schema = ExperimentSpec.model_json_schema()
    for field in {cause.field for cause in (*causes.CAUSES, causes.SYSTEM) if cause.field}:
        first, _, second = field.partition(".")
        assert first in schema["properties"]
        parts = {"training": "TrainingSpec", "data": "DataSpec", "model": "ModelSpec"}
        assert not second or second in schema["$defs"][parts[first]]["properties"], field


def test_a_refused_connection_is_not_the_hub():
    found = failures.explain(ConnectionRefusedError(111, "Connection refused"))
    assert (found.cause, found.field) == ("other", "")


# --- data


def test_missing_changed_and_mislabelled_data(tmp_path):
    from workbench.data import check_unchanged, load_table, resolve
    from workbench.tasks import find

    train, other = tmp_path / "train.csv", tmp_path / "other.csv"
    train.write_text("text,label\n" + "".join(f"some words {i},{'good' if i % 2 else 'bad'}\n" for i in range(20)))
    other.write_text("text,label\nnew words,goood\nother words,bad\n")
    parts = find("text_classification").parts
    strange = resolve(DataSpec(source=str(train), validation=str(other), test=0.2))
    ref = resolve(DataSpec(source=str(train)))
    error = failures.explain(raised(lambda: load_table(strange, parts)))
    assert (error.cause, error.field) == ("label", "data.columns")
    assert error.sentence.startswith("every label of the validation data must also occur in the training data; 'goood' does not")
    train.write_text("text,label\n")
    changed = failures.explain(raised(lambda: check_unchanged(ref)))
    assert changed.field == "data.source"
    train.unlink()
    missing = failures.explain(raised(lambda: check_unchanged(ref)))
    assert (missing.cause, missing.field) == ("file", "data.source")
    named = failures.explain(raised(lambda: resolve(DataSpec(source=str(train)))))
    assert (named.cause, named.field) == ("file", "data.source")


# --- the Hub


@pytest.fixture
def hub(monkeypatch):
    """A Hub that answers every request as it is told to: (status, error code)."""
    answer = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, code = answer["is"]
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield answer
    server.shutdown()
    server.server_close()


def test_a_gated_model_says_what_to_do(hub):
    from huggingface_hub import HfApi

    from workbench.models.bundled import resolve_model

    hub["is"] = (403, "GatedRepo")
    own = raised(lambda: resolve_model("some/model"))
    assert isinstance(own, WorkbenchError)
    for error in (own, raised(lambda: HfApi(endpoint=os.environ["HF_ENDPOINT"]).model_info("some/model"))):
        found = failures.explain(error)
        assert (found.cause, found.field) == ("gated", "model.source")
        assert found.sentence.startswith("the Hub gives this repository only to those who accepted its terms; ")
        assert "HF_TOKEN" in found.sentence


def test_an_unknown_and_an_unreachable_repository(hub, monkeypatch):
    from huggingface_hub import HfApi

    from workbench.data import hub as data_hub
    from workbench.models.bundled import resolve_model

    hub["is"] = (404, "RepoNotFound")
    missing = failures.explain(raised(lambda: HfApi(endpoint=os.environ["HF_ENDPOINT"]).model_info("some/model")))
    assert (missing.cause, missing.field) == ("not_on_hub", "model.source")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    away = failures.explain(raised(lambda: HfApi(endpoint="http://127.0.0.1:9").model_info("some/model", timeout=5)))
    assert (away.cause, away.field) == ("hub", "model.source")
    assert away.sentence.startswith("the Hub cannot be reached (")
    own = failures.explain(raised(lambda: resolve_model("some/model")))
    assert (own.cause, own.field) == ("hub", "model.source")
    assert "or a Hub model that can be reached" in own.sentence
    data = failures.explain(raised(lambda: data_hub.reach("some/rows")))
    assert (data.cause, data.field) == ("hub", "data.source")


# --- logs


@pytest.mark.parametrize(
    ("log", "status", "cause", "field"),
    [
        ("Traceback (most recent call last):\nOSError: [Errno 28] No space left on device\n", 1, "disk", ""),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB\nexit\n", 1, "gpu_memory", "training.batch_size"),
        ("step 1\nhuggingface_hub.errors.GatedRepoError: 403 Client Error\n", 1, "gated", "model.source"),
        ("huggingface_hub.errors.LocalEntryNotFoundError: no files/datasets/x\n", 1, "hub", "data.source"),
        ("step 1\nstep 2\n", 3, "killed", ""),
        ("MemoryError\n", -9, "killed", ""),  # what the log says is no proof of who sent a signal
    ],
)
def test_a_log_alone_can_tell(tmp_path, log, status, cause, field):
    (tmp_path / "train.log").write_text(f"=== attempt 1 x\nan OSError of the first attempt\n=== attempt 2 y\n{log}")
    found = failures.without_verdict(tmp_path, status)
    assert (found.cause, found.field) == (cause, field)
    assert 1 <= len(found.lines) <= failures.MOST_LINES
    assert "first attempt" not in " ".join(found.lines)


# --- killed


def test_the_kernels_counters_are_read_where_they_can_be(tmp_path, monkeypatch):
    own, machine = tmp_path / "cgroup", tmp_path / "vmstat"
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.kills(own, machine) == {}
    machine.write_text("nr_free_pages 7\noom_kill 3\n")
    own.write_text("4:memory:/a\n1:cpu:/\n0::/\n")
    assert memory.kills(own, machine) == {"machine": 3}
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert memory.kills(own, machine) == {"group": 1, "machine": 3}
    (tmp_path / "memory.events").write_text("low 0\noom 4\noom_kill 2\noom_group_kill 0\n")
    assert memory.kills(own, machine) == {"group": 2, "machine": 3}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"group": 0, "machine": 0}, {"group": 1, "machine": 1}, "group"),
        ({"group": 0, "machine": 0}, {"group": 0, "machine": 1}, ""),  # another group's
        ({"machine": 0}, {"machine": 1}, "machine"),
        ({"group": 2, "machine": 2}, {"group": 2, "machine": 2}, ""),
        ({}, {}, ""),
    ],
)
def test_a_kill_is_counted_between_two_looks(before, after, said):
    assert memory.between(before, after) == said


@pytest.mark.parametrize(
    ("status", "where", "sentence", "cause"),
    [
        (-9, "group", "the system killed the worker because memory ran out; use a smaller", "killed_by_system"),
        (-9, "machine", "the worker was killed, most likely by the system, because memory ran out; ", "killed_by_system"),
        (None, "group", "the system killed the worker because", "killed_by_system"),
        (-9, "", "the worker was killed by SIGKILL (by hand, or by the system because memory ran out); its last", "killed"),
        (-15, "group", "the worker was killed by SIGTERM; its last log line: step 1", "killed"),
    ],
)
def test_who_killed_a_worker(tmp_path, status, where, sentence, cause):
    (tmp_path / "train.log").write_text("=== attempt 1 x\nstep 1\n")
    found = failures.without_verdict(tmp_path, status, where)
    assert found.sentence.startswith(sentence)
    assert (found.cause, found.lines) == (cause, ("step 1",))
    assert bool(found.field) == (cause == "killed_by_system")


# --- through a worker


def test_a_failure_reaches_verdict_row_list_and_page(queue):
    (job,) = queue.submit([make_spec("one", **{"raise": "full"})])
    (row,) = queue.wait([job])
    verdict = queue.verdict(job)
    found = verdict["failure"]
    assert verdict["reason"] == row["reason"] == found["sentence"]
    assert (found["cause"], found["field"]) == ("disk", "")
    assert found["lines"][-1] in queue.logs(job)
    assert results.job_row(row)["failure"] == runs.view(job)["failure"] == found
    assert queue.retry(job)["failure"] is None
    queue.wait([job])


def test_a_crash_in_native_code_shows_where(queue):
    (job,) = queue.submit([make_spec("one", **{"raise": "crash"})])
    (row,) = queue.wait([job])
    found = results.failure(row)
    assert row["reason"].startswith("the worker was killed by SIGSEGV; its last log line: ")
    assert "Fatal Python error: Segmentation fault" in found["lines"]


def test_a_worker_that_the_system_killed(queue, monkeypatch):
    """The daemon is another process, so its counters are not: what it says without them is the other half of the sentence."""
    (job,) = queue.submit([make_spec("one", steps=1000, seconds=0.05)])
    row = until(lambda: (r := queue.find(job))["state"] == "running" and r["step"] and r)
    os.kill(row["pid"], signal.SIGKILL)
    (row,) = queue.wait([job])
    assert results.failure(row)["cause"] == "killed"
    assert row["reason"].startswith("the worker was killed by SIGKILL (by hand, or by the system because memory ran out); ")
    assert not (run_folder("one") / "verdict.json").exists()


def test_a_stop_from_outside_is_said(queue):
    (job,) = queue.submit([make_spec("one", steps=1000, seconds=0.05)])
    row = until(lambda: (r := queue.find(job))["state"] == "running" and r["step"] and r)
    os.kill(row["pid"], signal.SIGTERM)
    (row,) = queue.wait([job])
    assert results.failure(row)["cause"] == "stopped"


FULL = "OSError: [Errno 28] No space left on device"


@pytest.mark.parametrize(("last", "cause"), [(FULL, "disk"), ("step 12 of 40", "killed")])
def test_of_an_adopted_worker_only_the_last_line_tells(tmp_path, last, cause):
    (tmp_path / "train.log").write_text(f"{FULL}\nwent on\n{last}\n")
    assert failures.without_verdict(tmp_path, None).cause == cause
