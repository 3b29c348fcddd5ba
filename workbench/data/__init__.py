"""Data: where rows come from, which column plays which part, and how they are divided."""

from workbench.data.columns import Mapped, guess
from workbench.data.images import pixels
from workbench.data.load import load_table
from workbench.data.preview import preview
from workbench.data.sources import check_unchanged, resolve
from workbench.data.table import Splits, Table

__all__ = ["Mapped", "Splits", "Table", "check_unchanged", "guess", "load_table", "pixels", "preview", "resolve"]
