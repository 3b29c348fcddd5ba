"""An operation is a typed function on trained adapters; its options and its form come from the signature.

The first parameter is the list of adapters, the second the base model they belong to (nothing attached); everything
keyword-only is an option with a pydantic `Field` in its annotation.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import nn

from workbench.core.errors import WorkbenchError, from_pydantic
from workbench.core.types import Paper
from workbench.kernel.state import Stored

Function = Callable[..., Stored]


@dataclass(frozen=True)
class Operation:
    """A registered operation.

    Attributes:
        key: the function's name, equal to its file's.
        function: (adapters, host, **options) -> Stored.
        options: the model of its keyword-only parameters.
        least, most: how many adapters it takes; None = any number.
        paper: where it comes from.
    """

    key: str
    function: Function
    options: type[BaseModel]
    least: int
    most: int | None
    paper: Paper | None

    def __call__(self, adapters: Sequence[Stored], host: nn.Module, settings: dict[str, Any]) -> Stored:
        """Check number and options, then run.

        Raises:
            WorkbenchError: one sentence about what does not fit.
        """
        if len(adapters) < self.least or (self.most is not None and len(adapters) > self.most):
            wanted = str(self.least) if self.most == self.least else f"{self.least} or more"
            raise WorkbenchError(f"{self.key} takes {wanted} adapters; got {len(adapters)}.")
        try:
            options = self.options.model_validate(settings)
        except ValidationError as error:
            raise from_pydantic(error, self.key, self.options.model_fields) from None
        bases = {a.meta.get("base", {}).get("sha256") for a in adapters}
        if len(bases) != 1:
            raise WorkbenchError(f"{self.key} needs adapters of one base model; these belong to {len(bases)}.")
        return self.function(list(adapters), host, **dict(options))


def options_of(function: Callable[..., Any], what: str) -> type[BaseModel]:
    """The model of the keyword-only parameters of a function, which is an operation or whatever `what` calls it.

    Raises:
        TypeError: one of them is not annotated.
    """
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if name not in hints:
                raise TypeError(f"the option {name} of the {what} {function.__name__} must be annotated")
            fields[name] = (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
    return create_model(f"{function.__name__}_options", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def operation(least: int = 1, most: int | None = None, paper: Paper | None = None) -> Callable[[Function], Operation]:
    """Turn a function into an operation; refuses unannotated options when the module is imported."""

    def build(function: Function) -> Operation:
        options = options_of(function, "operation")
        return Operation(function.__name__, function, options, least, most, paper)

    return build
