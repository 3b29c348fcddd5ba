"""A11, A12, A13, A15, A16: patterns and parsers that never end, requests to elsewhere, sizes, MLflow's server, supply chain."""

import json
import re
import struct
import subprocess
import time
import tomllib
import zlib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.house.test_budgets import OURS
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.spec import load_spec, parse_spec
from workbench.data import files, images, load_table, resolve, tabular
from workbench.data.files import MAX_BYTES
from workbench.export import foreign_config
from workbench.jobs import client
from workbench.models import bundled

SPEC = {"name": "x", "model": "bundled/minilm", "task": "text_classification", "data": "bundled/docstrings", "methods": ["lora"]}
PARTS = {"text": "required", "label": "required"}


def within(seconds, call):
    """Run a call that must end in time, by an answer or by one of our sentences; returns the sentence or ""."""
    start, said = time.process_time(), ""
    try:
        call()
    except WorkbenchError as error:
        said = str(error)
    assert time.process_time() - start < seconds
    return said


# --- A11 -----------------------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20))
BLOWUPS = {
    "alias bomb": lambda folder: safe_yaml.loads(BOMB),
    "brackets": lambda folder: safe_yaml.loads("a: " + "[" * 400_000),
    "100 levels": lambda folder: safe_yaml.loads("a: " + "[" * 100 + "]" * 100),
    "1,000 digits": lambda folder: safe_yaml.loads("a: " + "9" * 1000),
    "digits": lambda folder: safe_yaml.loads("a: " + "9" * 300_000),
    "deep JSON": lambda folder: tabular.read_table(put(folder / "a.json", "[" * 500_000)),
    "quotes": lambda folder: tabular.read_table(put(folder / "a.csv", "text,label\n" + '"a""' * 200_000)),
    "target pattern": lambda folder: foreign_config._check_names(
        {"target_modules": [r"(\w+\.?)+!"], "base_model_name_or_path": "x"}
    ),
}


