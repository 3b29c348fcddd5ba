"""A1, A2: real servers refuse other hosts, other origins, frames and cross-site requests; they do not start open to others."""

import json
import os
import re
from types import SimpleNamespace
from urllib.parse import quote

import pytest
import requests

from tests.doors.serving import get, refused_start, served, talk, token
from tests.doors.test_paths import PAYLOADS
from workbench.jobs import daemon, engine
from workbench.ui import doors

SHOWN = "Nothing is queued|No runs|Runs"  # what the page `runs` says


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The home of this file's servers; what they started is stopped."""
    home = tmp_path_factory.mktemp("served") / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(home))
        yield home
        daemon.stop()
        engine.stop(5)


@pytest.fixture(scope="module")
def port(place):
    """A server with the shipped configuration."""
    with served(place) as number:
        yield number


def test_a_visitor_of_this_machine_sees_the_page(port):
    status, text = talk(port, "runs")
    assert status == 101
    assert re.search(SHOWN, text)


# host, origin: P stands for the port, "own" for the origin of the host
WRONG = {
    "rebound": ("evil.example:P", "own"),
    "rebound without port": ("evil.example", "own"),
    "evil origin": ("127.0.0.1:P", "http://evil.example"),
    "null origin": ("127.0.0.1:P", "null"),
    "subdomain of ours": ("localhost.evil.example:P", "own"),
    "user part": ("localhost@evil.example:P", "http://evil.example:P"),
    "suffix": ("evillocalhost:P", "own"),
    "all zeros": ("0.0.0.0:P", "own"),
    "port too large": ("localhost:99999", "http://localhost:99999"),
    "port a word": ("localhost:http", "http://localhost:http"),
    "another port": ("127.0.0.1:P", "http://127.0.0.1:1"),
    "two origins": ("127.0.0.1:P", "http://127.0.0.1:P http://evil.example"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a1_websocket_of_another_host_or_origin_is_refused(case, port):
    host, origin = (value.replace("P", str(port)) for value in WRONG[case])
    answer = status_of_handshake(port, host, f"http://{host}" if origin == "own" else origin)
    assert 400 <= answer < 500


def status_of_handshake(port, host, origin):
    """The status that a WebSocket handshake with these headers gets."""
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Origin": origin, "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "streamlit",
    }  # fmt: skip
    return raw_status(port, "/_stcore/stream", host, upgrade)


def raw_status(port, path, host, fields):
    """The first status line of an answer that may stay open."""
    import socket

    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        stream.sendall("\r\n".join(lines).encode())
        return int(stream.recv(4096).split(b" ", 2)[1])


HOSTS = {
    "user": ["evil@localhost"], "twice": ["localhost", "evil.example"], "path": ["localhost/evil"], "query": ["localhost?evil"],
    "fragment": ["localhost#evil"], "none": [], "empty": [""], "port zero": ["localhost:0"],
    "port too large": ["localhost:65536"], "port a word": ["localhost:http"], "blank": ["localhost evil"],
    "comma": ["localhost,evil"], "bracket": ["[localhost"],
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTS)
def test_a1_a_host_is_one_plain_name(case):
    door = doors.Door(None, ["localhost", "127.0.0.1"], doors.Guard())
    assert door._ours(["LOCALHOST.:8501"])
    assert not door._ours(HOSTS[case])


@pytest.mark.parametrize("path", ["/", "/runs", "/_stcore/health", "/_stcore/host-config", "/static/js/index.js", "/media/a.png"])
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "0.0.0.0"])
def test_a1_every_other_request_of_another_host_is_refused(path, host, port):
    status, _, body = get(port, path, f"{host}:{port}")
    assert status == 400
    assert body == b"this server does not answer to that host name."


def test_a1_upload_of_another_host_is_refused(port):
    answer = requests.put(
        f"http://127.0.0.1:{port}/_stcore/upload_file/a/b", headers={"Host": "evil.example"}, files={"file": b"x"}, timeout=20
    )
    assert answer.status_code == 400


