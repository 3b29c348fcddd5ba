"""The parts of the Methods screen."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from workbench.ui import notices, tables, words

Entry = Mapping[str, Any]


def filtered(entries: Sequence[Entry]) -> list[Entry]:
    """What the filters above the table leave."""
    places = st.columns([3, 2, 2, 2], vertical_alignment="bottom")
    text = places[0].text_input("Search", key="methods.search", placeholder="name, paper, equation …").lower()
    families = sorted({one["family"] for one in entries})
    family = places[1].selectbox(
        "Family", ["", *families], key="methods.family", format_func=lambda f: f.replace("_", " ") or "all families"
    )
    kind = places[2].selectbox(
        "Kind", ["", *sorted({one["kind"] for one in entries})], key="methods.kind", format_func=lambda k: k or "all kinds"
    )
    engine = places[3].selectbox("Engine", ["", "native", "peft"], key="methods.engine", format_func=lambda e: e or "all engines")
    return [one for one in entries if _fits(one, text, family, kind, engine)]


def _fits(one: Entry, text: str, family: str, kind: str, engine: str) -> bool:
    said = " ".join(str(one[name]) for name in ("key", "title", "paper", "formula", "text")).lower()
    return all(word in said for word in text.split()) and all(
        not want or one[name] == want for name, want in (("family", family), ("kind", kind), ("engine", engine))
    )


def table(entries: Sequence[Entry]) -> Entry | None:
    """The catalogue; returns the chosen entry, that of `?method=` at first."""
    if not entries:
        st.info("No method fits; loosen the filters.", icon=":material/search_off:")
        return None
    column = st.column_config
    columns = {
        "Key": column.TextColumn(width=150),
        "What it is": column.TextColumn(width=400),
        "Merges": column.CheckboxColumn(width=60, help="Can be merged into the base's weights"),
    }
    asked = tables.picked(tables.methods(entries), "The catalogue of methods", [one["key"] for one in entries], "method", columns)
    return next((one for one in entries if one["key"] == asked), entries[0])


def card(one: Entry) -> None:
    """Everything the catalogue knows about a method."""
    name, sentence = tables.split_title(one)
    with st.container(border=True):
        st.subheader(notices.plain(name), anchor=False)
        st.markdown(notices.plain(notices.capital(sentence)))
        _badges(one)
        left, right = st.columns([3, 2], gap="large")
        with left:
            st.code(one["formula"], language=None, wrap_lines=True)
            for part in one["text"].split("\n\n")[1:]:
                st.markdown(notices.plain(part))
            if one["deviates"]:
                st.markdown(f"**Deviates from the paper:** {notices.plain(one['deviates'])}")
            for check, reason in one["excused"].items():
                st.markdown(f"**Expected to fail `{check}`:** {notices.plain(reason)}")
        with right:
            _facts(one)


def _badges(one: Entry) -> None:
    merge = ":green-badge[mergeable]" if one["mergeable"] else ":orange-badge[not mergeable]"
    start = ":green-badge[starts as the base]" if one["identity_at_init"] else ":gray-badge[does not start as the base]"
    st.markdown(
        f":blue-badge[{one['kind']}] :gray-badge[{one['family'].replace('_', ' ')}] :gray-badge[{one['engine']}] {merge} {start}"
    )


def _facts(one: Entry) -> None:
    st.link_button(notices.plain(one["paper"]), one["url"], icon=":material/article:")
    rate = one["default_lr"]
    facts = {
        "Parameters per site": one["trainable_params_formula"],
        "Goes by default to": ", ".join(one["roles"]) or "everything that fits",
        "Default learning rate": f"{words.rate(rate['rate'])}: {rate['source']}",
        "Preset of": one["preset_of"] or "",
        "Presets": ", ".join(one["presets"]),
        "Sets": ", ".join(f"{k} = {v}" for k, v in one["values"].items()),
        "peft type": one["peft_export"] or "",
        "Not mergeable because": "" if one["mergeable"] else one["not_mergeable"],
        "Needs": ", ".join(one["needs"]),
    }
    for name, value in facts.items():
        if value:
            st.markdown(f":gray[{name}]  \n{notices.plain(value)}")
