"""The warm process: answers, errors, crashes, disconnects, idleness, long paths."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.jobs.living import planted_engine, processes_of, until
from workbench.core.errors import NotBuiltYet, WorkbenchError
from workbench.core.paths import ROOT
from workbench.jobs import detach, engine


@pytest.fixture
def planted(home, monkeypatch):
    """The engine's client, starting the planted engine."""
    return planted_engine(monkeypatch)


def test_it_starts_on_demand_and_stays_warm(planted, home):
    first = planted.ask("nap", {"seconds": 0.01})
    assert first == {"slept": 0.01, "pid": first["pid"], "nan": None}
    assert planted.ask("ping") == {"pid": first["pid"]}
    assert processes_of(home) == [first["pid"]]
    assert engine.socket_path().stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        ("nap", {"error": "ours"}, r"^the rank must be positive; raise it\.$"),
        ("nap", {"error": "x"}, r"^'x' \(KeyError; the log has the details\)\.$"),
        ("nap", {"wrong": 1}, r"unexpected keyword argument 'wrong' \(TypeError"),
        ("os:system", {"command": "true"}, r"^no call of the engine is called 'os:system'; "),
    ],
)
def test_errors_are_sentences(planted, call, args, message):
    with pytest.raises(WorkbenchError, match=message):
        planted.ask(call, args)


def test_an_engine_that_is_gone_before_it_is_asked_is_one_sentence(home, monkeypatch):
    near, far = socket.socketpair()
    far.close()
    monkeypatch.setattr(engine, "_ready_connection", lambda timeout: (near, near.makefile("rwb")))
    with pytest.raises(WorkbenchError, match="the engine stopped while it worked on 'ping'"):
        engine.ask("ping")


def test_error_classes_survive_the_socket():
    assert isinstance(engine._error("x", {"kind": "NotBuiltYet", "error": "later."}), NotBuiltYet)
    for kind in ("KeyError", "Iterable", "unknown", None):
        assert type(engine._error("x", {"kind": kind, "error": "no."})) is WorkbenchError


def test_a_crash_is_one_sentence_and_the_next_call_works(planted):
    pid = planted.ask("ping")["pid"]
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(WorkbenchError, match=r"the engine stopped while it worked on 'nap' .* it restarts by itself\.$"):
        planted.ask("nap", {"seconds": 5})
    assert planted.ask("ping")["pid"] != pid


def test_a_client_that_leaves_disturbs_nobody(planted):
    pid = planted.ask("ping")["pid"]
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(engine.socket_path()))
    connection.sendall(b'{"call": "nap", "args": {"seconds": 0.2}}\n')
    connection.close()
    assert planted.ask("ping") == {"pid": pid}


@pytest.mark.parametrize("rubbish", [b"nonsense\n", b"[1]\n", b"\xff\xfe\n"])
def test_rubbish_is_answered_with_a_sentence(planted, rubbish):
    pid = planted.ask("ping")["pid"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(engine.socket_path()))
        stream = connection.makefile("rwb")
        stream.readline()
        stream.write(rubbish)
        stream.flush()
        assert b"must be one JSON object a line" in stream.readline()
    assert planted.ask("ping") == {"pid": pid}


def test_a_late_answer_is_not_waited_for(planted):
    planted.ask("ping")
    with pytest.raises(WorkbenchError, match=r"must answer 'nap' within 0.2 s"):
        planted.ask("nap", {"seconds": 1}, timeout=0.2)
    assert planted.ask("nap", {}, timeout=10)["slept"] == 0


def test_eight_clients_at_once_share_one(planted, home):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(planted.ask("ping")["pid"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 8
    assert processes_of(home) == list(set(answers))


def test_other_code_replaces_it(planted, monkeypatch):
    planted.ask("ping")
    stamps = iter(["another"])
    monkeypatch.setattr(detach, "code_stamp", lambda: next(stamps, "planted"))
    stopped, stop = [], engine.stop
    monkeypatch.setattr(engine, "stop", lambda *patience: stopped.append(stop(*patience)))
    assert planted.ask("ping")["pid"] > 0
    assert stopped[0] is True


def test_an_idle_engine_leaves(planted, home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_IDLE_SECONDS", "1.5")
    planted.ask("ping")
    until(lambda: processes_of(home) == [], 5)
    assert not engine.socket_path().exists()


def test_a_long_home_gets_a_short_private_socket(planted, home, monkeypatch):
    deep = home / ("d" * 100)
    monkeypatch.setenv("WORKBENCH_HOME", str(deep))
    path = engine.socket_path()
    try:
        assert len(os.fsencode(path)) <= engine.LONGEST_SOCKET_PATH
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert planted.ask("ping")["pid"] > 0
        assert engine.stop(5)
        path.parent.chmod(0o755)
        with pytest.raises(WorkbenchError, match="private folder"):
            engine.socket_path()
    finally:
        path.parent.rmdir()


def test_the_real_engine_answers(home):
    script = "from workbench.jobs import engine; print(engine.ask('ping')['pid'] > 0)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