def test_a2_an_upload_without_the_token_is_refused(port, record_property):
    record_property("cases", 8)
    url = f"http://127.0.0.1:{port}/_stcore/upload_file/a/b"
    for headers in ({}, {"X-Xsrftoken": "x"}, {"Origin": "http://evil.example"}, {"X-Xsrftoken": token(port)}):
        assert requests.put(url, headers=headers, files={"file": b"x"}, timeout=20).status_code in (400, 403)
        assert requests.delete(url, headers=headers, timeout=20).status_code in (400, 403)


def test_a2_a_cross_site_form_reaches_nothing(port, record_property):
    record_property("cases", 6)
    for path in ("/", "/runs", "/_stcore/stream", "/_stcore/upload_file/a/b", "/_stcore/agent/interact", "/auth/login"):
        answer = requests.post(
            f"http://127.0.0.1:{port}{path}", data={"a": 1}, headers={"Origin": "http://evil.example"}, timeout=20
        )
        assert (answer.status_code, answer.text) == (403, "only pages of this server may ask for that."), path


def test_a2_no_site_may_frame_the_app_open_it_as_its_popup_or_read_its_answers(port, record_property):
    record_property("cases", 5)
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/nothing/here"):
        _, fields, _ = get(port, path, Origin="http://evil.example")
        assert fields["x-frame-options"] == "deny"
        policy = dict(one.split(" ", 1) for one in fields["content-security-policy"].split("; "))
        assert policy.pop("frame-ancestors") == policy.pop("object-src") == "'none'"
        allowed = {"'self'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}  # no other site: nothing of a page leaves
        assert {source for sources in policy.values() for source in sources.split()} <= allowed
        assert policy.keys() >= {"default-src", "base-uri", "form-action"}
        assert fields["cross-origin-opener-policy"] == "same-origin"
        assert fields["cross-origin-resource-policy"] == "same-origin"
        assert fields["x-content-type-options"] == "nosniff"
        assert fields["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in fields
    assert get(port, "/", "evil.example")[1]["x-frame-options"] == "deny"


def test_a7_what_lies_in_the_current_folder_is_no_part_of_the_app(place, tmp_path, record_property):
    planted = ("yaml.py", "json.py", "sitecustomize.py", "usercustomize.py", "app.py", "pages/build.py", "pages/evil.py",
               "workbench/__init__.py")  # fmt: skip
    record_property("cases", len(planted))
    for name in planted:
        (tmp_path / "trap" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "trap" / name).write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'canary')!r}).write_text('ran')\n")
    with served(place, cwd=tmp_path / "trap") as port:
        status, text = talk(port, "runs")
        assert status == 101
        assert re.search(SHOWN, text)
        assert get(port, "/", "evil.example")[0] == 400
    assert not (tmp_path / "canary").exists()


def test_a2_the_cookie_against_cross_site_requests_stays_on_this_site(port):
    _, fields, _ = get(port, "/_stcore/health")
    assert "samesite=lax" in fields["set-cookie"]


def test_a3_addresses_of_the_server_never_lead_to_files(port, place, record_property):
    record_property("cases", 108)
    (place.parent / "canary.txt").write_text("a secret of this machine")
    ups = [
        "../" * 9,
        "..%2f" * 9,
        "%2e%2e/" * 9,
        "%252e%252e%252f" * 9,
        "..\\" * 9,
        "..%5c" * 9,
        "%c0%ae%c0%ae/" * 9,
        "....//" * 9,
        "/",
    ]
    for top in ("static", "media", "app/static", "component", "_stcore/upload_file", "_stcore/bidi-components"):
        for up in ups:
            for goal in (str(place.parent / "canary.txt").lstrip("/"), "etc/passwd"):
                status, _, body = get(port, f"/{top}/{up}{goal}")
                assert b"a secret of this machine" not in body
                assert b"root:" not in body
                assert status in (200, 400, 403, 404, 405)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a3_a_download_is_never_another_file(payload, port, place):
    outside = place.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "keep").write_text("a secret of this machine")
    given = PAYLOADS[payload].replace("O/", f"{outside}/")
    for written in (given, quote(given, safe="", errors="replace"), quote(given, safe="/%", errors="replace")):
        for top in ("media", "media/download"):
            status, _, body = get(port, f"/{top}/{written}")
            assert b"a secret of this machine" not in body
            assert b"root:" not in body
            assert status in (200, 400, 403, 404, 405, 414)


