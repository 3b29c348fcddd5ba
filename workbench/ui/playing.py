"""The parts of the Playground screen: which adapters, the input, the answers side by side."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from workbench.core.errors import WorkbenchError, unknown
from workbench.services import adapters, files, playing
from workbench.ui import answering, notices, sharing

IMAGES = ["png", "jpg", "jpeg", "webp"]
LABELS = {"text": "Text", "pair": "First text", "prompt": "Prompt", "messages": "Your message"}
TASKS = {"text_classification": "text classification", "image_classification": "images", "causal_lm": "text generation"}
AT_ONCE, LONGEST, IN_A_ROW = 4, 54, 5  # texts shown at once, characters of one, pictures side by side
Entry = Mapping[str, Any]


@st.cache_data(ttl="5s", max_entries=2, show_spinner=False)
def _known() -> list[dict[str, Any]]:
    return adapters.adapters()


@st.cache_data(ttl="1h", max_entries=32, show_spinner="Reading the test split…")
def _examples(reference: str, folder: str) -> list[dict[str, Any]]:
    return playing.ask_examples(reference)


def pick() -> list[Entry]:
    """The adapters of `?adapter=` (it may be repeated), or those chosen; all on one base and task."""
    groups = playing.groups(_known())
    if not groups:
        notices.empty("There is no adapter to try yet; each finished run leaves one.", "build", "Build an experiment")
        return []
    place = {one["reference"]: key for key, group in groups.items() for one in group}
    asked, turn = _asked(place)
    left, right = st.columns([1, 2])
    options = list(groups)
    start = options.index(place[asked[0]]) if asked else 0
    key = left.selectbox("Base model and task", options, start, key=f"playground.base.{turn}", format_func=_group)
    group = groups[key]
    texts = {one["reference"]: _name(one, group) for one in group}
    first = [a for a in asked if a in texts][: playing.MOST] or [one["reference"] for one in _start(group)]
    chosen = right.multiselect(
        f"Adapters, up to {playing.MOST}", list(texts), first, key=f"playground.adapters.{turn}.{key}",
        format_func=texts.__getitem__, max_selections=playing.MOST, placeholder="Choose at least one", wrap=True,
    )  # fmt: skip
    st.query_params["adapter"] = chosen
    st.session_state["playground.asked"] = chosen
    return [one for reference in chosen for one in group if one["reference"] == reference]


def _asked(place: Mapping[str, Any]) -> tuple[list[str], int]:
    """The adapters in the address that can be tried together, and a number that changes when the address does by itself."""
    asked = list(dict.fromkeys(st.query_params.get_all("adapter")))
    turn = st.session_state.setdefault("playground.turn", 0)
    if asked and asked != st.session_state.get("playground.asked"):
        turn = st.session_state["playground.turn"] = turn + 1
    for one in asked:
        if one not in place:
            notices.problem(str(unknown("adapter that can be tried", one, place)))
    found = [one for one in asked if one in place]
    if len({place[one] for one in found}) > 1:
        names = ", ".join(f"{one} on {_group(place[one])}" for one in found)
        notices.problem(f"adapters side by side must share one base model and one task; got {names}.")
    return [one for one in found if place[one] == place[found[0]]], turn


def _group(key: tuple[str, str]) -> str:
    return f"{answering.model(key[0])} · {TASKS[key[1]]}"


def _name(one: Entry, group: Sequence[Entry]) -> str:
    several = len({other["experiment"] for other in group}) > 1
    return f"{one['reference']} ({one['experiment']})" if several and one["experiment"] else one["reference"]


def _start(group: Sequence[Entry]) -> list[Entry]:
    """What an untouched page compares: two adapters of the newest experiment, and head only, where a base needs a head."""
    near = [one for one in group if one["experiment"] == group[0]["experiment"]]
    bare = [one for one in near if one["method"] == "head_only"]
    others = [one for one in reversed(near) if one not in bare][:2]
    return [*(bare[:1] if group[0]["task"] != "causal_lm" or not others else []), *others]


def given(chosen: Sequence[Entry]) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """The input, the settings of the answer, and whether the button was pressed just now."""
    kind = playing.kind(chosen)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        inputs = _image() if kind == "image" else _words(kind)
        settings = _settings() if kind in ("prompt", "messages") else {}
        pressed = st.button("Compare side by side", type="primary", key="playground.ask", icon=":material/compare_arrows:")
    with right, st.container(gap="xxsmall"):
        _try(chosen[0], kind)
    return inputs, settings, pressed


def _words(kind: str) -> dict[str, Any]:
    turns = st.session_state.get("playground.turns", []) if kind == "messages" else []
    for turn in turns:
        with st.chat_message(turn["role"]):
            st.text(turn["content"])
    if turns:
        st.button("Start over", key="playground.clear", on_click=st.session_state.pop, args=("playground.turns",))
    height = 110 if kind != "pair" else 90
    text = st.text_area(LABELS[kind], key=f"playground.{kind}", height=height, persist_state="session")
    if kind == "messages":
        return {"messages": [*turns, {"role": "user", "content": text}] if text.strip() else []}
    if kind == "pair":
        second = st.text_area("Second text", key="playground.second", height=height, persist_state="session")
        return {"text": text, "text_pair": second}
    return {kind: text}


def _settings() -> dict[str, Any]:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        longest = st.number_input("New tokens, at most", 1, 512, 48, key="playground.longest", width=170, persist_state="session")
        greedy = st.toggle(
            "Greedy", True, key="playground.greedy", persist_state="session",
            help="The likeliest token each time. Off: tokens are drawn at temperature 1, from the same seed in every column.",
        )  # fmt: skip
    return {"max_new_tokens": longest, "greedy": greedy}


def _image() -> dict[str, Any]:
    place, shown = st.columns([3, 1], vertical_alignment="center")
    place.file_uploader("Image", IMAGES, key="playground.upload", on_change=_uploaded, max_upload_size=20)
    found = st.session_state.get("playground.image")
    if not found:
        shown.caption("No image yet")
        return {}
    with shown:
        st.image(found["picture"], width=120, alt=found["name"])
    return {"image": found["image"]}


def _uploaded() -> None:
    file = st.session_state["playground.upload"]
    if file is None:
        return
    try:
        path = files.upload(file.name, file.getvalue())
    except WorkbenchError as error:
        st.toast(str(error), icon=":material/error:")
        return
    st.session_state["playground.image"] = {"image": str(path), "picture": file.getvalue(), "name": f"The image {file.name}"}


def _try(one: Entry, kind: str) -> None:
    """Rows of the test split, each one click away."""
    try:
        found = _examples(one["reference"], one["folder"])
    except WorkbenchError as error:
        st.caption(f"No examples: {notices.plain(str(error))}")
        return
    size = 2 * IN_A_ROW if kind == "image" else AT_ONCE
    page = st.session_state.get("playground.page", 0) % max(-(-len(found) // size), 1)
    shown = found[page * size : (page + 1) * size]
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(
            "Examples from the test split", help=f"{one['reference']} was judged on these rows and never trained on them."
        )
        if len(found) > size:
            st.button("More", key="playground.more", on_click=_turn, args=(page + 1,), type="tertiary", icon=":material/refresh:")
    if kind == "image":
        _thumbnails(shown)
    else:
        with st.container(gap=None):
            for example in shown:
                text, key = answering.short(example["inputs"], LONGEST), f"playground.example.{one['reference']}.{example['id']}"
                st.button(
                    notices.plain(text), key=key, on_click=_take, args=(example, kind), type="tertiary", icon=":material/west:"
                )


def _turn(page: int) -> None:
    st.session_state["playground.page"] = page


def _thumbnails(shown: Sequence[Entry]) -> None:
    for start in range(0, len(shown), IN_A_ROW):
        for place, example in zip(st.columns(IN_A_ROW), shown[start : start + IN_A_ROW]):
            with place:
                name = f"Test row {example['id']}, a {example['answer']}"
                st.image(_bytes(example["picture"]), width="stretch", alt=name)
                key = f"playground.example.{example['id']}"
                st.button("Use", key=key, help=name, on_click=_take, args=(example, "image"), width="stretch")


def _bytes(address: str) -> bytes:
    return base64.b64decode(address.partition(",")[2])


def _take(example: Entry, kind: str) -> None:
    """Put an example where one types."""
    state, inputs = st.session_state, example["inputs"]
    if kind == "image":
        name = f"Test row {example['id']}"
        state["playground.image"] = {"image": inputs["image"], "picture": _bytes(example["picture"]), "name": name}
    elif kind == "messages" and "messages" in inputs:
        state["playground.turns"], state["playground.messages"] = inputs["messages"][:-1], inputs["messages"][-1]["content"]
    else:
        state[f"playground.{kind}"] = inputs.get("text") or inputs.get("prompt") or ""
        state["playground.second"] = inputs.get("text_pair") or ""
    state["playground.example"] = example


def answers(chosen: Sequence[Entry], inputs: Mapping[str, Any], settings: Mapping[str, Any], pressed: bool) -> None:
    """Ask when the button was pressed, and show what came of it for as long as the question stands."""
    request = {"references": [one["reference"] for one in chosen], "inputs": dict(inputs), "settings": dict(settings)}
    if pressed:
        waiting = "Answering… The first time, the engine loads the base model; after that it only switches adapters."
        with st.spinner(waiting, show_time=True):
            st.session_state["playground.answer"] = {"request": request, "reply": playing.ask_play(**request)}
    answer = st.session_state.get("playground.answer")
    if answer is None or answer["request"] != request:
        text = "The input or the adapters have changed." if answer else "Type something, or take an example."
        notices.empty(f"{text} Compare side by side shows what the base and each adapter make of it.")
        return
    example = st.session_state.get("playground.example")
    answering.show(answer["reply"], example["answer"] if example and _same(example["inputs"], inputs) else None)


def _same(taken: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Whether the input still is the example."""
    return {k: v for k, v in taken.items() if v} == {k: v for k, v in inputs.items() if v}


def on_a_file(chosen: Sequence[Entry]) -> None:
    """Predict the rows of a file with one of the adapters."""
    with st.expander("Predict on a file", icon=":material/table_view:"), notices.shown():
        one = chosen[0]
        if len(chosen) > 1:
            names = {one["reference"]: one for one in chosen}
            one = names[st.selectbox("With", list(names), key=f"playground.with.{','.join(names)}")]
        sharing.predict(one)
