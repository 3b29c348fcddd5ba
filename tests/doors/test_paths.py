"""A3: hostile names at nine doors: refused in one sentence, or taken for the literal name inside the place they belong to."""

import json
import os
from pathlib import Path

import pytest

from tests.services.planted import plant, run_spec
from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.core.spec import DataSpec, parse_spec
from workbench.data import resolve
from workbench.data.table import Table
from workbench.export import importing, manifest
from workbench.jobs import client
from workbench.kernel.state import file_sha256
from workbench.models.bundled import resolve_model
from workbench.services import adapters, files

GOOD = "text,label\n" + "".join(f"a text number {i},{'ab'[i % 2]}\n" for i in range(20))
# O stands for the folder outside, which holds secret.csv and keep/notes.txt
PAYLOADS = {
    "up": "../outside/keep", "up twice": "../../outside/keep", "far up": "../" * 40 + "etc/passwd", "absolute": "O/keep",
    "absolute file": "/etc/passwd", "double slash": "//etc/passwd", "dot": ".", "two dots": "..", "three dots": "...",
    "slash": "/", "empty": "", "inner up": "a/../../outside/keep", "encoded": "%2e%2e%2foutside%2fkeep",
    "encoded twice": "%252e%252e%252foutside%252fkeep", "overlong": "..%c0%af..%c0%afetc/passwd",
    "backslashes": "..\\..\\outside",
    "mixed": "..\\/outside/keep", "NUL": "keep\0.csv", "NUL inside up": "../outside\0/keep", "newline": "keep\n/etc/passwd",
    "carriage return": "keep\r", "full-width dots": "\uff0e\uff0e/outside/keep", "full-width slash": "..\uff0foutside",
    "one dot leader": "\u2024\u2024/outside", "trailing dot": "keep.", "trailing space": "keep ",
    "leading space": " ../outside/keep",
    "home": "~root/keep", "tilde": "~/../../etc/passwd", "file address": "file:///etc/passwd", "file with host": "file://host/share",
    "UNC": "\\\\host\\share\\x", "UNC forward": "//host/share/x", "drive": "C:\\Windows\\x", "device": "/dev/zero",
    "own process": "/proc/self/environ", "long": "a" * 4096, "long part": "a" * 300, "deep": "a/" * 2000 + "b",
    "link": "link/keep",
    "surrogate": "\udcff\udcfe",
}  # fmt: skip
DOORS = {}


def door(call):
    """Register a place where a name comes in."""
    DOORS[call.__name__.strip("_")] = call
    return call


@door
def _name(yard, payload):
    return paths.safe_name(parse_spec({**SPEC, "name": payload}).name)


SPEC = {"name": "x", "model": "bundled/minilm", "task": "text_classification", "data": "bundled/docstrings", "methods": ["lora"]}


@door
def _model(yard, payload):
    return resolve_model(payload)


@door
def _source(yard, payload):
    return resolve(parse_spec({**SPEC, "data": payload}).data)


@door
def _validation(yard, payload):
    return resolve(parse_spec({**SPEC, "data": {"source": "rows.csv", "validation": payload}}).data)


@door
def _to(yard, payload):
    return Path(adapters.export("mine", "peft", payload or "O".replace("O", str(yard.outside / "keep")))["to"])


@door
def _run_id(yard, payload):
    plant(run_spec("mine-aaaaaa", "lora", 0))
    try:
        return paths.run_folder(payload)
    finally:
        for ask in (client.find, adapters.adapter_folder):
            with pytest.raises(WorkbenchError):
                ask(payload)


@door
def _adapter_name(yard, payload):
    return importing._places(yard.work, payload)[1]


@door
def _upload(yard, payload):
    return files.upload(payload, b"x")


@door
def _artifact(yard, payload):
    folder = yard.home / "export"
    return manifest.read(folder) if named(folder, payload) else None


