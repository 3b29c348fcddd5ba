"""Four doors for inputs that nobody wrote: the spec reader, the data readers, the adapter-folder reader, the command line.

Each target takes one drawn input and must end within two seconds, with an answer or with one of our own errors.
"""

import contextlib
import io
import json
import shutil
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import MappingProxyType

from hypothesis import strategies as st

from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError

LONGEST = 2.0  # seconds of processor time
counts = Counter()
slowest = Counter()

ODD = [
    "",
    " ",
    "\0",
    "-1",
    "1e999",
    ".nan",
    "../x",
    "/etc/passwd",
    "=1+1",
    "\ud800",
    "\u202e",
    "a" * 300,
    "no",
    "{}",
    "*",
    "&a",
    "!!x",
]
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*ODD, 10**400, -0.0, 2**63])
    | st.text(max_size=12)
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(ODD), x, max_size=3),
    max_leaves=6,
)
SPEC = {
    "name": "small", "model": {"source": "bundled/minilm", "revision": "main"}, "task": "text_classification",
    "data": {"source": "a.csv", "columns": {"text": "a", "label": "b"}, "validation": 0.1, "test": "t.csv", "limit": 10,
    "seed": 1},
    "methods": [{"method": "lora", "rank": 4, "roles": ["attn.q"], "label": "x", "training": {"epochs": 2}}, "head_only",
                {"method": "full", "recipe": {"recipe": "lt_sft", "keep": 0.1}, "modifiers": [{"modifier": "sparse"}]}],
    "training": {"max_steps": 2, "batch_size": 4, "learning_rate": "auto", "early_stop": 2}, "seeds": [0, 1], "device": "cpu",
}  # fmt: skip
ADAPTER = {
    "peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "bundled/minilm", "r": 4, "lora_alpha": 8,
    "target_modules": ["query"], "modules_to_save": ["classifier"], "rank_pattern": {"query": 2}, "auto_mapping": None,
}  # fmt: skip


def places(value, path=()):
    """Every path into a nested value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


@st.composite
def changed(draw, good):
    """A deep copy of a good value with one to three places replaced, removed or added to."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            value[draw(st.text(max_size=6) | st.sampled_from([*SPEC, *ADAPTER]))] = draw(values)
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.integers(0, 4)) == 0:
            del holder[path[-1]]
        else:
            holder[path[-1]] = draw(values)
    return value


@st.composite
def spliced(draw, good):
    """Bytes with some cut out and others put in."""
    start = draw(st.integers(0, len(good)))
    end = draw(st.integers(start, min(len(good), start + 40)))
    middle = draw(st.binary(max_size=12) | st.sampled_from([one.encode("utf-8", "surrogatepass") for one in ODD]))
    return good[:start] + middle + good[end:]


def text_of(value):
    """JSON, which is YAML too, in any encoding the value allows."""
    return json.dumps(value).encode()


specs = st.binary(max_size=80) | spliced(safe_yaml.dumps(SPEC).encode()) | changed(SPEC).map(text_of)


def spec(raw):
    """Bytes of a spec file."""
    from workbench.core.spec import parse_spec

    parse_spec(safe_yaml.loads(raw))


TABLES = {
    ".csv": b'text,label\n"a, b",x\nc,y\n"d\ne",x\n',
    ".tsv": b"text\tlabel\na\tx\nb\ty\n",
    ".json": b'[{"text": "a", "label": 1}, {"text": "b", "label": null}]',
    ".jsonl": b'{"text": "a", "label": 1.5}\n{"text": "b", "label": "x"}\n',
}
tables = st.sampled_from(sorted(TABLES)).flatmap(
    lambda suffix: st.tuples(
        st.just(suffix),
        spliced(TABLES[suffix])
        | st.binary(max_size=100)
        | st.lists(values, max_size=4).map(text_of)
        | spliced(TABLES[suffix] * 3),
    )
)


def table(drawn, folder):
    """(suffix, bytes) of a data file, up to the rows of a table."""
    from workbench.core.spec import DataSpec
    from workbench.data import load_table, resolve

    path = folder / f"rows{drawn[0]}"
    path.write_bytes(drawn[1])
    load_table(resolve(DataSpec(source=str(path))), {"text": "required", "label": "required"})


def weights():
    """A small safetensors file."""
    header = {
        "base_model.model.a.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "base_model.model.a.lora_B.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [24, 48]},
    }
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + struct.pack("<12f", *range(12))


adapters = st.tuples(
    changed(ADAPTER).map(text_of) | spliced(text_of(ADAPTER)), st.just(weights()) | spliced(weights()) | st.binary(max_size=60)
)


def adapter(drawn, folder):
    """(adapter_config.json, weights) of a folder, up to its checked tensors."""
    from workbench.export import foreign_config
    from workbench.kernel import state

    for name, raw in ((foreign_config.CONFIG, drawn[0]), (state.WEIGHTS, drawn[1]), (state.META, drawn[0])):
        (folder / name).write_bytes(raw)
    for read in (foreign_config.read, foreign_config.check_safe, state.read):
        with contextlib.suppress(WorkbenchError):
            read(folder)
    foreign_config.read(folder)


WORDS = [
    "run", "plan", "submit", "jobs", "cancel", "export", "import", "operate", "analyse", "daemon", "compare", "predict",
    "--json",
    "--to", "--format", "peft", "--name", "--set", "k=v", "--html", "--max-error",
    "1e-3", "nan", "-1", "--", "start", "--dry-run", "=", "--to=",
]  # fmt: skip
lines = st.lists(st.sampled_from(WORDS) | st.text(max_size=8) | st.sampled_from(ODD), max_size=7)


def line(arguments):
    """Arguments of the command line; what the commands would do is left out."""
    from workbench import cli
    from workbench.services.commands import Answer

    known = cli.COMMANDS
    cli.COMMANDS = MappingProxyType(dict.fromkeys(known, lambda args: Answer({})))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main([a for a in arguments if a != "--debug"])  # which would print the traceback too
    except SystemExit as end:  # --help
        code = end.code
    finally:
        cli.COMMANDS = known
    assert code in (0, 2), (code, said.getvalue())
    if code == 2:
        assert said.getvalue().count("\n") == 1, said.getvalue()
        raise WorkbenchError(said.getvalue().strip())


TARGETS = {"spec": (specs, spec), "table": (tables, table), "adapter": (adapters, adapter), "command line": (lines, line)}


def warm():
    """Import what the targets need, so that no input is charged for it."""
    import peft  # noqa: F401
    import torch  # noqa: F401

    from workbench import cli, data, export  # noqa: F401


def once(name, drawn):
    """Feed one input to a target; AssertionError if it takes long, any error that is not ours as it is."""
    call, folder = TARGETS[name][1], None
    if name in ("table", "adapter"):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    start = time.process_time()
    try:
        call(drawn, folder) if folder else call(drawn)
        counts[name, "taken"] += 1
    except WorkbenchError as error:
        counts[name, "refused"] += 1
        said = str(error)
        assert said.isprintable() and len(said) < 700, said  # noqa: PT018 - this is no test, and both is one thing
    finally:
        seconds = time.process_time() - start
        slowest[name] = max(slowest[name], seconds)
        counts[name, "inputs"] += 1
        if folder:
            shutil.rmtree(folder)
    assert seconds < LONGEST, f"{name} took {seconds:.1f} s"
