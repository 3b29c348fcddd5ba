"""Prompt tuning: trained vectors stand before the embedded input, everything else is frozen.

    h_0 = [P ; E(x)]      P: (n, d), rows drawn from the vocabulary E, or ~ N(0, sigma^2) with sigma the spread of E

The vectors take part in every layer like words, but never reach the logits of a language model. In images they stand
between class token and patches (shallow visual prompt tuning). A text classifier that reads the first position reads the
first virtual token, as in peft. Where positions are limited, the text may be n tokens shorter.

Parameters per model: n d.

Deviates from the paper: Lester et al. let T5 write the label as text; a classifier here has the task's head.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, PeftTwin, Placement, Site
from workbench.kernel.contract import Context, Port, TokenPart


class PromptTuningConfig(Placement):
    """Options of prompt tuning."""

    n_tokens: int = Field(20, ge=1, le=1024, description="Number of virtual tokens n.")
    init: Literal["vocabulary", "normal"] = Field(
        "vocabulary", description="Start from random rows of the token embedding, or from normal noise of the same spread."
    )


def _twin(cfg: PromptTuningConfig, sites: list[Site]) -> dict:
    layers, heads, _ = sites[0].keys_values
    return {"num_virtual_tokens": cfg.n_tokens, "token_dim": sites[0].d_out, "num_layers": layers, "num_attention_heads": heads}


class PromptTuning(TokenPart):
    """See the module's docstring."""

    Config, tiny = PromptTuningConfig, PromptTuningConfig(n_tokens=4)
    roles = ("model.in",)
    paper = Paper("Lester et al., 2021", "https://arxiv.org/abs/2104.08691")
    default_lr = (1e-1, "better than 1e-2 on bundled/minilm (validation, 78 steps); the paper's 0.3 is for Adafactor")
    peft = PeftTwin("PROMPT_TUNING", _twin, {"P": "prompt_embeddings"})

    def __init__(self, cfg: PromptTuningConfig, port: Port, site: Site, gen: torch.Generator, embedding: Tensor | None) -> None:
        super().__init__(cfg, port, site, gen, embedding)
        if embedding is not None and cfg.init == "vocabulary":
            start = embedding[torch.randint(len(embedding), (cfg.n_tokens,), generator=gen).to(embedding.device)]
        else:
            noise = torch.randn(cfg.n_tokens, port.hidden, generator=gen)
            start = 0.02 * noise if embedding is None else embedding.std() * noise.to(embedding.device)
        self.P = nn.Parameter(start.clone())  # (n, d)

    def tokens(self, ctx: Context) -> Tensor:
        return self.P

    @staticmethod
    def n_params(cfg: PromptTuningConfig, sites: list[Site]) -> int:
        return sum(cfg.n_tokens * s.d_out for s in sites)
