"""A run's result under the names that tracking knows."""

from collections.abc import Mapping
from typing import Any

from workbench.core.events import Measured


def measured(costs: Mapping[str, Any]) -> Measured:
    """The figures of a result, and what they were measured with."""
    figures = {
        "params/trainable": costs["trainable_params"],
        "params/head": costs["head_params"],
        "params/total": costs["total_params"],
        "params/adapter_bytes": costs["adapter_bytes"],
        "mem/peak_bytes": costs["peak_memory_bytes"],
        "perf/train_seconds": costs["train_seconds"],
        "perf/examples_per_second": costs["examples_per_second"],
        "perf/search_seconds": costs["search_seconds"],
    }
    notes = {"mem/kind": costs["memory_kind"], "precision": costs["precision"], "device": costs["device"]} | costs["versions"]
    notes["learning_rate"] = f"{costs['learning_rate']:g}"
    notes |= {"notes": " ".join(costs["notes"])} if costs["notes"] else {}
    return Measured({k: float(v) for k, v in figures.items() if v is not None}, notes)
