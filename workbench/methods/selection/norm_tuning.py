"""Norm tuning: the gains (and shifts) of the base's normalisation layers are trained, and nothing else of it.

    y = (gamma + delta_gamma) * norm(x) + (beta + delta_beta)      both deltas 0 at the start

LayerNorm has a gain and a shift, RMSNorm a gain only. Everything that a normalisation layer holds is trained, the
one after the embeddings and the final one included.

Parameters per model: none new; the tensors of the base's normalisation layers (LayerNorm 2 d, RMSNorm d each).
"""

from collections.abc import Iterable

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import SelectPart


class NormTuningConfig(Placement):
    """Options of norm tuning: only where (depths)."""


class NormTuning(SelectPart):
    """See the module's docstring."""

    Config, tiny = NormTuningConfig, NormTuningConfig()
    roles = ("norms",)
    paper = Paper("Zhao et al., 2023", "https://arxiv.org/abs/2312.11420")
    default_lr = (1e-2, "better than 3e-3 on bundled/minilm (validation, 78 steps)")

    @classmethod
    def selects(cls, cfg: NormTuningConfig, site: Site) -> Iterable[str]:
        return [name for name, _ in site.tensors] if site.role == "norms" else []

    @classmethod
    def problem(cls, cfg: NormTuningConfig, sites: list[Site]) -> str:
        if any(cls.selects(cfg, site) for site in sites):
            return ""
        return f"norm_tuning trains the role norms; got {', '.join(sorted({s.role for s in sites}))}; leave roles empty."
