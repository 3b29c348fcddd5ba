"""Answers side by side: one card per column, and in words where they differ."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from workbench.core.text import upright
from workbench.ui import notices

BARS = 5
BOX = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.5;font-size:.92rem"
MARK = "background:rgba(224,138,0,.28);color:inherit;border-radius:2px"
Column = Mapping[str, Any]


def show(reply: Mapping[str, Any], truth: str | None) -> None:
    """The answers.

    Args:
        reply: columns and note, as the playground's service gives them.
        truth: what is right, where the input is a row of the data.
    """
    columns = shown(reply["columns"])
    called = names(columns)
    answered = [c for c in columns if c["prediction"] is not None]
    with st.container(gap="xsmall"):
        if truth:
            _truth(truth, answered)
        if answered:
            st.markdown(in_words(answered, called))
    labels = common_labels(answered, truth)
    against = answered[0] if answered else None
    for place, column in zip(st.columns(len(columns), gap="small"), columns):
        with place, st.container(border=True, height="stretch", gap="xsmall"):
            _card(column, called, against, labels, truth)
    cut = {c["cut"] for c in answered} - {0}
    left_out = f" {max(cut):,} tokens of the input were left out, because the runs were trained on shorter ones." if cut else ""
    st.caption(notices.plain(reply["note"] + left_out))


def _truth(truth: str, answered: Sequence[Column]) -> None:
    if any(c["output"] is not None for c in answered):
        st.caption(f"In the data it goes on: {notices.plain(short({'text': truth}, 300))}")
    else:
        st.markdown(f"True label: **{notices.plain(truth)}**")


def shown(columns: Sequence[Column]) -> list[Column]:
    """The columns without the head-only run that the base's column shows already."""
    return [c for c in columns if c["reference"] != columns[0]["shows"]]


def names(columns: Sequence[Column]) -> dict[str, str]:
    """Reference -> what a column is called: its label, or the reference where two share the label."""
    labels = [c["label"] for c in columns]
    own = {c["reference"]: c["label"] if labels.count(c["label"]) == 1 else c["reference"] for c in columns}
    return own | {"base": "base"}


def in_words(answered: Sequence[Column], called: Mapping[str, str]) -> str:
    """Who says what, or who differs from the first column, as Markdown."""
    first, rest = answered[0], answered[1:]
    name = {c["reference"]: notices.plain(called[c["reference"]]) for c in answered}
    differ = [name[c["reference"]] for c in rest if c["prediction"] != first["prediction"]]
    if not differ:
        return f"All {len(answered)} columns say the same." if rest else ""
    if first["output"] is None:
        said = dict.fromkeys(c["prediction"] for c in answered)
        own = {p: ", ".join(name[c["reference"]] for c in answered if c["prediction"] == p) for p in said}
        return " · ".join(f"**{notices.plain(prediction)}**: {who}" for prediction, who in own.items())
    verb = "differs" if len(differ) == 1 else "differ"
    return f"{', '.join(differ)} {verb} from {name[first['reference']]}."


def common_labels(answered: Sequence[Column], truth: str | None = None, most: int = BARS) -> list[str]:
    """The labels that some column finds likeliest, and the right one, in one order for all columns."""
    best: dict[str, float] = {}
    for column in answered:
        for one in column["probabilities"]:
            best[one["label"]] = max(best.get(one["label"], 0.0), one["p"])
    ordered = sorted(best, key=lambda label: -best[label])
    return ordered[:most] if truth not in ordered[most:] else [*ordered[: most - 1], str(truth)]


def parted(text: str, other: str) -> tuple[str, str]:
    """(the words that two texts begin with, how the first one goes on)."""
    mine, theirs = re.findall(r"\s*\S+", text), re.findall(r"\s*\S+", other)
    same = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a.split() != b.split()), min(len(mine), len(theirs)))
    return "".join(mine[:same]), "".join(mine[same:])


def short(inputs: Mapping[str, Any], most: int) -> str:
    """The beginning of an input on one line."""
    said = inputs.get("text") or inputs.get("prompt") or (inputs.get("messages") or [{"content": ""}])[-1]["content"]
    flat = " ".join(str(said).split())
    return flat if len(flat) <= most else flat[: most - 1].rsplit(" ", 1)[0] + " …"


def model(source: str) -> str:
    """A base model's name; of a folder only its last part."""
    return f"…/{source.rpartition('/')[2]}" if source.startswith("/") else source


def _card(column: Column, called: Mapping[str, str], against: Column | None, labels: Sequence[str], truth: str | None) -> None:
    is_base = column["reference"] == "base"
    headed = is_base and column["shows"] and labels
    title = "Base with a trained head" if headed else "Base" if is_base else called[column["reference"]]
    st.markdown(f"**{notices.plain(title)}**")
    st.caption(notices.plain((column["shows"] if headed else model(column["label"])) if is_base else column["reference"]))
    if column["problem"]:
        if is_base:
            st.markdown(f":gray[{notices.plain(notices.capital(column['problem']))}]")
        else:
            notices.problem(column["problem"])
        return
    st.markdown(" ".join(_badges(column, called, against, truth)))
    if column["output"] is None:
        st.subheader(notices.plain(column["prediction"]), anchor=False)
        _bars(column, labels)
    else:
        _text(column["output"], against["output"] if against and against is not column else column["output"])
    st.caption(notices.plain(_cost(column)))


def _badges(column: Column, called: Mapping[str, str], against: Column | None, truth: str | None) -> list[str]:
    said = column["prediction"]
    found = []
    if against is not None and against is not column:
        other = notices.plain(called[against["reference"]])
        same = said == against["prediction"]
        found.append(f":gray-badge[same as {other}]" if same else f":orange-badge[differs from {other}]")
    if truth is not None and column["output"] is None:
        found.append(":green-badge[right]" if said == truth else ":red-badge[wrong]")
    return found or [":gray-badge[baseline]"]


def _bars(column: Column, labels: Sequence[str]) -> None:
    chances = {one["label"]: one["p"] for one in column["probabilities"]}
    for label in labels:
        if label in chances:
            text = f"{notices.plain(label)} · {chances[label]:.3f}"
            st.progress(min(chances[label], 1.0), f"**{text}**" if label == column["prediction"] else text)


def _text(text: str, other: str) -> None:
    same, rest = parted(text, other)
    marked = f'<mark style="{MARK}">{html.escape(upright(rest))}</mark>' if rest else ""
    st.html(f'<div style="{BOX}">{html.escape(upright(same))}{marked}</div>' if text else "<em>an empty answer</em>")


def _cost(column: Column) -> str:
    runs = column["latency_runs"]
    cost = [f"{column['latency_ms']:,.1f} ms, {f'median of {runs} passes' if runs > 1 else 'one pass'}"]
    cost += [f"{column['tokens']} token{'' if column['tokens'] == 1 else 's'}"] if column["tokens"] is not None else []
    return " · ".join(cost)
