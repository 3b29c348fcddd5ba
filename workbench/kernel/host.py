"""Named adapters on one host: build, activate, choose per example, merge, detach."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.core.types import Placement, Site
from workbench.kernel import attach as surgery
from workbench.kernel import merging, registry
from workbench.kernel.adapter import Adapter
from workbench.kernel.contract import Context, Part, Port, SelectPart, SidePart, TokenPart, WeightPart


class Adapters(nn.Module):
    """All adapters of one host; hangs on the host as `workbench`, so `.to()` and train/eval reach it."""

    def __init__(self, host: nn.Module, head: tuple[str, ...] = ()) -> None:
        """host: the base model, frozen from now on; head: module paths that belong to the task, not to the base."""
        super().__init__()
        object.__setattr__(self, "host", host)  # a reference; registering it would make a cycle
        self.backbone = backbones.of(host)
        self.head = head
        self.sites = self.backbone.sites(host, head)
        self.n_blocks = backbones.blocks_in(self.sites)
        self._trained_before = [p for p in host.parameters() if p.requires_grad]
        for p in host.parameters():
            p.requires_grad_(False)
        self.members = nn.ModuleDict()
        self.active: dict[str, float] = {}
        self.choice: list[str | None] | None = None
        self.given: dict[str, Any] = {}
        self.ctx: Context = MappingProxyType({})
        self.inputs: dict[str, Tensor] = {}
        self.taps: dict[int, dict[int, Tensor]] = {}
        self.merged: list[tuple[list[tuple[nn.Module, str]], nn.Parameter]] = []
        self._patches: dict[int, surgery.Patch] = {}
        self._picked: dict[str, Tensor] = {}
        self._patch(host).is_root = True

    # --- building -------------------------------------------------------------------------------------------------

    def attach(self, name: str, key: str, cfg: Placement, seed: int = 0) -> Adapter:
        """Build a method's parts on the host and switch them on.

        Args:
            name: how this adapter is called on this host; letters, digits and _ only.
            key: the method's file key.
            cfg: its whole Config.
            seed: seed of the adapter's initial values; equal seeds give bitwise equal adapters.

        Raises:
            WorkbenchError: the name is taken, or a requested role matches nothing here.
        """
        if not name.isidentifier() or hasattr(self.members, name):  # ModuleDict would take, but not give back, a `keys`
            raise WorkbenchError(f"an adapter's name must be new and made of letters, digits and _; got {name!r}.")
        if self.merged:
            raise WorkbenchError("adapters are merged into the base; unmerge before attaching another.")
        method = registry.methods()[key]
        sites = backbones.chosen(self.sites, cfg, registry.default_roles(method, cfg), self.n_blocks, key)
        for site in sites:
            owners = {a.method.engine for a in self.members.values() if any(s.path == site.path for s in a.sites)}
            if owners - {method.engine}:
                raise WorkbenchError(f"{site.path} already carries an adapter of the other engine; use one engine per site.")
        if problem := method.problem(cfg, sites):
            raise WorkbenchError(problem)
        gen = torch.Generator().manual_seed(seed)
        if method.engine == "peft":
            from workbench.kernel import peft_bridge

            adapter = peft_bridge.inject(self, name, key, method, cfg, sites, seed)
        else:
            adapter = Adapter(name, key, method, cfg, sites)
            with self.only({}):  # parts read, and select parts take over, the base's own tensors
                self._build(adapter, gen)
        adapter.train(self.host.training)
        self.members[name] = adapter
        self.activate({**self.active, name: 1.0})
        return adapter

    def _build(self, adapter: Adapter, gen: torch.Generator) -> None:
        method, cfg, sites = adapter.method, adapter.cfg, adapter.sites
        adapter.shared = method.build_shared(cfg, sites, gen)
        if adapter.shared is not None:
            adapter.shared.to(next(self.host.parameters()).device)
        for number, (cls, roles) in enumerate(registry.part_classes(method, cfg)):
            mine = [s for s in sites if cfg.picks(s, roles, self.n_blocks)]
            for site in mine:
                part = self._part(cls, cfg, site, adapter.shared, gen)
                adapter.add_part(site.key if number == 0 else f"{site.key}#{number}", part)
                self._wire(adapter.name, part, site)
        base_roles = method.also_trains(cfg)
        for site in self.sites:
            names = list(method.selects(cfg, site)) if issubclass(method, SelectPart) and site in sites else []
            if site.role in base_roles:
                names = [n for n, _ in site.tensors]
            for tensor in names:
                adapter.choose(self.host, f"{site.path}.{tensor}" if site.path else tensor)

    def _part(self, cls: type[Part], cfg: Placement, site: Site, shared: nn.Module | None, gen: torch.Generator) -> Part:
        module = self.host.get_submodule(site.path)
        near = "meta" if next(self.host.parameters()).is_meta else "cpu"  # a plan builds parts without allocating them
        if issubclass(cls, TokenPart):
            table = self.backbone.vocabulary(self.host)
            table = None if table is None else table.float().to(near)
            part: Part = cls(cfg, Port(**self.backbone.port(self.host)), site, gen, table)
        elif issubclass(cls, SidePart):
            part = cls(cfg, [s for s in self.sites if s.role == cls.reads], site, shared, gen)
        else:
            has_weight = site.kind in ("linear", "conv1d", "conv2d", "embedding")
            part = cls(cfg, site, shared, gen, surgery.matrix(module, site).to(near) if has_weight else None)  # type: ignore[call-arg]
        return part.to(next(self.host.parameters()).device)

    def _wire(self, name: str, part: Part, site: Site) -> None:
        self._patch(self.host.get_submodule(site.path)).entries.append((name, part))
        if site.source:
            above = self._patch(self.host.get_submodule(site.source))
            above.readers.append((name, lambda x: self.inputs.__setitem__(site.source, x)))
        if isinstance(part, SidePart):
            for tap in (s for s in self.sites if s.role == part.reads):
                watch = self._patch(self.host.get_submodule(tap.path))
                watch.watchers.append((name, self._tap(id(part), tap.depth)))

    def _tap(self, part: int, depth: int) -> Any:
        def keep(out: Any) -> None:
            self.taps.setdefault(part, {})[depth] = surgery.first(out).detach()

        return keep

    def _patch(self, module: nn.Module) -> surgery.Patch:
        if id(module) not in self._patches:
            self._patches[id(module)] = surgery.Patch(module, self)
        return self._patches[id(module)]

    # --- one forward pass -----------------------------------------------------------------------------------------

    def begin(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Open the context of one forward pass of the host."""
        facts = {"mask": kwargs["attention_mask"]} if isinstance(kwargs.get("attention_mask"), Tensor) else {}
        self.ctx = MappingProxyType({**facts, **self.given})
        if self.choice is not None:
            device = next(self.host.parameters()).device
            batch = next((len(v) for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim()), len(self.choice))
            if len(self.choice) != batch:
                raise WorkbenchError(
                    f"per_example needs one adapter (or None) for each of {batch} examples; got {len(self.choice)}."
                )
            picked = {n: [i for i, c in enumerate(self.choice) if c == n] for n in self.members}
            self._picked = {n: torch.tensor(rows, device=device) for n, rows in picked.items() if rows}

    def finish(self) -> None:
        """Let the activations of the pass go."""
        self.inputs.clear()
        self.taps.clear()

    def live(self, entries: list[tuple[str, Part]]) -> list[surgery.Live]:
        """Which of a patch's parts take part now."""
        if self.choice is not None:
            return [surgery.Live(p, 1.0, self._picked[n]) for n, p in entries if n in self._picked]
        return [surgery.Live(p, self.active[n], None) for n, p in entries if self.active.get(n)]

    def weight(self, name: str) -> float:
        """The weight an adapter has now; 0 is off."""
        return 1.0 if self.choice is not None and name in self._picked else self.active.get(name, 0.0)

    @contextmanager
    def context(self, **facts: Any) -> Iterator[None]:
        """Give the parts facts of the next forward passes, e.g. `positions`."""
        before = self.given
        self.given = {**before, **facts}
        try:
            yield
        finally:
            self.given = before

    # --- switching, merging, leaving ------------------------------------------------------------------------------

    def activate(self, weights: Mapping[str, float]) -> None:
        """Set which adapters are summed, and with which weight; names not mentioned are off."""
        for name in weights:
            if name not in self.members:
                raise WorkbenchError(f"no adapter is called {name!r} here; attached: {', '.join(self.members) or 'none'}.")
        if self.merged:
            raise WorkbenchError("adapters are merged into the base; unmerge before switching.")
        self.active = {n: float(w) for n, w in weights.items() if w}
        self._place_chosen()

    @contextmanager
    def only(self, weights: Mapping[str, float] | None = None) -> Iterator[None]:
        """Switch to these adapters (none by default) for the length of a block."""
        before, choice = self.active, self.choice
        self.choice = None
        self.activate(weights or {})
        try:
            yield
        finally:
            self.choice = choice
            self.activate({n: w for n, w in before.items() if n in self.members})

    @contextmanager
    def per_example(self, choice: list[str | None]) -> Iterator[None]:
        """Each example of the batch gets the adapter named at its place, or none."""
        wanted = {c for c in choice if c is not None}
        for name in wanted:
            if name not in self.members:
                raise WorkbenchError(f"no adapter is called {name!r} here; attached: {', '.join(self.members) or 'none'}.")
            adapter = self.members[name]
            if adapter.chosen or any(isinstance(p, TokenPart) for _, p in adapter.named_parts()):
                raise WorkbenchError(f"{adapter.key} cannot be chosen per example: it changes more than single activations.")
        with self.only({}):
            self.choice = list(choice)
            yield

    def _place_chosen(self) -> None:
        """Put into the host, for every base tensor that some adapter trains, the object that must stand there now."""
        stands: dict[int, list[tuple[nn.Parameter, float]]] = {}
        places: dict[int, tuple[nn.Parameter, list[tuple[nn.Module, str]]]] = {}
        for name, adapter in self.members.items():
            for original, own, where in adapter.originals().values():
                places[id(original)] = (original, where)
                if weight := self.active.get(name, 0.0):
                    stands.setdefault(id(original), []).append((own, weight))
        for key, (original, where) in places.items():
            owners = stands.get(key, [])
            now = merging.standing(original, owners)
            surgery.place(where, now)

    def merge(self) -> None:
        """Write the active adapters into the weights; `unmerge` puts the very same tensors back.

        Raises:
            WorkbenchError: an active adapter cannot be written into weights; says why.
        """
        for name in self.active:
            adapter = self.members[name]
            if not adapter.method.mergeable(adapter.cfg):
                raise WorkbenchError(
                    f"{adapter.key} cannot be merged: {adapter.method.not_mergeable or 'not in this configuration'}."
                )
        if self.merged:
            raise WorkbenchError("adapters are already merged; unmerge first.")
        try:
            for patch in list(self._patches.values()):
                live = [one for one in self.live(patch.entries) if isinstance(one.part, WeightPart)]
                if live:
                    self.merged += merging.merge(self.host, patch.module, live, self.ctx)
        except Exception:
            self.unmerge()
            raise

    def unmerge(self) -> None:
        """Put the original tensors back, the very same objects."""
        for where, original in reversed(self.merged):
            surgery.place(where, original)
        self.merged = []

    def detach(self, name: str) -> None:
        """Remove one adapter; without adapters the host is bitwise and structurally what it was."""
        self.unmerge()
        self.activate({n: w for n, w in self.active.items() if n != name})
        del self.members[name]
        for key, patch in list(self._patches.items()):
            patch.drop(name)
            if patch.idle:
                del self._patches[key]

    def release(self) -> None:
        """Detach everything and leave no trace on the host."""
        for name in list(self.members):
            self.detach(name)
        for patch in self._patches.values():
            patch.remove()
        self._patches.clear()
        for p in self._trained_before:
            p.requires_grad_(True)
        del self.host.workbench


def adapters_of(host: nn.Module, head: tuple[str, ...] = ()) -> Adapters:
    """The host's adapters, created on first use, which freezes the base; `head`: paths of the task's own modules."""
    found = getattr(host, "workbench", None)
    if not isinstance(found, Adapters):
        found = Adapters(host, head)
        host.workbench = found
    return found


def attach(host: nn.Module, method: str, name: str = "adapter", seed: int = 0, **config: Any) -> Adapter:
    """Put a method on a model, by key or preset name: `attach(model, "lora", rank=4)`.

    Raises:
        WorkbenchError: unknown method, a bad value, or a role that matches nothing.
    """
    key, _, _ = registry.find(method)
    return adapters_of(host).attach(name, key, registry.configure(method, config), seed)
