"""The mutation drill: plant each bug in a copy of the repository and see that the tests notice it.

    python tests/mutate/run.py [--faults | --doors] [--only TEXT] [--workers N]

Exit code 0 when every planted bug is caught; 1 when one survives; 2 when the drill itself is broken (the unmutated copy is
not green, a planted text is not found exactly once, a run ends in anything but passed or failed tests). The working tree
is never touched. Each run is a fork of this process, which has imported the heavy libraries and nothing of the project.
"""

import argparse
import importlib
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.doors.mutants import MUTANTS as DOORS  # noqa: E402
from tests.faults.mutants import MUTANTS as FAULTS  # noqa: E402
from tests.mutate.mutants import MUTANTS, Mutant  # noqa: E402

COPIED = ("workbench", "tests", "tracking", "pages", "app.py", ".streamlit", "pyproject.toml", "requirements.txt", "Makefile")
HEAVY = (
    "torch",
    "peft",
    "hypothesis",
    "safetensors.torch",
    "streamlit",
    "plotly.graph_objects",
    *(f"transformers.models.{m}.modeling_{m}" for m in ("bert", "gpt2", "llama", "vit")),
)
LIMIT = 300
"""Seconds for one mutant; the baseline runs all the tests at once and gets four times as long."""
PASSED, FAILED, FOREIGN = 0, 1, 99  # pytest's codes, and ours for a run that imported another copy


class Run(NamedTuple):
    """One pytest run that is going on."""

    process: Any
    mutant: Mutant
    folder: Path
    clean: str
    started: float


def copy_to(folder: Path) -> Path:
    """What the tests need, without caches and shipped weights that they do not use."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "workspace"))
        else:
            shutil.copy(source, folder / name)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)  # the house asks git which files are ours
    return folder


def preload() -> None:
    """Import what every run needs, with the settings that the tests run with."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    sys.dont_write_bytecode = True  # two versions of a file within one second look alike to the bytecode cache
    for name in HEAVY:
        importlib.import_module(name)


def pytest_in(folder: Path, tests: list[str], log: Path) -> None:
    """Run pytest in a copy, in this (forked) process; ends it."""
    import pytest

    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "workbench", "tracking")]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    os.environ["PYTHONPATH"] = str(folder)
    os.chdir(folder)
    code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=line", *tests]))
    used = Path(sys.modules["workbench"].__file__ or "/")
    sys.stdout.flush()
    os._exit(code if used.is_relative_to(folder) else FOREIGN)


def start(folder: Path, tests: Iterable[str]) -> Any:
    """A forked process that runs these tests in this copy."""
    process = multiprocessing.get_context("fork").Process(target=pytest_in, args=(folder, list(tests), folder / "log"))
    process.start()
    return process


def misplaced(mutants: Iterable[Mutant]) -> list[str]:
    """Mutants whose text is not found exactly once, in words."""
    texts = {m: (ROOT / m.file).read_text() if (ROOT / m.file).is_file() else "" for m in mutants}
    return [f"{m.file}: {m.old!r} occurs {t.count(m.old)} times ({m.why})" for m, t in texts.items() if t.count(m.old) != 1]


def tail(folder: Path) -> str:
    """The last lines of a copy's log."""
    return "\n".join((folder / "log").read_text(errors="replace").strip().splitlines()[-12:])


def plant(mutant: Mutant, folder: Path) -> Run:
    """Change the file in the copy and start its tests."""
    file = folder / mutant.file
    clean = file.read_text()
    file.write_text(clean.replace(mutant.old, mutant.new))
    return Run(start(folder, shlex.split(mutant.tests)), mutant, folder, clean, time.monotonic())


def finished(going: list[Run]) -> Iterator[tuple[Run, str]]:
    """(run, caught | survived | broken) of those that ended or ran out of time; their copies are clean again."""
    connection.wait([r.process.sentinel for r in going], timeout=1)
    for run in list(going):
        late = time.monotonic() - run.started > LIMIT
        if run.process.is_alive() and not late:
            continue
        run.process.kill()
        run.process.join()
        (run.folder / run.mutant.file).write_text(run.clean)
        going.remove(run)
        yield run, "broken" if late else {PASSED: "survived", FAILED: "caught"}.get(run.process.exitcode, "broken")


def drill(mutants: list[Mutant], folders: list[Path]) -> dict[str, int]:
    """Plant them all, as many at a time as there are copies; prints a line each and returns how many had which verdict."""
    waiting, going, counts = list(mutants), [], {"caught": 0, "survived": 0, "broken": 0}
    while waiting or going:
        while waiting and folders:
            going.append(plant(waiting.pop(0), folders.pop()))
        for run, verdict in finished(going):
            counts[verdict] += 1
            print(
                f"{verdict:9}{time.monotonic() - run.started:6.1f} s  {Path(run.mutant.file).name:18} {run.mutant.why}",
                flush=True,
            )
            if verdict == "broken":
                print(tail(run.folder), flush=True)
            folders.append(run.folder)
    return counts


def main() -> int:
    """Prove the baseline green, plant every bug, print the table."""
    parser = argparse.ArgumentParser(description="Plant bugs in a copy and see that the tests notice them.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--faults", dest="planted", action="store_const", const=FAULTS, help="those that the faults must show")
    which.add_argument("--doors", dest="planted", action="store_const", const=DOORS, help="those that the attacks must show")
    parser.set_defaults(planted=MUTANTS)
    parser.add_argument("--only", default="", help="mutants whose file or reason contains this text")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="how many at a time")
    asked = parser.parse_args()
    mutants = [m for m in asked.planted if asked.only in m.file or asked.only in m.why]
    if not mutants or (lost := misplaced(mutants)):
        print("\n".join(lost) if mutants else "no mutant is called that", file=sys.stderr)
        return 2
    preload()
    with tempfile.TemporaryDirectory(prefix="workbench-mutate-") as temporary:
        folders = [copy_to(Path(temporary, str(n))) for n in range(asked.workers) if not Path(temporary, str(n)).mkdir()]
        started, baseline = time.monotonic(), start(folders[0], sorted({t for m in mutants for t in shlex.split(m.tests)}))
        baseline.join(4 * LIMIT)
        if baseline.exitcode != PASSED:
            baseline.kill()
            print(f"the unmutated copy is not green:\n{tail(folders[0])}", file=sys.stderr)
            return 2
        print(f"baseline green: {tail(folders[0]).splitlines()[-1]}", flush=True)
        counts = drill(mutants, folders)
    print(
        f"{', '.join(f'{n} {verdict}' for verdict, n in counts.items())} of {len(mutants)} in {time.monotonic() - started:.0f} s."
    )
    return 2 if counts["broken"] else 1 if counts["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
