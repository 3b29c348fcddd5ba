"""What methods get wrong: confusions, and the test rows on which two of them disagree."""

from collections.abc import Sequence

import streamlit as st

from workbench.figures import counts
from workbench.services import comparison
from workbench.services.comparison import Comparison
from workbench.ui import address, notices, plots, rankings, tables


def draw(found: Comparison) -> None:
    """Two methods side by side, and where they differ."""
    labels = [one["label"] for one in found.table.to_dict("records") if one["n"]]
    if not labels:
        notices.empty("No run has finished yet.")
        return
    left, right = st.columns(2)
    with left:
        a = address.one(st.selectbox, "compare", "a", "First method", labels, labels[0])
        _confusion(found, a, "a")
    with right:
        rest = [label for label in labels if label != a]
        if not rest:
            st.caption("A second finished method would stand here.")
            return
        b = address.one(st.selectbox, "compare", "b", "Second method", rest, rest[0])
        _confusion(found, b, "b")
    st.subheader("Test rows on which they disagree", anchor=False)
    rows = comparison.disagreements(found, a, b)
    if rows.empty:
        notices.empty("They agree on every test row that both have predictions of.")
        return
    texts = _texts(found, a, [int(i) for i in rows["id"]])
    shown, columns = rankings.disagreements(rows, texts, a, b), rankings.disagreement_columns(a, b)
    tables.show(shown, "Rows on which the two methods disagree most", columns=columns, row_height=70)
    st.caption("Shares of the common seeds that are right; rows where they differ most first.")


def _confusion(found: Comparison, label: str, side: str) -> None:
    table = comparison.confusion(found, label)
    if not table["labels"]:
        st.caption("No confusion table: predictions are not stored, nothing is classified, or there are more than 30 labels.")
        return
    plots.show(counts.confusion(table["labels"], table["counts"]), f"compare.confusion.{side}")


def _texts(found: Comparison, label: str, ids: Sequence[int]) -> dict[int, str]:
    run = next(row["run_id"] for row in found.rows if row["label"] == label and row["state"] == "finished")
    return _read(run, tuple(ids), found)


@st.cache_data(max_entries=32, ttl="1h", show_spinner="Reading the rows…")
def _read(run: str, ids: tuple[int, ...], _found: Comparison) -> dict[int, str]:
    label = next(row["label"] for row in _found.rows if row["run_id"] == run)
    return comparison.texts(_found, label, list(ids))
