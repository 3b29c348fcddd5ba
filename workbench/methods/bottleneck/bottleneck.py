"""Bottleneck adapter: a small two-layer network is added inside every block.

    y' = y + s (U f(D z + b_D) + b_U)
    serial: z = y, the sublayer's output before the residual add;  parallel: z = x, the sublayer's input
    D: (m, d),  U: (d, m),  b_D = 0, b_U = 0;  f = gelu | relu | silu | tanh | identity

`init: normal` draws D and U from a normal of `init_std` cut at two deviations, so the start is near the base but not
the base; `init: lora` draws D ~ U(-1/sqrt(d), 1/sqrt(d)) and sets U = 0: exactly the base. `layer_norm` normalises
the adapter's input. The defaults are Houlsby's: after attention and feed-forward, every LayerNorm of the base trained
too. At a linear role (`roles: [ffn.down]`) the same network sits at that layer, as in LLM-Adapters.

Parameters per site: m (d_in + d_out), + m + d_out for biases, + 2 d_in with layer_norm, + 1 with a learned scale.

Deviates from the paper: `houlsby_adapter` none (std 1e-3 as in the authors' code; the text says 1e-2). `pfeiffer_adapter`
reads the feed-forward output itself and adds to it; the authors' code reads it after a first residual add and LayerNorm.
`parallel_adapter` reads what the sublayer reads, in pre-norm models the normalised input.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import ActivationPart, Composite, Context, Slot

ACTIVATIONS = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}
_LORA_LIKE = {"init": "lora", "train_norms": False}
SUBLAYERS = {"both": ("attn.block", "ffn.block"), "ffn": ("ffn.block",)}


class BottleneckConfig(Placement):
    """Options of a bottleneck adapter; the defaults are Houlsby's."""

    bottleneck: int = Field(64, ge=1, le=8192, description="Width m of the bottleneck.")
    activation: Literal["gelu", "relu", "silu", "tanh", "identity"] = Field("gelu", description="Non-linearity f; silu = swish.")
    position: Literal["serial", "parallel"] = Field("serial", description="Read the sublayer's output, or its input (parallel).")
    sublayers: Literal["both", "ffn"] = Field("both", description="After attention and feed-forward, or after feed-forward only.")
    scale: float = Field(1.0, gt=0, le=1000, description="Factor s on what the adapter adds.")
    learned_scale: bool = Field(False, description="Train s, starting at `scale`.")
    layer_norm: bool = Field(False, description="Normalise the adapter's input by a LayerNorm of its own.")
    bias: bool = Field(True, description="Whether both projections have a bias.")
    init: Literal["normal", "lora"] = Field("normal", description="normal: both small; lora: the up projection starts at zero.")
    init_std: float = Field(1e-3, gt=0, le=1, description="Standard deviation of `init: normal`.")
    train_norms: bool = Field(True, description="Also train every normalisation layer of the base (Houlsby does).")


class BottleneckPart(ActivationPart):
    """One adapter at one place."""

    def __init__(self, cfg: BottleneckConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor | None) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        d_in = _width(cfg, site)
        self.D = nn.Parameter(torch.empty(cfg.bottleneck, d_in))  # (m, d_in)
        self.U = nn.Parameter(torch.zeros(site.d_out, cfg.bottleneck))  # (d_out, m)
        self.b_D = nn.Parameter(torch.zeros(cfg.bottleneck)) if cfg.bias else None
        self.b_U = nn.Parameter(torch.zeros(site.d_out)) if cfg.bias else None
        self.norm = nn.LayerNorm(d_in) if cfg.layer_norm else None
        self.s = nn.Parameter(torch.tensor(cfg.scale)) if cfg.learned_scale else cfg.scale
        if cfg.init == "lora":
            nn.init.kaiming_uniform_(self.D, a=math.sqrt(5), generator=gen)
        else:
            for tensor in (self.D, self.U):
                nn.init.trunc_normal_(tensor, std=cfg.init_std, a=-2 * cfg.init_std, b=2 * cfg.init_std, generator=gen)

    def edit(self, h: Tensor, x: Tensor, ctx: Context) -> Tensor:
        z = h if self.cfg.position == "serial" else x
        z = z if self.norm is None else self.norm(z)
        low = ACTIVATIONS[self.cfg.activation](nn.functional.linear(z, self.D, self.b_D))
        return h + self.s * nn.functional.linear(low, self.U, self.b_U)


