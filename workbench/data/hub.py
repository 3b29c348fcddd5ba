"""Data sets of the Hugging Face Hub through `datasets`; without a network, one clear sentence."""

import os
import re
from typing import Any

from workbench.core.errors import WorkbenchError, unknown

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?::([\w.+-]{1,100}))?")


def is_hub_id(source: str) -> bool:
    """Whether a source has the form `org/name[:config]`."""
    return HUB_ID.fullmatch(source) is not None and ".." not in source


def unreachable(source: str, error: Exception) -> WorkbenchError:
    """The one sentence for a Hub id that cannot be had."""
    reason = " ".join(str(error).split())[:110].rstrip(". ") or type(error).__name__
    return WorkbenchError(
        f"{source!r} must be a file, a folder, bundled/<name>, or a Hub data set that can be reached; no such file exists here, "
        f"and the Hub answers: {reason} (check the name, or the network)."
    )


def reach(source: str) -> None:
    """Ask for the data set once, with a short limit: the Hub, or the local cache where HF_HUB_OFFLINE says so.

    Raises:
        WorkbenchError: the Hub or the id cannot be reached.
    """
    name, config = HUB_ID.fullmatch(source).groups()
    try:
        from huggingface_hub import HfApi, constants

        if constants.HF_HUB_OFFLINE:
            import datasets

            datasets.load_dataset_builder(name, config)
        else:
            HfApi(endpoint=os.environ.get("HF_ENDPOINT")).dataset_info(name, timeout=10)
    except ImportError as error:
        raise WorkbenchError(
            f"a Hub data set needs the package {error.name}, which is missing; install it or give a file."
        ) from None
    except Exception as error:  # every class of the HTTP library and the Hub's own: all mean "cannot be reached"
        raise unreachable(source, error) from None


def split_table(source: str, split: str) -> dict[str, list[Any]]:
    """Columns of one split; class numbers become class names.

    Raises:
        WorkbenchError: `datasets` is absent, the Hub or the id cannot be reached, or the split does not exist.
    """
    name, config = HUB_ID.fullmatch(source).groups()
    try:
        import datasets
    except ImportError:
        raise WorkbenchError("a Hub data set needs the package datasets, which is missing; install it or give a file.") from None
    try:
        reach(source)
        builder = datasets.load_dataset_builder(name, config)
        splits = list(builder.info.splits or datasets.get_dataset_split_names(name, config))
        if split not in splits:
            raise unknown(f"split of {name}", split, splits)
        data = datasets.load_dataset(name, config, split=split)
    except WorkbenchError:
        raise
    except Exception as error:  # datasets and its file systems raise dozens of classes; all mean "not reachable or not readable"
        raise unreachable(source, error) from None
    return _columns(data)


def _columns(data: Any) -> dict[str, list[Any]]:
    """A `datasets.Dataset` as plain columns, images left encoded."""
    from datasets import ClassLabel, Image

    columns: dict[str, list[Any]] = {}
    for name, feature in data.features.items():
        if isinstance(feature, Image):
            data = data.cast_column(name, Image(decode=False))
        columns[name] = list(data[name])
        if isinstance(feature, ClassLabel):
            columns[name] = [None if v is None or v < 0 else feature.int2str(v) for v in columns[name]]
    return columns
