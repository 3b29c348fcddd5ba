"""LoRA with one trained factor: the other one stays what it was drawn to be.

    W' = W + s B A      A: (r, d_in),  B: (d_out, r),  s = alpha / r,  `trains` says which of them moves
    rand: the rows (A) or columns (B) are orthonormal, drawn at random
    V, U: A = the r leading right singular vectors of W as rows,  B = its r leading left ones as columns
    he:   ~ U(-1/sqrt(n), 1/sqrt(n)),  n = d_in for A, r for B

A reads features off the input and B writes with them. Random features serve nearly as well as trained ones, random outputs do
not, so the default draws A once and trains B from zero; with the parameters saved, r can double. A factor at zero makes the
start exactly the base. The default places are LoRA's; the paper adapts attn.q, attn.k and attn.v.

Parameters per site: r d_out (B), r d_in (A), or both.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, PeftTwin, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart


class LoRAAsymConfig(Placement):
    """Options of LoRA with one trained factor."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the change.")
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale: the change is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A while training.")
    trains: Literal["A", "B", "both"] = Field("B", description="The factor that trains; the other one stays as it starts.")
    a_init: Literal["rand", "V", "he", "zero"] = Field(
        "rand", description="Start of A: orthonormal, from the weight, LoRA's, zero."
    )
    b_init: Literal["rand", "U", "he", "zero"] = Field(
        "zero", description="Start of B: orthonormal, from the weight, LoRA's, zero."
    )


FASTER = (2e-2, "best of 5e-3, 2e-2 and 5e-2 on bundled/minilm (validation, 76 steps of 32)")


class LoRAAsym(WeightPart):
    """See the module's docstring."""

    Config, tiny = LoRAAsymConfig, LoRAAsymConfig(rank=4)
    roles = ("attn.q", "attn.v")
    paper = Paper("Zhu et al., 2024", "https://arxiv.org/abs/2402.16842", 67)
    default_lr = (
        1e-2,
        "best of 5e-3, 1e-2 and 2e-2 on bundled/minilm (validation, 63 steps); 2e-2 diverges at rank 16; the paper: 4e-4",
    )
    presets = {
        "lora_asym_a": Preset(
            {"trains": "A", "a_init": "zero", "b_init": "rand"},
            "The mirror: B is drawn at random and A trains.",
            default_lr=(2e-2, "best of 5e-3, 2e-2 and 5e-2 on bundled/minilm (validation, 63 steps)"),
        ),
        "lora_asym_v": Preset(
            {"a_init": "V"}, "A is frozen at the weight's leading right singular vectors, and B trains.", default_lr=FASTER
        ),
        "lora_fa": Preset(
            {"a_init": "he"},
            "LoRA-FA: LoRA with A frozen as LoRA draws it.",
            Paper("Zhang et al., 2023", "https://arxiv.org/abs/2308.03303"),
            FASTER,
        ),
    }
    peft = PeftTwin(
        "LORA",
        lambda cfg, sites: {"r": cfg.rank, "lora_alpha": cfg.alpha, "lora_dropout": cfg.dropout},
        {"A": "lora_A.weight", "B": "lora_B.weight"},
    )
    reads_weight = False

    def __init__(self, cfg: LoRAAsymConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        A, B = started(cfg.a_init, (cfg.rank, site.d_in), weight, gen), started(cfg.b_init, (site.d_out, cfg.rank), weight, gen)
        self.A = nn.Buffer(A) if cfg.trains == "B" else nn.Parameter(A)
        self.B = nn.Buffer(B) if cfg.trains == "A" else nn.Parameter(B)
        self.scale = cfg.alpha / cfg.rank

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self.scale * (self.B @ self.A)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        x = nn.functional.dropout(x, self.cfg.dropout, self.training)
        return self.scale * nn.functional.linear(nn.functional.linear(x, self.A), self.B)

    @classmethod
    def starts_as_base(cls, cfg: LoRAAsymConfig) -> bool:
        return "zero" in (cfg.a_init, cfg.b_init)

    @classmethod
    def problem(cls, cfg: LoRAAsymConfig, sites: list[Site]) -> str:
        """Nothing could ever move, or there are no r orthonormal directions."""
        narrow = min(min(s.shape) for s in sites)
        if cfg.rank > narrow:
            return f"a weight has as many orthonormal directions as its narrowest side, here {narrow}; got rank {cfg.rank}."
        still = {"A": cfg.b_init, "B": cfg.a_init, "both": cfg.b_init if cfg.a_init == "zero" else ""}[cfg.trains]
        return (
            "a change stays zero while a factor that is not trained is; let a_init or b_init differ from zero."
            if still == "zero"
            else ""
        )

    @staticmethod
    def n_params(cfg: LoRAAsymConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in * (cfg.trains != "B") + s.d_out * (cfg.trains != "A")) for s in sites)


def started(init: str, shape: tuple[int, int], weight: Tensor, gen: torch.Generator) -> Tensor:
    """The first values of a factor, (r, d_in) or (d_out, r), as the module's docstring says."""
    match init:
        case "rand":
            return nn.init.orthogonal_(torch.empty(shape), generator=gen)
        case "he":
            return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=gen)
        case "V":
            return torch.linalg.svd(weight, full_matrices=False)[2][: shape[0]].clone()
        case "U":
            return torch.linalg.svd(weight, full_matrices=False)[0][:, : shape[1]].clone()
    return torch.zeros(shape)
