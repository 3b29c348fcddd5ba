"""Tables: plain rows in, a frame with readable columns out, and how Streamlit shows each column."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.core.text import cell
from workbench.ui import words

NUMBER = {"Trainable", "Head", "Sites", "Rows", "Runs", "Step"}


def show(frame: pd.DataFrame, alt: str, **more: Any) -> Any:
    """Draw a frame without its index; whole numbers get thousands separators."""
    config = {name: st.column_config.NumberColumn(format="localized") for name in frame.columns if name in NUMBER}
    config |= more.pop("columns", {})
    return st.dataframe(frame, hide_index=True, column_config=config, alt=alt, placeholder=words.DASH, **more)


def fingerprint(values: Iterable[Any]) -> str:
    """A key for a table of these rows: a selection is kept by position, so it must not outlive the rows it was made on."""
    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:12]


def picked(frame: pd.DataFrame, alt: str, keys: Sequence[str], name: str, columns: Mapping[str, Any]) -> str:
    """A table of which one row can be ticked; the key of the row, which stands in the address as `?name=` too, or "".

    Args:
        frame, alt, columns: as for `show`.
        keys: one per row.
        name: what the address calls a row.
    """
    event = show(
        frame, alt, columns=columns, on_select="rerun", selection_mode="single-row",
        key=f"{name}s.table.{fingerprint(keys)}", height=320,
    )  # fmt: skip
    if event.selection.rows and event.selection.rows[0] < len(keys):
        st.query_params[name] = keys[event.selection.rows[0]]
    return st.query_params.get(name, "")


def training_seconds(planned: Mapping[str, Any]) -> float | None:
    """What one run of a planned method trains for, all rates of a search together."""
    return planned["search"]["seconds"] if planned["search"] else planned["predicted"]["train_seconds"]


def plan(methods: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One line per method: what would train, where, and what it would take."""
    return pd.DataFrame(
        [
            {
                "Method": one["label"],
                "Trainable": one["trainable_params"],
                "Share": None if one["share_of_base"] is None else 100 * one["share_of_base"],
                "Memory": words.size(one["predicted"]["peak_memory_bytes"]),
                "Time": words.duration(training_seconds(one)),
                "Rate": ", ".join(map(words.rate, one["search"]["rates"])) if one["search"] else words.rate(one["learning_rate"]),
            }
            for one in methods
        ]
    )


