"""What a page says when something is wrong, empty or waiting."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

import streamlit as st
from streamlit.errors import StreamlitAPIException

from workbench.core.errors import WorkbenchError
from workbench.core.text import unmarked, upright
from workbench.ui import theme


@contextmanager
def shown() -> Iterator[None]:
    """Show a WorkbenchError as its sentence and go on after the block."""
    try:
        yield
    except WorkbenchError as error:
        problem(str(error))


def problem(sentence: str) -> None:
    """One sentence in red; text of others is never read as markup."""
    st.error(plain(capital(sentence)), icon=":material/error:")


def empty(text: str, page: str = "", label: str = "") -> None:
    """Nothing here yet, and where to go."""
    with st.container(border=True):
        st.markdown(f":gray[{text}]")
        if page:
            link(page, label, ":material/arrow_forward:")


def link(page: str, label: str, icon: str, **query: str | list[str]) -> None:
    """A link to another page.

    Args:
        page: key of the page, e.g. `runs`.
        label, icon: what it shows.
        query: what follows the `?`.
    """
    try:
        st.page_link(f"pages/{page}.py", label=label, icon=icon, query_params=query)
    except StreamlitAPIException:  # this page runs without `app.py`, which names the others
        st.markdown(f"[{label}](/{page}{'?' if query else ''}{urlencode(query, doseq=True)})")


def state(value: str) -> str:
    """A state as a coloured badge in Markdown."""
    return f":{theme.STATES.get(value, 'gray')}-badge[{value}]"


def capital(text: str) -> str:
    """First letter in upper case."""
    return text[:1].upper() + text[1:]


def plain(text: str) -> str:
    """Text in which Markdown has nothing to find."""
    return unmarked(upright(text))
