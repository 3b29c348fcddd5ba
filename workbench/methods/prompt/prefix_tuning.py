"""Prefix tuning: trained keys and values stand before every layer's own, so every token attends to them.

    attention(q, [P_k ; K], [P_v ; V])      P_k, P_v: (n, h d_h) in each of L layers, ~ N(0, 0.02^2)
    with a projection: all P_k, P_v = W_2 tanh(W_1 E + b_1) + b_2      E: (n, h d_h), W_1: (w, h d_h), W_2: (2 L h d_h, w)

h heads of width d_h hold keys and values. Near-zero keys and values take their share of every attention, so a new adapter
is not the base, the less so the shorter the text; where positions are absolute the text's begin behind the prefix. The
projection, which Li and Liang need for stable training, computes the same keys and values from fewer ones. P-tuning v2 is
the plain form on classifiers.

Parameters per model: 2 n L h d_h; with a projection n h d_h + w (h d_h + 1) + 2 L h d_h (w + 1).

Deviates from the paper: the projection is off in the default, as in peft, and on in the preset projected_prefix.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper, PeftTwin, Placement, Preset, Site
from workbench.kernel.contract import Context, Port, TokenPart


class PrefixTuningConfig(Placement):
    """Options of prefix tuning."""

    n_tokens: int = Field(20, ge=1, le=1024, description="Number n of virtual keys and values in each layer.")
    prefix_projection: bool = Field(False, description="Compute keys and values with a trained two-layer network.")
    projection_width: int = Field(512, ge=1, le=65536, description="Hidden width w of that network.")


def _twin(cfg: PrefixTuningConfig, sites: list[Site]) -> dict:
    if cfg.prefix_projection:
        raise WorkbenchError("a peft folder holds plain keys and values; got prefix_projection, so export a bundle instead.")
    layers, heads, width = sites[0].keys_values
    return {"num_virtual_tokens": cfg.n_tokens, "token_dim": heads * width, "num_layers": layers, "num_attention_heads": heads}


class PrefixTuning(TokenPart):
    """See the module's docstring."""

    Config, tiny = PrefixTuningConfig, PrefixTuningConfig(n_tokens=4, projection_width=16)
    where = "layers"
    roles = ("model.in",)
    paper = Paper("Li and Liang, 2021", "https://arxiv.org/abs/2101.00190")
    default_lr = (3e-2, "better than 1e-2 on bundled/minilm (validation, 78 steps); Li and Liang use 5e-5 and train far longer")
    presets = {
        "p_tuning_v2": Preset(
            {"prefix_projection": False},
            "P-tuning v2: prefixes in every layer of a classifier, without a projection.",
            Paper("Liu et al., 2021", "https://arxiv.org/abs/2110.07602"),
        ),
        "projected_prefix": Preset(
            {"prefix_projection": True}, "Prefix tuning as published: a network computes the keys and values."
        ),
    }
    peft = PeftTwin("PREFIX_TUNING", _twin, {"P": "prompt_embeddings"})

    def __init__(self, cfg: PrefixTuningConfig, port: Port, site: Site, gen: torch.Generator, embedding: Tensor | None) -> None:
        super().__init__(cfg, port, site, gen, embedding)
        width, everything = port.kv_heads * port.head_dim, 2 * port.layers * port.kv_heads * port.head_dim

        def noise(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.02 * torch.randn(*shape, generator=gen))

        if cfg.prefix_projection:
            w = cfg.projection_width
            self.E, self.W1, self.W2 = noise(cfg.n_tokens, width), noise(w, width), noise(everything, w)
            self.b1, self.b2 = nn.Parameter(torch.zeros(w)), nn.Parameter(torch.zeros(everything))
        else:
            self.P = noise(cfg.n_tokens, everything)  # (n, layer x (key, value) x head x width)

    def keys_values(self, ctx: Context) -> tuple[Tensor, Tensor]:
        if self.cfg.prefix_projection:
            flat = nn.functional.linear(torch.tanh(nn.functional.linear(self.E, self.W1, self.b1)), self.W2, self.b2)
        else:
            flat = self.P
        both = flat.view(-1, self.port.layers, 2, self.port.kv_heads, self.port.head_dim).transpose(0, 1)  # (L, n, 2, h, d_h)
        return both[:, :, 0], both[:, :, 1]

    @staticmethod
    def n_params(cfg: PrefixTuningConfig, sites: list[Site]) -> int:
        layers, heads, head = sites[0].keys_values
        one, w = heads * head, cfg.projection_width
        if not cfg.prefix_projection:
            return 2 * cfg.n_tokens * layers * one
        return cfg.n_tokens * one + w * (one + 1) + 2 * layers * one * (w + 1)
