"""Who may come in: this machine alone or, where that is configured, people who have proved who they are."""

import hmac
import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.core.errors import WorkbenchError
from workbench.core.paths import keep_others_out

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SECRET, HEADER = "WORKBENCH_PROXY_SECRET", "WORKBENCH_PROXY_HEADER"
DEFAULT_HEADER = "X-Workbench-Secret"
SHORTEST = 32  # characters of a secret
LOGIN = ("redirect_uri", "cookie_secret")
HARDENING = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        "media-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
}
"""Sent with every answer: no site may frame the app or read from it, and nothing on a page reaches another site."""


@dataclass(frozen=True)
class Guard:
    """How people prove who they are; without `secret` and `users` nobody needs to.

    Attributes:
        header, secret: what a reverse proxy adds to every request that it lets through.
        users: e-mail addresses, or `*@domain`, that may come in after an OpenID Connect login.
    """

    header: str = DEFAULT_HEADER
    secret: str = ""
    users: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.secret or self.users)

    def knows(self, given: str | None) -> bool:
        """Whether a header's value is the proxy's secret; takes equally long however much of it is right."""
        return hmac.compare_digest((given or "").encode("utf-8", "replace"), self.secret.encode())

    def welcomes(self, user: Mapping[str, Any]) -> bool:
        """Whether somebody who logged in is one of `users`."""
        email = str(user.get("email") or "").lower()
        named = email in self.users or ("*@" + email.rpartition("@")[2]) in self.users
        return bool(user.get("is_logged_in")) and "@" in email and named and user.get("email_verified") is not False


def guard() -> Guard:
    """The authentication that is configured, by environment (proxy) or by Streamlit's secrets (OpenID Connect).

    Raises:
        WorkbenchError: it is half done, which would leave the door open.
    """
    secret, header = os.environ.get(SECRET, ""), os.environ.get(HEADER, DEFAULT_HEADER)
    if (SECRET in os.environ or HEADER in os.environ) and len(secret) < SHORTEST:
        raise WorkbenchError(f"{SECRET} must have at least {SHORTEST} characters; it has {len(secret)}: draw a random one.")
    if not header.replace("-", "").isalnum() or not header.isascii():
        raise WorkbenchError(f"{HEADER} must be the name of a header; got {header[:60]!r}.")
    login = _section("auth")
    if not login:
        return Guard(header, secret)
    if secret:
        raise WorkbenchError(f"one way to log in must be configured; there are two: remove {SECRET} or the secrets' [auth].")
    if lacks := [name for name in LOGIN if not login.get(name)]:
        raise WorkbenchError(f"the secrets' [auth] must set {' and '.join(LOGIN)}; it lacks {lacks[0]}.")
    if len(str(login["cookie_secret"])) < SHORTEST:
        raise WorkbenchError(f"cookie_secret of the secrets' [auth] must have at least {SHORTEST} characters: draw a random one.")
    if importlib.util.find_spec("authlib") is None:
        raise WorkbenchError("logging in through OpenID Connect needs the package Authlib; install it with pip.")
    users = _section("workbench").get("users")
    if not isinstance(users, list | tuple) or not users or not all("@" in str(one) and str(one) != "*@" for one in users):
        raise WorkbenchError(
            "the secrets must say who may log in: [workbench] users must be a list of e-mail addresses or *@domain; "
            f"got {str(users)[:60]!r}."
        )
    return Guard(header, "", tuple(str(one).lower() for one in users))


def _section(name: str) -> Mapping[str, Any]:
    found = st.secrets.get(name) if st.secrets.load_if_toml_exists() else None
    return found if isinstance(found, Mapping) else {}


