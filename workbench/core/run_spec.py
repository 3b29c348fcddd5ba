"""What one worker gets: a RunSpec, everything resolved, and where it was placed."""

from typing import Any, Literal

from pydantic import Field

from workbench.core.data_spec import DataSpec
from workbench.core.spec import ModelSpec, TrainingSpec
from workbench.core.types import Config


class DataRef(DataSpec):
    """A DataSpec whose files are absolute and hashed."""

    files: dict[str, str] = Field(default_factory=dict, description="Absolute path -> sha256, checked again at start.")


class ModelRef(ModelSpec):
    """A ModelSpec with the hash of the weights that were planned with."""

    sha256: str = Field("", description="sha256 over the base weights.")


class AdapterRef(Config):
    """A saved adapter that a run starts from or learns from."""

    path: str = Field(description="Absolute path of the adapter folder.")
    sha256: str = Field(description="Of its adapter_model.safetensors, checked again at start.")


class RunSpec(Config):
    """Everything one worker needs, resolved; `spec.yaml` of a run folder, runnable as it is."""

    run_id: str
    experiment: str
    label: str
    method: str = Field(description="The name as the person wrote it.")
    base_method: str = Field(description="The method file's key.")
    preset: str | None = None
    config: dict[str, Any] = Field(default_factory=dict, description="The method's whole Config.")
    modifiers: tuple[dict[str, Any], ...] = ()
    recipe: dict[str, Any] | None = None
    init_from: AdapterRef | None = None
    model: ModelRef
    models: dict[str, ModelRef | AdapterRef] = Field(
        default_factory=dict, description="The frozen models its recipe names, under the names it gives them."
    )
    task: str
    data: DataRef | tuple[DataRef, ...] = Field(description="One, or several entries with their ids.")
    training: TrainingSpec
    learning_rate_source: str = ""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    predicted: dict[str, float | None] = Field(default_factory=dict)


class Placed(Config):
    """`placement.json`: what the daemon decided when it claimed the job."""

    device: str = "cpu"
    threads: int = Field(1, ge=1)
    attempt: int = Field(1, ge=1)
    neighbours: bool = False
    boot: str = ""
    """Names the time between two starts of the machine, to tell a run that a power cut ended from one that failed."""
