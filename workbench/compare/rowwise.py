"""Metrics as means over test rows, so that differences can be judged row by row.

A mean is itself; of any other smooth metric the rows' first-order contributions are used (the infinitesimal jackknife):
values whose mean is the metric exactly and whose spread over rows is that of the metric over test samples.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

HIGHER = {"accuracy": True, "macro_f1": True, "token_accuracy": True, "exact_match": True, "loss": False, "perplexity": False}
"""The metrics that predictions.parquet can be split into rows for, and whether more is better."""


def kind(metric: str) -> str:
    """The metric itself of `accuracy/reviews`, which counts the rows of one data entry only."""
    return metric.partition("/")[0]


def higher_is_better(metric: str) -> bool | None:
    """Whether more of a metric is better; None for one that is not known here."""
    return HIGHER.get(kind(metric))


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1."""
    return higher_is_better(metric) is True


def bounds(metric: str) -> tuple[float, float]:
    """The values a metric can take; an interval never needs to leave them."""
    return (0.0, 1.0) if is_share(metric) else (0.0 if kind(metric) in HIGHER else -np.inf, np.inf)


def unit(metric: str) -> str:
    """`points` (100 x) for differences of shares, else empty: the metric's own unit."""
    return "points" if is_share(metric) else ""


def rows_of(predictions: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows that a metric counts: all, or those of its data entry (column `task`)."""
    _, _, entry = metric.partition("/")
    return predictions.loc[predictions["task"] == entry] if entry and "task" in predictions.columns else predictions


def contributions(predictions: pd.DataFrame, metric: str, asked: np.ndarray | None = None) -> np.ndarray | None:
    """Each row's contribution to a metric, shape (rows,); their mean is the metric.

    Args:
        predictions: columns label, prediction, score, loss and, where rows count differently, weight; only `rows_of` the metric.
        metric: a key of `HIGHER`, or one for a single data entry.
        asked: rows for which an answer was generated; all with a non-empty prediction by default (exact_match only).

    Returns:
        None where the metric is not known here, the columns are missing, or a value is not finite.
    """
    measure = _MEASURES.get(kind(metric))
    if measure is None or predictions.empty or not {"label", "prediction", "score", "loss"} <= set(predictions.columns):
        return None
    values = measure(predictions, asked)
    return values if values is not None and np.isfinite(values).all() else None


def _spread(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Contributions to the weighted mean of `values`."""
    mean = float(values @ weight / weight.sum())
    return mean + (values - mean) * weight * (len(values) / weight.sum())


def _column(predictions: pd.DataFrame, name: str) -> np.ndarray:
    return predictions[name].to_numpy(dtype=float)


def _weight(predictions: pd.DataFrame) -> np.ndarray:
    return _column(predictions, "weight") if "weight" in predictions.columns else np.ones(len(predictions))


def right(predictions: pd.DataFrame) -> np.ndarray:
    """1 where the prediction is the label, else 0, as floats."""
    return (predictions["label"].to_numpy() == predictions["prediction"].to_numpy()).astype(float)


def _loss(predictions: pd.DataFrame, asked: np.ndarray | None) -> np.ndarray:
    return _spread(_column(predictions, "loss"), _weight(predictions))


def _perplexity(predictions: pd.DataFrame, asked: np.ndarray | None) -> np.ndarray:
    losses = _loss(predictions, asked)
    mean = losses.mean()
    return np.exp(min(mean, 80.0)) * (1 + losses - mean)


def _exact_match(predictions: pd.DataFrame, asked: np.ndarray | None) -> np.ndarray | None:
    asked = (predictions["prediction"].to_numpy() != "") if asked is None else asked
    return _spread(right(predictions), asked.astype(float)) if asked.any() else None


def _macro_f1(predictions: pd.DataFrame, asked: np.ndarray | None) -> np.ndarray:
    rows = len(predictions)
    said = np.concatenate([predictions["label"].to_numpy(), predictions["prediction"].to_numpy()]).astype(str)
    classes, codes = np.unique(said, return_inverse=True)
    true, got = codes[:rows], codes[rows:]
    size = np.bincount(codes, minlength=len(classes))  # times a class was true plus times it was said
    f1 = 2 * np.bincount(true[true == got], minlength=len(classes)) / size
    gain = np.where(true == got, 2 * (1 - f1[true]) / size[true], -f1[true] / size[true] - f1[got] / size[got])
    return f1.mean() + gain * rows / len(classes)


_MEASURES: Mapping[str, Callable[[pd.DataFrame, np.ndarray | None], np.ndarray | None]] = {
    "accuracy": lambda predictions, asked: right(predictions),
    "macro_f1": _macro_f1,
    "token_accuracy": lambda predictions, asked: _spread(_column(predictions, "score"), _weight(predictions)),
    "exact_match": _exact_match,
    "loss": _loss,
    "perplexity": _perplexity,
}