def put(path, content):
    """Write a file and return its path."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", BLOWUPS)
def test_a11_no_input_runs_away(name, tmp_path):
    assert within(2, lambda: BLOWUPS[name](tmp_path))


def test_a11_our_own_patterns_are_linear():
    """Every pattern of core, data and export that reads text of others, on texts made to backtrack."""
    from workbench.core import data_spec, paths, text
    from workbench.data import hub

    whole = (paths.SAFE_NAME, data_spec.ENTRY_ID, hub.HUB_ID, bundled.HUB_ID, foreign_config.LITERAL, foreign_config.LIBRARY)
    used = [pattern.fullmatch for pattern in (*whole, safe_yaml._INT, safe_yaml._FLOAT, text._NUMBER)]
    for use in (*used, text.cell, text.hidden, text.line, text.upright):
        for hostile in (
            "a" * 100_000 + "!",
            "a." * 50_000 + "!",
            "1" * 100_000 + "x",
            "+" + "1" * 100_000 + "x",
            "://" * 30_000,
            "a/" * 50_000,
            " \t" * 50_000,
        ):
            start = time.process_time()
            use(hostile)
            assert time.process_time() - start < 2, use


# --- A12 -----------------------------------------------------------------------------------------------------------------

ADDRESSES = {
    "metadata": "http://169.254.169.254/latest/meta-data/iam", "web": "https://evil.example/rows.csv", "file": "file:///etc/passwd",
    "ftp": "ftp://evil.example/rows.csv", "UNC": "\\\\evil.example\\share\\rows.csv",
    "UNC, forward": "//evil.example/share/rows.csv",
    "bucket": "s3://evil/rows.csv", "hub file system": "hf://datasets/evil/rows/rows.csv", "loopback": "http://127.0.0.1:9/rows.csv",
    "chained": "zip://rows.csv::https://evil.example/a.zip",
}  # fmt: skip


@pytest.mark.parametrize("name", ADDRESSES)
def test_a12_an_address_is_never_asked(name, yard):
    address = ADDRESSES[name]
    from tests.doors.watching import WATCH

    good = put(yard.work / "rows.csv", "text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(9)))
    config = {"peft_type": "LORA", "base_model_name_or_path": address, "target_modules": ["query"], "r": 1}
    (yard.work / "adapter").mkdir()
    put(yard.work / "adapter" / "adapter_config.json", json.dumps(config))
    put(yard.work / "t.json", json.dumps([{"image": address, "label": str(i % 2)} for i in range(6)]))
    pictures = {"image": "required", "label": "required"}
    for call in (
        lambda: resolve(parse_spec({**SPEC, "data": address}).data),
        lambda: resolve(parse_spec({**SPEC, "data": {"source": str(good), "validation": address}}).data),
        lambda: bundled.resolve_model(address),
        lambda: bundled.resolve_model(foreign_config._config(yard.work / "adapter")["base_model_name_or_path"]),
        lambda: [
            images.pixels(i)
            for i in load_table(resolve(parse_spec({**SPEC, "data": "t.json"}).data), pictures).train.column("image")
        ],
        lambda: images.pixels(address),
    ):
        yard.refused(call)
        assert WATCH.connected == WATCH.looked_up == []


def test_a12_a_hub_name_asks_nobody_where_offline_is_set(yard):
    from tests.doors.watching import WATCH, is_local

    for call in (lambda: bundled.resolve_model("evil/model"), lambda: resolve(parse_spec({**SPEC, "data": "evil/rows"}).data)):
        yard.refused(call)
        assert [a for a in WATCH.connected if not is_local(a)] == []


# --- A13 -----------------------------------------------------------------------------------------------------------------


def sparse(path, size):
    """A file of `size` bytes that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def picture(width, height):
    """A PNG whose header promises that many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def labels(count):
    """A table with `count` different labels."""
    return "text,label\n" + "".join(f"text {i},label {i}\n" for i in range(count))


def table_of(path):
    """Read a table through the door of data."""
    return load_table(resolve(parse_spec({**SPEC, "data": str(path)}).data), PARTS)


SIZES = {
    "2 GB table": (lambda f: files.regular(sparse(f / "a.csv", MAX_BYTES + 1)), "at most 2 GB"),
    "10 GB table": (lambda f: table_of(sparse(f / "a.csv", 10_000_000_000)), "at most 2 GB"),
    "10 GB spec": (lambda f: load_spec(sparse(f / "a.yaml", 10_000_000_000)), "at most 1 MB"),
    "10,001 columns": (
        lambda f: table_of(put(f / "a.csv", ",".join(f"c{i}" for i in range(10_001)) + "\n" + "," * 10_000)),
        "10,000",
    ),
    "20,000 labels": (lambda f: table_of(put(f / "a.csv", labels(20_000))), "different values"),
    "a million runs": (lambda f: parse_spec({**SPEC, "methods": ["lora"] * 500, "seeds": list(range(1000))}), "at most"),
    "100,000 methods": (lambda f: parse_spec({**SPEC, "methods": ["lora"] * 100_000}), "at most 500"),
    "100,000 seeds": (lambda f: parse_spec({**SPEC, "seeds": list(range(100_000))}), "at most 1000"),
    "11 MB cell": (lambda f: table_of(put(f / "a.csv", "text,label\n" + "x" * 11_000_000 + ",a\n")), "field larger"),
    "deep spec": (lambda f: load_spec(put(f / "a.yaml", "a: " + "{a: " * 5000)), "nested"),
    "5 MB adapter_config": (
        lambda f: foreign_config._config(put(f / foreign_config.CONFIG, b" " * 5_000_000).parent),
        "at most 4 MB",
    ),
    "60 million pixels": (lambda f: images.pixels(put(f / "a.png", picture(10_000, 6_000))), "million pixels"),
    "nothing to submit": (lambda f: client.submit([]), "at least one run"),
}


@pytest.mark.parametrize("name", SIZES)
def test_a13_what_is_too_large_is_refused_at_once(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    call, words = SIZES[name]
    assert words in within(2, lambda: call(tmp_path))


def test_a13_uploads_are_limited_by_the_shipped_configuration():
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert config["server"]["maxUploadSize"] <= 200
    assert config["server"]["address"] == "127.0.0.1"
    assert set(config["server"]["allowedHosts"]) == {"localhost", "127.0.0.1"}
    assert not config["server"].get("enableAgentApi")
    assert config["client"]["showErrorDetails"] == "none"


# --- A15 -----------------------------------------------------------------------------------------------------------------


def test_a15_we_start_no_mlflow_server_and_embed_none():
    started = re.compile(r"mlflow[\"', ]+(server|ui)\b|mlflow\.server|components\.iframe|st\.iframe|<iframe")
    assert [str(p.relative_to(ROOT)) for p in OURS if started.search(p.read_text())] == []
    assert not re.search(r"mlflow (server|ui)", (ROOT / "Makefile").read_text())


# --- A16 -----------------------------------------------------------------------------------------------------------------


READ = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "mlflow", "streamlit", "plotly")
"""What reads files of others or serves the app has one version; the weights of the bundled package have one hash."""


def test_a16_what_reads_files_of_others_has_one_version():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert set(READ) <= pinned
    for name in ROOT.glob("requirements*.txt"):
        assert not re.search(r"--index-url|--extra-index-url|git\+|https?:|file:", name.read_text()), name


def test_a16_bundled_weights_that_were_altered_are_refused(tmp_path, monkeypatch):
    good = bundled.bundled_path("minilm")
    fake = tmp_path / "package" / "model"
    fake.mkdir(parents=True)
    for path in good.iterdir():
        if path.is_file():
            (fake / path.name).write_bytes(path.read_bytes())
    weights = fake / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    origin = type("Spec", (), {"origin": str(fake.parent / "__init__.py")})
    monkeypatch.setattr(bundled.importlib.util, "find_spec", lambda name: origin)
    with pytest.raises(WorkbenchError, match="published sha256"):
        bundled.bundled_path("minilm")


def test_a16_the_repository_ships_no_code_that_runs_at_installation_and_no_pickle():
    shipped = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [Path(line) for line in shipped.stdout.splitlines()]
    assert not {n.name for n in names} & {"setup.py", "setup.cfg", "conftest_local.py", "sitecustomize.py"}
    assert not [n for n in names if n.suffix in (*bundled.PICKLES, ".pickle", ".so", ".dll", ".exe", ".whl", ".pth")]
    assert "build-system" not in tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_a16_nothing_is_downloaded_but_by_the_hubs_own_clients():
    asks = re.compile(
        r"import (urllib\.request|requests|httpx|aiohttp)|from (urllib\.request|requests|httpx|aiohttp)|[\"'](curl|wget)[\"']"
    )
    assert [str(p.relative_to(ROOT)) for p in OURS if asks.search(p.read_text())] == []
