"""What a source is (bundled, file, image folder, Hub id), where its splits lie, and the hashes that pin it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from workbench.core.data_spec import DataSpec, entries
from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import named
from workbench.core.run_spec import DataRef
from workbench.data import bundled, files, hub, images, tabular

Kind = Literal["bundled", "file", "folder", "hub"]
PARTS = ("validation", "test")


def kind_of(source: str) -> Kind:
    """How to read a source.

    Raises:
        WorkbenchError: it is no bundled name, nothing on disk and no Hub id.
    """
    if source.startswith("bundled/"):
        if source.removeprefix("bundled/") not in bundled.TABLES:
            raise unknown("bundled data set", source.removeprefix("bundled/"), bundled.TABLES)
        return "bundled"
    if "://" in source:
        raise WorkbenchError(
            f"data must be a local file, a folder, bundled/<name> or a Hub id; got {source[:90]!r}: download it."
        )
    named(source, "data")
    path = Path(source).expanduser()
    try:
        exists = path.exists() or path.is_symlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WorkbenchError(f"data must be a readable path; {source[:80]!r} is not ({reason}).") from None
    if exists:
        return "folder" if path.is_dir() else "file"
    if hub.is_hub_id(source) and path.suffix.lower() not in tabular.READERS:
        return "hub"
    names = ", ".join(f"bundled/{name}" for name in bundled.TABLES)
    raise WorkbenchError(f"a data file must exist; {source[:200]!r} does not (bundled data: {names}).")


def _absolute(source: str) -> str:
    return str(Path(source).expanduser().resolve()) if kind_of(source) in ("file", "folder") else source


def _is_split_name(source: str, part: str) -> bool:
    """Whether `part` names a split of the source rather than a file."""
    kind = kind_of(source)
    if kind == "folder":
        return part in images.parts(Path(source).expanduser())
    return kind == "hub" and Path(part).suffix.lower() not in tabular.READERS


def _resolve_part(source: str, name: str, part: float | str) -> float | str:
    if not isinstance(part, str) or _is_split_name(source, part):
        return part
    path = named(part, name)
    if not path.exists():
        has = ", ".join(images.parts(Path(source))) if kind_of(source) == "folder" else ""
        splits = f"; the folder has the splits {has}" if has else ""
        raise WorkbenchError(f"{name} must be a fraction, a file or a split of the source; {part[:100]!r} is none{splits}.")
    return str(path)


def pinned(source: str) -> dict[str, str]:
    """{absolute path: sha256} of a file or an image folder; empty for bundled and Hub data."""
    kind, path = kind_of(source), Path(source)
    if kind == "file":
        if path.suffix.lower() not in tabular.READERS:
            files.regular(path)
            raise WorkbenchError(f"a data file must end in {', '.join(tabular.READERS)}; got {path.name[:100]!r}.")
        return {source: files.sha256(path)}
    if kind == "folder":
        images.listing(images.parts(path)["train"])
        return {source: images.folder_sha256(path)}
    return {}


@overload
def resolve(data: DataSpec) -> DataRef: ...
@overload
def resolve(data: Sequence[DataSpec]) -> tuple[DataRef, ...]: ...
@overload
def resolve(data: DataSpec | Sequence[DataSpec]) -> DataRef | tuple[DataRef, ...]: ...
def resolve(data: DataSpec | Sequence[DataSpec]) -> DataRef | tuple[DataRef, ...]:
    """Make paths absolute and hash every file.

    Args:
        data: the data as the person described it, one entry or several (a DataRef is resolved afresh).

    Raises:
        WorkbenchError: something is missing, unreadable, of no known kind, or used for two splits.
    """
    return _resolved(data) if isinstance(data, DataSpec) else tuple(_resolved(one) for one in data)


def _resolved(spec: DataSpec) -> DataRef:
    source = _absolute(spec.source)
    values = {name: _resolve_part(source, name, getattr(spec, name)) for name in PARTS}
    if kind_of(source) == "hub":
        hub.reach(source)
    places = [source, *(v for v in values.values() if isinstance(v, str))]
    hashes: dict[str, str] = {}
    for path in places:
        if path == source or not _is_split_name(source, path):
            hashes.update(pinned(path))
    own = [hashes.get(path, path) for path in places]
    if len(set(own)) != len(own):
        raise WorkbenchError("train, validation and test must be different data; two of them have the same content or name.")
    fields = {**spec.model_dump(), **values, "source": source, "files": hashes}
    return DataRef.model_validate(fields)


def check_unchanged(data: DataRef | Sequence[DataRef]) -> None:
    """Compare every file of every entry with the hash taken at submit.

    Raises:
        WorkbenchError: a file is gone or its content changed since.
    """
    for path, digest in (pair for ref in entries(data) for pair in ref.files.items()):
        now = pinned(path)
        if now.get(path) != digest:
            raise WorkbenchError(f"{path} must be the data that was submitted; its content has changed since: submit again.")


def read(ref: DataSpec, split: str = "train") -> dict[str, list[Any]]:
    """All columns of one part of the source.

    Args:
        ref: the data.
        split: `train`, or what `ref.validation` or `ref.test` says (a file or a split name).
    """
    source, kind = ref.source, kind_of(ref.source)
    if kind == "bundled" and split == "train":
        return bundled.table(source)
    if kind == "hub" and _is_split_name(source, split):
        return hub.split_table(source, split)
    if kind == "folder" and split in images.parts(Path(source).expanduser()):
        return images.listing(images.parts(Path(source).expanduser())[split])
    path = Path(source if split == "train" else split).expanduser()
    return images.listing(path) if path.is_dir() else tabular.read_table(path)
