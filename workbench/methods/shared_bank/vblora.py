"""VB-LoRA: both low-rank factors of every site are put together from one shared bank of short vectors.

    W' = W + B A      A: (r, d_in), B: (d_out, r), each cut into pieces of length b
    piece = sum over the k largest logits of softmax(those logits)_j V_j
    V: (h, b) ~ U(-0.02, 0.02), shared;  logits: (h,) ~ N(0, 0.1^2) for every piece

The choice of vectors is made anew in every pass, so it can move while training. The bank learns at a tenth of the logits'
rate, as published. The start is close to the base, not equal to it.

With `stored: top` a file keeps of every piece what the forward pass needs: k numbers of vectors and, because softmax sees
differences only, k - 1 differences to the largest logit. It answers bitwise alike up to rounding, and cannot be trained on.

Parameters per model: h b for the bank; per site h r (d_in + d_out) / b logits.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class VBLoRAConfig(Placement):
    """Options of VB-LoRA."""

    rank: int = Field(4, ge=1, le=1024, description="Rank r of the change.")
    vectors: int = Field(90, ge=2, le=100_000, description="Vectors h in the bank.")
    length: int = Field(64, ge=1, le=8192, description="Length b of a vector; it must divide both widths of every site.")
    top: int = Field(2, ge=1, le=64, description="Vectors k mixed into a piece.")
    bank_rate: float = Field(0.1, gt=0, le=10, description="Learning rate of the bank as a multiple of the logits'.")
    stored: Literal["all", "top"] = Field("all", description="What a file keeps: all logits, or the largest k of each piece.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A while training.")


class VBLoRA(Bridged):
    """See the module's docstring."""

    Config, tiny = VBLoRAConfig, VBLoRAConfig(rank=4, vectors=12, length=8, bank_rate=1.0)
    peft_type, kinds = "VBLORA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    identity_at_init = False
    paper = Paper("Li et al., 2024", "https://arxiv.org/abs/2405.15179", 109)
    default_lr = (1e-1, "better than 3e-2 on bundled/minilm (validation, 76 steps of 32); the paper: 1e-2, its bank 1e-3")

    @classmethod
    def peft_config(cls, cfg: VBLoRAConfig, sites: list[Site]) -> dict[str, Any]:
        bank = {"num_vectors": cfg.vectors, "vector_length": cfg.length, "topk": cfg.top}
        return {"r": cfg.rank, "vblora_dropout": cfg.dropout, **bank}

    @classmethod
    def problem(cls, cfg: VBLoRAConfig, sites: list[Site]) -> str:
        if cfg.top > cfg.vectors:
            return f"vblora needs at least top = {cfg.top} vectors; got {cfg.vectors}."
        return super().problem(cfg, sites)

    @classmethod
    def misfit(cls, cfg: VBLoRAConfig, site: Site) -> str:
        return f"widths that length = {cfg.length} divides" if site.d_in % cfg.length or site.d_out % cfg.length else ""

    @classmethod
    def rate(cls, cfg: VBLoRAConfig, tensor: str) -> float:
        return cfg.bank_rate if "vector_bank" in tensor else 1.0

    @classmethod
    def packed(cls, cfg: VBLoRAConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if cfg.stored == "all":
            return tensors
        held = {name: t for name, t in tensors.items() if "logits" not in name}
        for name in tensors.keys() - held.keys():
            value, at = tensors[name].topk(cfg.top, dim=-1)  # the largest first
            held[f"{name}#at"] = at.to(torch.uint8 if cfg.vectors <= 256 else torch.int32)
            held[f"{name}#below"] = (value[..., 1:] - value[..., :1]).contiguous()
        return held

    @classmethod
    def unpacked(cls, cfg: VBLoRAConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if cfg.stored == "all":
            return tensors
        full = {name: t for name, t in tensors.items() if not name.endswith(("#at", "#below"))}
        for name in (n.removesuffix("#at") for n in tensors if n.endswith("#at")):
            at, below = tensors[f"{name}#at"].long(), tensors.get(f"{name}#below")
            if below is None or at.shape[-1:] != (cfg.top,) or not 0 <= int(at.min()) <= int(at.max()) < cfg.vectors:
                raise WorkbenchError(f"the stored choice {name}#at must name {cfg.top} of {cfg.vectors} vectors; it does not.")
            value = torch.cat([torch.zeros_like(below[..., :1]), below], dim=-1)
            least = float(value.min()) - 1  # whatever is not among the largest: never chosen
            full[name] = torch.full((*at.shape[:-1], cfg.vectors), least, dtype=value.dtype).scatter(-1, at, value)
        return full

    @staticmethod
    def n_params(cfg: VBLoRAConfig, sites: list[Site]) -> int:
        return cfg.vectors * cfg.length + cfg.vectors * sum(cfg.rank * (s.d_in + s.d_out) // cfg.length for s in sites)
