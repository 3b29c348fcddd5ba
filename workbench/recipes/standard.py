"""Standard: minimise the task's loss with AdamW, one phase.

    theta <- AdamW(theta, grad L_task)

What every method gets when the entry names no recipe.
"""

from workbench.core.types import Config
from workbench.recipes.contract import Recipe


class StandardConfig(Config):
    """The standard procedure has no options; `training:` holds them all."""


class Standard(Recipe):
    """See the module's docstring."""

    Config = StandardConfig
