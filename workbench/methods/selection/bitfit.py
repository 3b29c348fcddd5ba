"""BitFit: every bias of the base is trained, and nothing else of it.

    y = W x + b'      W frozen,  b' = b + delta,  delta = 0 at the start

Biases of linear layers, convolutions and normalisation layers all count. The preset `bitfit_subset` trains only the
biases of the queries and of the first feed-forward layer. A base without biases (LLaMA and its descendants) has
nothing to train and is refused.

Parameters per model: none new; every bias of the base at the chosen places.
"""

from collections.abc import Iterable

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import SelectPart


class BitFitConfig(Placement):
    """Options of BitFit: only where (roles, depths)."""


class BitFit(SelectPart):
    """See the module's docstring."""

    Config, tiny = BitFitConfig, BitFitConfig()
    paper = Paper("Ben Zaken et al., 2021", "https://arxiv.org/abs/2106.10199")
    default_lr = (
        1e-2,
        "best of 1e-3, 3e-3 and 1e-2 on bundled/minilm (validation, 63 steps, 2 seeds); the authors search 1e-4 to 1e-3 for BERT",
    )
    presets = {"bitfit_subset": Preset({"roles": ("attn.q", "ffn.up")}, "BitFit on query and first feed-forward biases only.")}

    @classmethod
    def selects(cls, cfg: BitFitConfig, site: Site) -> Iterable[str]:
        return [name for name, _ in site.tensors if name == "bias" or name.endswith("_bias")]

    @classmethod
    def problem(cls, cfg: BitFitConfig, sites: list[Site]) -> str:
        if any(cls.selects(cfg, site) for site in sites):
            return ""
        return "bitfit trains biases, and this base model has no bias at the chosen places; use norm_tuning or ia3 there."
