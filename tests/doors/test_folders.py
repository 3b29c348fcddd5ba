"""A4, A5, A6: archives, pickles and configurations that would run code, at the doors where files come in."""

import io
import json
import os
import pickle
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.export.conftest import answer_here, make_base, near
from workbench import export as exports
from workbench.core.spec import parse_spec
from workbench.data import load_table, resolve
from workbench.export import foreign_config
from workbench.kernel import state
from workbench.models.bundled import resolve_model
from workbench.tasks import find

__all__ = ["answer_here", "near"]
CSV = "text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(20))
SPEC = {"name": "x", "model": "bundled/minilm", "task": "text_classification", "methods": ["lora"]}
PARTS = {"text": "required", "label": "required"}


def as_data(path):
    """The door of data: read a table."""
    return load_table(resolve(parse_spec({**SPEC, "data": str(path)}).data), PARTS)


def as_model(path):
    """The door of base models: a host with a head."""
    folder = resolve_model(str(path))
    task = find("text_classification")(folder, ["a", "b"], 16)
    return task.host(0)


def as_adapter(path):
    """The door of adapters: import a folder."""
    return exports.import_folder(path, "taken-in")


DOORS = {"data": as_data, "model": as_model, "adapter": as_adapter}

# --- A4 ------------------------------------------------------------------------------------------------------------------


def zipped(*entries, change=None):
    """Bytes of a zip with (name, content) entries; `change` may alter each ZipInfo."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            archive.writestr(info, content)
    return packed.getvalue()


def tarred(*entries, mode="w"):
    """Bytes of a tar with (name, type, link) entries."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, kind, link in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, link, 0o4777
            archive.addfile(info)
    return packed.getvalue()


def link(info):
    """A zip entry that is a symbolic link."""
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