# --- a configuration of one's own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--server.address", "0.0.0.0"], "listens on 0.0.0.0"),
        pytest.param(["--server.address", "::"], "listens on ::", marks=pytest.mark.slow),
        pytest.param(["--server.allowedHosts", "*"], "server.allowedHosts", marks=pytest.mark.slow),
        pytest.param(["--server.allowedHosts", "wb.example.org"], "this machine only", marks=pytest.mark.slow),
        pytest.param(["--server.enableXsrfProtection", "false"], "must stay on", marks=pytest.mark.slow),
    ],
)
def test_a_server_open_to_others_does_not_start(options, words, place):
    code, sentence = refused_start(place, *options)
    assert code != 0
    assert words in sentence
    assert sentence.endswith(".")


def test_an_environment_that_opens_the_hosts_does_not_start(place):
    code, sentence = refused_start(place, STREAMLIT_SERVER_ALLOWED_HOSTS="*")
    assert code != 0
    assert sentence.startswith("server.allowedHosts must name")


def planted(monkeypatch, **values):
    """Streamlit's options as given, the others as shipped."""
    shipped = {
        "server.address": "127.0.0.1", "server.allowedHosts": ["localhost"], "server.enableXsrfProtection": True,
        "server.enableCORS": True, "server.corsAllowedOrigins": [], "server.trustedUserHeaders": {},
    }  # fmt: skip
    options = shipped | {name.replace("_", ".", 1): value for name, value in values.items()}
    monkeypatch.setattr(doors.st, "get_option", options.__getitem__)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"server_address": None}, "every interface"),
        ({"server_address": "192.168.1.5"}, "192.168.1.5"),
        ({"server_allowedHosts": []}, "allowedHosts"),
        ({"server_allowedHosts": None}, "allowedHosts"),
        ({"server_allowedHosts": ["*"]}, "allowedHosts"),
        ({"server_allowedHosts": ["*.example.org"]}, "allowedHosts"),
        ({"server_allowedHosts": ["localhost", "evil.example"]}, "evil.example"),
        ({"server_enableXsrfProtection": False}, "must stay on"),
        ({"server_enableCORS": False}, "must stay on"),
        ({"server_corsAllowedOrigins": ["http://evil.example"]}, "corsAllowedOrigins must be empty"),
        ({"server_trustedUserHeaders": {"X-Email": "email"}}, "trustedUserHeaders must be empty"),
    ],
)
def test_every_way_to_open_the_server_is_one_sentence(values, words, monkeypatch):
    planted(monkeypatch)
    assert doors.problem() == ""
    planted(monkeypatch, **values)
    assert words in doors.problem()
    with pytest.raises(SystemExit, match=r"\.$"):
        doors.opened()


def test_a14_the_app_writes_for_its_owner_alone(monkeypatch):
    planted(monkeypatch)
    before = os.umask(0)
    try:
        doors.opened()
        assert os.umask(0) & 0o022 == 0o022
    finally:
        os.umask(before)


# --- authentication ------------------------------------------------------------------------------------------------------

SECRET = "a-secret-that-only-the-proxy-knows-0123456789"


