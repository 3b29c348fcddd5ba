"""The papers that work here: each is a small experiment with a claim that can fail."""

from collections.abc import Callable, Mapping
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
    experiment: dict[str, Any] = Field(description="An ExperimentSpec without its name.")

    @model_validator(mode="after")
    def _claims_speak_of_the_experiment(self) -> "Paper":
        from workbench.compare import claims

        labels = [entry.label for entry in self.spec().methods]
        for check in self.checks:
            for label, _ in claims.names(check):
                if label not in (*labels, "head_only"):
                    raise ValueError(f"the check `{check}` speaks of {label!r}, which is no label of the experiment")
        return self

    def spec(self) -> ExperimentSpec:
        """The experiment that shows the claim."""
        return parse_spec({"name": self.key.replace("_", "-"), **self.experiment})


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
    fields = [name for name in Paper.model_fields if name != "experiment"]
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


def run(
    key: str,
    on_change: Callable[[list[dict[str, Any]]], None] | None = None,
    on_submit: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run a paper's experiment through the queue and judge its claim; Ctrl-C leaves the runs alone.

    Returns:
        the paper as in `papers`, with the `experiment`'s id, its `rows` and `outcome`: [{claim, left, right, holds}];
        `holds` is true when every check does.
    """
    from workbench import compare
    from workbench.compare import claims
    from workbench.services import experiments

    paper = find(key)
    found = experiments.run(paper.spec(), on_change, on_submit)
    rows = compare.frame(found["rows"])
    outcome = [vars(claims.check(text, rows)) for text in paper.checks]
    card: Mapping[str, Any] = next(p for p in papers() if p["key"] == key)
    return {
        **card,
        "experiment": found["experiment"],
        "rows": found["rows"],
        "outcome": outcome,
        "holds": all(one["holds"] for one in outcome),
    }