FILE, SYM, HARD, DEVICE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
ARCHIVES = {
    "zip slip": zipped(("../../canary", "x")), "zip absolute": zipped(("/tmp/canary", "x")),
    "zip link": zipped(("a", "/etc"), change=link),
    "zip link then write": zipped(("a", "../.."), ("a/canary", "x"), change=link),
    "zip bomb": zipped(("rows.csv", b"0" * 20_000_000)),
    "zip of 20,000 entries": zipped(*((f"{i}.csv", "") for i in range(20_000))),
    "zip twins": zipped(("a.csv", CSV), ("A.csv", "x")),
    "zip with our names": zipped(("adapter_config.json", "{}"), ("adapter_model.safetensors", "x")),
    "zip setuid": zipped(("a", "x"), change=lambda i: setattr(i, "external_attr", 0o104755 << 16)),
    "zip encrypted": zipped(("a.csv", CSV)).replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00"),
    "zip backslash": zipped(("..\\..\\canary", "x")), "zip in zip": zipped(("a.zip", zipped(("../canary", "x")))),
    "empty zip": zipped(), "tar slip": tarred(("../../canary", FILE, "")), "tar absolute": tarred(("/tmp/canary", FILE, "")),
    "tar link then write": tarred(("a", SYM, "../.."), ("a/canary", FILE, "")), "tar hard link": tarred(("a", HARD, "../../x")),
    "tar device": tarred(("a", DEVICE, "")), "tar.gz bomb": tarred(("a", FILE, ""), mode="w:gz"),
    "7z": b"7z\xbc\xaf\x27\x1c" + b"\0" * 60,
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_a4_an_archive_is_never_opened(name, yard):
    for suffix in (".zip", ".csv", ".jsonl", ".safetensors"):
        path = yard.work / f"given{suffix}"
        path.write_bytes(ARCHIVES[name])
        for door in DOORS.values():
            assert "must" in yard.refused(lambda door=door, path=path: door(path))
    assert sorted(p.name for p in yard.work.iterdir()) == ["given.csv", "given.jsonl", "given.safetensors", "given.zip"]


# --- A5 ------------------------------------------------------------------------------------------------------------------


class Evil:
    """Unpickles to a call that leaves the canary."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return (os.mkdir, (self.canary,))


def torch_zip(canary):
    """What `torch.save` writes."""
    packed = io.BytesIO()
    torch.save({"weight": Evil(canary)}, packed)
    return packed.getvalue()


def scripted(canary):
    """What `torch.jit.save` writes: code and pickles in one zip, with the planted pickle beside them."""
    packed = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), packed)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("archive/extra.pkl", pickle.dumps(Evil(canary)))
    return packed.getvalue()


PICKLES = {
    "adapter_model.bin": torch_zip, "adapter_model.pt": torch_zip, "model.pth": torch_zip, "pytorch_model.bin": torch_zip,
    "last.ckpt": torch_zip, "weights.pkl": lambda c: pickle.dumps(Evil(c)), "old.pickle": lambda c: pickle.dumps(Evil(c), 0),
    "model.joblib": lambda c: pickle.dumps(Evil(c), 3), "array.npy": lambda c: b"\x93NUMPY\x01\x00" + pickle.dumps(Evil(c)),
    "optimizer.pt": torch_zip, "rng_state.pth": torch_zip, "training_args.bin": torch_zip,
    "model.h5": lambda c: b"\x89HDF\r\n\x1a\n",
    "model.keras": torch_zip, "wrapped.7z": lambda c: b"7z\xbc\xaf\x27\x1c" + pickle.dumps(Evil(c)),
    ".hidden.bin": torch_zip, "scripted.pt": scripted,
}  # fmt: skip


def test_the_planted_pickle_bites(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "canary")))
    assert (tmp_path / "canary").is_dir()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny random base model."""
    return make_base("bert", tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture
def adapter(base, yard):
    """A folder without a flaw, as peft writes it, made by hand."""
    folder = yard.work / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    tensors = {"base_model.model.classifier.weight": torch.ones(2, 32), "base_model.model.classifier.bias": torch.ones(2)}
    for layer in (0, 1):
        place = f"base_model.model.bert.encoder.layer.{layer}.attention.self.query.lora_"
        tensors |= {f"{place}A.weight": torch.ones(2, 32) * 0.1, f"{place}B.weight": torch.ones(32, 2) * 0.1}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("name", PICKLES)
def test_a5_a_pickle_is_never_read(name, yard, base, adapter):
    raw = PICKLES[name](yard.canary)
    (yard.work / name).write_bytes(raw)
    yard.refused(lambda: as_data(yard.work / name))
    for disguise in ("rows.csv", "rows.jsonl", "rows.parquet"):
        (yard.work / disguise).write_bytes(raw)
        yard.refused(lambda disguise=disguise: as_data(yard.work / disguise))
    (adapter / "adapter_model.safetensors").rename(yard.work / "weights")
    (adapter / name).write_bytes(raw)
    assert "safetensors" in yard.refused(lambda: as_adapter(adapter))
    (adapter / name).rename(adapter / "adapter_model.safetensors")
    assert "whole safetensors" in yard.refused(lambda: as_adapter(adapter))
    model = yard.work / "model"
    shutil.copytree(base, model)
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(raw)
    assert "safetensors" in yard.refused(lambda: as_model(model))
    (model / name).rename(model / "model.safetensors")
    assert "safetensors" in yard.refused(lambda: as_model(model))


@pytest.mark.usefixtures("near")
def test_a5_pickles_and_code_beside_good_files_are_ignored(yard, base, adapter):
    model = yard.work / "model"
    shutil.copytree(base, model)
    for folder in (adapter, model):
        for name in PICKLES.keys() - {"adapter_model.bin", "adapter_model.pt"}:
            (folder / name).write_bytes(PICKLES[name](yard.canary))
        for name in ("modeling_evil.py", "torch.py", "__init__.py", "setup.py"):
            (folder / name).write_text(f"import os; os.mkdir({str(yard.canary)!r})")
    said, host = yard.attacked(lambda: as_model(model))
    assert not said
    assert host.num_labels == 2
    said, found = yard.attacked(lambda: as_adapter(adapter))
    assert not said
    kept = sorted(p.name for p in Path(found["folder"]).iterdir())
    assert kept == ["README.md", "adapter_model.safetensors", "reference.safetensors", "workbench_adapter.json"]


def test_a5_safetensors_that_are_something_else_too(yard, adapter):
    weights = adapter / "adapter_model.safetensors"
    good = weights.read_bytes()
    for extra in (torch_zip(yard.canary), pickle.dumps(Evil(yard.canary)), b"PK\x05\x06" + b"\0" * 18):
        for raw in (good + extra, extra + good):
            weights.write_bytes(raw)
            assert "whole safetensors" in yard.refused(lambda: as_adapter(adapter))


@pytest.mark.parametrize("index", [None, "pytorch_model.bin", "../../outside/pytorch_model.bin"])
def test_a5_weights_that_are_a_good_pickle_are_not_read_beside_safetensors_either(index, yard, base):
    model = yard.work / "model"
    shutil.copytree(base, model)
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "other.safetensors")
    torch.save(weights, (model / (index or "pytorch_model.bin")).resolve())
    if index:
        edit("model.safetensors.index.json", metadata={}, weight_map=dict.fromkeys(weights, index))(model, yard.canary)
    assert "safetensors" in yard.refused(lambda: as_model(model))


def test_a5_a_pickled_type_in_a_parquet_file_is_not_loaded(yard):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    field = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Evil(yard.canary))}
    schema = pa.schema([pa.field("text", pa.string(), metadata=field), pa.field("label", pa.string())])
    pq.write_table(pa.table([[f"t{i}" for i in range(9)], ["a", "b", "c"] * 3], schema=schema), yard.work / "rows.parquet")
    said, found = yard.attacked(lambda: as_data(yard.work / "rows.parquet"))
    assert said or len(found.train) >= 3


