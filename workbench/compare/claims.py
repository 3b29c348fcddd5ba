"""Claims: a comparison of means over seeds that can fail, written as one line of arithmetic.

    houlsby_adapter.accuracy >= full.accuracy - 0.03

`label.figure` is the mean of a test metric or figure over a label's finished runs; numbers, + - * /, brackets and one of
< <= > >= == are all there is.
"""

import ast
import math
import operator
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from workbench.compare.summary import metrics, summary
from workbench.core.errors import WorkbenchError, unknown

SIGNS = MappingProxyType({ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv})
ORDERS = MappingProxyType(
    {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq}
)
LONGEST = 300


@dataclass(frozen=True)
class Outcome:
    """One claim after the runs.

    Attributes:
        claim: the line as written.
        left, right: the values of its two sides; None where a run that it needs did not finish.
        holds: whether it is true; False where a side is unknown.
    """

    claim: str
    left: float | None
    right: float | None
    holds: bool


def parsed(claim: str) -> ast.Compare:
    """The comparison as a tree.

    Raises:
        WorkbenchError: it holds anything but labels, numbers, arithmetic and one comparison.
    """
    try:
        tree = ast.parse(claim, mode="eval").body if len(claim) <= LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or type(tree.ops[0]) not in ORDERS:
        raise WorkbenchError(f"a claim must be one comparison such as `lora.loss <= full.loss + 0.03`; got {claim[:120]!r}.")
    names(tree)
    return tree


def names(claim: str | ast.AST) -> list[tuple[str, str]]:
    """Every (label, figure) that a claim speaks of.

    Raises:
        WorkbenchError: as for `parsed`.
    """
    node = parsed(claim) if isinstance(claim, str) else claim
    if isinstance(node, ast.Compare):
        return names(node.left) + names(node.comparators[0])
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        return names(node.left) + names(node.right)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return [(node.value.id, node.attr)]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return []
    raise WorkbenchError(f"a claim holds label.figure, numbers and + - * / only; got `{ast.unparse(node)[:120]}`.")


def check(claim: str, rows: pd.DataFrame) -> Outcome:
    """Judge a claim by the runs.

    Args:
        claim: as the module says.
        rows: one row per run, as `frame` makes them.

    Raises:
        WorkbenchError: the claim cannot be read, or speaks of a label or figure that the rows do not have.
    """
    tree = parsed(claim)
    sides = [_value(side, rows) for side in (tree.left, tree.comparators[0])]
    known = all(math.isfinite(v) for v in sides)
    left, right = (v if math.isfinite(v) else None for v in sides)
    return Outcome(claim, left, right, known and bool(ORDERS[type(tree.ops[0])](*sides)))


def _value(node: ast.AST, rows: pd.DataFrame) -> float:
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, rows), _value(node.right, rows)
        return math.nan if isinstance(node.op, ast.Div) and right == 0 else float(SIGNS[type(node.op)](left, right))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return _mean(node.value.id, node.attr, rows)
    assert isinstance(node, ast.Constant)
    return float(node.value)  # type: ignore[arg-type]


def _mean(label: str, figure: str, rows: pd.DataFrame) -> float:
    if label not in set(rows["label"]):
        raise unknown("label", label, dict.fromkeys(rows["label"]))
    if f"metrics.{figure}" not in rows.columns and figure not in rows.columns:
        raise unknown("figure", figure, metrics(rows))
    return float(summary(rows[rows["label"] == label], figure)["mean"].iloc[0])
