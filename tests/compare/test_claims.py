"""Claims are arithmetic on means over seeds, and nothing else."""

import pandas as pd
import pytest

from workbench.compare import claims
from workbench.core.errors import WorkbenchError

ROWS = pd.DataFrame(
    [
        {"label": "lora", "method": "lora", "state": "finished", "metrics.accuracy": 0.6, "trainable_params": 100},
        {"label": "lora", "method": "lora", "state": "finished", "metrics.accuracy": 0.7, "trainable_params": 100},
        {"label": "lora", "method": "lora", "state": "failed", "metrics.accuracy": None, "trainable_params": None},
        {"label": "full", "method": "full", "state": "finished", "metrics.accuracy": 0.68, "trainable_params": 4000},
        {"label": "late", "method": "ia3", "state": "failed", "metrics.accuracy": None, "trainable_params": None},
    ]
)


@pytest.mark.parametrize(
    ("claim", "left", "right", "holds"),
    [
        ("lora.accuracy >= full.accuracy - 0.04", 0.65, 0.64, True),
        ("lora.accuracy > full.accuracy", 0.65, 0.68, False),
        ("lora.trainable_params <= 0.05 * full.trainable_params", 100, 200, True),
        ("(full.accuracy - lora.accuracy) / 2 < 0.02", 0.015, 0.02, True),
        ("lora.trainable_params == 100", 100, 100, True),
        ("late.accuracy < 1", None, 1, False),
        ("lora.accuracy / 0 < 1", None, 1, False),
    ],
)
def test_a_claim_is_judged_by_means(claim, left, right, holds):
    found = claims.check(claim, ROWS)
    assert (found.left, found.right) == pytest.approx((left, right)) if left is not None else found.left is None
    assert found.holds is holds


@pytest.mark.parametrize(
    "claim",
    [
        "lora.accuracy", "1 < 2 < 3", "f(1) < 2", "lora.accuracy.real < 1", "lora['accuracy'] < 1", "'a' < 'b'", "True < 2",
        "lora < 1", "__import__('os').system('x') < 1", "-lora.accuracy < 1", "lora.accuracy ** 9 < 1", "((((", "", "x" * 400,
    ],
)  # fmt: skip
def test_anything_else_is_refused(claim):
    with pytest.raises(WorkbenchError):
        claims.check(claim, ROWS)


def test_unknown_labels_and_figures_get_the_closest_ones():
    with pytest.raises(WorkbenchError, match="closest: lora"):
        claims.check("lra.accuracy < 1", ROWS)
    with pytest.raises(WorkbenchError, match="closest: accuracy"):
        claims.check("lora.acuracy < 1", ROWS)
