"""What one architecture family is: where its roles lie, how tokens get in, and a tiny member for tests."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Site, SiteKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Place:
    """One line of a family's role table.

    Attributes:
        role: the role.
        path: end of the module path; `#` stands for the block number.
        source: for block roles, the path (same rules) of the module whose first input is the sublayer's input.
        rows: (k, n) where the role is the k-th of n equal slices of the output rows.
    """

    role: str
    path: str
    source: str = ""
    rows: tuple[int, int] | None = None

    def match(self, path: str) -> tuple[str, int] | None:
        """(prefix before the pattern, block number or -1) if `path` ends with this place."""
        pattern = re.escape(self.path).replace(r"\#", r"(\d+)")
        found = re.fullmatch(rf"((?:.*\.)?){pattern}", path)
        return None if found is None else (found[1], int(found[2]) if found.lastindex == 2 else -1)


@dataclass(frozen=True)
class Family:
    """One architecture family.

    Attributes:
        name: file name in `backbones/`.
        model_types: `config.model_type` of its members.
        roles: the role table.
        inner: attribute names under which task models hold the encoder (`model.in` is that module).
        token_port: (call, encoder, part, ctx, *args, **kwargs) -> output; runs the encoder with a token part's tokens.
        tiny: (model_type) -> a randomly initialised member, 32 wide, 2 blocks, for tests.
        ports: where the family takes virtual tokens: `input`, `layers`.
        matched: for a discovered family, sentences that say what was matched.
    """

    name: str
    model_types: tuple[str, ...]
    roles: Sequence[Place]
    inner: tuple[str, ...]
    token_port: Callable[..., Any]
    tiny: Callable[[str], "PreTrainedModel"]
    ports: tuple[str, ...] = ("input", "layers")
    matched: tuple[str, ...] = ()

    def inner_path(self, host: nn.Module) -> str:
        """Path of the encoder inside a task model; empty when the host is the encoder itself."""
        return next((n for n in self.inner if isinstance(getattr(host, n, None), nn.Module)), "")

    def places(self, host: nn.Module) -> Sequence[Place]:
        """The role table for this host."""
        return self.roles

    def sites(self, host: nn.Module, head: tuple[str, ...] = ()) -> list[Site]:
        """Every site of the host in module order: named roles first come from the table, the rest is `norms` or `other`."""
        found: list[Site] = []
        inner, hidden = self.inner_path(host), hidden_size(host)
        for path, module in host.named_modules():
            if path == "workbench" or path.startswith("workbench."):
                continue
            matched = [(p, m) for p in self.places(host) if (m := p.match(path))]
            if any(path == h or path.startswith(f"{h}.") for h in head):
                matched = []
                if module._parameters:
                    found.append(make_site(path, module, "head", -1, hidden))
                continue
            for place, (prefix, depth) in matched:
                source = prefix + place.source.replace("#", str(depth)) if place.source else ""
                found.append(make_site(path, module, place.role, depth, hidden, source, place.rows))
            if path == inner:
                found.append(self._entry(host, make_site(path, module, "model.in", -1, hidden)))
            if module._parameters and all(kind_of(module, place.role) == "point" for place, _ in matched):
                found.append(make_site(path, module, _plain_role(module), block_number(path), hidden))
        return found

    def n_blocks(self, host: nn.Module) -> int:
        """Number of transformer blocks."""
        return blocks_in(self.sites(host))

    def embedding(self, host: nn.Module) -> nn.Module | None:
        """The token embedding, None where the host has none."""
        try:
            found = host.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):
            return None
        return found if isinstance(found, nn.Embedding) else None

    def vocabulary(self, host: nn.Module) -> Tensor | None:
        """The vectors (vocabulary, d) that the token embedding gives out, None where the host has none."""
        table = self.embedding(host)
        if table is None:
            return None
        scale = embedding_scale(table)
        return table.weight.detach() if scale == 1 else table.weight.detach() * scale

    def refusal(self, host: nn.Module, where: str) -> str | None:
        """Why the host cannot take virtual tokens at its `input` or in its `layers`, in one sentence; None if it can."""
        encoder = host.get_submodule(self.inner_path(host))
        wanted = {"input": "inputs_embeds", "layers": "past_key_values"}[where]
        takes = inspect.signature(type(encoder).forward).parameters
        wordless = where == "input" and self.embedding(host) is None  # the family's own port then finds the place
        if where in self.ports and (wordless or wanted in takes):
            return None
        place = "before its input" if where == "input" else "into its layers"
        why = "" if wanted in takes else f" (it takes no {wanted})"
        return f"{type(encoder).__name__} lets no virtual tokens {place}{why}; use another method or model."

    def _entry(self, host: nn.Module, site: Site) -> Site:
        """The `model.in` site with what token parts must know before anything is built."""
        port = self.port(host)
        width, sizes = port["hidden"], (port["layers"], port["kv_heads"], port["head_dim"])
        reasons = tuple((where, reason) for where in ("input", "layers") if (reason := self.refusal(host, where)))
        return replace(site, shape=(width, width), keys_values=sizes, refuses=reasons)

    def port(self, host: nn.Module) -> Any:
        """Sizes that a token part needs; `hidden` is the width of the token embedding."""
        config = host.config.get_text_config() if hasattr(host.config, "get_text_config") else host.config
        heads = getattr(config, "num_attention_heads", None) or getattr(config, "n_heads", 1)
        table = self.embedding(host)
        return {
            "hidden": hidden_size(host) if table is None else table.embedding_dim,
            "layers": getattr(config, "num_hidden_layers", 0),
            "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
            "head_dim": getattr(config, "head_dim", None) or hidden_size(host) // heads,
        }


def blocks_in(sites: Sequence[Site]) -> int:
    """Number of transformer blocks among the sites of one host."""
    return 1 + max((s.depth for s in sites if s.role == "block.out"), default=-1)


def block_number(path: str) -> int:
    """The first number in a module path, -1 if there is none."""
    found = re.search(r"\.(\d+)(?:\.|$)", path)
    return int(found[1]) if found else -1


def hidden_size(host: Any) -> int:
    """Width of the residual stream."""
    config = host.config.get_text_config() if hasattr(host.config, "get_text_config") else host.config
    sizes = (getattr(config, name, None) for name in ("hidden_size", "n_embd", "dim"))
    found = next((size for size in sizes if isinstance(size, int)), None)
    if found is None:
        raise WorkbenchError(f"a base model must have one hidden size; {type(config).__name__} names none.")
    return found


def embedding_scale(table: nn.Module) -> float:
    """What an embedding multiplies its rows by before it gives them out; only Gemma's does."""
    return getattr(table, "scalar_embed_scale", 1.0)


