"""The papers that work here: each is a small experiment, or a few steps, with a claim that can fail."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from workbench.core import safe_yaml
from workbench.core.errors import NotBuiltYet, from_pydantic, unknown
from workbench.core.spec import ExperimentSpec, parse_spec
from workbench.core.types import Config

FOLDER = Path(__file__).resolve().parents[1] / "papers"
LIST = "list.yaml"


class Train(Config):
    """A step that trains: `run: {ExperimentSpec}`; an `init_from: $label` in it is the adapter of an earlier step."""

    run: dict[str, Any]

    def labels(self) -> list[str]:
        """What the step's rows are called."""
        return [entry.label for entry in self.spec("step").methods]

    def spec(self, name: str) -> ExperimentSpec:
        """The step's experiment."""
        return parse_spec({"name": experiment_name(name), **self.run})


class Operate(Config):
    """A step that makes an adapter from adapters of earlier steps, once per seed, and judges it on the first one's test rows."""

    operate: str = Field(description="The operation.")
    of: tuple[str, ...] = Field(min_length=1, description="Labels of earlier steps.")
    set: dict[str, Any] = Field({}, description="The operation's options.")
    name: str = Field(description="Label of the result.")

    def labels(self) -> list[str]:
        """What the step's rows are called."""
        return [self.name]


class Paper(Config):
    """One file of `workbench/papers/`, called `NNN-key.yaml`."""

    id: int = Field(ge=1, le=119, description="Number in the source list.")
    key: str = Field(description="Its name in the workbench.")
    url: str = Field(description="Where to read it.")
    kind: Literal["method", "preset", "modifier", "recipe", "operation", "analysis"]
    recipe: str = Field(description="What runs it here, e.g. `method: lora` or `modifier: sparse`.")
    claim: str = Field(description="What the paper says, in miniature, in words.")
    checks: tuple[str, ...] = Field(min_length=1, description="The claim as comparisons of means over seeds.")
    published: tuple[str, ...] = Field((), description="The paper's own figures.")
    missing: str = Field("", description="What of the paper is not reproduced here.")
    experiment: dict[str, Any] | None = Field(None, description="An ExperimentSpec without its name; or several `steps`.")
    steps: tuple[Train | Operate, ...] = Field((), description="Trainings and operations in order.")

    @model_validator(mode="before")
    @classmethod
    def _an_experiment_is_one_step(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and ("experiment" in given) == ("steps" in given):
            raise ValueError("a paper file must have either `experiment` or `steps`")
        return given

    @model_validator(mode="after")
    def _claims_speak_of_the_labels(self) -> "Paper":
        from workbench.compare import claims

        known: list[str] = []
        for step in self.whole():
            strange = [one for one in step.of if one not in known] if isinstance(step, Operate) else []
            mine = step.labels()
            if strange or set(mine) & set(known):
                raise ValueError(f"a step must speak of labels of earlier steps and bring new ones; got {[*strange, *mine]}")
            known += mine
        for check in self.checks:
            for label, _ in claims.names(check):
                if label not in (*known, "head_only"):
                    raise ValueError(f"the check `{check}` speaks of {label!r}, which is no label of the experiment")
        return self

    def whole(self) -> tuple[Train | Operate, ...]:
        """All steps; an `experiment` is one."""
        return self.steps if self.experiment is None else (Train(run=self.experiment),)


@cache
def _all() -> dict[str, Paper]:
    return {paper.key: paper for paper in map(_read, sorted(FOLDER.glob("[0-9][0-9][0-9]-*.yaml")))}


def _read(path: Path) -> Paper:
    try:
        return Paper.model_validate(safe_yaml.loads(path.read_bytes(), path.name))
    except ValidationError as error:
        raise from_pydantic(error, path.name, Paper.model_fields) from None


def papers() -> list[dict[str, Any]]:
    """The source list by number: {id, key, title, year, status, url, kind, recipe, claim, ...}.

    `status` is works or planned; everything after it is null where the paper is planned.
    """
    fields = [name for name in Paper.model_fields if name not in ("experiment", "steps")]
    listed = safe_yaml.loads((FOLDER / LIST).read_bytes(), LIST)["papers"]
    return [_card(one, _all().get(one["key"]), fields) for one in listed]


def _card(listed: Mapping[str, Any], paper: Paper | None, fields: list[str]) -> dict[str, Any]:
    told = dict.fromkeys(fields) if paper is None else paper.model_dump(mode="json", include=set(fields))
    return {**told, **listed, "status": "planned" if paper is None else "works"}


def find(key: str) -> Paper:
    """The paper called `key`; unknown names get the closest ones."""
    if key in _all():
        return _all()[key]
    listed = {one["key"] for one in papers()}
    if key in listed:
        raise NotBuiltYet(f"the paper {key} is not built yet; `papers` lists those that work.")
    raise unknown("paper", key, listed)


def card(key: str) -> dict[str, Any]:
    """One entry of `papers`."""
    return next(p for p in papers() if p["key"] == key)


def spec(key: str) -> dict[str, Any] | None:
    """A paper's experiment as one writes it; None where it takes several steps."""
    paper = find(key)
    return None if paper.experiment is None else {"name": experiment_name(key), **paper.experiment}


def experiment_name(key: str) -> str:
    """What a paper's experiments are called."""
    return key.replace("_", "-")
