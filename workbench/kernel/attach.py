"""The only host surgery: `forward` of single modules is replaced on the instance, and parameters are swapped by object.

The module tree and the names of the base's tensors never change, and the base's own tensors are never written to: detach
and unmerge put the same objects back, so the base returns bitwise in every dtype.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench.backbones.family import embedding_scale
from workbench.core.types import Site
from workbench.kernel.contract import ActivationPart, Context, Part, SidePart, TokenPart, WeightPart


class Live(NamedTuple):
    """An attached part that takes part in this forward pass, its weight, and its batch rows (None = all)."""

    part: Part
    weight: float
    rows: Tensor | None


def matrix(module: nn.Module, site: Site) -> Tensor:
    """The site's weight as a matrix (d_out, d_in) in fp32; a view where the host is fp32."""
    weight = module.weight.detach()
    flat = {"conv1d": weight.t, "embedding": weight.t, "conv2d": lambda: weight.flatten(1)}.get(site.kind, lambda: weight)()
    return (flat if site.rows is None else flat[slice(*site.rows)]).float()


def stored_form(change: Tensor, module: nn.Module, site: Site) -> Tensor:
    """A matrix (d_out, d_in) in the shape of the module's whole weight, zero outside the site's rows."""
    if site.rows is not None:
        out = module.weight.shape[1] if site.kind == "conv1d" else module.weight.shape[0]
        change = nn.functional.pad(change, (0, 0, site.rows[0], out - site.rows[1]))
    return change.t() if site.kind in ("conv1d", "embedding") else change.reshape(module.weight.shape)


