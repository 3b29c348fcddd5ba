"""One input answered by a base model and by adapters on it, side by side; and inputs to try, from the test split."""

import base64
import binascii
import io
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.data import Table, check_unchanged, images, load_table
from workbench.evaluate import evaluation, hotswap, latency, saved
from workbench.evaluate.hotswap import HotSwap, Loaded
from workbench.kernel import registry
from workbench.tasks import Task, find
from workbench.tasks.contract import Classification
from workbench.tasks.text.causal_lm import CausalLM

PASSES, BUDGET = 5, 1.0
"""Most timed passes of one column, and the seconds after which no further one is begun."""
LONG = 8  # words of a text that is worth cutting into a beginning and the rest
PNG = "data:image/png;base64,"
SHOWN = 96, 192  # pixels: a picture is enlarged to the first and shrunk to the second
EMPTY: dict[str, Any] = {
    "reference": "", "label": "", "method": None, "shows": None, "output": None, "prediction": None, "probabilities": [],
    "latency_ms": None, "latency_runs": 0, "tokens": None, "cut": 0, "problem": None,
}  # fmt: skip


def play(folders: Mapping[str, Path], inputs: Mapping[str, Any], max_new_tokens: int = 64, greedy: bool = True) -> dict[str, Any]:
    """Answer one input with the base alone and with each adapter alone, all on one loaded base.

    Args:
        folders: reference -> adapter folder, at most `hotswap.MOST`.
        inputs: {text, text_pair?}, {prompt}, {messages} or {image}; messages end with the person's turn, an image is a path
            or a PNG as a data address.
        max_new_tokens: longest generated answer.
        greedy: the likeliest token each time; else tokens are drawn at temperature 1 from seed 0.

    Returns:
        {columns, note}: the base first, then one column per adapter, each {reference, label, method, shows, output,
        prediction, probabilities: [{label, p}], latency_ms, latency_runs, tokens, cut, problem}. Probabilities are sorted.
        Where a head-only adapter is among them, the base's column is its column, named in `shows`; without one, the base
        of a task with a head has no answer but a problem. `cut` counts input tokens that were left out.

    Raises:
        WorkbenchError: the adapters do not share base and task, the base cannot be loaded, or the input does not fit the task.
    """
    metas = {reference: hotswap.meta_of(folder) for reference, folder in folders.items()}
    first = next(iter(metas.values()))
    if len({hotswap.key_of(meta) for meta in metas.values()}) > 1:
        said = ", ".join(f"{r} ({m['task'].replace('_', ' ')} on {m['base']['source']})" for r, m in metas.items())
        raise WorkbenchError(f"adapters side by side must share one base model and one task; got {said}.")
    table = _table(find(first["task"]), inputs)
    swap = hotswap.opened(first)
    answer = _Answer(swap, table, max_new_tokens, greedy)
    columns = [_column(reference, metas[reference], swap, folder, answer) for reference, folder in folders.items()]
    return {"columns": [_base(first, swap, columns, answer), *columns], "note": answer.note()}


def _column(reference: str, meta: Mapping[str, Any], swap: HotSwap, folder: Path, answer: "_Answer") -> dict[str, Any]:
    method = registry.find(meta["method"])[0]
    column = {**EMPTY, "reference": reference, "label": meta.get("label") or method, "method": method}
    try:
        one = swap.load(folder)
        return column | answer.of(one.task, one)
    except WorkbenchError as error:
        return column | {"problem": str(error)}


def _base(meta: Mapping[str, Any], swap: HotSwap, columns: list[dict[str, Any]], answer: "_Answer") -> dict[str, Any]:
    column = {**EMPTY, "reference": "base", "label": meta["base"]["source"]}
    for one in columns:
        if one["method"] == "head_only" and not one["problem"]:  # the base with a trained head is this very run
            return {**one, **{name: column[name] for name in ("reference", "label", "method")}, "shows": one["reference"]}
    if swap.head:
        return column | {"problem": "the base alone has no trained head for this task; choose a head-only run to see one."}
    return column | answer.of(saved.task_of(meta, swap.folder), None)


def _table(task: type[Task], inputs: Mapping[str, Any]) -> Table:
    """The input as a table of one row.

    Raises:
        WorkbenchError: the task wants something else.
    """
    given = {name: value for name, value in inputs.items() if value and (not isinstance(value, str) or value.strip())}
    if issubclass(task, Classification):
        choices = [{p: need for p, need in parts.items() if p != task.answer} for parts in task.parts]
    elif issubclass(task, CausalLM):
        choices = [{"prompt": True}, {"messages": True}]
    else:
        raise WorkbenchError("the playground answers classification and language modelling; this adapter has another task.")
    if not any(set(given) <= set(parts) and all(p in given for p, need in parts.items() if need) for parts in choices):
        wanted = " or ".join(", ".join(p if need else f"{p} (optional)" for p, need in parts.items()) for parts in choices)
        raise WorkbenchError(f"the input must be {wanted}; got {', '.join(given) or 'nothing'}.")
    if "messages" in given and not _asks(given["messages"]):
        raise WorkbenchError("messages must be a list of {role, content} that ends with the person's turn.")
    if "image" in given:
        given["image"] = _image(given["image"])
    return Table((0,), {name: [value] for name, value in given.items()})


def _asks(chat: Any) -> bool:
    whole = isinstance(chat, list | tuple) and all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in chat)
    return whole and chat[-1]["role"] != "assistant"


