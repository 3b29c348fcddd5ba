"""The parts of the Papers screen."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from workbench.services import papers, showing
from workbench.ui import notices, tables, words

Entry = Mapping[str, Any]
STATUSES = {"": "all", "works": "work here", "planned": "planned"}


def filtered(entries: Sequence[Entry]) -> list[Entry]:
    """What the filters above the table leave."""
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    text = left.text_input("Search", key="papers.search", placeholder="title, key, year, claim …").lower()
    status = right.segmented_control(
        "Show", list(STATUSES), default="", required=True, key="papers.status", format_func=lambda s: STATUSES[s].capitalize()
    )
    said = ("title", "key", "year", "id", "claim", "recipe", "kind")
    return [
        one
        for one in entries
        if (not status or one["status"] == status)
        and all(word in " ".join(str(one[n] or "") for n in said).lower() for word in text.split())
    ]


def table(entries: Sequence[Entry]) -> Entry | None:
    """The list; returns the chosen paper, that of `?paper=` at first, else the first that works."""
    if not entries:
        st.info("No paper fits; loosen the filters.", icon=":material/search_off:")
        return None
    column = st.column_config
    columns = {
        "No.": column.NumberColumn(width=50),
        "Title": column.TextColumn(width=520),
        "Works": column.CheckboxColumn(width=60, help="Its claim was shown here in miniature"),
    }
    known = {one["key"]: one for one in entries}
    asked = tables.picked(tables.papers(entries), "The source list of papers", list(known), "paper", columns)
    return known.get(asked) or next((one for one in entries if one["status"] == "works"), entries[0])


def card(one: Entry) -> None:
    """What works of a paper, its claim and what is missing."""
    with st.container(border=True):
        st.subheader(notices.plain(one["title"]), anchor=False)
        badge = ":green-badge[works here]" if one["status"] == "works" else ":gray-badge[planned]"
        st.markdown(f":gray-badge[{one['year']}] {badge} :gray-badge[{notices.plain(one['key'])}]")
        if one["status"] != "works":
            st.markdown("Its claim was not shown here yet. A method of it may be there already: see the Methods page.")
            return
        left, right = st.columns([3, 2], gap="large")
        with left:
            st.markdown(f"**In miniature:** {notices.plain(one['claim'])}")
            with notices.shown():
                _outcome(one)
        with right:
            st.link_button("Read the paper", one["url"], icon=":material/article:")
            st.markdown(f":gray[What runs it here]  \n{notices.plain(one['recipe'])}")
            if one["published"]:
                st.markdown(":gray[Published]\n" + "\n".join(f"- {notices.plain(text)}" for text in one["published"]))
            if one["missing"]:
                st.markdown(f":gray[Not reproduced here]  \n{notices.plain(one['missing'])}")


def _outcome(one: Entry) -> None:
    """The checks with what the newest experiment of this home says of each, and how to run it."""
    found = showing.latest(one["key"])
    outcome = found["outcome"] if found else []
    known = {row["claim"]: row for row in outcome}
    for check in one["checks"]:
        st.markdown(_check(check, known.get(check)))
    with st.container(horizontal=True, vertical_alignment="center"):
        if papers.spec(one["key"]) is not None:
            notices.link("build", "Open in Build", ":material/construction:", paper=one["key"])
        if found:
            notices.link("compare", "Compare its runs", ":material/scatter_plot:", experiment=found["experiment"])
    if found and found["live"]:
        st.caption("Its runs are going on; the Runs page shows them.")
    elif not outcome:
        st.caption("Not run in this home yet. The command runs it and says whether the claim shows:")
    st.code(f"python -m workbench paper {one['key']}", language="bash")


def _check(check: str, found: Mapping[str, Any] | None) -> str:
    """One line of the claim; with its two sides once there are figures."""
    if found is None:
        return f":gray-badge[not measured] `{check}`"
    badge = ":green-badge[holds]" if found["holds"] else ":red-badge[does not hold]"
    return f"{badge} `{check}` ({words.score(found['left'])} against {words.score(found['right'])})"
