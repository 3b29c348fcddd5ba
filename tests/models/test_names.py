"""From a model's name to a folder: bundled, local, and a Hub on localhost; everything else is one sentence."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from workbench.core.errors import WorkbenchError
from workbench.models import bundled
from workbench.models.bundled import bundled_path, names, resolve_model, weights_sha256

COMMIT = "c" * 40


def refused(call, *words):
    with pytest.raises(WorkbenchError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith((".", ")"))
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text("{}")
    save_file({"w": torch.ones(3)}, place / "model.safetensors")
    return place


def test_bundled_names():
    for name in names():
        place = resolve_model(f"bundled/{name}")
        assert place == bundled_path(name)
        assert (place / "config.json").is_file()
        assert len(weights_sha256(place)) == 64
    assert weights_sha256(bundled_path("minilm")) == bundled.MINILM_SHA256
    refused(lambda: resolve_model("bundled/minilmm"), "closest: minilm")


@pytest.mark.usefixtures("home")
def test_altered_minilm_is_refused(monkeypatch):
    monkeypatch.setattr(bundled, "MINILM_SHA256", "0" * 64)
    refused(lambda: bundled_path("minilm"), "published sha256", "reinstall")
    monkeypatch.setattr(bundled, "MINILM_PACKAGE", "no_such_package")
    refused(lambda: bundled_path("minilm"), "install it")


@pytest.mark.usefixtures("home")
def test_hash_is_remembered_until_the_file_changes(folder, monkeypatch):
    first = weights_sha256(folder)
    assert first == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        assert weights_sha256(folder) == first
    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")
    second = weights_sha256(folder)
    assert second != first
    for memory in (bundled.cache() / "weights").iterdir():
        memory.write_text("{cut")
    assert weights_sha256(folder) == second
    save_file({"v": torch.zeros(3)}, folder / "more.safetensors")
    assert weights_sha256(folder) not in (first, second)


def test_local_folders(folder, tmp_path):
    assert resolve_model(str(folder)) == folder
    (folder / "model.safetensors").unlink()
    refused(lambda: resolve_model(str(folder)), "safetensors", "no weights")
    refused(lambda: weights_sha256(folder), "safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused(lambda: resolve_model(str(folder)), "pytorch_model.bin", "can run code")
    refused(lambda: resolve_model(str(tmp_path)), "config.json")
    refused(lambda: resolve_model(str(folder / "config.json")), "is a file")


@pytest.mark.parametrize(
    "source", ["name", "a/b/c", "../x/y", "https://example.org/x", "/no/where", "a/../b", "x\0/y", "z" * 400]
)
def test_no_model_at_all(source):
    refused(lambda: resolve_model(source), "a model must be")


def test_offline_is_one_sentence():
    refused(lambda: resolve_model("nobody/nothing"), "'nobody/nothing'", "offline", "network")


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download of small files asks for."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []

    def log_message(self, *_):
        """Say nothing."""

    def _answer(self, code, body, **headers):
        self.send_response(code)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        self.asked.append(self.path)
        path = self.path.split("?")[0].lstrip("/")
        api = path.removeprefix("api/models/")
        owner = "/".join((api if api != path else path).split("/")[:2])
        files = self.repositories.get(owner)
        if files is None:
            return self._answer(401, b"{}", X_Error_Message="Repository not found")
        if api != path:
            siblings = [{"rfilename": name} for name in files]
            body = {
                "id": owner,
                "modelId": owner,
                "sha": COMMIT,
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
            }
            if "/tree/" in path:
                body = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files.items()]
            return self._answer(200, json.dumps(body).encode(), Content_Type="application/json")
        content = files[path.split("/resolve/")[1].split("/", 1)[1]]
        return self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path, folder):
    """A Hub on localhost that holds a good model and one of pickles only."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    _Hub.repositories = {"org/good": {**files, "modeling.py": b"1/0", "pytorch_model.bin": b"x"}, "org/pickle": {"a.bin": b"x"}}
    _Hub.asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_hub_download_brings_safetensors_and_settings_only(folder, monkeypatch):
    place = resolve_model("org/good", revision="main")
    assert sorted(p.name for p in place.iterdir()) == ["config.json", "model.safetensors"]
    assert weights_sha256(place) == weights_sha256(folder)
    assert not any("resolve" in path and ("modeling.py" in path or ".bin" in path) for path in _Hub.asked)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve_model("org/good", revision="main") == place


@pytest.mark.usefixtures("hub")
def test_hub_refusals():
    refused(lambda: resolve_model("org/pickle"), "safetensors", "a.bin")
    refused(lambda: resolve_model("org/none"), "'org/none'", "Hub")
