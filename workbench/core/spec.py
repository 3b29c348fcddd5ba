"""What a person asks for: an ExperimentSpec, frozen values with a canonical JSON form."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from workbench.core import data_spec, safe_yaml
from workbench.core.data_spec import Data, DataSpec
from workbench.core.errors import WorkbenchError, from_pydantic
from workbench.core.paths import named, safe_name
from workbench.core.types import Config

MAX_RUNS = 2000  # methods x seeds of one experiment
MAX_RATES = 50  # learning rates that one run may try


class ModelSpec(Config):
    """The frozen network."""

    source: str = Field(min_length=1, max_length=500, description="bundled/<name>, a folder, or a Hub id.")
    revision: str | None = Field(None, max_length=100, description="Hub revision: branch, tag or commit.")
    load_in: Literal["4bit", "8bit"] | None = Field(None, description="Quantised loading (CUDA with bitsandbytes).")
    trust_remote_code: Literal[False] = Field(False, description="Code that the model's authors ship is never run.")


class TrainingSpec(Config):
    """The standard procedure; a recipe may replace phases of it."""

    epochs: float = Field(1, gt=0, le=10_000, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, le=100_000_000, description="Stop after this many optimizer steps.")
    batch_size: int = Field(16, ge=1, le=65_536, description="Examples per forward pass.")
    gradient_accumulation: int = Field(1, ge=1, le=4096, description="Forward passes per optimizer step.")
    learning_rate: float | Literal["auto"] | tuple[float, ...] = Field(
        "auto", description="auto = the method's own default; a list = train once with each, keep the best on validation."
    )
    scheduler: Literal["linear", "cosine", "constant"] = Field("linear", description="Decay after warm-up.")
    warmup: float = Field(0.06, ge=0, lt=1, description="Share of the steps with a rising rate.")
    weight_decay: float = Field(0.01, ge=0, le=10, description="AdamW's decoupled decay; biases and norms are exempt.")
    clip: float | None = Field(1.0, gt=0, le=1e6, description="Largest gradient norm; empty = no clipping.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto = bf16 where it measures faster.")
    max_length: int = Field(128, ge=4, le=1_048_576, description="Tokens kept of each example.")
    eval_every: int | None = Field(None, ge=1, description="Validate every so many steps; empty = once per epoch.")
    early_stop: int | None = Field(None, ge=1, le=1000, description="Stop after this many validations without improvement.")
    processes: int = Field(1, ge=1, le=64, description="Processes that share every batch and average their gradients.")
    keep_checkpoints: int = Field(1, ge=0, le=100, description="Resumable checkpoints kept while a run is not finished.")

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _search(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        if not 0 < len(value) <= MAX_RATES:
            raise ValueError(f"a list of learning rates must hold 1 to {MAX_RATES} of them; got {len(value)}")
        if odd := [rate for rate in value if isinstance(rate, bool) or not isinstance(rate, int | float)]:
            raise ValueError(f"a list of learning rates must hold numbers only; got {repr(odd[0])[:80]}")
        if len(set(value)) < len(value):
            raise ValueError(f"the learning rates of a list must be different; got {list(value)}")
        return value[0] if len(value) == 1 else tuple(value)

    @field_validator("learning_rate")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        for rate in value if isinstance(value, tuple) else () if value == "auto" else (value,):
            if not 0 < rate <= 100:
                raise ValueError(f"a learning rate must be above 0 and at most 100; got {rate}")
        return value


class MethodEntry(Config):
    """One line of `methods:`; config fields stand beside the reserved keys in YAML."""

    method: str = Field(min_length=1, max_length=100)
    preset: str | None = Field(None, max_length=100)
    config: dict[str, Any] = Field(default_factory=dict)
    modifiers: tuple[dict[str, Any], ...] = ()
    recipe: dict[str, Any] | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    init_from: str | None = Field(None, min_length=1, max_length=1000, description="Run or adapter folder to start from.")
    label: str = Field("", max_length=120)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"method": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"an entry of methods must be a name or a mapping with `method:`; got {value!r}")
        entry = {k: v for k, v in value.items() if k in cls.model_fields}
        rest = {k: v for k, v in value.items() if k not in cls.model_fields}
        if rest:
            entry["config"] = {**entry.get("config", {}), **rest}
        for key, one in (("modifiers", "modifier"), ("recipe", "recipe")):
            if isinstance(entry.get(key), list | tuple):
                entry[key] = [{one: m} if isinstance(m, str) else m for m in entry[key]]
            elif isinstance(entry.get(key), str):
                entry[key] = {one: entry[key]}
        if type(entry.get("init_from")) is int:  # a job's number
            entry["init_from"] = str(entry["init_from"])
        return entry

    @model_validator(mode="after")
    def _named(self) -> "MethodEntry":
        if not self.label.isprintable():
            raise ValueError(f"a label must be printable characters on one line; got {self.label!r}")
        for modifier in self.modifiers:
            if not isinstance(modifier.get("modifier"), str):
                raise ValueError("every entry of modifiers needs `modifier: <name>`")
        if self.recipe is not None and not isinstance(self.recipe.get("recipe"), str):
            raise ValueError("recipe needs `recipe: <name>`")
        return self

    def default_label(self) -> str:
        """Preset or key, plus +modifier and @recipe."""
        modifiers = "".join(f"+{m['modifier']}" for m in self.modifiers)
        return (self.preset or self.method) + modifiers + (f"@{self.recipe['recipe']}" if self.recipe else "")


class ExperimentSpec(Config):
    """model x data x task x methods x seeds."""

    name: str = Field(description="Name of the experiment.")
    model: ModelSpec
    task: str = Field(min_length=1, max_length=100, description="What is learnt, e.g. text_classification.")
    data: Data = Field(description="Where the rows come from: a source, a mapping, or a list of such entries.")
    methods: tuple[MethodEntry, ...] = Field(min_length=1, max_length=500)
    training: TrainingSpec = TrainingSpec()
    seeds: tuple[int, ...] = Field((0,), min_length=1, max_length=1000)
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = CUDA when there is one.")
    models: dict[str, ModelSpec] = Field(
        default_factory=dict, max_length=20, description="Further, frozen models that recipes name, e.g. {teacher: <RUN>}."
    )
    exclusive: bool = Field(
        True,
        description="Each run has its GPU to itself, so that times compare; false = small runs share one where their planned "
        "memory fits.",
    )
    on_error: Literal["continue", "hold"] = Field(
        "continue", description="When a run fails: continue with the others, or hold those that wait until you resume them."
    )
    baseline: bool = Field(True, description="Add a head-only (zero-shot where the task has no head) row when none is listed.")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        value = dict(value)
        if isinstance(value.get("model"), str):
            value["model"] = {"source": value["model"]}
        if isinstance(value.get("models"), Mapping):
            value["models"] = {
                n: {"source": str(m)} if isinstance(m, str) or type(m) is int else m for n, m in value["models"].items()
            }
        if "data" in value:
            value["data"] = data_spec.short_form(value["data"])
        if isinstance(value.get("seeds"), int) and not isinstance(value["seeds"], bool):
            value["seeds"] = (value["seeds"],)
        return value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        try:
            return safe_name(name, "name")
        except WorkbenchError as error:
            raise ValueError(str(error).rstrip(".")) from None

    @field_validator("data")
    @classmethod
    def _entries_named(cls, data: DataSpec | tuple[DataSpec, ...]) -> DataSpec | tuple[DataSpec, ...]:
        return data_spec.named(data) if isinstance(data, tuple) else data

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds) or any(not 0 <= s < 2**31 for s in seeds):
            raise ValueError(f"seeds must be different whole numbers from 0 to 2^31-1; got {list(seeds)}")
        return seeds

    @model_validator(mode="after")
    def _labels_and_size(self) -> "ExperimentSpec":
        runs = len(self.methods) * len(self.seeds)
        if runs > MAX_RUNS:
            raise ValueError(f"methods x seeds must be at most {MAX_RUNS} runs; got {runs}")
        labels: list[str] = []
        for entry in self.methods:
            base = label = entry.label or entry.default_label()
            count = 1
            while label in labels:
                if entry.label:
                    raise ValueError(f"labels must be unique in an experiment; {label!r} appears twice")
                count += 1
                label = f"{base}#{count}"
            labels.append(label)
        entries = tuple(e.model_copy(update={"label": n}) for e, n in zip(self.methods, labels, strict=True))
        object.__setattr__(self, "methods", entries)
        return self


def with_baseline(spec: ExperimentSpec) -> ExperimentSpec:
    """The spec with a plain `head_only` entry last, unless it has one or does without (`baseline: false`)."""
    plain = any(e.method == "head_only" and not e.modifiers and e.recipe is None for e in spec.methods)
    if plain or not spec.baseline:
        return spec
    return parse_spec({**spec.model_dump(), "methods": [*(e.model_dump() for e in spec.methods), "head_only"]})


def canonical(spec: Config) -> str:
    """JSON with sorted keys and no spaces; equal specs give equal text."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(spec: Config) -> str:
    """First 12 hex digits of the sha256 of the canonical form."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:12]


def parse_spec(value: Mapping[str, Any]) -> ExperimentSpec:
    """Check a plain mapping (form or YAML) and return the spec.

    Raises:
        WorkbenchError: one sentence about the first problem.
    """
    try:
        return ExperimentSpec.model_validate(dict(value))
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        model = {"training": TrainingSpec, "data": DataSpec, "model": ModelSpec, "models": ModelSpec}.get(
            where[0] if len(where) > 1 else "", ExperimentSpec
        )
        raise from_pydantic(error, "spec", model.model_fields) from None


def load_spec(path: str | Path) -> ExperimentSpec:
    """Read an experiment from a YAML file; relative data and model paths are taken from the file's folder."""
    path = Path(path)
    try:
        if path.stat().st_size > safe_yaml.MAX_BYTES or not path.is_file():
            raise WorkbenchError(f"a spec must be a YAML file of at most 1 MB; got {path}.")
        raw = path.read_bytes()
    except OSError as error:
        raise WorkbenchError(f"the spec {path} cannot be read: {error.strerror or error}.") from None
    spec = parse_spec(safe_yaml.loads(raw, path.name))
    return _anchored(spec, path.resolve().parent)


def _anchored(spec: ExperimentSpec, folder: Path) -> ExperimentSpec:
    """Turn paths that exist beside the spec file into absolute ones."""

    def anchor(source: Any) -> Any:
        if not isinstance(source, str) or source.startswith("bundled/"):
            return source
        named(source, "a path in the spec")
        path = folder / source
        return str(path) if path.exists() else source

    def placed(data: DataSpec) -> DataSpec:
        return data.model_copy(update={k: anchor(getattr(data, k)) for k in ("source", "validation", "test")})

    data = placed(spec.data) if isinstance(spec.data, DataSpec) else tuple(placed(one) for one in spec.data)
    model = spec.model.model_copy(update={"source": anchor(spec.model.source)})
    models = {name: one.model_copy(update={"source": anchor(one.source)}) for name, one in spec.models.items()}
    methods = tuple(e.model_copy(update={"init_from": anchor(e.init_from)}) if e.init_from else e for e in spec.methods)
    return spec.model_copy(update={"data": data, "model": model, "models": models, "methods": methods})
