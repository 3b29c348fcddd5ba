"""Tables of the Compare screen: verdicts, places on the front, and rows on which methods disagree."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from workbench.figures import front
from workbench.figures.axes import Axis
from workbench.ui import words

SIGNS = {"better": "▲ better", "worse": "▼ worse", "cannot tell": "≈ cannot tell"}


def verdicts(pairs: pd.DataFrame) -> pd.DataFrame:
    """One line per pair, the surest first; the verdict is about the first of the two."""
    ordered = pairs.sort_values("p_holm", kind="stable", na_position="last")
    return pd.DataFrame(
        [
            {
                "Verdict": SIGNS[row["verdict"]],
                "In one sentence": row["sentence"],
                "p (Holm)": words.chance(row["p_holm"]),
                "Seeds": row["n"],
                "Test rows": row["examples"] or None,
            }
            for row in ordered.to_dict("records")
        ]
    )


def verdict_columns() -> dict[str, Any]:
    """How the columns of `verdicts` are shown."""
    column = st.column_config
    return {
        "Verdict": column.TextColumn(width=105),
        "In one sentence": column.TextColumn(width=610),
        "p (Holm)": column.TextColumn(width=75, help="Corrected for the number of pairs shown."),
        "Seeds": column.NumberColumn(width=55, help="Seeds that both methods have."),
        "Test rows": column.NumberColumn(format="localized", width=80, help="Rows whose predictions of both are stored."),
    }


def standings(found: pd.DataFrame, x: Axis, y: Axis) -> pd.DataFrame:
    """Where each label stands, the surest on the front first."""
    ordered = found.sort_values(["pareto", "probability"], ascending=False, kind="stable")
    return pd.DataFrame(
        [
            {
                "Method": one["label"],
                y.short: y.say(one["y"]),
                x.short: x.say(one["x"]),
                "On the front": None if words.missing(one["probability"]) else round(one["probability"], 2),
                "What that means": front.standing(one),
            }
            for one in ordered.to_dict("records")
        ]
    )


def standing_columns(x: Axis, y: Axis) -> dict[str, Any]:
    """How the columns of `standings` are shown."""
    column = st.column_config
    bar = column.ProgressColumn(format="percent", min_value=0, max_value=1, width=110, help="Share of bootstrap draws.")
    fixed = {"Method": column.TextColumn(width=170), "On the front": bar, "What that means": column.TextColumn(width=420)}
    return {**fixed, x.short: column.TextColumn(width=120), y.short: column.TextColumn(width=90)}


def disagreements(rows: pd.DataFrame, texts: Mapping[int, str], a: str, b: str) -> pd.DataFrame:
    """Test rows on which two labels differ, with their texts; the losses stand in where nothing is right or wrong."""
    shown = []
    for row in rows.to_dict("records"):
        one: dict[str, Any] = {"Row": row["id"], "Text": texts.get(row["id"], "") or words.DASH, "True": row["label"]}
        if words.missing(row["a_right"]):
            one |= {f"Loss of {a}": row["a_loss"], f"Loss of {b}": row["b_loss"]}
        else:
            one |= {a: f"{words.share(row['a_right'])} right, says {row['a_says']}"}
            one |= {b: f"{words.share(row['b_right'])} right, says {row['b_says']}"}
        shown.append(one)
    return pd.DataFrame(shown)


def disagreement_columns(a: str, b: str) -> dict[str, Any]:
    """How the columns of `disagreements` are shown."""
    column = st.column_config
    texts = {"Text": column.TextColumn(width=390), "True": column.TextColumn(width=100)}
    return {"Row": column.NumberColumn(width=55, format="%d"), **texts, **{name: column.TextColumn(width=205) for name in (a, b)}}
