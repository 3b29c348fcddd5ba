"""Where rows come from: one DataSpec, or several entries whose rows are trained on together."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from workbench.core.types import Config

ENTRY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


class DataSpec(Config):
    """Rows and how they are split. Test rows are fixed by `seed`, never by the run's seed."""

    source: str = Field(min_length=1, max_length=1000, description="File, folder, bundled/<name>, or Hub id[:config].")
    id: str = Field("", description="Name of this entry where there are several; empty = the source's stem.")
    columns: dict[str, str] | None = Field(None, description="Which column plays which part, e.g. {text: review}; empty = guess.")
    validation: float | str = Field(0.1, description="Fraction, file or split name; for tuning and early stopping only.")
    test: float | str = Field(0.2, description="Fraction, file or split name; the headline number.")
    limit: int | None = Field(None, ge=1, le=100_000_000, description="Use at most this many training rows.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the split.")

    @field_validator("id")
    @classmethod
    def _plain_id(cls, value: str) -> str:
        if value and not ENTRY_ID.fullmatch(value):
            raise ValueError(f"an id must be 1-60 letters, digits or . _ - and start with a letter or digit; got {value[:80]!r}")
        return value

    @field_validator("validation", "test")
    @classmethod
    def _part(cls, value: float | str) -> float | str:
        if isinstance(value, float | int) and not 0 < value < 1:
            raise ValueError(f"a fraction must lie between 0 and 1; got {value}")
        return value

    @model_validator(mode="after")
    def _parts_leave_rows(self) -> "DataSpec":
        fractions = [p for p in (self.validation, self.test) if not isinstance(p, str)]
        if sum(fractions) >= 1:
            raise ValueError("validation and test must leave training rows: their fractions must add up to less than 1")
        return self


def _form(value: Any) -> str:
    return "<several>" if isinstance(value, list | tuple) else "<one>"


Data = Annotated[Annotated[DataSpec, Tag("<one>")] | Annotated[tuple[DataSpec, ...], Tag("<several>")], Discriminator(_form)]
"""What `data:` holds; several entries are a tuple, one is itself."""

Spec = TypeVar("Spec", bound=DataSpec)


def entries(data: Spec | Sequence[Spec]) -> tuple[Spec, ...]:
    """The entries of `data`, one or several."""
    return (data,) if isinstance(data, DataSpec) else tuple(data)


def short_form(value: Any) -> Any:
    """`data:` as mappings, from a source alone, a mapping, or a list of either; a list of one is that one."""
    if isinstance(value, str):
        return {"source": value}
    if not isinstance(value, list | tuple):
        return value
    if not value:
        raise ValueError("data must name at least one source; the list is empty")
    found = [short_form(one) if isinstance(one, str) else one for one in value]
    return found[0] if len(found) == 1 else found


def named(several: Sequence[DataSpec]) -> tuple[DataSpec, ...]:
    """The entries, each with its id.

    Raises:
        ValueError: two have the same.
    """
    ids = [one.id or _stem(one.source) for one in several]
    for name in ids:
        if ids.count(name) > 1:
            raise ValueError(f"the entries of data must have different ids; {name!r} stands twice: give each an id")
    return tuple(one.model_copy(update={"id": name}) for one, name in zip(several, ids, strict=True))


def _stem(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-._")[:60] or "data"
