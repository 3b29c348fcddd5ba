"""The parts of the Adapters screen: export, predict, combine, import."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.core.errors import WorkbenchError
from workbench.services import adapters, catalogue, files
from workbench.ui import building, forms, notices, tables, words

FORMATS = {
    "peft": "A folder that plain peft loads",
    "lora": "A LoRA of any method, by SVD, with its measured error",
    "merged": "The whole base model with the adapter merged in",
    "bundle": "Our own folder: adapter, head, labels, check rows",
}
Entry = Mapping[str, Any]


def pick(known: Sequence[Entry]) -> Entry:
    """The adapter of `?adapter=`, or the one chosen."""
    texts = {one["reference"]: _name(one) for one in known}
    asked = st.query_params.get("adapter", "")
    if asked and asked not in texts:
        st.warning(f"There is no adapter {notices.plain(asked)}; another one is shown.", icon=":material/link_off:")
    start = list(texts).index(asked) if asked in texts else 0
    chosen = st.selectbox("Adapter", list(texts), start, key=f"adapters.pick.{asked}", format_func=texts.__getitem__)
    if chosen != asked:
        st.query_params["adapter"] = chosen
    return next(one for one in known if one["reference"] == chosen)


def _name(one: Entry) -> str:
    metric = next((f"{k} {words.score(v)}" for k, v in one["metrics"].items()), "")
    return " · ".join(filter(None, [one["reference"], one["experiment"], metric]))


def facts(one: Entry) -> None:
    """One line about an adapter."""
    metrics = [f"{words.title(k)} {words.score(v)}" for k, v in one["metrics"].items()]
    st.caption(notices.plain(" · ".join([f"{one['method']} on {one['base']}", str(one["task"]).replace("_", " "), *metrics])))


def export(one: Entry) -> None:
    """The form of an export; the folder is proposed, the check is always made."""
    places = st.columns([1, 3, 1], vertical_alignment="bottom")
    format = places[0].selectbox("Format", list(FORMATS), key="adapters.format")
    proposed = str(files.new_place("exports", f"{one['reference']}-{format}"))
    to = places[1].text_input("Folder", proposed, key=f"adapters.to.{proposed}", help="A new or empty folder on this machine.")
    most = places[2].number_input(
        "Largest error", 0.0, None, None, format="%g", key="adapters.error", placeholder="any", disabled=format != "lora",
        help="Of the logits; a LoRA by SVD is an approximation and fails above it.",
    )  # fmt: skip
    st.caption(f"{FORMATS[format]}. Every export is loaded in a fresh process and compared with the run on test rows.")
    if st.button("Export and verify", type="primary", key="adapters.export", icon=":material/ios_share:"):
        with notices.shown():
            job = adapters.export(one["reference"], format, to, most if format == "lora" else None)
            st.toast(f"Export queued as job {job}.")


def done() -> None:
    """Past exports; the list follows the queue while one is going on, and until the page runs again after that.

    It never reruns the page by itself: a click on Zip at that moment would be lost.
    """
    busy = any(one["state"] in ("queued", "starting", "running") for one in files.exports())
    st.fragment(_done, run_every="2s" if busy else None)()


def _done() -> None:
    found = files.exports()
    if found:
        st.subheader("Exports", anchor=False)
    for one in found:
        with st.container(border=True):
            _one_export(one)


def _one_export(one: Entry) -> None:
    text, button = st.columns([3, 1], vertical_alignment="center")
    result = one["result"]
    with text:
        verified = one["state"] == "finished"
        badge = ":green-badge[:material/verified: verified]" if verified else notices.state(one["state"])
        st.markdown(f"**{notices.plain(one['name'])}** {badge}")
        if verified:
            facts = [
                f"largest error {result['max_error']:.2g}" if result.get("max_error") is not None else "",
                f"{result.get('rows', 0)} rows compared",
            ]
            facts += [words.size(result["bytes"])] if result.get("bytes") else []
            st.caption(notices.plain(" · ".join(filter(None, [*facts, one["folder"]]))))
        elif one["reason"]:
            st.caption(notices.plain(one["reason"]))
    if verified and one["there"] and one["kind"] == "export":
        name = one["folder"].rpartition("/")[2] + ".zip"
        with button.container(horizontal=True, horizontal_alignment="right"):
            key = f"adapters.zip.{one['job']}"
            st.download_button(
                "Zip", lambda: files.zipped(one["folder"]), name, "application/zip", key=key, icon=":material/download:"
            )
            st.button(
                "Verify",
                key=f"adapters.verify.{one['job']}",
                on_click=_verify,
                args=(one["folder"],),
                icon=":material/fact_check:",
            )


def _verify(folder: str) -> None:
    try:
        st.toast(f"Verification queued as job {adapters.ask_verify(folder)}.")
    except WorkbenchError as error:
        st.toast(str(error), icon=":material/error:")


def predict(one: Entry) -> None:
    """Predict the rows of an uploaded file."""
    uploaded = st.file_uploader(
        "File to predict", building.FILE_TYPES, key="adapters.file", help="With the columns that the adapter was trained on."
    )
    if (
        st.button("Predict", type="primary", key="adapters.predict", disabled=uploaded is None, icon=":material/bolt:")
        and uploaded is not None
    ):
        with notices.shown(), st.spinner("Predicting…"):
            source = files.upload(uploaded.name, uploaded.getvalue())
            to = files.new_place("predictions", f"{one['reference']}-{source.stem}", ".csv")
            st.session_state["adapters.predicted"] = one["reference"], adapters.ask_predict(one["reference"], source, to)
    by, found = st.session_state.get("adapters.predicted", ("", None))
    if by == one["reference"]:
        with notices.shown():
            content = files.written(found["to"])
            st.success(f"{found['rows']:,} rows predicted.", icon=":material/check:")
            tables.show(pd.DataFrame(files.head(found["to"])), "The first predictions", height=250)
            st.download_button(
                "Download predictions",
                content,
                "predictions.csv",
                "text/csv",
                icon=":material/download:",
                key="adapters.predictions",
            )


def combine(known: Sequence[Entry]) -> None:
    """An operation on adapters, made from its own schema."""
    operations = {one["key"]: one for one in building.known(catalogue.code_hash())["operations"]}
    places = st.columns(2)
    key = places[0].selectbox("Operation", list(operations), key="adapters.operation")
    name = places[1].text_input("Name of the result", f"{key}-1", key=f"adapters.name.{key}")
    operation = operations[key]
    st.caption(notices.plain(operation["title"]))
    most = operation["most"]
    chosen = st.multiselect("Adapters", [one["reference"] for one in known], key=f"adapters.operands.{key}", max_selections=most)
    with notices.shown():
        settings = forms.config_form(operation["options"], f"adapters.options.{key}")
        judge = st.checkbox("Measure it on the test rows of the first adapter's run", True, key="adapters.judge")
        if st.button(
            "Combine", type="primary", key="adapters.combine", disabled=len(chosen) < operation["least"], icon=":material/merge:"
        ):
            job = adapters.ask_operate(key, chosen, settings, name.strip(), judge)
            st.success(f"Queued as job {job}; the result appears above as {name.strip()}.", icon=":material/check:")


def take_in() -> None:
    """Import a folder that peft or the workbench wrote."""
    places = st.columns([3, 2])
    folder = places[0].text_input(
        "Folder",
        key="adapters.import.folder",
        placeholder="/path/to/adapter",
        help="A peft folder (adapter_config.json) or one of ours.",
    )
    name = places[1].text_input("Name", key="adapters.import.name", placeholder="my-adapter")
    if st.button("Import", type="primary", key="adapters.import", disabled=not (folder and name), icon=":material/download:"):
        with notices.shown(), st.spinner("Reading the folder…"):
            found = adapters.ask_import(folder.strip(), name.strip())
            st.success(f"Imported as {found.get('name', name)}.", icon=":material/check:")
            st.rerun()
