"""Bad adapter folders that `tests/export/test_import.py` does not hold, and the life of a folder: one sentence, nothing kept."""

import json
import shutil
import struct
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.doors.conftest import yard
from tests.doors.test_folders import adapter, base
from workbench import export as exports
from workbench.core.durable import write_whole
from workbench.core.errors import WorkbenchError
from workbench.kernel import state

__all__ = ["adapter", "base", "yard"]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def header(change):
    """Rewrite the JSON header of the weights, its length corrected."""

    def apply(folder):
        raw = (folder / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        text = change(raw[8 : 8 + size].decode()).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])

    return apply


def twin(text):
    """The first tensor named twice."""
    name, entry = next((k, v) for k, v in json.loads(text).items() if k != "__metadata__")
    return text[: text.rindex("}")] + f", {json.dumps(name)}: {json.dumps(entry)}}}"


def gap(text):
    """The last tensor starts later than the one before it ends."""
    table = json.loads(text)
    last = max((v for k, v in table.items() if k != "__metadata__"), key=lambda v: v["data_offsets"][1])
    last["data_offsets"][0] += 4
    return json.dumps(table)


def config(**values):
    """Set keys of adapter_config.json."""
    return lambda folder: (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **values}))


BAD = {
    "gap": (header(gap), "whole safetensors"),
    "twin key": (header(twin), "whole safetensors|tensor"),
    "negative offset": (header(lambda t: t.replace('"data_offsets":[0', '"data_offsets":[-8', 1)), "whole safetensors"),
    "header is a list": (header(lambda t: "[]" + " " * (len(t) - 2)), "whole safetensors"),
    "header of blanks": (header(lambda t: " " * len(t)), "whole safetensors"),
    "deep header": (header(lambda t: "[" * len(t)), "whole safetensors"),
    "weights are a folder": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), "weights|safetensors"),
    "config is a folder": (lambda f: ((f / CONFIG).unlink(), (f / CONFIG).mkdir()), "has neither"),
    "config is a link outside": (lambda f: ((f / CONFIG).unlink(), (f / CONFIG).symlink_to("/etc/hostname")), "lead out"),
    "config in Latin-1": (lambda f: (f / CONFIG).write_bytes('{"r": "é"}'.encode("latin-1")), "valid JSON"),
    "r as text": (config(r="8"), "whole number"),
    "rank pattern as text": (config(rank_pattern={"query": "many"}), "number"),
    "layers as text": (config(layers_to_transform="all"), "block numbers"),
    "targets empty": (config(target_modules=[]), "at least one module"),
    "base is a number": (config(base_model_name_or_path=5), "base_model_name_or_path"),
    "base is a file": (lambda f: config(base_model_name_or_path=str(f / WEIGHTS))(f), "is a file"),
    "base absent offline": (config(base_model_name_or_path="nobody-here/none"), "Hub"),
    "task as a list": (config(task_type=["SEQ_CLS"]), "task_type"),
    "mapping as text": (config(auto_mapping="bert"), "auto_mapping"),
}


def kept(yard):
    """What lies among the adapters of the home."""
    folder = yard.home / "adapters"
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("case", BAD)
def test_a_bad_adapter_folder_is_one_sentence(case, yard, adapter):
    damage, words = BAD[case]
    damage(adapter)
    said = yard.refused(lambda: exports.import_folder(adapter, "bad"))
    assert any(word in said for word in words.split("|")), said
    assert kept(yard) == []


@pytest.mark.parametrize("size", ["vocabulary", "embeddings"])
def test_an_adapter_on_words_of_another_vocabulary_is_refused(size, yard, adapter, base):
    tensors = load_file(adapter / WEIGHTS)
    place = "base_model.model.bert.embeddings.word_embeddings.lora_embedding_"
    words = json.loads((base / "config.json").read_text())["vocab_size"]
    tensors |= {f"{place}A": torch.ones(2, words + 7), f"{place}B": torch.ones(32 if size == "vocabulary" else 31, 2)}
    save_file(tensors, adapter / WEIGHTS)
    config(target_modules=["query", "word_embeddings"])(adapter)
    yard.refused(lambda: exports.import_folder(adapter, "bad"))
    assert kept(yard) == []


def test_a_half_written_folder_is_never_seen(yard):
    target = yard.home / "adapters" / "mine"

    def broken(work: Path):
        (work / "a").write_text("half")
        raise OSError("power")

    with pytest.raises(OSError, match="power"):
        write_whole(target, broken)
    assert kept(yard) == []


def test_two_writers_of_one_folder_leave_one_whole_folder(yard):
    target, errors = yard.home / "adapters" / "mine", []

    def write(word):
        def fill(work):
            for name in "abc":
                (work / name).write_text(word)

        try:
            for _ in range(5):
                write_whole(target, fill)
        except OSError as error:  # the other one was faster: a refusal, not a mixture
            errors.append(error)

    writers = [threading.Thread(target=write, args=(word,)) for word in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len({(target / name).read_text() for name in "abc"}) == 1
    assert kept(yard) == ["mine"] or all(name.startswith(".") for name in kept(yard) if name != "mine")


def test_a_folder_changed_after_it_was_checked_is_refused(yard, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, folder / WEIGHTS)
    meta = {"format": 1, "method": "lora", "config": {}, "sha256": {WEIGHTS: state.file_sha256(folder / WEIGHTS)}}
    (folder / state.META).write_text(json.dumps(meta))
    assert state.read(folder).tensors.keys() == {"a"}
    save_file({"a": torch.zeros(2)}, folder / WEIGHTS)
    with pytest.raises(WorkbenchError, match="was changed since"):
        state.read(folder)
    shutil.rmtree(folder)
    with pytest.raises(WorkbenchError, match="must hold"):
        state.read(folder)
