"""AdaLoRA: a low-rank change in singular-value form whose rank budget moves to the sites that need it.

    W' = W + (alpha / r) B diag(E) A      A: (r, d_in), B: (d_out, r) ~ N(0, 0.02^2),  E: (r,) = 0
    loss + w mean_sites( |A A^T - I|_F , |B^T B - I|_F )

Every entry of E with its row of A and its column of B is one triplet. After each step the triplets are scored by smoothed
sensitivity |theta grad| times its uncertainty, and the worst are set to zero over the whole model, on a cubic schedule from
`rank` per site on average down to `target_rank`. A penalty keeps A and B near orthogonal, so that E acts like singular values.

Parameters per site: r (d_in + d_out + 1); after training all but about target_rank / r of E is zero.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class AdaLoRAConfig(Placement):
    """Options of AdaLoRA."""

    rank: int = Field(12, ge=2, le=1024, description="Rank of every site at the start.")
    target_rank: int = Field(8, ge=1, le=1023, description="Average rank per site at the end; must be below rank.")
    alpha: float = Field(32.0, gt=0, le=4096, description="Scale: the change is multiplied by alpha / rank.")
    orthogonality: float = Field(0.1, ge=0, le=10, description="Weight of the orthogonality penalty in the loss.")
    warmup: float = Field(0.1, ge=0, le=0.9, description="Share of the steps before the first cut.")
    final: float = Field(0.3, ge=0, le=0.9, description="Share of the steps after the last cut.")
    every: int = Field(1, ge=1, le=1000, description="Steps between two cuts.")


class AdaLoRA(Bridged):
    """See the module's docstring."""

    Config, tiny = AdaLoRAConfig, AdaLoRAConfig(rank=6, target_rank=5)
    peft_type, kinds = "ADALORA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("Zhang et al., 2023", "https://arxiv.org/abs/2303.10512")
    default_lr = (2e-3, "as LoRA's; the paper uses 5e-4 to 2e-3 on GLUE")

    @classmethod
    def peft_config(cls, cfg: AdaLoRAConfig, sites: list[Site]) -> dict[str, Any]:
        # the number of steps is known only when training starts: `on_step` sets the schedule
        return {
            "init_r": cfg.rank,
            "target_r": cfg.target_rank,
            "lora_alpha": cfg.alpha,
            "orth_reg_weight": cfg.orthogonality,
            "deltaT": cfg.every,
            "total_step": 10**9,
        }

    @classmethod
    def problem(cls, cfg: AdaLoRAConfig, sites: list[Site]) -> str:
        if cfg.target_rank >= cfg.rank:
            return f"adalora needs a target_rank below rank; got target_rank {cfg.target_rank} and rank {cfg.rank}."
        if cfg.warmup + cfg.final >= 1:
            return f"adalora needs steps between warmup and final; their shares {cfg.warmup} and {cfg.final} leave none."
        return super().problem(cfg, sites)

    @classmethod
    def on_step(cls, tuner: Any, cfg: AdaLoRAConfig, step: int, steps: int) -> None:
        plan = tuner.peft_config[tuner.trainable_adapter_name]
        plan.total_step, plan.tinit, plan.tfinal = steps, int(cfg.warmup * steps), int(cfg.final * steps)
        if plan.tinit < steps - plan.tfinal:
            tuner.update_and_allocate(step)

    @classmethod
    def penalty(cls, tuner: Any, cfg: AdaLoRAConfig) -> Tensor | None:
        terms = []
        for name, p in tuner.model.named_parameters():
            if "parametrizations" in name:
                raise WorkbenchError("adalora prunes its own tensors while it trains and takes no modifier; leave modifiers out.")
            if ".lora_A." in name or ".lora_B." in name:
                gram = p @ p.T if ".lora_A." in name else p.T @ p
                terms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
        return cfg.orthogonality * torch.stack(terms).mean()

    @classmethod
    def progress(cls, tuner: Any) -> dict[str, Tensor]:
        ranks = tuner.rankallocator
        tables = {"ipt": ranks.ipt, "mean": ranks.exp_avg_ipt, "spread": ranks.exp_avg_unc}
        pattern = tuner.peft_config[tuner.trainable_adapter_name].rank_pattern or {}
        kept = {name: torch.tensor(mask) for name, mask in pattern.items()}
        return {f"{word}/{name}": t for word, table in {**tables, "kept": kept}.items() for name, t in table.items()}

    @classmethod
    def resume(cls, tuner: Any, tensors: dict[str, Tensor]) -> None:
        ranks = tuner.rankallocator
        tables: dict[str, dict[str, Any]] = {"ipt": {}, "mean": {}, "spread": {}, "kept": {}}
        for key, tensor in tensors.items():
            word, _, name = key.partition("/")
            tables[word][name] = tensor
        ranks.ipt, ranks.exp_avg_ipt, ranks.exp_avg_unc = tables["ipt"], tables["mean"], tables["spread"]
        plan = tuner.peft_config[tuner.trainable_adapter_name]
        plan.rank_pattern = {name: mask.tolist() for name, mask in tables["kept"].items()} or None

    @staticmethod
    def n_params(cfg: AdaLoRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out + 1) for s in sites)