def named(folder, payload):
    """Plant an exported folder whose manifest names `payload` among its files, with the right hash where there is one."""
    (folder / "check").mkdir(parents=True, exist_ok=True)
    (folder / "check" / "rows.safetensors").write_bytes(b"x")
    target = folder / payload if "\0" not in payload and len(payload) < 200 and payload.isprintable() else folder
    digest = file_sha256(target) if target.is_file() and target.stat().st_size else "0" * 64
    listed = {manifest.ROWS: file_sha256(folder / "check" / "rows.safetensors"), payload: digest}
    claim = {
        "format_version": 1, "format": "peft", "check": {}, "base": {"source": "x", "sha256": "x"}, "files": listed,
        "load": {"kind": "peft", "auto": "AutoModelForCausalLM", "settings": {}, "dtype": "float32"},
    }  # fmt: skip
    (folder / manifest.NAME).write_text(json.dumps(claim))
    return True


def places(yard):
    """Where a name that was taken literally may lead."""
    return yard.home, yard.work


@pytest.fixture
def open_yard(yard, monkeypatch):
    """A yard with a finished run, a link out of it, and a queue that only notes what it is given."""
    folder = yard.home / "adapters" / "mine"
    folder.mkdir(parents=True)
    (yard.work / "rows.csv").write_text(GOOD)
    (folder / adapters.META).write_text("{}")
    for place in (yard.work, yard.home / "export"):
        place.mkdir(exist_ok=True)
        (place / "link").symlink_to(yard.outside)
    monkeypatch.setattr(client, "submit_short", lambda kind, request: request)
    return yard


LITERAL = {"to", "upload"}
"""Doors where a name that is odd, but leads to a new place of its own, may be used as it stands."""


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("where", DOORS)
def test_a3_a_hostile_name_leads_nowhere(where, payload, open_yard):
    given = PAYLOADS[payload].replace("O/", f"{open_yard.outside}/")
    said, answer = open_yard.attacked(lambda: DOORS[where](open_yard, given))
    if said:
        return
    assert where in LITERAL, f"it went through: {answer!r:.200}"
    found = Path(answer)
    assert any(found.is_relative_to(place) for place in places(open_yard)) or not found.exists()


def test_a3_there_are_as_many_cases_as_promised():
    assert len(PAYLOADS) * len(DOORS) >= 360


def test_a3_an_export_never_replaces_what_is_not_an_export(open_yard):
    for target in (open_yard.outside / "keep", open_yard.outside / "secret.csv", open_yard.work / "link" / "keep"):
        assert "holds something else" in open_yard.refused(lambda to=target: adapters.export("mine", "peft", to))


def test_a3_a_link_swapped_in_after_the_check_is_seen_by_its_content(yard):
    rows = yard.work / "rows.csv"
    rows.write_text(GOOD)
    ref = resolve(DataSpec(source="rows.csv"))
    rows.unlink()
    rows.symlink_to(yard.outside / "secret.csv")
    from workbench.data import check_unchanged

    assert "changed since" in yard.refused(lambda: check_unchanged(ref))


def test_a3_pictures_of_a_table_stay_inside_its_folder(yard):
    from workbench.data import load_table

    (yard.work / "inside").mkdir()
    os.link(yard.outside / "secret.csv", yard.work / "inside" / "hard.png")
    (yard.work / "inside" / "soft.png").symlink_to(yard.outside / "secret.csv")
    for name in ("../../outside/secret.csv", str(yard.outside / "secret.csv"), "soft.png", "a\0b.png"):
        (yard.work / "inside" / "t.json").write_text(json.dumps([{"image": name, "label": str(i % 2)} for i in range(6)]))
        ref = resolve(DataSpec(source="inside/t.json"))
        said = yard.refused(lambda ref=ref: load_table(ref, {"image": "required", "label": "required"}))
        assert "lead out" in said or "inside" in said, said
    assert isinstance(Table((), {}), Table)


def test_a3_an_upload_is_kept_under_its_hash(yard):
    kept = files.upload("../../../etc/pass\nwd.csv", b"x")
    assert kept.parent.parent == yard.home / "uploads"
    assert kept.name == "pass-wd.csv"
