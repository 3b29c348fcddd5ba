"""F4: after a power cut at any sync of a commit path, on any of three forgetful disks, the old or the new is there, whole."""

import os
import shutil
from collections import Counter

import pytest

from tests.faults import power, syscalls
from tests.faults.ways import WAYS
from workbench.jobs import client

pytestmark = pytest.mark.skipif(not syscalls.works(), reason=syscalls.MISSING)
FEW = 7
ALL = pytest.param(1, id="all", marks=pytest.mark.slow)
SOME = pytest.param(FEW, id="some")


@pytest.mark.parametrize("step", [SOME, ALL])
@pytest.mark.parametrize("name", WAYS)
def test_a_power_cut_leaves_the_old_or_the_new(name, step, home, monkeypatch, record_property):
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    way, before = WAYS[name], home.with_name("before")
    way.prepare(home)
    shutil.copytree(home, before)
    calls = power.record(way, home)
    broken, count = [], 0
    tried = [(at, kind) for at in power.moments(calls) for kind in power.DISKS]
    for at, kind in [*tried[:-3:step], *tried[-3:]]:
        shutil.rmtree(home)
        power.cut(calls, before, home, at, kind)
        code = 0 if at == len(calls) else syscalls.KILLED
        count += 1
        broken += [f"after {at} of {len(calls)} calls on a {kind} disk: {text}" for text in way.after(home, code, syscalls.POWER)]
    record_property("F4", count)
    assert not broken, "\n".join(broken[:30])


def test_the_disk_forgets_what_was_not_synced(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_text("old")

    def act(_):
        os.mkdir(root / "folder")
        for name, synced in (("folder/kept", True), ("folder/lost", False)):
            with open(root / name, "w") as file:
                file.write("content!")
                file.flush()
                if synced:
                    os.fsync(file.fileno())
        os.rename(root / "folder/kept", root / "renamed")
        os.unlink(root / "old")

    way = syscalls.Way(lambda _: None, lambda _: None, lambda _, value: act(value), lambda *_: [])
    shutil.copytree(root, tmp_path / "before")
    calls = power.record(way, root)
    found = {}
    for kind in power.DISKS:
        shutil.rmtree(root)
        power.cut(calls, tmp_path / "before", root, len(calls), kind)
        found[kind] = {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}
    assert found == {
        "lost": {"old": "old"},
        "empty": {"renamed": "content!", "folder/lost": ""},
        "torn": {"renamed": "content!", "folder/lost": "cont"},
    }
    assert Counter(call for call, _, _ in calls)["fsync"] == 1
