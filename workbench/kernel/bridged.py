"""What a bridged method file says: its maths is peft's, `peft_bridge` runs it."""

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from workbench.core.types import Site
from workbench.kernel.contract import Method


class Bridged(Method):
    """A method whose maths is peft's: this file only describes it; `peft_bridge` runs it."""

    engine = "peft"
    kind = "weight"
    peft_type: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("linear",)
    """How a site may store its weight for peft to take it."""

    @classmethod
    @abstractmethod
    def peft_config(cls, cfg: Any, sites: list[Site]) -> dict[str, Any]:
        """Keyword arguments of peft's config class besides target_modules."""

    @classmethod
    def misfit(cls, cfg: Any, site: Site) -> str:
        """What this configuration demands that `site` does not have, e.g. `a width that 8 divides`; empty if it fits."""
        return ""

    @classmethod
    def problem(cls, cfg: Any, sites: list[Site]) -> str:
        """The first site that peft cannot take, in one sentence."""
        key = cls.__module__.rpartition(".")[2]
        for site in sites:
            if site.rows is not None:
                return f"{key} needs whole modules; {site.path} holds {site.role} beside other roles; name other roles."
            if site.kind not in cls.kinds:
                wanted = " or ".join(cls.kinds)
                return f"{key} needs a {wanted} weight; {site.path} ({site.role}) is stored as {site.kind}; name other roles."
            if demand := cls.misfit(cfg, site):
                return f"{key} needs {demand}; {site.path} ({site.role}) is {site.d_in} wide and gives {site.d_out}."
        return ""

    @classmethod
    def on_step(cls, tuner: Any, cfg: Any, step: int, steps: int) -> None:
        """Tell peft's tuner that optimizer step `step` (from 1) of `steps` is done; gradients are still there."""

    @classmethod
    def penalty(cls, tuner: Any, cfg: Any) -> Tensor | None:
        """A term added to the loss; None for none."""
        return None

    @classmethod
    def rate(cls, cfg: Any, tensor: str) -> float:
        """Learning rate of a tensor, by its name, as a multiple of the adapter's."""
        return 1.0

    @classmethod
    def in_use(cls, cfg: Any, site: Site) -> int | None:
        """Scalars of a site that train, where fewer do than its tensors hold; None for all."""
        return None

    @classmethod
    def progress(cls, tuner: Any) -> dict[str, Tensor]:
        """What a resumed training needs besides the stored tensors."""
        return {}

    @classmethod
    def resume(cls, tuner: Any, tensors: dict[str, Tensor]) -> None:
        """Put back what `progress` gave."""