def exposure(address: str | None, hosts: Iterable[str] | None, guarded: bool = False) -> str:
    """Why this server could be reached by others who need not prove who they are; empty when it cannot.

    Args:
        address: what it binds to; None is every interface.
        hosts: the host names it answers to; empty is all, which lets a rebound site in.
        guarded: whether everybody has to authenticate.
    """
    names = list(hosts or ())
    if not names or any("*" in name for name in names):
        return f"server.allowedHosts must name the hosts the app answers to; it is {names or 'empty'}: start it with `make app`."
    if guarded:
        return ""
    how = "start it with `make app`, or configure authentication (see SECURITY.md)"
    if address not in LOOPBACK:
        return f"the server must listen on 127.0.0.1 only; it listens on {address or 'every interface'}: {how}."
    if not set(names) <= LOOPBACK:
        return f"server.allowedHosts must name this machine only; it is {names}: {how}."
    return ""


def problem() -> str:
    """Why the server must not run as it is configured; empty when it may."""
    try:
        guarded = bool(guard())
    except WorkbenchError as error:
        return str(error)
    if not st.get_option("server.enableXsrfProtection") or not st.get_option("server.enableCORS"):
        return "server.enableXsrfProtection and server.enableCORS must stay on; one is off: start the app with `make app`."
    for option in ("server.corsAllowedOrigins", "server.trustedUserHeaders"):
        if given := st.get_option(option):
            return f"{option} must be empty; it is {given}: start the app with `make app`."
    return exposure(st.get_option("server.address"), st.get_option("server.allowedHosts"), guarded)


def opened() -> list[Middleware]:
    """What stands before the server; called once at its start.

    Raises:
        SystemExit: with one sentence, because the server would be open to others.
    """
    if sentence := problem():
        raise SystemExit(sentence)
    keep_others_out()
    return [Middleware(Door, hosts=st.get_option("server.allowedHosts"), guard=guard())]


def admit() -> None:
    """Let a visitor see the page, or show how to log in and stop. Raises Streamlit's stop."""
    known = guard()
    if known.secret and not known.knows(st.context.headers.get(known.header)):
        st.error("this app must be visited through its proxy, which adds a secret header; the request had none.")
        st.stop()
    if not known.users or known.welcomes(st.user.to_dict()):
        return
    if st.user.get("is_logged_in"):
        st.error("this app must be visited by somebody on its list of users; your account is not on it.")
        st.button("Log out", on_click=st.logout)
    else:
        st.info("Log in to go on.", icon=":material/lock:")
        st.button("Log in", on_click=st.login, type="primary")
    st.stop()


class Door:
    """Before every request: the host must be ours, the page that asks too, and the proxy's secret right where there is one."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], guard: Guard) -> None:
        self.app, self.guard = app, guard
        self.hosts = {host.lower().rstrip(".") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400 or 403, or pass on; a refused WebSocket is closed before it opens."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if not self._ours(headers.getlist("host")):
            return await _refused("this server does not answer to that host name.", 400)(scope, receive, send)
        if not self._from_us(scope, headers):
            return await _refused("only pages of this server may ask for that.", 403)(scope, receive, send)
        if self.guard.secret and not self.guard.knows(headers.get(self.guard.header)):
            return await _refused("the proxy's secret header must come with every request.", 403)(scope, receive, send)

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HARDENING)
            await send(message)

        return await self.app(scope, receive, hardened)

    @staticmethod
    def _from_us(scope: Scope, headers: Headers) -> bool:
        """Streamlit itself lets pages of any other port of this machine open a WebSocket."""
        origins, host = headers.getlist("origin"), headers["host"]
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        return reads or not origins or origins in ([f"http://{host}"], [f"https://{host}"])

    def _ours(self, given: list[str]) -> bool:
        try:
            parts = urlsplit(f"//{given[0]}") if len(given) == 1 else None
            return parts is not None and parts.netloc == given[0] and "@" not in given[0] and self._named(parts)
        except ValueError:
            return False

    def _named(self, parts: Any) -> bool:
        return (parts.hostname or "").rstrip(".") in self.hosts and (parts.port is None or parts.port > 0)


def _refused(sentence: str, status: int) -> PlainTextResponse:
    return PlainTextResponse(sentence, status, headers=HARDENING)