def test_with_a_proxys_secret_nothing_is_answered_without_it(place):
    with served(place, "--server.allowedHosts", "wb.example.org", **{doors.SECRET: SECRET}) as port:
        host = "wb.example.org"
        for given in (None, "", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper()):
            fields = {} if given is None else {doors.DEFAULT_HEADER: given}
            for path in ("/", "/_stcore/health", "/static/js/index.js"):
                assert get(port, path, host, **fields)[0] == 403
            assert talk(port, "runs", host, **fields) == (403, "")
        assert get(port, "/_stcore/health", f"127.0.0.1:{port}", **{doors.DEFAULT_HEADER: SECRET})[0] == 400
        assert get(port, "/_stcore/health", host, **{doors.DEFAULT_HEADER: SECRET})[0] == 200
        status, text = talk(port, "runs", host, **{doors.DEFAULT_HEADER: SECRET})
        assert status == 101
        assert re.search(SHOWN, text)
        assert SECRET not in text


def test_the_proxys_secret_is_compared_whole_and_in_constant_time(monkeypatch):
    guard, compared = doors.Guard(secret=SECRET), []
    assert guard.knows(SECRET)
    for given in (None, "", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper(), "\udcff"):
        assert not guard.knows(given), given
    monkeypatch.setattr(doors.hmac, "compare_digest", lambda *both: compared.append(both))
    guard.knows("x" + SECRET[1:])
    assert compared == [(("x" + SECRET[1:]).encode(), SECRET.encode())]


def test_a_login_is_no_leave_for_every_host_name(monkeypatch):
    monkeypatch.setenv(doors.SECRET, SECRET)
    planted(monkeypatch, server_address="0.0.0.0", server_allowedHosts=["wb.example.org"])
    assert doors.problem() == ""
    for hosts in (["*"], ["*.example.org"], []):
        planted(monkeypatch, server_address="0.0.0.0", server_allowedHosts=hosts)
        assert "must name the hosts" in doors.problem()


class Stopped(Exception):
    """What stops a page here."""


def test_a_page_by_itself_shows_nothing_before_the_login(monkeypatch):
    def stop():
        raise Stopped

    said = []
    for name in ("error", "info"):
        monkeypatch.setattr(doors.st, name, lambda text, **_: said.append(text))
    monkeypatch.setattr(doors.st, "button", lambda *_, **__: None)
    monkeypatch.setattr(doors.st, "stop", stop)

    def visit(guard, headers=None, **user):
        said.clear()
        monkeypatch.setattr(doors, "guard", lambda: guard)
        monkeypatch.setattr(doors.st, "context", SimpleNamespace(headers=headers or {}))
        monkeypatch.setattr(doors.st, "user", SimpleNamespace(to_dict=lambda: user, get=user.get))
        doors.admit()

    proxied, listed = doors.Guard(secret=SECRET), doors.Guard(users=("a@example.org",))
    for guard, headers, user in (
        (proxied, {}, {}),
        (proxied, {doors.DEFAULT_HEADER: SECRET[:-1]}, {}),
        (listed, {}, {}),
        (listed, {}, {"is_logged_in": True, "email": "b@example.org"}),
        (listed, {}, {"is_logged_in": False, "email": "a@example.org"}),
    ):
        with pytest.raises(Stopped):
            visit(guard, headers, **user)
        assert len(said) == 1
    visit(doors.Guard())
    visit(proxied, {doors.DEFAULT_HEADER: SECRET})
    visit(listed, is_logged_in=True, email="a@example.org")
    assert said == []


def login_cookie(cookie_secret, origin, **user):
    """What Streamlit keeps in the browser after a login."""
    from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

    payload = json.dumps({"origin": origin, "is_logged_in": True, **user})
    return create_signed_value(cookie_secret, "_streamlit_user", payload).decode()


