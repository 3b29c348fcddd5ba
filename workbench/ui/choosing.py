"""Choosing methods on the Build screen: search and filter over the catalogue, and starting points made from the facts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from workbench.services import catalogue, shares, suggestions
from workbench.ui import filling, notices

Entry = Mapping[str, Any]


@st.cache_data(ttl="1h", max_entries=16, show_spinner="Counting every method on this base model…")
def sizes(model: str, task: str, code: str) -> dict[str, Any]:
    """The share of the base that each method trains at default settings, for this state of the code."""
    return shares.ask(model, task)


def offered(entries: Sequence[Entry], model: str, task: str) -> list[str]:
    """Keys of the methods that pass the filters; the filters sit in a popover."""
    with st.popover("Filter", icon=":material/filter_alt:", width="stretch", key="build.filter", on_change="rerun"):
        text = st.text_input("Search", key="build.search", placeholder="words of the title or equation", persist_state="session")
        small = st.toggle(f"Trains less than {100 * suggestions.TINY:g} % of the base", key="build.filter.small")
        merges = st.toggle("Merges into the base", key="build.filter.merges")
        papers = st.toggle("Belongs to a paper of the list", key="build.filter.papers")
        engines = ["any", *sorted({e["engine"] for e in entries})]
        engine = st.segmented_control("Engine", engines, default="any", required=True, key="build.filter.engine")
        families = st.multiselect("Families", sorted({e["family"] for e in entries}), key="build.filter.families")
        kinds = st.multiselect("Kinds", sorted({e["kind"] for e in entries}), key="build.filter.kinds")
        found = catalogue.filtered(
            entries, text, merges or None, None if engine == "any" else engine, families, kinds, papers or None,
            suggestions.TINY if small else None, sizes(model, task, catalogue.code_hash())["shares"] if small else None,
        )  # fmt: skip
        st.caption(f"{len(found)} of {len(entries)} methods and presets are offered.")
    return [e["key"] for e in found]


def starting_points(facts: Callable[[], Mapping[str, Any]], model: str, task: str, known: Mapping[str, Any]) -> None:
    """A popover of sensible experiments for this base, task and data; one click fills methods, training and seeds.

    Args:
        facts: gives what `suggestions.suggest` wants to know of the data; called only when the popover is open.
        model, task, known: of the form; `known` is the catalogue.
    """
    with st.popover("Suggest", icon=":material/lightbulb:", width="stretch", key="build.suggest", on_change="rerun") as box:
        if not box.open:
            return
        with notices.shown():
            found = sizes(model, task, catalogue.code_hash())
            for one in suggestions.suggest(known["methods"], found["shares"], found["base_params"], facts()):
                st.markdown(f"**{one['title']}** · {len(one['methods']) * len(one['seeds'])} runs")
                st.caption(notices.plain(notices.capital(one["why"])))
                st.button("Use it", key=f"build.use.{one['name']}", on_click=filling.use, args=(one, task, known))
