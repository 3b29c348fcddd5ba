"""Full fine-tuning: every tensor of the base is trained.

    theta' = theta + delta      delta unrestricted, delta = 0 at the start

The upper reference of every comparison in quality and in cost. The adapter is a whole copy of the base.

Parameters per model: none new; every tensor of the base.
"""

from collections.abc import Iterable

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import SelectPart


class FullConfig(Placement):
    """Options of full fine-tuning: only where (roles, depths)."""


class Full(SelectPart):
    """See the module's docstring."""

    Config, tiny = FullConfig, FullConfig()
    paper = Paper("Devlin et al., 2018", "https://arxiv.org/abs/1810.04805")
    default_lr = (2e-4, "between 1e-4 and 3e-4, the better on bundled/minilm; bundled/vit takes no more; BERT uses 2e-5 to 5e-5")

    @classmethod
    def selects(cls, cfg: FullConfig, site: Site) -> Iterable[str]:
        return [name for name, _ in site.tensors]
