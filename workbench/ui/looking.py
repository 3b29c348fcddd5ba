"""A look at the data of the Build screen: its rows, the doctor's findings, what the model sees, and the balance of the labels."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.core.spec import TrainingSpec
from workbench.core.text import upright
from workbench.figures.counts import balance
from workbench.services import data
from workbench.ui import notices, plots, tables

BADGE = {"problem": ":red-badge[problem]", "warning": ":orange-badge[warning]", "note": ":gray-badge[note]"}
USUAL_LENGTH = TrainingSpec().max_length
STYLE = """<style>
.tokens{font-family:monospace;font-size:.82rem;line-height:1.9;margin:.1rem 0 .7rem;overflow-wrap:anywhere}
.tokens span{border-radius:3px;padding:1px 2px;margin-right:1px;background:rgba(125,135,148,.14)}
.tokens .loss{background:rgba(47,127,193,.30);border-bottom:2px solid #2f7fc1}
.tokens .special{opacity:.65;font-style:italic}
.tokens .cut{background:none;text-decoration:line-through;opacity:.5}
</style>"""


@st.cache_data(ttl="5m", max_entries=32, show_spinner="Reading the tokenizer…")
def tokens(source: Mapping[str, Any], task: str, model: str, max_length: int) -> dict[str, Any]:
    """What the model sees of this data; asked once for the same question."""
    return data.ask_tokens(source, task, model, max_length)


def length() -> int:
    """The max_length in force, before its widget further down is drawn."""
    return int(st.session_state.get("build.training.max_length") or USUAL_LENGTH)


def looks(found: Mapping[str, Any], source: Mapping[str, Any], task: str, model: str) -> None:
    """The tabs below the source.

    Args:
        found: what `data.ask` answered for `source`.
        source, task, model: of the spec.
    """
    counts = ", ".join(f"{n:,} {name}" for name, n in found["counts"].items())
    st.caption(" · ".join([f"{found['total']:,} rows in the source", *([counts] if counts else []), *found["notes"]]))
    bad = sum(one["severity"] != "note" for one in found["doctor"])
    names = [f"First {len(found['rows'])} rows", f"Doctor ({bad})" if bad else "Doctor", "What the model sees", "Label balance"]
    rows, doctor, sees, labels = st.tabs(names, key="build.look", on_change="rerun")
    with rows:
        _rows(found)
    with doctor:
        _doctor(found["doctor"])
    with sees:
        if sees.open:
            with notices.shown():
                _seen(tokens(source, task, model, length()))
    with labels:
        if found["balance"]:
            plots.show(balance(found["balance"]), "build.balance")
        else:
            st.caption("This task has no labels to count.")


def _rows(found: Mapping[str, Any]) -> None:
    image, label = found["mapping"].get("image"), found["mapping"].get("label")
    columns = {image: st.column_config.ImageColumn(width="small")} if image else {}
    order = sorted(found["columns"], key=lambda c: (c != label, c not in found["mapping"].values()))
    tables.show(pd.DataFrame(found["rows"], columns=order), "The first rows of the data", height=210, columns=columns)


def _doctor(findings: Sequence[Mapping[str, Any]]) -> None:
    if not findings:
        st.success("Nothing found: no duplicates, empty rows, leaks or rare labels.", icon=":material/check:")
    for one in findings:
        st.markdown(f"{BADGE[one['severity']]} {notices.plain(notices.capital(one['sentence']))}")
        for example in one["examples"]:
            st.caption(f"row {example['id']}, {example['split']}: {notices.plain(example['text'][:160])}")


def _seen(view: Mapping[str, Any]) -> None:
    if view["image"]:
        st.markdown(notices.plain(view["image"]["sentence"]))
        return
    cut, better = view["truncation"], view["suggestion"]
    if cut:
        st.markdown(
            f"**{100 * cut['share']:.2g} %** of {cut['n']:,} training rows looked at are longer than {cut['at_max_length']} "
            f"tokens and lose their end. Half have at most {cut['p50']}, 95 % at most {cut['p95']}, the longest {cut['longest']}."
        )
    if better:
        st.info(notices.plain(better["sentence"]), icon=":material/straighten:")
    if view["unknown"]:
        st.warning(notices.plain(view["unknown"]["sentence"]))
    where = "blue tokens carry the loss" if view["scores"] == "tokens" else "the loss is on the label, not on tokens"
    st.caption(f"Grey italics are special tokens, struck through is what is cut; {where}.")
    st.html(STYLE + "".join(_row(one) for one in view["rows"]))


def _row(one: Mapping[str, Any]) -> str:
    """One row as HTML; every piece of the data is escaped."""
    pieces = "".join(f'<span class="{_classes(p)}">{html.escape(upright(p["text"])) or "·"}</span>' for p in one["pieces"])
    more = f" … {one['hidden']:,} more" if one["hidden"] else ""
    said = f"row {html.escape(upright(str(one['id'])))}, {html.escape(upright(one['split']))}, {one['length']:,} tokens"
    return f'<div class="tokens"><small>{said}</small><br>{pieces}{more}</div>'


def _classes(piece: Mapping[str, Any]) -> str:
    return " ".join(name for name in ("special", "loss", "cut") if piece[name])
