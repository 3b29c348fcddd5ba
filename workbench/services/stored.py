"""What run folders hold, read once per change of a file: specs, verdicts, predictions."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.core.run_spec import RunSpec
from workbench.jobs import wire
from workbench.jobs.record import read_spec

if TYPE_CHECKING:
    import pandas as pd

FILES = ("predictions.parquet", "predictions.csv")
KEPT = 20_000
"""Specs and verdicts kept in memory."""
KEPT_PREDICTIONS = 1_000


@dataclass(frozen=True)
class Setting:
    """A run's spec and what of it must agree before runs are overlaid.

    Attributes:
        spec: the RunSpec as plain values; empty where it is gone or damaged.
        fields: `{"data.limit": 1000, "training.epochs": 1, ...}`.
        digests: {data, model, protocol}, 12 hex digits each; null without a spec.
    """

    spec: dict[str, Any]
    fields: dict[str, Any]
    digests: dict[str, str | None]


NOTHING = Setting({}, {}, dict.fromkeys(("data", "model", "protocol")))


def setting(folder: Path) -> Setting:
    """What a run folder's spec says."""
    try:
        return _setting(str(folder), (folder / "spec.yaml").stat().st_mtime_ns)
    except (OSError, WorkbenchError):
        return NOTHING


@lru_cache(KEPT)
def _setting(folder: str, changed: int) -> Setting:
    spec = _spec(Path(folder), changed)
    fields = _fields(spec)
    protocol = {k: v for k, v in fields.items() if k.startswith("training.") and k != "training.learning_rate"}
    groups = {name: {k: v for k, v in fields.items() if k.startswith(f"{name}.")} for name in ("data", "model")}
    return Setting(spec, fields, {name: _digest(values) for name, values in {**groups, "protocol": protocol}.items()})


def _spec(folder: Path, changed: int) -> dict[str, Any]:
    """The RunSpec, from a JSON copy in the cache: reading the YAML takes 100 times as long."""
    copy = paths.cache() / "specs" / f"{folder.name}.json"
    held = wire.read_json(copy)
    key = [changed, _shape()]
    if held is None or held.get("key") != key:
        held = {"key": key, "spec": read_spec(folder).model_dump(mode="json")}
        copy.parent.mkdir(exist_ok=True)
        work = copy.with_suffix(f".{os.getpid()}.tmp")
        work.write_text(json.dumps(held), encoding="utf-8")
        work.replace(copy)
    return held["spec"]


@cache
def _shape() -> str:
    """Changes when a RunSpec gets other fields or defaults."""
    return _digest(RunSpec.model_json_schema())


def _fields(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that comparable runs share, flat; files by their contents, wherever they lie."""
    data, fields = spec["data"], {"task": spec["task"]}
    several = isinstance(data, list)
    for one in data if several else [data]:
        prefix = f"data.{one['id']}." if several else "data."
        plain = {k: v for k, v in one.items() if k not in ("id", "files", "columns")}
        files = sorted((one.get("files") or {}).values())
        columns = one.get("columns") and json.dumps(one["columns"], sort_keys=True)
        fields |= {prefix + k: v for k, v in {**plain, "columns": columns, "files": files and _digest(files)}.items()}
    fields |= {f"model.{k}": v for k, v in spec["model"].items()}
    fields |= {f"training.{k}": v for k, v in spec["training"].items()}
    if spec["training"].get("early_stop") is None:
        fields.pop("training.eval_every", None)  # then it only sets how often one looks
    return {k: None if v == [] else v for k, v in fields.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def verdict(folder: Path) -> dict[str, Any]:
    """A run folder's verdict; empty while there is none."""
    path = folder / "verdict.json"
    try:
        return _verdict(str(path), path.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(KEPT)
def _verdict(path: str, changed: int) -> dict[str, Any]:
    return wire.read_json(Path(path)) or {}


def predictions(run_id: str) -> "pd.DataFrame | None":
    """A run's predictions on its test rows: id, label, prediction, score, loss, weight, with several data entries also task.

    Returns:
        One row per test row, not to be changed; None where the run has stored none.
    """
    return _newest(run_folder(run_id))[0]


def test_rows(folder: Path) -> str | None:
    """A digest of the test rows and their labels in a run folder; None without predictions."""
    return _newest(folder)[1]


def _newest(folder: Path) -> "tuple[pd.DataFrame | None, str | None]":
    for path in (folder / name for name in FILES):
        try:
            return _predictions(str(path), path.stat().st_mtime_ns)
        except OSError:
            continue
    return None, None


@lru_cache(KEPT_PREDICTIONS)
def _predictions(path: str, changed: int) -> "tuple[pd.DataFrame, str]":
    import pandas as pd

    if path.endswith(".parquet"):
        table = pd.read_parquet(path)
    else:  # a label may be called NA, and an answer may be empty
        text, empty = dict.fromkeys(("split", "label", "prediction", "task"), str), {"score": [""], "loss": [""]}
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=empty)
    table = table.loc[table["split"] == "test"].reset_index(drop=True)
    digest = hashlib.sha256(table["id"].to_numpy(dtype="int64").tobytes())
    digest.update("\0".join(map(str, table["label"])).encode("utf-8", "surrogatepass"))
    return table, digest.hexdigest()[:12]


def all_predictions(run_ids: Sequence[str]) -> "dict[str, pd.DataFrame]":
    """`predictions` of those runs that have them."""
    found = {run_id: predictions(run_id) for run_id in run_ids}
    return {run_id: table for run_id, table in found.items() if table is not None and len(table)}
