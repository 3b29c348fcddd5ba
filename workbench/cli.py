"""The command line: `python -m workbench COMMAND`. Exit codes: 0 done, 1 something failed, 2 bad input, 3 not yet built."""

import argparse
import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from types import MappingProxyType
from typing import Any, NoReturn

from workbench.core.errors import NotBuiltYet, WorkbenchError
from workbench.core.paths import keep_others_out
from workbench.services.commands import BAD_INPUT, COMMANDS, FAILED, NOT_BUILT, OK, Answer

QUIET = MappingProxyType(
    {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
HELP = MappingProxyType(
    {
        "methods": "list the methods and presets",
        "data": "examine the data of a spec: columns, findings, what max_length cuts",
        "plan": "predict parameters, memory and time of a spec",
        "run": "queue a spec, wait, and print the comparison; Ctrl-C leaves the runs going",
        "submit": "queue a spec",
        "jobs": "list the queue",
        "cancel": "stop a job",
        "pause": "checkpoint a job and free its place",
        "resume": "continue a paused job",
        "move": "give a waiting job another place in the queue",
        "hold": "hold back what waits of an experiment",
        "release": "queue again what is paused of an experiment",
        "retry": "queue a failed or cancelled job again",
        "delete": "forget a job and its run folder",
        "logs": "print a job's log",
        "daemon": "the background process that starts runs",
        "compare": "compare the runs of experiments",
        "predict": "predict the rows of a file with a run's adapter",
        "export": "write an adapter in another format and check it",
        "verify": "check an exported folder in a fresh process",
        "import": "take in a peft or workbench adapter folder",
        "operate": "make an adapter from adapters",
        "operations": "list the operations on adapters",
        "analyses": "list the analyses of runs",
        "analyse": "look closer at runs; see `analyses`",
        "papers": "list the papers",
        "paper": "run a paper's recipe",
        "bench": "run a benchmark",
    }
)
TAKES = MappingProxyType(
    {
        **dict.fromkeys(("data", "plan", "run", "submit"), ("spec",)),
        **dict.fromkeys(("cancel", "pause", "resume", "retry", "delete", "logs", "move"), ("job",)),
        **dict.fromkeys(("hold", "release"), ("experiment",)),
        "predict": ("run", "file"),
        "export": ("run",),
        "verify": ("folder",),
        "import": ("folder",),
        "operate": ("operation",),
        "analyse": ("analysis",),
        "paper": ("key",),
        "bench": ("name",),
    }
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WorkbenchError(f"{message.rstrip('.')}; see `{self.prog} --help`.")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")
    top = _Parser(prog="python -m workbench", description=__doc__, parents=[common])
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    made = {}
    for name, text in HELP.items():
        one = made[name] = commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        for argument in TAKES.get(name, ()):
            one.add_argument(argument)
        one.add_argument("--json", action="store_true", help="print only JSON on stdout")
    made["plan"].add_argument(
        "--dry-run", nargs="?", const="", metavar="LABEL", help="train a few real steps of this entry, or of each, and measure"
    )
    match = made["plan"].add_mutually_exclusive_group()
    match.add_argument("--match-parameters", metavar="LABEL|N", help="give every method as many trainable parameters")
    match.add_argument("--match-seconds", metavar="LABEL", help="give every method the same predicted training time")
    made["jobs"].add_argument("experiment", nargs="?")
    made["move"].add_argument("where", choices=("first", "up", "down"))
    made["daemon"].add_argument("action", choices=("start", "stop", "status"))
    made["compare"].add_argument("experiment", nargs="+")
    made["compare"].add_argument("--html", metavar="FILE", help="also write the report, one HTML file")
    made["predict"].add_argument("--to", required=True, metavar="FILE")
    made["export"].add_argument("--format", required=True, choices=("peft", "lora", "merged", "bundle"))
    made["export"].add_argument("--to", required=True, metavar="DIR")
    made["export"].add_argument("--max-error", type=float, metavar="X", help="fail a `lora` export above this error")
    made["import"].add_argument("--name", required=True)
    made["operate"].add_argument("run", nargs="+")
    for name in ("operate", "analyse"):
        made[name].add_argument("--set", action="append", default=[], metavar="K=V")
    made["analyse"].add_argument("run", nargs="*")
    made["analyse"].add_argument("--name")
    made["operate"].add_argument("--name", required=True)
    made["operate"].add_argument("--judge", action="store_true", help="also measure it on the test rows of the first run")
    return top


class _Progress:
    """One line on stderr: rewritten on a terminal, else a new one at each change of a state."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def __call__(self, rows: list[dict[str, Any]]) -> None:
        from workbench.services import tables

        states = [row["state"] for row in rows]
        if sys.stderr.isatty():
            end = "" if any(s in ("queued", "starting", "running") for s in states) else "\n"
            print(f"\r\x1b[K{tables.progress(rows)}", end=end, file=sys.stderr, flush=True)
        elif states != self.states:
            print(tables.progress(rows), file=sys.stderr, flush=True)
        self.states = states


def _announce(queued: dict[str, Any]) -> None:
    text = f"experiment {queued['experiment']}: {len(queued['jobs'])} runs queued; Ctrl-C leaves them running."
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    keep_others_out()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not debug:
        warnings.simplefilter("ignore")
    try:
        args = _parser().parse_args(given, argparse.Namespace(on_change=_Progress(), on_submit=_announce))
        with redirect_stdout(sys.stderr):  # whatever a library prints must not mix with the answer
            answer = COMMANDS[args.command](args)
        _say(answer, args.json)
        return answer.code
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return FAILED
    except Exception as error:
        return _explain(error, debug)


def _say(answer: Answer, as_json: bool) -> None:
    from workbench.jobs.wire import plain

    if as_json and answer.value is not None:
        print(json.dumps(plain(answer.value), ensure_ascii=False, allow_nan=False, indent=1), flush=True)
    elif not as_json and answer.text:
        print(answer.text, flush=True)
    if answer.complaint:
        print(answer.complaint, file=sys.stderr, flush=True)


def _explain(error: Exception, debug: bool) -> int:
    """One sentence on stderr, and the exit code of this kind of error."""
    from workbench.jobs.failures import sentence

    if debug:
        traceback.print_exception(error)
    print(sentence(error), file=sys.stderr, flush=True)
    if isinstance(error, NotBuiltYet):
        return NOT_BUILT
    return BAD_INPUT if isinstance(error, WorkbenchError) else FAILED
