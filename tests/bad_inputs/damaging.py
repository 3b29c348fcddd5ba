"""Ways to damage an adapter folder, each a function of the folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Damage = Callable[[Path], Any]


def config(**values: Any) -> Damage:
    """Change fields of adapter_config.json."""

    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def text(content: str) -> Damage:
    """Another adapter_config.json."""
    return lambda folder: (folder / CONFIG).write_text(content)


def raw(change: Callable[[bytes], bytes]) -> Damage:
    """Change the bytes of the safetensors file."""
    return lambda folder: (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Change the tensors by name; the file is a whole one again."""

    def apply(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        save_file(change(found) or found, folder / WEIGHTS)

    return apply


def without(key: str) -> Damage:
    """Leave out the tensors with `key` in their name."""
    return tensors(lambda found: {k: v for k, v in found.items() if key not in k})


def first(value: Callable[[torch.Tensor], torch.Tensor], key: str = "lora_A") -> Damage:
    """Change the first tensor with `key` in its name."""

    def change(found: dict[str, torch.Tensor]) -> None:
        name = next(k for k in found if key in k)
        found[name] = value(found[name]).contiguous()

    return tensors(change)


def header(edit: Callable[[str], str]) -> Damage:
    """Change the JSON header of the safetensors file."""

    def change(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        new = edit(data[8 : 8 + size].decode()).encode()
        return len(new).to_bytes(8, "little") + new + data[8 + size :]

    return raw(change)


def outside(folder: Path) -> None:
    """The weights are a link to beside the folder."""
    shutil.move(folder / WEIGHTS, folder.parent / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere.safetensors")


def as_pickle(folder: Path) -> None:
    """The weights as `torch.save` writes them."""
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def twin(head: str) -> str:
    """The first tensor named twice."""
    name, entry = next((k, v) for k, v in json.loads(head).items() if k != "__metadata__")
    return head[: head.rindex("}")] + f", {json.dumps(name)}: {json.dumps(entry)}}}"


def gap(head: str) -> str:
    """The last tensor starts later than the one before it ends."""
    table = json.loads(head)
    last = max((v for k, v in table.items() if k != "__metadata__"), key=lambda v: v["data_offsets"][1])
    last["data_offsets"][0] += 4
    return json.dumps(table)


def told(folder: Path) -> dict[str, Any]:
    """adapter_config.json."""
    return json.loads((folder / CONFIG).read_text())


def other_base(change: Callable[[Path], Any]) -> Damage:
    """The adapter names a changed copy of its base model."""

    def apply(folder: Path) -> None:
        copy = folder.parent / "base"
        shutil.copytree(told(folder)["base_model_name_or_path"], copy)
        change(copy)
        config(base_model_name_or_path=str(copy))(folder)

    return apply


def sizes(**values: int) -> Damage:
    """The base model again, of other sizes."""

    def change(base: Path) -> None:
        from transformers import AutoConfig, AutoModel

        AutoModel.from_config(AutoConfig.from_pretrained(base, **values)).save_pretrained(base)

    return other_base(change)


def family(name: str, **values: Any) -> Damage:
    """The adapter names a base model of another architecture."""

    def apply(folder: Path) -> None:
        from tests.export.conftest import make_base

        config(base_model_name_or_path=str(make_base(name, folder.parent / name)), **values)(folder)

    return apply


def quantised(base: Path) -> None:
    """The base model says that it is quantised."""
    facts = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**facts, "quantization_config": {"quant_method": "gptq"}}))


def larger_vocabulary(folder: Path) -> None:
    """The adapter also changes the embeddings of a base model with seven more words."""
    words = json.loads((Path(told(folder)["base_model_name_or_path"]) / "config.json").read_text())["vocab_size"]
    place = "base_model.model.bert.embeddings.word_embeddings.lora_embedding_"
    more = {f"{place}A": torch.ones(4, words + 7), f"{place}B": torch.ones(32, 4)}
    tensors(lambda found: found | more)(folder)
    config(target_modules=["query", "value", "word_embeddings"])(folder)


def rewritten(name: str, change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change a JSON file of the folder."""

    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return apply


def base_of_own(folder: Path) -> None:
    """An adapter of ours whose base model has, under the same path, other weights."""
    copy = folder.parent / "base"

    def change(meta: dict[str, Any]) -> None:
        shutil.copytree(meta["base"]["source"], copy)
        meta["base"]["source"] = str(copy)

    rewritten("workbench_adapter.json", change)(folder)
    found = load_file(copy / "model.safetensors")
    save_file({k: v + 1 for k, v in found.items()}, copy / "model.safetensors", metadata={"format": "pt"})
