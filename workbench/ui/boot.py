"""The first call of every page: a deep link to a fresh server runs a page without `app.py`."""

import threading
import time
from pathlib import Path

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.services import queue
from workbench.ui import doors, theme

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
    """Page settings, the way through `app.py`, the door (see `doors`), a home that can be written, and the daemon.

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
    if problem := doors.problem() or _homeless():
        st.error(problem, icon=":material/lock:")
        st.stop()
    doors.admit()
    theme.style()
    waking.nudge()
    if waking.problem:
        st.warning(waking.problem, icon=":material/warning:")


def _through_app() -> None:
    """Streamlit takes a folder called `pages/` for its old kind of multipage app until `st.navigation` ran once."""
    if PagesManager.uses_pages_directory:
        PagesManager.uses_pages_directory = False
        st.rerun()


def _homeless() -> str:
    try:
        home: Path = paths.home()
        return "" if (home / "locks").is_dir() or paths.locks().is_dir() else f"{home} must be a folder."
    except WorkbenchError as error:
        return str(error)
    except OSError as error:
        return f"WORKBENCH_HOME must be a folder that can be written; {error.strerror or error}: choose another one."
