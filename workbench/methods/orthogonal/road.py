"""RoAd: pairs of a layer's outputs are rotated and scaled.

    y' = R (W x + bias),   R: 2 x 2 blocks [[a cos t, -a sin t], [a sin t, a cos t]]      a = 1, t = 0

Output j of a group of g is paired with output j + g/2. RoAd_1 has one angle and one scale per pair; RoAd_2 one per output,
RoAd_4 one per entry of the block, so that it is no rotation any more. Applied as elementwise products, so that examples of one
batch can each use their own adapter at no extra cost. With `half`, only every other pair trains and the rest stays the
identity: an adapter of each half, trained for different tasks, act together without meeting when both are active.

Parameters per site: d_out; 2 d_out with RoAd_2, 4 d_out with RoAd_4; half of that with `half`.

Deviates from the paper, which does not say which pairs are whose: even and odd ones here. The resting entries are put back
after every step, so that they still count in a clipped gradient norm.
"""

from typing import Any, Literal

import torch
from pydantic import Field

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.bridged import Bridged


class RoAdConfig(Placement):
    """Options of RoAd."""

    variant: Literal["road_1", "road_2", "road_4"] = Field("road_1", description="One angle per pair, per output, or per entry.")
    half: Literal["first", "second"] | None = Field(None, description="Which half of the pairs trains; none named: all.")
    group: int = Field(64, ge=2, le=8192, multiple_of=2, description="Outputs g in a group; it divides every output width.")


class RoAd(Bridged):
    """See the module's docstring."""

    Config, tiny = RoAdConfig, RoAdConfig(group=8)
    peft_type = "ROAD"
    roles = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.gate", "ffn.down")
    paper = Paper("Liao and Monz, 2024", "https://arxiv.org/abs/2409.00119", 63)
    default_lr = (9e-3, "best of 1e-3, 3e-3 and 9e-3 on bundled/minilm (validation, 63 steps, 2 seeds); the highest tried")
    presets = {
        "road_2": Preset({"variant": "road_2"}, "RoAd_2: an angle and a scale per output."),
        "road_4": Preset({"variant": "road_4"}, "RoAd_4: an angle and a scale per entry of every 2 x 2 block."),
    }

    @classmethod
    def peft_config(cls, cfg: RoAdConfig, sites: list[Site]) -> dict[str, Any]:
        return {"variant": cfg.variant, "group_size": cfg.group}

    @classmethod
    def misfit(cls, cfg: RoAdConfig, site: Site) -> str:
        return f"an output that group = {cfg.group} divides" if site.d_out % cfg.group else ""

    @classmethod
    def problem(cls, cfg: RoAdConfig, sites: list[Site]) -> str:
        if cfg.half and cfg.group % 4:
            return (
                f"half needs groups of an even number of pairs; group = {cfg.group} has {cfg.group // 2}: take a multiple of 4."
            )
        return super().problem(cfg, sites)

    @classmethod
    def in_use(cls, cfg: RoAdConfig, site: Site) -> int | None:
        return cls.n_params(cfg, [site]) if cfg.half else None

    @classmethod
    @torch.no_grad()
    def on_step(cls, tuner: Any, cfg: RoAdConfig, step: int, steps: int) -> None:
        if cfg.half:
            rest = 1 if cfg.half == "first" else 0  # entries lie pair by pair, in rows of half a group: g/2 is even
            for name, param in tuner.named_parameters():
                if "road_theta" in name or "road_alpha" in name:
                    param[rest::2] = 1.0 if "road_alpha" in name else 0.0

    @staticmethod
    def n_params(cfg: RoAdConfig, sites: list[Site]) -> int:
        return sum(int(cfg.variant[-1]) * s.d_out for s in sites) // (2 if cfg.half else 1)
