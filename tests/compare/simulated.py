"""Worlds with a known truth: methods whose answers vary by training seed and by test row."""

import numpy as np
import pandas as pd
from scipy import stats


def answers(worlds, seeds, rows, *, seed_sd=0.1, taste=0.5, noise=0.5, together=0.0, gap=0.0, accuracy=0.83, rng=0, binary=True):
    """0/1 answers (or scores) of two methods, shape (worlds, 2, seeds, rows); the first is `gap` more often right on average.

    Every row has a difficulty both share; `taste` is what a method finds hard, `noise` what a training run finds hard,
    `seed_sd` how much a whole run is better (0.1 is about 2 points), `together` how far the two follow the same seed.
    """
    rng = np.random.default_rng(rng)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    shared, own = normal(worlds, 1, seeds, 1), normal(worlds, 2, seeds, 1)
    level = np.sqrt(abs(together)) * shared * np.sign(together) ** np.array([0, 1]).reshape(1, 2, 1, 1)
    run = np.float32(seed_sd) * (level + np.sqrt(1 - abs(together)) * own)
    total = np.sqrt(1 + taste**2 + noise**2 + seed_sd**2)
    middle = total * stats.norm.ppf([accuracy + gap, accuracy]).reshape(1, 2, 1, 1)
    score = normal(worlds, 1, 1, rows) + taste * normal(worlds, 2, 1, rows) + noise * normal(worlds, 2, seeds, rows)
    score = score + run + middle.astype(np.float32)
    return (score > 0).astype(float) if binary else score.astype(float)


def frames(right):
    """Rows and predictions, as `compare.pairs` takes them, of answers (labels, seeds, rows): labels a, b, c, ..."""
    rows, predictions = [], {}
    for label, by_seed in zip("abcdefghijklmnopqrstuvwxyz", right):
        for seed, hits in enumerate(by_seed):
            said = np.where(hits > 0, "yes", "no").astype(object)
            table = {"id": np.arange(len(hits)), "label": "yes", "prediction": said, "score": 0.7, "loss": 1 - hits, "weight": 1}
            run = f"{label}{seed}"
            predictions[run] = pd.DataFrame(table)
            facts = {"label": label, "seed": seed, "run_id": run, "state": "finished"}
            rows.append({**facts, "metrics.accuracy": hits.mean(), "metrics.loss": 1 - hits.mean()})
    return pd.DataFrame(rows), predictions