def jobs(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The queue, in the order given; whose turn it is only while something waits."""
    waits = any(row["turn"] for row in rows)
    return pd.DataFrame(
        [
            {
                "Job": row["job"],
                "What": row["label"] or row["name"],
                "Seed": row["seed"],
                "State": row["state"] if not row["intent"] else f"{row['state']}, asked to {row['intent']}",
                **({"Turn": row["turn"]} if waits else {}),
                "Progress": row["share"],
                "Steps": f"{row['step']:,} / {row['steps']:,}" if row["steps"] else words.DASH,
                "Took": words.duration(row["seconds"]),
                "Left": f"≈ {words.duration(row['remaining'])}" if row["remaining"] is not None else words.DASH,
                "Notes": note(row),
            }
            for row in rows
        ]
    )


def note(row: Mapping[str, Any]) -> str:
    """What is to be known of a job besides its state: why it failed or waits, that it says nothing, that it had company."""
    if row["quiet"] is not None:
        return f"no sign of life for {words.duration(row['quiet'])}; it may hang"
    field = (row["failure"] or {}).get("field")
    if row["reason"] and field:
        return f"{row['reason']} [{field}]"
    return row["reason"] or ("shared the machine" if row["neighbours"] else "")


def job_columns() -> dict[str, Any]:
    """How the columns of `jobs` are shown."""
    column = st.column_config
    return {
        "Job": column.NumberColumn(width=55),
        "What": column.TextColumn(width=125),
        "Seed": column.NumberColumn(width=50),
        "State": column.TextColumn(width=80),
        "Turn": column.NumberColumn(width=45, help="Place of a waiting job: 1 is next"),
        "Progress": column.ProgressColumn(format="percent", min_value=0, max_value=1, width=95),
        "Steps": column.TextColumn(width=70),
        "Took": column.TextColumn(width=85),
        "Left": column.TextColumn(width=85),
        "Notes": column.TextColumn(width=240),
    }


def comparison(table: pd.DataFrame, metrics: Sequence[str], metric: str) -> pd.DataFrame:
    """One line per method: quality with its interval first, then sizes and speed."""
    rows = []
    for one in table.to_dict(orient="records"):
        ends = one.get(f"{metric}.ci_low"), one.get(f"{metric}.ci_high")
        said = "one seed, no interval" if one["n"] == 1 else words.DASH
        if not any(map(words.missing, ends)):
            said = f"{words.score(ends[0])} to {words.score(ends[1])}"
        row = {"Method": one["label"], "Runs": f"{one['n']} of {one['runs']}", words.title(metric): _number(one.get(metric))}
        row["95 % interval"] = said
        row |= {words.title(m): _number(one.get(m)) for m in metrics if m != metric}
        row |= {
            "Trainable": _number(one.get("trainable_params")),
            "Adapter": words.size(one.get("adapter_bytes")),
            "Memory": words.size(one.get("peak_memory_bytes")),
            "Time": words.duration(one.get("train_seconds")),
            "Examples/s": _number(one.get("examples_per_second")),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def comparison_columns(metrics: Sequence[str]) -> dict[str, Any]:
    """How the columns of `comparison` are shown."""
    column = st.column_config
    shown = {words.title(m): column.NumberColumn(format="%.3f", width=90) for m in metrics}
    return {
        **shown,
        "Method": column.TextColumn(width=150),
        "Runs": column.TextColumn(width=65),
        "Examples/s": column.NumberColumn(format="%.1f"),
    }


def _number(value: Any) -> float | None:
    return None if words.missing(value) else value


def methods(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The catalogue as a table."""
    return pd.DataFrame(
        [
            {
                "Key": one["key"],
                "What it is": split_title(one)[1],
                "Family": one["family"].replace("_", " "),
                "Kind": one["kind"],
                "Engine": one["engine"],
                "Merges": one["mergeable"],
                "Preset of": one["preset_of"] or "",
            }
            for one in entries
        ]
    )


def papers(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The source list as a table."""
    names = {"No.": "id", "Title": "title", "Year": "year", "Key": "key", "Kind": "kind"}
    return pd.DataFrame(
        [{name: one[field] for name, field in names.items()} | {"Works": one["status"] == "works"} for one in entries]
    ).fillna({"Kind": ""})


def split_title(entry: Mapping[str, Any]) -> tuple[str, str]:
    """(name, sentence) of a catalogue title `Name: sentence`."""
    name, colon, rest = entry["title"].partition(": ")
    return (name, rest) if colon else (entry["key"], entry["title"])


def adapters(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Trained, imported and combined adapters."""
    return pd.DataFrame(
        [
            {
                "Adapter": one["reference"],
                "Method": one["method"],
                "Experiment": one["experiment"] or words.DASH,
                "Task": one["task"],
                "Base model": one["base"],
                "Test": ", ".join(f"{k} {words.score(v)}" for k, v in list(one["metrics"].items())[:1]) or words.DASH,
            }
            for one in entries
        ]
    )


def mistakes(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of the test split that went wrong, worst first."""
    return pd.DataFrame(
        [{"Row": r["id"], "True": r["label"], "Predicted": r["prediction"], "Score": r["score"], "Loss": r["loss"]} for r in rows]
    )


def mistake_columns() -> dict[str, Any]:
    """How the columns of `mistakes` are shown."""
    column = st.column_config
    numbers = {name: column.NumberColumn(format="%.2f", width=50) for name in ("Score", "Loss")}
    words_ = {name: column.TextColumn(width=112) for name in ("True", "Predicted")}
    return {"Row": column.NumberColumn(width=55, format="%d"), **words_, **numbers}


def pairs(values: Mapping[str, Any]) -> pd.DataFrame:
    """A mapping as two columns of text; nested values as they stand in YAML."""
    from workbench.core import safe_yaml

    def text(value: Any) -> str:
        if isinstance(value, Mapping | list) and value:
            return safe_yaml.dumps({"v": value}).removeprefix("v:").strip()
        return words.DASH if value in (None, "", [], {}) else str(value)

    return pd.DataFrame([{"What": words.title(str(k)), "Value": text(v)} for k, v in values.items()], columns=["What", "Value"])


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of a comparison as CSV, one line per run, nested figures spread; cells that a spreadsheet would run are quoted."""
    from workbench import compare

    frame = compare.frame(rows)
    return frame.map(cell).to_csv(index=False)
