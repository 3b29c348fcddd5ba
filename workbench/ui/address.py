"""What a person chose on a screen stands in its URL, so that a copied link shows the same."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import streamlit as st


def follow(page: str) -> None:
    """Call first: widgets give way where a link or the browser's own buttons changed the URL since the last run.

    Args:
        page: beginning of the keys of its widgets; `<page>.<name>` belongs to `?<name>=`.
    """
    seen, now = st.session_state.get(f"{page}.address"), _parameters()
    for name in {*now, *(seen or {})}:
        if seen is not None and seen.get(name) != now.get(name):
            st.session_state.pop(f"{page}.{name}", None)
    st.session_state[f"{page}.address"] = now


def one(draw: Callable[..., Any], page: str, name: str, text: str, options: Sequence[Any], default: Any, **more: Any) -> Any:
    """A widget that chooses one option, e.g. `st.selectbox`; the URL holds it while it is not the default.

    Args:
        draw: the widget; it takes a label, options and `key`.
        page, name: its key and its place in the URL.
        text: its label.
        options: texts, or numbers that are told apart by their text.
        default: one of them.
        more: goes to the widget.
    """
    key = f"{page}.{name}"
    if st.session_state.get(key) not in options:
        asked = {str(option): option for option in options}
        st.session_state[key] = asked.get(st.query_params.get(name, ""), default)
    value = draw(text, options, key=key, **more)
    value = default if value is None else value
    write(page, name, [] if value == default else [str(value)])
    return value


def several(
    draw: Callable[..., Any], page: str, name: str, text: str, options: Sequence[str], default: Sequence[str] = (), **more: Any
) -> list[str]:
    """A widget that chooses several, e.g. `st.multiselect`; options that are gone leave the choice. Arguments as for `one`."""
    key = f"{page}.{name}"
    held = st.session_state.get(key, st.query_params.get_all(name) or list(default))
    st.session_state[key] = [value for value in held if value in options]
    value = list(draw(text, options, key=key, **more) or [])
    write(page, name, value)
    return value


def tabs(page: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Tabs of which only the open one is to be filled; the URL holds its key (`?tab=`).

    Args:
        names: key -> title.

    Returns:
        key -> container; `.open` says which one is seen.
    """
    titles, key = list(names.values()), f"{page}.tab"
    if st.session_state.get(key) not in titles:
        st.session_state[key] = names.get(st.query_params.get("tab", ""), titles[0])
    made = st.tabs(titles, key=key, on_change="rerun")
    chosen = next(name for name, title in names.items() if title == st.session_state[key])
    write(page, "tab", [] if chosen == next(iter(names)) else [chosen])
    return dict(zip(names, made, strict=True))


def write(page: str, name: str, values: Iterable[str]) -> None:
    """Put values into the URL; none takes the name out of it."""
    held = list(values)
    if held == st.query_params.get_all(name):
        return
    if held:
        st.query_params[name] = held
    else:
        del st.query_params[name]
    st.session_state[f"{page}.address"] = _parameters()


def _parameters() -> dict[str, list[str]]:
    return {name: st.query_params.get_all(name) for name in st.query_params}