def _plain_role(module: nn.Module) -> str:
    return "norms" if "norm" in type(module).__name__.lower() else "other"


def kind_of(module: nn.Module, role: str) -> SiteKind:
    """How the module stores its weight."""
    if role.endswith((".block", ".in")) or role in ("block.out", "model.out", "embed.out"):
        return "point"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Conv2d):
        return "conv2d"
    name = type(module).__name__
    return "conv1d" if name == "Conv1D" else "norm" if "norm" in name.lower() else "other"


def make_site(
    path: str, module: nn.Module, role: str, depth: int, hidden: int, source: str = "", rows: tuple[int, int] | None = None
) -> Site:
    """Describe one module as a site; works on the meta device."""
    kind = kind_of(module, role)
    weight = module._parameters.get("weight")
    shape = (hidden, hidden)
    if kind != "point" and weight is not None:
        full = tuple(weight.shape)
        shape = {"conv1d": full[::-1], "embedding": full[::-1]}.get(kind, (full[0], weight.numel() // full[0]))  # type: ignore[assignment]
    span = None
    if rows is not None:
        step = shape[0] // rows[1]
        span, shape = (rows[0] * step, (rows[0] + 1) * step), (step, shape[1])
    dtype = str(weight.dtype if weight is not None else getattr(module, "dtype", "float32")).removeprefix("torch.")
    tensors = tuple((n, tuple(p.shape)) for n, p in module._parameters.items() if p is not None)
    own = () if kind == "point" else tensors
    bias = module._parameters.get("bias") is not None
    return Site(path, role, depth, shape, kind, dtype, bias, span, source, own)