class _Answer:
    """One input, answered and timed by whatever is switched on."""

    def __init__(self, swap: HotSwap, table: Table, longest: int, greedy: bool) -> None:
        self.swap, self.table, self.longest, self.greedy = swap, table, longest, greedy

    def of(self, task: Task, one: Loaded | None) -> dict[str, Any]:
        """The answer of one adapter, or of the base: what `predict` says of this row."""
        if one is not None and "task" in registry.needs(*_method(one)):
            raise WorkbenchError(f"{one.meta['method']} needs the data entry of every row; use predict on a file instead.")
        with self.swap.only(one) as host:
            return self._generated(task, host) if isinstance(task, CausalLM) else self._classified(task, host)

    def _classified(self, task: Task, host: nn.Module) -> dict[str, Any]:
        batch = task.batch(task.examples(self.table)).to(self.swap.device)
        output, seconds, runs = self._timed(lambda: evaluation.forward(host, batch))
        chances = output.logits.float().softmax(-1)[0].tolist()
        if len(chances) != len(task.labels):
            raise WorkbenchError(f"the adapter names {len(task.labels)} labels, but its head tells {len(chances)} apart.")
        ordered = sorted(zip(task.labels, chances, strict=True), key=lambda pair: -pair[1])
        return {
            "prediction": task.predictions(None, output, batch)[0].prediction,
            "probabilities": [{"label": label, "p": p} for label, p in ordered],
            "latency_ms": 1000 * seconds,
            "latency_runs": runs,
            "cut": sum(not kept for seen in task.seen(self.table) for kept in seen.kept),
        }

    def _generated(self, task: CausalLM, host: nn.Module) -> dict[str, Any]:
        question = task.question(self.table[0], self.longest)
        rows, seconds, runs = self._timed(lambda: task.generate(host, [question], self.longest, self.greedy))
        said = task.decode(rows[0])
        return {
            "output": said,
            "prediction": said,
            "latency_ms": 1000 * seconds,
            "latency_runs": runs,
            "tokens": len(rows[0]),
            "cut": question.fields["cut"],
        }

    @torch.no_grad()
    def _timed(self, call: Callable[[], Any]) -> tuple[Any, float, int]:
        """The answer of the first pass, which warms up; the median seconds of those after it, and how many."""
        start = time.perf_counter()
        answer = call()
        rounds = max(min(int(BUDGET / (time.perf_counter() - start)), PASSES), 1)
        seconds = latency.in_turns({"pass": call}, rounds, self.swap.device, warm_up=0)["pass"]
        return answer, statistics.median(seconds.tolist()), rounds

    def note(self) -> str:
        """What the latency is."""
        where = "the GPU" if self.swap.device == "cuda" else f"the CPU with {_threads(torch.get_num_threads())}"
        what = "one forward pass on" if self.swap.head else "generating the whole answer to"
        return f"Latency: {what} this one input, adapter not merged, on {where}; the median after one pass that warms up."


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _method(one: Loaded) -> tuple[Any, Any]:
    key, cls, _ = registry.find(one.meta["method"])
    return cls, registry.configure(key, one.meta["config"])


def _image(value: Any) -> Any:
    """A path as it is, a PNG in a data address as its bytes."""
    if not isinstance(value, str) or not value.startswith("data:"):
        return value
    try:
        return base64.b64decode(value.removeprefix(PNG), validate=True)
    except binascii.Error:
        raise WorkbenchError("an image in a data address must be a PNG in base64; this one is not.") from None


def examples(folder: Path, count: int = 12) -> list[dict[str, Any]]:
    """Test rows of the run that an adapter comes from, evenly spread over the split.

    Returns:
        [{id, inputs, answer, picture}]: `inputs` as `play` takes them, `answer` what is right, `picture` a data address or "".
        A plain text for a language model is cut into a beginning and what follows.

    Raises:
        WorkbenchError: the run or its data is not here any more, or has changed.
    """
    meta = hotswap.meta_of(folder)
    spec, task = saved.spec_of(folder, meta), find(meta["task"])
    if spec is None:
        raise WorkbenchError("examples come from the test split of an adapter's run; the run of this one is not here.")
    check_unchanged(spec.data)
    test = load_table(spec.data, task.parts).test
    places = list(range(len(test)))
    if not task.has_labels and "text" in test.columns:
        places = [i for i in places if len(test.columns["text"][i].split()) >= LONG] or places
    count = min(count, len(places))
    return [_example(test[places[i * len(places) // count]], task) for i in range(count)]


def _example(row: dict[str, Any], task: type[Task]) -> dict[str, Any]:
    given = {name: value for name, value in row.items() if name not in ("id", task.answer)}
    found = {"id": row["id"], "inputs": given, "answer": row.get(task.answer), "picture": ""}
    if "image" in given:
        found["picture"] = _png(_shown(given["image"]))
        given["image"] = str(given["image"]) if isinstance(given["image"], str | Path) else _png(images.pixels(given["image"]))
    elif "messages" in given:
        found |= {"inputs": {"messages": given["messages"][:-1]}, "answer": given["messages"][-1]["content"]}
    elif "text" in given and not task.has_labels:
        words = given["text"].split()
        half = max(len(words) // 2, 1)
        found |= {"inputs": {"prompt": " ".join(words[:half])}, "answer": " ".join(words[half:])}
    return found


def _shown(image: Any) -> Any:
    """Pixels of a size that can be looked at."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(images.pixels(image))
    low, high = SHOWN
    if max(picture.size) < low:
        picture = picture.resize([side * (low // max(picture.size)) for side in picture.size], Image.Resampling.NEAREST)
    picture.thumbnail((high, high))
    return np.asarray(picture)


def _png(pixels: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return PNG + base64.b64encode(buffer.getvalue()).decode()
