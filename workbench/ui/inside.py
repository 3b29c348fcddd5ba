"""Where an adapter changed the model: how far each site moved, by depth and role."""

import pandas as pd
import streamlit as st

from workbench.figures import depth
from workbench.services import tradeoffs
from workbench.services.comparison import Comparison
from workbench.ui import measuring, plots

KINDS = {
    "weight": ("Weights", "Norm of the change over that of the base weight, mean over seeds; not every method changes weights."),
    "activation": ("Outputs", "Change of each block's output on held-out rows, relative to the base, mean over seeds."),
}  # fmt: skip


def draw(found: Comparison) -> None:
    """A picture per method, or the button that asks for the analysis."""
    rows, left_out = tradeoffs.movement(found)
    if left_out:
        text = f"How far the model moved has not been looked at for {len(left_out)} of these runs."
        measuring.offer("movement", left_out, text, "Measure movement")
    frame = pd.DataFrame(rows)
    for kind, (title, text) in KINDS.items():
        if len(frame) and kind in set(frame["kind"]):
            st.subheader(title, anchor=False)
            plots.show(depth.movement(frame, kind), f"compare.movement.{kind}")
            st.caption(text)