def _addition(part: WeightPart, module: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
    """What one weight part adds to the module's output, in fp32 unless autocast is on."""
    site = part.site
    if site.kind == "embedding":
        return embedding_scale(module) * nn.functional.embedding(x, part.delta(matrix(module, site), ctx).t())
    casting = torch.is_autocast_enabled(x.device.type)
    x = x if casting else x.float()
    if site.kind == "conv2d":
        return module._conv_forward(x, stored_form(part.delta(matrix(module, site), ctx), module, site), None)
    bias = None if getattr(module, "bias", None) is None else module.bias.detach()
    if bias is not None and site.rows is not None:
        bias = bias[slice(*site.rows)]
    base = None
    if part.reads_output:
        base = (y if site.rows is None else y[..., slice(*site.rows)]).float()
        base = base if bias is None else base - bias.float()
    weight = matrix(module, site) if part.reads_weight else None
    added = part.apply_to(base, x, weight, ctx)
    moved = None if bias is None else part.delta_bias(bias.float(), weight, ctx)
    added = added if moved is None else added + moved
    return added if site.rows is None else nn.functional.pad(added, (site.rows[0], y.shape[-1] - site.rows[1]))


def _rows(ctx: Context, rows: Tensor, batch: int) -> Context:
    """The context of some examples only."""
    return {k: v[rows] if isinstance(v, Tensor) and v.dim() and v.shape[0] == batch else v for k, v in ctx.items()}


def _behind(ctx: Context, n: int, lead: int) -> Context:
    """The context where n virtual tokens follow the first `lead` ones."""
    moved: dict[str, Any] = {}
    if n and isinstance(mask := ctx.get("mask"), Tensor):
        moved["mask"] = torch.cat([mask[:, :lead], mask.new_ones(len(mask), n), mask[:, lead:]], 1)
    if n and isinstance(positions := ctx.get("positions"), Tensor):
        moved["positions"] = positions + n * (positions >= lead)
    return MappingProxyType({**ctx, **moved}) if moved else ctx


class Patch:
    """Stands in for one module's `forward`; with nothing live it is the original call, bit for bit."""

    def __init__(self, module: nn.Module, adapters: Any) -> None:
        self.module, self.adapters = module, adapters
        self.own_before = module.__dict__.get("forward")
        self.original: Callable[..., Any] = module.forward
        self.entries: list[tuple[str, Part]] = []
        self.readers: list[tuple[str, Callable[[Any], None]]] = []  # get the input, before the call
        self.watchers: list[tuple[str, Callable[[Any], None]]] = []  # get the output, after it
        self.is_root = False
        functools.update_wrapper(self, self.original)
        module.forward = self

    def remove(self) -> None:
        """Give the module its own forward back."""
        if self.own_before is None:
            del self.module.forward
        else:
            self.module.forward = self.own_before

    def drop(self, name: str) -> None:
        """Forget one adapter; the patch goes when nothing is left."""
        self.entries = [e for e in self.entries if e[0] != name]
        self.readers = [r for r in self.readers if r[0] != name]
        self.watchers = [w for w in self.watchers if w[0] != name]
        if self.idle:
            self.remove()

    @property
    def idle(self) -> bool:
        """Whether nothing needs this patch."""
        return not (self.entries or self.readers or self.watchers or self.is_root)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward with everything that is live in it."""
        if not self.is_root:
            return self._run(args, kwargs)
        self.adapters.begin(args, kwargs)
        try:
            return self._run(args, kwargs)
        finally:
            self.adapters.finish()

    def _run(self, args: tuple, kwargs: dict) -> Any:
        live = self.adapters.live(self.entries)
        readers, watchers = ([w for n, w in some if self.adapters.weight(n)] for some in (self.readers, self.watchers))
        if not (live or readers or watchers):
            return self.original(*args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()), None)
        for read in readers:
            read(x)
        ctx = self.adapters.ctx
        call = self.original
        for one in live:
            call = self._around(one, call, ctx)
        out = call(*args, **kwargs)
        for watch in watchers:
            watch(out)
        edits = [one for one in live if _adds(one.part) or _overrides(one.part, "edit")]
        if not edits:
            return out
        h = first(out)
        h = self._weights([one for one in edits if isinstance(one.part, WeightPart)], x, h, ctx)
        for one in edits:
            if not isinstance(one.part, WeightPart):
                h = self._edit(one, x, h, ctx)
        return with_first(out, h)

    def _around(self, one: Live, call: Callable[..., Any], ctx: Context) -> Callable[..., Any]:
        """The call with one more part around it."""
        part = one.part
        if isinstance(part, TokenPart):
            return functools.partial(self.adapters.backbone.token_port, self._among(call), self.module, part, ctx)
        if isinstance(part, WeightPart) and part.whole and not self.adapters.merged:
            return functools.partial(part.instead, None if call is self.original else call, one.weight, one.rows)
        if not _overrides(part, "around"):
            return call
        if one.rows is not None:
            raise NotImplementedError(f"{type(part).__name__} changes the call itself and cannot be chosen per example.")
        return lambda *args, **kwargs: part.around(call, args, kwargs, ctx)

    def _among(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, during which the context's mask and positions count `virtual` = (n, lead) added tokens."""

        def run(*args: Any, virtual: tuple[int, int] = (0, 0), **kwargs: Any) -> Any:
            before = self.adapters.ctx
            self.adapters.ctx = _behind(before, *virtual)
            try:
                return call(*args, **kwargs)
            finally:
                self.adapters.ctx = before

        return run

    def _weights(self, live: list[Live], x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        if not live or self.adapters.merged:
            return y
        total: Tensor | None = None
        for part, weight, rows in live:
            if rows is None:
                added = weight * _addition(part, self.module, x, y, ctx)
            else:
                some = _addition(part, self.module, x[rows], y[rows], _rows(ctx, rows, len(y)))
                added = torch.zeros_like(y, dtype=some.dtype).index_add(0, rows, weight * some)
            total = added if total is None else total + added
        return (y.to(total.dtype) + total).to(y.dtype) if y.dtype != total.dtype else y + total

    def _edit(self, one: Live, x: Any, h: Tensor, ctx: Context) -> Tensor:
        """One activation or side part on the output h (batch, ...), in fp32 unless autocast is on."""
        part, weight, rows = one
        source = self.adapters.inputs[part.site.source] if part.site.source else x
        sub, some = (h, source) if rows is None else (h[rows], source[rows])
        near = ctx if rows is None else _rows(ctx, rows, len(h))
        casting = torch.is_autocast_enabled(h.device.type)
        if not casting:
            sub, some = sub.float(), some.float() if some.is_floating_point() else some
        if isinstance(part, SidePart):
            taps = self.adapters.taps[id(part)]
            taps = [t if rows is None else t[rows] for t in (taps[d] for d in sorted(taps))]
            new = sub + part.side(taps if casting else [t.float() for t in taps], near)
        else:
            new = part.edit(sub, some, near)
        new = new if weight == 1 else sub + weight * (new - sub)
        return new.to(h.dtype) if rows is None else h.index_copy(0, rows, new.to(h.dtype))


def first(out: Any) -> Any:
    """The tensor a module returns first: itself, or the first item of a tuple or of a transformers output."""
    return out if isinstance(out, Tensor) else out[0]


def with_first(out: Any, h: Tensor) -> Any:
    """The same output with its first tensor replaced."""
    if isinstance(out, Tensor):
        return h
    return (h, *out[1:]) if isinstance(out, tuple) else type(out)(**{**out, next(iter(out)): h})


def _overrides(part: Part, verb: str) -> bool:
    return isinstance(part, ActivationPart) and getattr(type(part), verb) is not getattr(ActivationPart, verb)


def _adds(part: Part) -> bool:
    return isinstance(part, SidePart) or (isinstance(part, WeightPart) and not part.whole)


def holders(host: nn.Module, param: nn.Parameter) -> list[tuple[nn.Module, str]]:
    """Every (module, name) of the base that holds this very parameter; several where weights are tied."""
    base = [m for path, m in host.named_modules() if path.split(".")[0] != "workbench"]
    return [(m, n) for m in base for n, p in m._parameters.items() if p is param]


@contextmanager
def shown(module: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Pass on the input of every call of a module for the length of a block."""
    handle = module.register_forward_pre_hook(
        lambda _, args, named: see(args[0] if args else next(iter(named.values()))), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def place(where: Iterable[tuple[nn.Module, str]], param: nn.Parameter) -> None:
    """Put a parameter object where another one stood, on the same device and in the same dtype."""
    for module, name in where:
        now = module._parameters[name]
        if param is not now:
            param.data = param.data.to(now.device, now.dtype)
            module._parameters[name] = param
