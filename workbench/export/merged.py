"""A whole model: the adapter is written into the base weights in fp32, which are then cast back to the base's own dtypes."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.evaluate.saved import Revived
from workbench.export.peft import head_class
from workbench.kernel.host import adapters_of

BESIDE = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json"),
    *("merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json"),
    *("preprocessor_config.json", "processor_config.json"),
)
"""Files of the base that go with its weights."""


def refusal(revived: Revived) -> str:
    """Why no weights equal the adapted model; empty if some do."""
    method = revived.adapter.method
    if not method.mergeable(revived.adapter.cfg):
        return f"{revived.adapter.key} cannot be merged: {method.not_mergeable or 'not in this configuration'}"
    if method.kind == "select":
        return ""
    from workbench.kernel.attach import holders

    for site in revived.adapter.sites:
        weight = revived.host.get_submodule(site.path)._parameters.get("weight")
        where = [] if weight is None else holders(revived.host, weight)
        if len(where) > 1:
            return f"{site.path} shares its weight with another module, and a merge would change that one too"
    return ""


def both(revived: Revived) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every base tensor without and with the adapter, by name; the host is left as it was."""
    adapters = adapters_of(revived.host)

    def tensors() -> dict[str, Tensor]:
        return {n: p.detach() for n, p in revived.host.named_parameters() if not n.startswith("workbench.")}

    with adapters.only({}):
        before = tensors()
    adapters.merge()
    after = tensors()
    adapters.unmerge()
    return before, after


def write(revived: Revived, work: Path) -> dict[str, Any]:
    """Merge, cast back and save model, tokenizer or processor; the adapter is gone from the host afterwards.

    Returns:
        Facts for the manifest: the dtype.
    """
    host, adapters = revived.host, adapters_of(revived.host)
    adapters.merge()
    state = {n: t.detach().clone() for n, t in host.state_dict().items() if not n.startswith("workbench.")}
    adapters.release()
    if state.keys() != host.state_dict().keys():
        raise WorkbenchError(
            "a merged model must hold the base's own tensors and nothing else; this adapter left more: export a bundle."
        )
    host.load_state_dict(state)
    for name, tensor in [*host.named_parameters(), *host.named_buffers()]:
        tensor.data = tensor.data.to(revived.dtypes.get(name, tensor.dtype))
    kinds = {str(t.dtype).removeprefix("torch.") for t in host.state_dict().values() if t.is_floating_point()}
    host.config.dtype = host.dtype  # type: ignore[union-attr]
    host.save_pretrained(work)  # type: ignore[operator]
    for name in BESIDE:
        if (revived.base / name).is_file():
            shutil.copyfile(revived.base / name, work / name)
    return {"dtype": "+".join(sorted(kinds))}


def is_exact(revived: Revived) -> bool:
    """Whether casting back rounds nothing: the base is in fp32."""
    return all(d == torch.float32 for d in revived.dtypes.values() if d.is_floating_point)


def usage(revived: Revived) -> str:
    """How to load the folder without this project."""
    auto = "AutoModel" + head_class(revived.host)
    return f'from transformers import {auto}\n\nmodel = {auto}.from_pretrained(".").eval()\n'
