"""Latency of LoRA and bottleneck adapters on the bundled encoder, against the base: `python -P tests/bench/latency.py`.

What should come out: merged LoRA is as fast as the base within noise, the unmerged bottleneck is measurably slower.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from workbench.analyses import Run, find
from workbench.kernel import registry, state
from workbench.kernel.host import adapters_of
from workbench.models.bundled import resolve_model, weights_sha256
from workbench.tasks import find as find_task

MODEL, LABELS, TOKENS = "bundled/minilm", ("no", "yes"), 32
METHODS = {"lora": {"rank": 8}, "houlsby_adapter": {"bottleneck": 16}, "pfeiffer_adapter": {"bottleneck": 16}}


def planted(folder: Path, name: str, values: dict[str, int]) -> Run:
    """An adapter that was never trained; its speed does not depend on its values."""
    base = resolve_model(MODEL)
    task = find_task("text_classification")(base, LABELS, TOKENS)
    host = task.host(0)
    head = task.head(host)
    key, _, _ = registry.find(name)
    adapter = adapters_of(host, head).attach("adapter", key, registry.configure(name, values), 0)
    origin = {"source": MODEL, "revision": None, "sha256": weights_sha256(base), "model_type": "bert"}
    meta = {"run_id": name, "base": origin, "task": "text_classification", "labels": list(LABELS), "head": list(head)}
    tensors = {f"{h}.{n}": p for h in head for n, p in host.get_submodule(h).state_dict().items()}
    state.save(folder / name, adapter, {**meta, "max_length": TOKENS}, tensors)
    return Run(name, name, folder / name)


def main(rounds: int) -> None:
    """Print the report."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runs = [planted(Path(folder), name, values) for name, values in METHODS.items()]
        result = find("latency")(runs, {"rounds": rounds, "batch_sizes": [1, 8]})
    print(result.tables["latency"].drop(columns=["run_id", "seed"]).to_string(index=False))
    print("\n".join(result.sentences))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
