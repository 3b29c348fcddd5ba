"""The first call of every page: a deep link to a fresh server runs a page without `app.py`."""

import threading
import time
from pathlib import Path

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.services import queue
from workbench.ui import theme

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
WAKE_EVERY = 20.0  # seconds
SIDEBAR = 210  # pixels


class Waking:
    """Looks after the daemon in a thread, so that no page waits for it; `problem` is the last failure's sentence."""

    def __init__(self) -> None:
        self.problem = ""
        self._last = float("-inf")
        self._lock = threading.Lock()

    def nudge(self) -> None:
        """Start a look unless the last one is fresh."""
        with self._lock:
            if time.monotonic() - self._last < WAKE_EVERY:
                return
            self._last = time.monotonic()
        threading.Thread(target=self.look, name="wake", daemon=True).start()

    def look(self) -> None:
        """Make sure the daemon runs; remember why if it cannot."""
        try:
            queue.wake()
            self.problem = ""
        except WorkbenchError as error:
            self.problem = str(error)


waking = Waking()


def boot(title: str = "") -> None:
    """Page settings, the way through `app.py`, loopback only, a home that can be written, and the daemon.

    Args:
        title: name of the page in the browser's tab.
    """
    st.set_page_config(
        page_title=f"{title} · Adapter Workbench" if title else "Adapter Workbench",
        page_icon="🧩",
        layout="wide",
        initial_sidebar_state=SIDEBAR,
    )
    _through_app()
    if problem := exposure(st.get_option("server.address"), st.get_option("server.allowedHosts")) or _homeless():
        st.error(problem, icon=":material/lock:")
        st.stop()
    theme.style()
    waking.nudge()
    if waking.problem:
        st.warning(waking.problem, icon=":material/warning:")


def _through_app() -> None:
    """Streamlit takes a folder called `pages/` for its old kind of multipage app until `st.navigation` ran once."""
    if PagesManager.uses_pages_directory:
        PagesManager.uses_pages_directory = False
        st.rerun()


def exposure(address: str | None, hosts: list[str] | None) -> str:
    """Why this server could be reached from elsewhere; empty when it cannot.

    Args:
        address: what it binds to; None is every interface.
        hosts: the host names it answers to; empty is all, which lets a rebound site in.
    """
    if address not in LOOPBACK:
        return (
            f"the server must listen on 127.0.0.1 only; it listens on {address or 'every interface'}: start it with `make app`."
        )
    if not hosts or not set(hosts) <= LOOPBACK:
        return f"server.allowedHosts must name this machine only; it is {hosts or 'empty'}: start the server with `make app`."
    return ""


def _homeless() -> str:
    try:
        home: Path = paths.home()
        return "" if (home / "locks").is_dir() or paths.locks().is_dir() else f"{home} must be a folder."
    except OSError as error:
        return f"WORKBENCH_HOME must be a folder that can be written; {error.strerror or error}: choose another one."
