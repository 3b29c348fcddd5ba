"""From resolved data to the three splits a task trains and is judged on.

Several entries are divided one by one, each as its own spec says, and then joined; no row that is tested or tuned on in one
entry is trained on in another.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from workbench.core.data_spec import DataSpec, entries
from workbench.core.errors import WorkbenchError
from workbench.data import pools, sources, split, values
from workbench.data.columns import Mapped, Wanted
from workbench.data.pools import Pool
from workbench.data.table import ROWS_PER_ENTRY, Splits, Table

SPLITS = ("train", "validation", "test")
HERE, THERE = "another split holds the same content", "validation or test rows of another entry hold the same content"


@dataclass
class _Entry:
    """One data entry: its pools and the row numbers of each split in its own pool; `name` is empty where it is the only one."""

    ref: DataSpec
    pools: dict[str, Pool]
    mapped: Mapped
    name: str = ""
    rows: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def pool(self, part: str) -> Pool:
        """Where the rows of a split come from."""
        return self.pools.get(part, self.pools["train"])

    def without(self, part: str, rows: list[int], forbidden: set[str], why: str, keys: Sequence[str] = ()) -> list[int]:
        """The rows whose key (the pool's own unless given) is not forbidden; says how many are left out."""
        keys = keys or self.pool(part).keys
        kept = [i for i in rows if keys[i] not in forbidden]
        what = f"{'training' if part == 'train' else part} rows" + (f" of {self.name}" if self.name else "")
        if len(kept) < len(rows):
            self.notes.append(f"{len(rows) - len(kept):,} {what} left out because {why}.")
        if not kept:
            raise WorkbenchError(f"{what} must differ from the test and validation data; every one of them also stands there.")
        return kept

    def divide(self) -> None:
        """Settle the rows; the test rows come first and never depend on limit or validation."""
        found, main = self.pools, self.pools["train"]
        usable = list(range(len(main)))
        if "test" in found:
            usable = self.without("train", usable, set(found["test"].keys), HERE)
        labels = main.parts.get("label")
        fractions = tuple(None if part in found else getattr(self.ref, part) for part in sources.PARTS)
        known = [labels[i] for i in usable] if labels else None
        cut = split.divide([main.keys[i] for i in usable], known, fractions, self.ref.seed)
        train, validation, test = ([usable[i] for i in part] for part in cut)
        if "test" in found:
            test = list(range(len(found["test"])))
        if "validation" in found:
            other = found["validation"]
            tested = {self.pool("test").keys[i] for i in test}
            validation = self.without("validation", list(range(len(other))), tested, HERE)
            train = self.without("train", train, {other.keys[i] for i in validation}, HERE)
        self.rows = {"train": train, "validation": validation, "test": test}

    def limit(self) -> None:
        """Keep at most `limit` training rows."""
        main = self.pools["train"]
        labels = main.parts.get("label")
        self.rows["train"] = split.limited(self.rows["train"], main.keys, labels, self.ref.limit, self.ref.seed)

    def labels(self) -> set[str]:
        """The class names; those of the other parts must be known to the training part."""
        if "label" not in self.mapped.columns:
            return set()
        known = set(self.pools["train"].parts["label"])
        for part in sources.PARTS:
            strange = sorted(set(self.pools[part].parts["label"]) - known) if part in self.pools else []
            if strange:
                raise WorkbenchError(
                    f"every label of the {part} data must also occur in the training data; {strange[0][:60]!r} does not: "
                    "check its spelling."
                )
        return known


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say which entry a problem belongs to, where there are several."""
    try:
        yield
    except WorkbenchError as error:
        raise WorkbenchError(f"data entry {name}: {error}" if name else str(error)) from None


def _keep_apart(found: Sequence[_Entry]) -> None:
    """Leave out validation rows that another entry tests on, and training rows that another entry tests or tunes on."""
    every = [(entry, part) for entry in found for part in entry.pools]
    shared = dict(zip([(id(e), p) for e, p in every], pools.keys([e.pools[p] for e, p in every]), strict=True))

    def keys_of(entry: _Entry, part: str) -> list[str]:
        return shared[id(entry), part if part in entry.pools else "train"]

    for part, held in (("validation", ("test",)), ("train", ("test", "validation"))):
        for entry in found:
            others = [other for other in found if other is not entry]
            forbidden = {keys_of(other, h)[i] for other in others for h in held for i in other.rows[h]}
            entry.rows[part] = entry.without(part, entry.rows[part], forbidden, THERE, keys_of(entry, part))


def _same_parts(found: Sequence[_Entry]) -> None:
    first = found[0]
    for other in found[1:]:
        if set(other.mapped.columns) != set(first.mapped.columns):
            a, b = (", ".join(entry.pools["train"].parts) for entry in (first, other))
            raise WorkbenchError(
                f"every data entry must give the task the same columns; {first.name} has {a}, {other.name} has {b}: "
                "name them under columns."
            )


def _joined(found: Sequence[_Entry], part: str) -> Table:
    """The rows of one split, entry after entry."""
    ids = tuple(number * ROWS_PER_ENTRY + i for number, entry in enumerate(found) for i in entry.rows[part])
    columns = {
        name: [entry.pool(part).parts[name][i] for entry in found for i in entry.rows[part]]
        for name in found[0].pools["train"].parts
    }
    return Table(ids, columns, tuple(n for n, e in enumerate(found) for _ in e.rows[part]) if len(found) > 1 else ())


def load_table(
    data: DataSpec | Sequence[DataSpec], columns: Wanted | Sequence[Wanted], kinds: Mapping[str, str] | None = None
) -> Splits:
    """Read, map, check and divide the data.

    Args:
        data: a resolved DataRef, or a DataSpec; or several with their ids.
        columns: the task's parts, {"text": "required", "text_pair": "optional", ...}, or several alternatives, preferred first.
        kinds: part -> text | label | image | messages where the part's name does not say so.

    Raises:
        WorkbenchError: one sentence about the first thing that cannot be used; nothing is silently skipped.
    """
    several, found, labels = len(entries(data)) > 1, [], set()
    for ref in entries(data):
        name = ref.id if several else ""
        with _naming(name):
            found.append(_Entry(ref, *pools.read(ref, columns, kinds or {}), name))
            labels |= found[-1].labels()
            found[-1].divide()
    if several:
        _same_parts(found)
        _keep_apart(found)
    for entry in found:
        entry.limit()
    tables = {part: _joined(found, part) for part in SPLITS}
    names = tuple(entry.name for entry in found) if several else ()
    notes = tuple(note for entry in found for note in entry.notes)
    return Splits(**tables, labels=values.natural(labels), mapping=found[0].mapped.columns, notes=notes, entries=names)
