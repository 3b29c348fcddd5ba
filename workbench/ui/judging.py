"""Is it really better? Every pair of methods with its interval, its verdict and one sentence."""

import pandas as pd
import streamlit as st

from workbench.figures import pairs as drawing
from workbench.figures import style
from workbench.services import comparison
from workbench.services.comparison import Comparison
from workbench.ui import address, notices, plots, rankings, tables, words

HOW = """**Difference**: mean over the seeds that both methods have; each faint dot is one seed.
**Interval**: 95 %, paired by seed, and by test row where predictions are stored, so what both find hard cancels out.
**Verdict**: at 5 % over *all* pairs shown together (Holm's correction), so more methods make it stricter.
**One seed**: only the test rows are a sample; that speaks about these two trained adapters, not about the methods.
Choose fewer methods above to judge only what you care about."""


def draw(found: Comparison, metric: str, higher: bool, unit: str) -> None:
    """Forest plot, verdict matrix, and the sentences."""
    pairs = comparison.pairs(found, metric)
    if pairs.empty:
        notices.empty("Two methods with finished runs are needed; there is nothing to compare yet.")
        return
    chosen = _pair(pairs)
    st.markdown(f"**{notices.plain(chosen['sentence'])}**")
    few = len(set(pairs["a"]) | set(pairs["b"])) <= style.MOST_NAMED
    left, right = st.columns([3, 2]) if few else (st.container(), st.container())
    with left:
        plots.show(drawing.forest(pairs, found.runs, unit, higher), "compare.forest")
    with right:
        plots.show(drawing.verdicts(pairs, unit), "compare.verdicts")
    st.caption("▲ the row is better than the column · ▼ it is worse · ≈ cannot tell. A hollow marker has no interval.")
    tables.show(rankings.verdicts(pairs), "Every pair in one sentence", columns=rankings.verdict_columns(), row_height=70)
    with st.expander("How this is judged"):
        st.markdown(HOW)


def _pair(pairs: pd.DataFrame) -> pd.Series:
    """The pair whose sentence stands on top: that of `?a=` and `?b=`, or the chosen one; the surest at first."""
    names = {f"{row.a} − {row.b}": row for row in pairs.itertuples()}
    surest = min(names, key=lambda name: (names[name].n < 2, words.missing(names[name].p_holm), names[name].p_holm))
    asked = [st.query_params.get(side, "") for side in ("a", "b")]
    start = next((name for name, row in names.items() if {row.a, row.b} == set(asked)), surest)
    if st.session_state.get("compare.pair") not in names:
        st.session_state["compare.pair"] = start
    name = st.selectbox("Pair", list(names), key="compare.pair")
    row = names[name]
    address.write("compare", "a", [row.a])
    address.write("compare", "b", [row.b])
    return pairs.loc[row.Index]
