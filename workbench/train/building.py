"""What every training starts from: the base model with its head and the method's adapter, equal for equal seeds."""

from collections.abc import Mapping
from types import MappingProxyType

from workbench.core.run_spec import RunSpec
from workbench.evaluate import starting
from workbench.evaluate.others import Other
from workbench.kernel import registry
from workbench.kernel.host import adapters_of
from workbench.recipes import Models
from workbench.tasks.contract import Task

ADAPTER = "adapter"
"""Name of the trained adapter on its host."""


def build(spec: RunSpec, task: Task, device: str, others: Mapping[str, Other] = MappingProxyType({})) -> tuple[Models, list[str]]:
    """The host with a fresh adapter and head, or with those of `init_from`; and what to know about the start.

    Raises:
        WorkbenchError: the method does not fit the base, or the adapter to start from has changed.
    """
    host = task.host(spec.seed).to(device)
    head = task.head(host)
    adapters = adapters_of(host, head)
    adapter = adapters.attach(ADAPTER, spec.base_method, registry.configure(spec.base_method, spec.config), spec.seed)
    notes = starting.put(spec.init_from, adapters, adapter, task.labels) if spec.init_from else []
    params = tuple(p for h in head for p in host.get_submodule(h).parameters())
    for p in params:
        p.requires_grad_(True)
    return Models(host, adapters, adapter, task, params, others), notes
