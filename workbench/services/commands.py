"""What each command of the command line does: parsed arguments in, an Answer out. Nothing is printed here."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from workbench.core.errors import NotBuiltYet

if TYPE_CHECKING:
    from workbench.core.spec import ExperimentSpec

OK, FAILED, BAD_INPUT, NOT_BUILT = 0, 1, 2, 3


@dataclass(frozen=True)
class Answer:
    """What a command has to say: JSON, text, a sentence for stderr, and the exit code."""

    value: Any = None
    text: str = ""
    code: int = OK
    complaint: str = ""


def _methods(args: Namespace) -> Answer:
    from workbench.services import catalogue, tables

    found = catalogue.catalogue()
    return Answer(found, tables.aligned(found, ("key", "family", "kind", "engine", "preset_of", "title")))


def _plan(args: Namespace) -> Answer:
    from workbench.core.spec import load_spec
    from workbench.services import dry_run, plans, tables

    spec = load_spec(args.spec)
    if args.match_parameters or args.match_seconds:
        return _matched(spec, args)
    found = plans.plan(spec)
    if args.dry_run is not None:
        labels = [args.dry_run] if args.dry_run else [m["label"] for m in found["methods"] if not m["problems"]]
        tried = {label: dry_run.ask(spec.model_dump(mode="json"), label) for label in labels}
        found["methods"] = [{**m, "dry_run": tried[m["label"]]} if m["label"] in tried else m for m in found["methods"]]
    bad = found["problems"]
    return Answer(found, tables.plan(found), BAD_INPUT if bad else OK, bad[0] if bad else "")


def _matched(spec: "ExperimentSpec", args: Namespace) -> Answer:
    """The matched spec as YAML, and its plan."""
    from workbench.core.spec import parse_spec
    from workbench.services import files, matching, plans, tables

    by = "parameters" if args.match_parameters else "seconds"
    found = matching.matched(spec, args.match_parameters or args.match_seconds, by)
    planned = plans.plan(parse_spec(found["spec"]))
    notes = "".join(f"# {note}\n" for note in found["notes"])
    bad = planned["problems"]
    text = f"{notes}{files.spec_text(found['spec'])}\n{tables.plan(planned)}"
    return Answer({"matched": found, "plan": planned}, text, BAD_INPUT if bad else OK, bad[0] if bad else "")


def _data(args: Namespace) -> Answer:
    from workbench.core.spec import load_spec
    from workbench.services import data, tables

    found = data.examined(load_spec(args.spec))
    return Answer(found, tables.data(found), BAD_INPUT if found["problem"] else OK, found["problem"] or "")


def _submit(args: Namespace) -> Answer:
    from workbench.core.spec import load_spec
    from workbench.services import experiments, tables

    found = experiments.submit(load_spec(args.spec))
    return Answer(
        found, f"experiment {found['experiment']}\n\n" + tables.aligned(found["jobs"], ("job", "run_id", "label", "seed"))
    )


def _run(args: Namespace) -> Answer:
    from workbench.core.spec import load_spec
    from workbench.services import experiments

    try:
        found = experiments.run(load_spec(args.spec), args.on_change, args.on_submit)
    except KeyboardInterrupt:
        return Answer(code=FAILED, complaint="detached; the runs go on: see `python -m workbench jobs`.")
    return _compared(found)


def _compared(found: dict[str, Any]) -> Answer:
    from workbench.services import tables

    bad = [row for row in found["rows"] if row["state"] != "finished"]
    complaint = (
        f"{len(bad)} of {len(found['rows'])} runs did not finish; the first: {bad[0]['reason'] or bad[0]['state']}" if bad else ""
    )
    return Answer(found, tables.comparison(found), FAILED if bad else OK, complaint)


def _jobs(args: Namespace) -> Answer:
    from workbench.services import results, tables

    rows = results.job_rows(args.experiment)
    return Answer(
        rows,
        tables.aligned(rows, ("job", "run_id", "kind", "label", "seed", "state", "step", "steps", "reason"))
        if rows
        else "no jobs",
    )


def _job(args: Namespace) -> Answer:
    from workbench.jobs import client

    if args.command == "logs":
        return Answer(text=client.logs(args.job).rstrip("\n"))
    if args.command == "delete":
        row = client.find(args.job)
        freed = client.delete(args.job)
        answer = {"job": row["job"], "deleted": True, "freed_bytes": freed}
        return Answer(answer, f"job {row['job']} is deleted; {freed / 1e6:.1f} MB freed")
    row = getattr(client, args.command)(args.job)
    soon = {"cancel": "stops", "pause": "stores where it stands and makes room"}
    words = soon[args.command] if row["state"] in ("starting", "running") else f"is {row['state']}"
    return Answer(row, f"job {row['job']} {words}")


def _move(args: Namespace) -> Answer:
    from workbench.jobs import arranging

    row = arranging.move(args.job, args.where)
    turns = {job: number for number, job in enumerate(arranging.order(), 1)}
    turn = turns.get(row["job"])  # it may have begun meanwhile
    text = f"job {row['job']} is number {turn} of those that wait" if turn else f"job {row['job']} begins"
    return Answer({"job": row["job"], "turn": turn}, text)


def _together(args: Namespace) -> Answer:
    from workbench.jobs import arranging
    from workbench.services import results

    experiment = results.find_experiment(args.experiment)
    count = (arranging.hold if args.command == "hold" else arranging.release)(experiment)
    done = "held back" if args.command == "hold" else "queued again"
    return Answer({"experiment": experiment, "runs": count}, f"{count} runs of {experiment} are {done}")


def _daemon(args: Namespace) -> Answer:
    from workbench.jobs import client, daemon

    if args.action == "start":
        client.ensure_daemon()
    elif args.action == "stop":
        daemon.stop()
    found = daemon.status()
    return Answer(found, f"the daemon runs as process {found['pid']}" if found["running"] else "no daemon runs")


def _compare(args: Namespace) -> Answer:
    from workbench.services import report, results, tables

    found = results.results(args.experiment)
    written = f"\n\nreport written to {report.write(args.experiment, args.html)}" if args.html else ""
    return Answer(found, tables.comparison(found) + written)


def _predict(args: Namespace) -> Answer:
    from workbench.services import adapters

    found = adapters.predict(args.run, args.file, args.to)
    return Answer(found, f"{found['rows']:,} predictions written to {found['to']}")


def _export(args: Namespace) -> Answer:
    from workbench.services import adapters

    return _short(adapters.finish(adapters.export(args.run, args.format, args.to, args.max_error)), f"exported to {args.to}")


def _operate(args: Namespace) -> Answer:
    from workbench.services import adapters

    settings = dict(adapters.setting(text) for text in args.set)
    job = adapters.operate(args.operation, args.run, settings, args.name, args.judge)
    found = adapters.finish(job)
    metrics = (found["result"] or {}).get("metrics") or {}
    figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return _short(found, f"the adapter {args.name} is made" + (f"; on the test rows: {figures}" if figures else ""))


def _short(found: dict[str, Any], done: str) -> Answer:
    if found["state"] != "finished":
        return Answer(found, "", FAILED, found["reason"] or f"job {found['job']} is {found['state']}.")
    facts = [f"{name}: {value}" for name, value in (found["result"] or {}).items() if isinstance(value, str | int | float)]
    return Answer(found, "\n".join([done, *facts]))


def _verify(args: Namespace) -> Answer:
    from workbench.services import adapters

    found = adapters.verify(args.folder)
    good = bool(found.get("ok", True))
    facts = "\n".join(f"{name}: {value}" for name, value in found.items() if isinstance(value, str | int | float))
    return Answer(found, facts, OK if good else FAILED, "" if good else f"{args.folder} does not behave like its run.")


def _import(args: Namespace) -> Answer:
    from workbench.services import adapters

    found = adapters.import_folder(args.folder, args.name)
    return Answer(found, f"imported as {args.name}")


def _operations(args: Namespace) -> Answer:
    from workbench.services import catalogue, tables

    found = catalogue.everything()["operations"]
    return Answer(found, tables.aligned(found, ("key", "title")))


def _papers(args: Namespace) -> Answer:
    from workbench.services import papers, tables

    found = papers.papers()
    return Answer(found, tables.aligned(found, ("id", "key", "status", "kind", "recipe", "claim")))


def _paper(args: Namespace) -> Answer:
    from workbench.services import showing, tables

    try:
        found = showing.run(args.key, args.on_change, args.on_submit)
    except KeyboardInterrupt:
        return Answer(code=FAILED, complaint="detached; the runs go on: see `python -m workbench jobs`.")
    shown = tables.aligned(found["outcome"], ("claim", "left", "right", "holds"))
    text = f"{found['title']}\n{found['claim']}\n\n{shown}\n\nexperiment {', '.join(found['experiments'])}"
    return Answer(found, text, OK if found["holds"] else FAILED, "" if found["holds"] else "the claim did not show.")


def _analyses(args: Namespace) -> Answer:
    from workbench.services import analyses, tables

    found = analyses.known()
    return Answer(found, tables.aligned(found, ("key", "title")))


def _analyse(args: Namespace) -> Answer:
    from workbench.services import adapters, analyses, tables

    settings = dict(adapters.setting(text) for text in args.set)
    job = analyses.analyse(args.analysis, args.run, settings, args.name or "")
    adapters.finish(job)
    found = analyses.result(job)
    if found["state"] != "finished":
        return Answer(found, "", FAILED, found["reason"] or f"job {job} is {found['state']}.")
    return Answer(found, tables.analysis(found))


def _not_built(args: Namespace) -> Answer:
    raise NotBuiltYet(f"`{args.command}` is not built yet in this version.")


COMMANDS: Mapping[str, Callable[[Namespace], Answer]] = MappingProxyType(
    {
        "methods": _methods,
        "data": _data,
        "plan": _plan,
        "run": _run,
        "submit": _submit,
        "jobs": _jobs,
        **dict.fromkeys(("cancel", "pause", "resume", "retry", "delete", "logs"), _job),
        "move": _move,
        **dict.fromkeys(("hold", "release"), _together),
        "daemon": _daemon,
        "compare": _compare,
        "predict": _predict,
        "export": _export,
        "verify": _verify,
        "import": _import,
        "operate": _operate,
        "operations": _operations,
        "analyses": _analyses,
        "analyse": _analyse,
        "papers": _papers,
        "paper": _paper,
        "bench": _not_built,
    }
)
