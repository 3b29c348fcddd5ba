"""A peft folder: `adapter_config.json` + `adapter_model.safetensors`, loadable with plain peft and nothing else.

Native methods are written through their `PeftTwin`, bridged ones by the bridge; the head goes under `modules_to_save`.
Module names are whole paths, so that no name can match more than it means.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.evaluate.saved import Revived
from workbench.kernel.adapter import Adapter
from workbench.kernel.state import WEIGHTS

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
KINDS = {
    "ForSequenceClassification": ("SEQ_CLS", "text-classification"),
    "ForCausalLM": ("CAUSAL_LM", "text-generation"),
    "ForSeq2SeqLM": ("SEQ_2_SEQ_LM", "text2text-generation"),
    "ForImageClassification": (None, "image-classification"),
}
"""End of a transformers class name -> (peft's task type, the Hub's pipeline tag)."""


def head_class(host: nn.Module) -> str:
    """`For...`, how transformers' Auto classes call the host's task; language models with older names are `ForCausalLM` too."""
    name = type(host).__name__
    if name.endswith("ForConditionalGeneration"):
        return "ForSeq2SeqLM"
    return "For" + name.partition("For")[2] if "For" in name else "ForCausalLM"


def task_type(host: nn.Module) -> str | None:
    """peft's word for the task, None where it has none."""
    return KINDS.get(head_class(host), (None, None))[0]


def settings(revived: Revived) -> dict[str, Any]:
    """What `from_pretrained` must be told so that the base gets a head of the right size."""
    config, labels = revived.host.config, revived.meta["labels"]
    found = {"num_labels": len(labels)} if labels else {}
    if labels and task_type(revived.host) == "SEQ_CLS" and getattr(config, "pad_token_id", None) is not None:
        found["pad_token_id"] = config.pad_token_id
    return found


def refusal(revived: Revived) -> str:
    """Why this adapter has no peft folder; empty if it has one."""
    adapter, host = revived.adapter, revived.host
    if adapter.method.engine == "peft":
        return ""
    if adapter.method.peft is None:
        return f"peft has no method like {adapter.key}"
    shared = next((s for s in adapter.sites if s.rows is not None), None)
    if shared is not None:
        return f"peft adapts whole modules, and {shared.path} holds {shared.role} beside other roles"
    if adapter.chosen:
        return f"peft cannot store the base tensors that {adapter.key} trains"
    if adapter.method.kind == "token" and task_type(host) is None:
        return "peft's virtual tokens know text models only"
    try:
        adapter.method.peft.config(adapter.cfg, adapter.sites)
    except WorkbenchError as error:
        return str(error).rstrip(".")
    return ""


def write(revived: Revived, work: Path) -> dict[str, Any]:
    """Write the two files; see `refusal`.

    Returns:
        Facts for the manifest: the peft type.
    """
    config, tensors = bridged(revived.adapter) if revived.adapter.method.engine == "peft" else native(revived.adapter)
    write_folder(revived, work, config, tensors)
    return {"peft_type": str(getattr(config["peft_type"], "value", config["peft_type"]))}


def bridged(adapter: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of a method that peft runs."""
    from workbench.kernel.peft_bridge import peft_folder

    return peft_folder(adapter)


def native(adapter: Adapter) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of a native method with a twin."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    twin = adapter.method.peft
    assert twin is not None, "refusal() comes first"
    values = twin.config(adapter.cfg, adapter.sites)
    if adapter.method.kind == "token":
        values |= {"num_transformer_submodules": 1}
    else:
        values["target_modules"] = sorted({s.path for s in adapter.sites})
        if "feedforward_modules" in values or twin.peft_type == "LORA":
            values["fan_in_fan_out"] = all(s.kind == "conv1d" for s in adapter.sites)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[twin.peft_type](**values).to_dict()
    own = adapter.tensors()
    return config, {name: shaped(own[key], site, name) for key, (name, site) in names(adapter).items()}


def names(adapter: Adapter) -> dict[str, tuple[str, Site]]:
    """Our stored tensor -> (its name in a peft file, its site), of a native method with a twin."""
    twin = adapter.method.peft
    assert twin is not None, "refusal() comes first"
    found = {}
    for key, part in adapter.named_parts():
        for own, suffix in twin.tensors.items():
            if part.site.kind == "embedding":
                suffix = suffix.replace("lora_A.weight", "lora_embedding_A").replace("lora_B.weight", "lora_embedding_B")
            name = suffix if adapter.method.kind == "token" else f"{PREFIX}{part.site.path}.{suffix}"
            found[f"{key}.{own}"] = (name, part.site)
    return found


def shaped(tensor: Tensor, site: Site, name: str) -> Tensor:
    """One of our tensors in the shape of peft's; only the factors of a convolution differ."""
    if site.kind == "conv2d" and name.endswith("lora_A.weight"):
        _, channels, height, width = dict(site.tensors)["weight"]
        tensor = tensor.view(-1, channels, height, width)
    elif site.kind == "conv2d" and name.endswith("lora_B.weight"):
        tensor = tensor[:, :, None, None]
    return tensor.detach().cpu().contiguous().clone()


def write_folder(revived: Revived, work: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write config and tensors with the head and everything peft needs to find its way."""
    base, head = revived.meta["base"], list(revived.meta["head"])
    token = revived.adapter.method.kind == "token" and "target_modules" not in config
    above = "base_model." if token else PREFIX  # peft wraps prompt models once, layers twice
    stored = dict(tensors) | {f"{above}{k}": v.detach().cpu().contiguous().clone() for k, v in revived.stored.head.items()}
    facts = {
        **config,
        "base_model_name_or_path": base["source"],
        "revision": base.get("revision"),
        "task_type": task_type(revived.host),
        "modules_to_save": head or None,
        "inference_mode": True,
        "peft_version": version("peft"),
    }
    save_file(stored, work / WEIGHTS, metadata={"format": "pt"})
    plain = json.dumps(facts, indent=2, sort_keys=True, allow_nan=False, default=sorted)  # sets become lists
    (work / CONFIG).write_text(plain + "\n", encoding="utf-8")


def usage(revived: Revived) -> str:
    """How to load the folder without this project."""
    options = "".join(f", {k}={v!r}" for k, v in settings(revived).items())
    auto = "AutoModel" + head_class(revived.host)
    return (
        f"from peft import PeftModel\nfrom transformers import {auto}\n\n"
        f"base = {auto}.from_pretrained({revived.meta['base']['source']!r}{options})\n"
        'model = PeftModel.from_pretrained(base, ".").eval()\n'
    )
