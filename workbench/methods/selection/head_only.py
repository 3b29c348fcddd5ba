"""Head only: the base stays as it is, the task's head is trained on its features.

    y = head(f(x))      f frozen, nothing added to it

The lower reference: what the pretrained features are worth without adaptation. For a task without a head (causal_lm)
this is the zero-shot baseline: nothing is trained at all.

Parameters per model: none; the head is counted apart.
"""

from collections.abc import Iterable

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import SelectPart


class HeadOnlyConfig(Placement):
    """Head only has no options."""


class HeadOnly(SelectPart):
    """See the module's docstring."""

    Config, tiny = HeadOnlyConfig, HeadOnlyConfig()
    paper = Paper("Alain and Bengio, 2016", "https://arxiv.org/abs/1610.01644")
    default_lr = (2e-2, "better than 5e-3 on bundled/minilm (validation, 78 steps)")

    @classmethod
    def selects(cls, cfg: HeadOnlyConfig, site: Site) -> Iterable[str]:
        return ()