# --- A6 ------------------------------------------------------------------------------------------------------------------


def edit(name, **values):
    """Set keys of a JSON file of a folder."""

    def change(folder, canary):
        path = folder / name
        known = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**known, **values}).replace("CANARY", str(canary)))
        (folder / "evil.py").write_text(
            f"import os; os.mkdir({str(canary)!r})\nclass Model: pass\nclass Config: pass\nclass Tok: pass"
        )

    return change


AUTO = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForSequenceClassification": "evil.Model"}
TEMPLATE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.mkdir('CANARY') }}"
MODELS = {
    "code for a known type": edit("config.json", auto_map=AUTO),
    "code for a type of its own": edit("config.json", auto_map=AUTO, model_type="evil"),
    "code of a repository": edit("config.json", auto_map={k: f"evil/repo--{v}" for k, v in AUTO.items()}, model_type="evil"),
    "nested permission": edit("config.json", auto_map=AUTO, trust_remote_code=True, text_config={"trust_remote_code": True}),
    "attention kernel": edit("config.json", _attn_implementation_internal="evil/kernel", attn_implementation="evil/kernel"),
    "attention kernel, short": edit("config.json", _attn_implementation="evil/kernel:forward"),
    "quantiser": edit("config.json", quantization_config={"quant_method": "evil", "modules_to_not_convert": ["x"]}),
    "class by path": edit("config.json", architectures=["evil.Model"], custom_pipelines={"x": {"impl": "evil.Model",
    "pt": ["AutoModel"]}}),
    "tokenizer code": edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tok", "evil.Tok"]}),
    "tokenizer class": edit("tokenizer_config.json", tokenizer_class="evil.Tok"),
    "chat template": edit("tokenizer_config.json", chat_template=TEMPLATE),
    "weights outside": edit("model.safetensors.index.json", weight_map={"bert.x": "../../outside/x.safetensors"}, metadata={}),
    "weights absolute": edit("model.safetensors.index.json", weight_map={"bert.x": "/etc/x.safetensors"}, metadata={}),
    "weights named": edit("config.json", transformers_weights="../../outside/x.safetensors"),
    "another base": edit("adapter_config.json", peft_type="LORA", base_model_name_or_path="../../outside/keep"),
    "dtype": edit("config.json", dtype="os.system", torch_dtype="evil.Model"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a6_a_base_models_files_never_run_code(name, yard, base):
    model = yard.work / "model"
    shutil.copytree(base, model)
    MODELS[name](model, yard.canary)
    said, host = yard.attacked(lambda: as_model(model))
    assert said or not type(host).__module__.startswith("evil")
    assert name not in LEADS_OUT or any(word in said for word in OUR_WORDS), said


LEADS_OUT = {
    "weights outside", "weights absolute", "weights named", "another base", "attention kernel", "attention kernel, short",
}  # fmt: skip
"""What transformers itself would read or fetch; the rest it passes over without permission to run code."""
OUR_WORDS = ("which is refused", "of its own folder", "names another base")


ADAPTERS = {
    "mapping": {"auto_mapping": {"base_model_class": "Model", "parent_library": "evil"}},
    "mapping with dots": {"auto_mapping": {"base_model_class": "Model", "parent_library": "transformers.models.bert..evil"}},
    "mapping of a submodule": {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers.utils.hub"}},
    "mapping that goes on": {"auto_mapping": {"parent_library": "transformers.models.bert.modeling_bert.os"}},
    "megatron": {"megatron_core": "evil"},
    "megatron by prefix": {"megatron_core": "megatron.core.evil", "megatron_config": {"x": 1}},
    "tokenizer arguments": {"tokenizer_kwargs": {"trust_remote_code": True}, "tokenizer_name_or_path": "evil/repo"},
    "runaway pattern": {"target_modules": r"(\w+\.?)+!"},
    "pattern of dots": {"target_modules": "bert.encoder.layer...attention.self.quer."},
    "runaway pattern in a list": {"target_modules": [r"(\w+\.?)+!"]},
    "runaway rank pattern": {"rank_pattern": {r"(a+)+$": 2}},
    "runaway layers": {"layers_pattern": [r"(a|a)*$"], "layers_to_transform": [0]},
    "runaway exclusion": {"exclude_modules": r"(\w+\.?)+!"},
    "base address": {"base_model_name_or_path": "http://169.254.169.254/latest"},
    "start that runs": {"init_lora_weights": "eva", "eva_config": {"x": 1}},
    "router": {"arrow_config": {"arrow_expert_num": 1}},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a6_an_adapters_configuration_never_runs_code_or_patterns(name, yard, adapter):
    edit("adapter_config.json", **ADAPTERS[name])(adapter, yard.canary)
    yard.refused(lambda: as_adapter(adapter))
    said, _ = yard.attacked(lambda: foreign_config.check_safe(adapter))
    assert said or name == "start that runs"


def test_a6_weights_of_the_good_folder_are_finite_and_used(yard, adapter):
    for value in (float("nan"), float("inf"), -float("inf")):
        tensors = load_file(adapter / "adapter_model.safetensors")
        tensors[min(tensors)][0] = value
        save_file(tensors, adapter / "adapter_model.safetensors")
        assert "must be finite" in yard.refused(lambda: as_adapter(adapter))


def test_a6_weights_named_twice_or_changed_afterwards_are_refused(yard, adapter):
    weights = adapter / "adapter_model.safetensors"
    meta = {"format": 1, "method": "lora", "config": {}, "sha256": {weights.name: state.file_sha256(weights)}}
    (adapter / state.META).write_text(json.dumps(meta))
    assert state.read(adapter).tensors
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "was changed since" in yard.refused(lambda: state.read(adapter))
    size = int.from_bytes(good[:8], "little")
    header = good[8 : 8 + size].decode().rstrip()
    name, place = next((k, v) for k, v in json.loads(header).items() if k != "__metadata__")
    twice = f"{header[:-1]}, {json.dumps(name)}: {json.dumps(place)}}}".encode()
    weights.write_bytes(len(twice).to_bytes(8, "little") + twice + good[8 + size :])
    assert "whole safetensors" in yard.refused(lambda: state.read_tensors(weights))