class Bottleneck(Composite):
    """See the module's docstring."""

    Config, tiny = BottleneckConfig, BottleneckConfig(bottleneck=4, init_std=0.1)
    paper = Paper("Houlsby et al., 2019", "https://arxiv.org/abs/1902.00751", 1)
    default_lr = (3e-3, "better than 1e-3 on bundled/minilm (validation, 78 steps); Houlsby et al. sweep 3e-5 to 3e-3")
    identity_at_init = False
    not_mergeable = "its non-linearity makes no single weight equal the adapted module"
    presets = {
        "houlsby_adapter": Preset(
            {},
            "Houlsby adapter: serial, after attention and feed-forward, every LayerNorm trained.",
            Paper("Houlsby et al., 2019", "https://arxiv.org/abs/1902.00751", 1),
        ),
        "pfeiffer_adapter": Preset(
            {"bottleneck": 48, "activation": "relu", "sublayers": "ffn", "init_std": 0.02, "train_norms": False},
            "Pfeiffer adapter: serial, after feed-forward only; 48 = 768 / 16.",
            Paper("Pfeiffer et al., 2020", "https://arxiv.org/abs/2005.00247"),
        ),
        "parallel_adapter": Preset(
            {"bottleneck": 512, "activation": "relu", "position": "parallel", "sublayers": "ffn", "scale": 4.0, **_LORA_LIKE},
            "Scaled parallel adapter: beside the feed-forward sublayer, scale 4.",
            Paper("He et al., 2021", "https://arxiv.org/abs/2110.04366"),
        ),
        "llm_series_adapter": Preset(
            {"bottleneck": 256, "activation": "tanh", "bias": False, "roles": ("ffn.down",), **_LORA_LIKE},
            "LLM-Adapters, series: at the output of the down projection.",
            Paper("Hu et al., 2023", "https://arxiv.org/abs/2304.01933", 55),
        ),
        "llm_parallel_adapter": Preset(
            {
                "bottleneck": 256,
                "activation": "tanh",
                "bias": False,
                "position": "parallel",
                "roles": ("ffn.up", "ffn.down"),
                **_LORA_LIKE,
            },
            "LLM-Adapters, parallel: beside the up and the down projection.",
            Paper("Hu et al., 2023", "https://arxiv.org/abs/2304.01933", 55),
        ),
    }

    @classmethod
    def parts(cls, cfg: BottleneckConfig) -> list[Slot]:
        return [Slot(BottleneckPart, SUBLAYERS[cfg.sublayers])]

    @classmethod
    def also_trains(cls, cfg: BottleneckConfig) -> tuple[str, ...]:
        return ("norms",) if cfg.train_norms else ()

    @classmethod
    def starts_as_base(cls, cfg: BottleneckConfig) -> bool:
        return cfg.init == "lora"

    @staticmethod
    def n_params(cfg: BottleneckConfig, sites: list[Site]) -> int:
        return sum(
            cfg.bottleneck * (_width(cfg, s) + s.d_out)
            + cfg.bias * (cfg.bottleneck + s.d_out)
            + cfg.layer_norm * 2 * _width(cfg, s)
            + cfg.learned_scale
            for s in sites
        )


def _width(cfg: BottleneckConfig, site: Site) -> int:
    """Width of what the adapter reads."""
    return site.d_out if cfg.position == "serial" else site.d_in