def test_with_openid_connect_no_page_shows_anything_before_the_login(place, tmp_path):
    for name in ("authlib", "own/.streamlit"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "authlib" / "__init__.py").write_text("")  # the login itself needs a provider; the door does not
    (tmp_path / "own" / ".streamlit" / "secrets.toml").write_text(
        f'[auth]\nredirect_uri = "http://localhost:8501/oauth2callback"\ncookie_secret = "{SECRET}"\nclient_id = "x"\n'
        'client_secret = "y"\nserver_metadata_url = "http://127.0.0.1:9/none"\n[workbench]\nusers = ["a@example.org"]\n'
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with served(place, "--secrets.files", str(tmp_path / "own/.streamlit/secrets.toml"), PYTHONPATH=path) as port:
        host = f"127.0.0.1:{port}"
        xsrf = token(port)
        for page in ("runs", "build", "adapters"):
            status, text = talk(port, page)
            assert status == 101
            assert "Log in to go on." in text
            assert not re.search("Nothing is queued|Launch|Import", text)
        good = {"email": "A@example.org", "email_verified": True}
        visits = {
            "no cookie": (None, False), "other person": ({"email": "b@example.org"}, False), "no address": ({"name": "x"}, False),
            "not verified": ({**good, "email_verified": False}, False), "welcome": (good, True),
        }  # fmt: skip
        for case, (user, welcome) in visits.items():
            cookies = {"_streamlit_xsrf": xsrf} | (
                {"_streamlit_user": login_cookie(SECRET, f"http://{host}", **user)} if user else {}
            )
            text = talk(port, "runs", cookies=cookies)[1]
            assert ("Log in to go on" not in text and "not on it" not in text) == welcome, case
        forged = {"_streamlit_xsrf": xsrf, "_streamlit_user": login_cookie("x" * 40, f"http://{host}", **good)}
        assert "Log in to go on." in talk(port, "runs", cookies=forged)[1]


@pytest.mark.parametrize("secret", ["", "short", "x" * 31])
def test_a_short_secret_does_not_open_the_door(secret, monkeypatch):
    monkeypatch.setenv(doors.SECRET, secret)
    planted(monkeypatch, server_address="0.0.0.0", server_allowedHosts=["wb.example.org"])
    assert "at least 32 characters" in doors.problem()


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ({"auth": {"redirect_uri": "x"}}, "lacks cookie_secret"),
        ({"auth": {"redirect_uri": "x", "cookie_secret": "short"}}, "at least 32"),
        ({"auth": {"redirect_uri": "x", "cookie_secret": SECRET}}, "users must be a list"),
        ({"auth": {"redirect_uri": "x", "cookie_secret": SECRET}, "workbench": {"users": []}}, "users must be a list"),
        ({"auth": {"redirect_uri": "x", "cookie_secret": SECRET}, "workbench": {"users": "a@b.c"}}, "users must be a list"),
        ({"auth": {"redirect_uri": "x", "cookie_secret": SECRET}, "workbench": {"users": ["*@"]}}, "users must be a list"),
    ],
)
def test_half_a_login_does_not_open_the_door(secrets, words, monkeypatch):
    planted(monkeypatch, server_address="0.0.0.0", server_allowedHosts=["wb.example.org"])
    monkeypatch.setattr(doors, "_section", lambda name: secrets.get(name, {}))
    monkeypatch.setattr(doors.importlib.util, "find_spec", lambda name: object())
    assert words in doors.problem()
    monkeypatch.setattr(doors.importlib.util, "find_spec", lambda name: None)
    assert "auth" in doors.problem().lower()


def test_who_is_welcome():
    guard = doors.Guard(users=("a@example.org", "*@lab.example"))
    good = {"is_logged_in": True}
    assert guard.welcomes({**good, "email": "a@example.org"})
    assert guard.welcomes({**good, "email": "Any.One@LAB.example"})
    for email in ("a@example.org.evil", "x@evil.example", "lab.example", "", None, "a@evil@lab.example.evil", "*@lab"):
        assert not guard.welcomes({**good, "email": email}), email
    assert not guard.welcomes({"email": "a@example.org"})
    assert not guard.welcomes({**good, "email": "a@example.org", "email_verified": False})
