"""The nouns of the house: roles, sites, placements, papers. Plain values, no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

ROLES = (
    *("attn.q", "attn.k", "attn.v", "attn.out", "cross.q", "cross.k", "cross.v", "cross.out", "ffn.up", "ffn.gate", "ffn.down"),
    *("attn.block", "ffn.block", "block.out", "embed", "embed.out", "model.in", "model.out", "head", "head.in", "norms"),
    *("patch", "conv.down", "conv.up", "group_norm", "moe.block", "moe.router", "other"),
)
"""Every place of a base model that a method may name; what they are called in one architecture is in `backbones/`."""

SiteKind = Literal["linear", "conv1d", "conv2d", "embedding", "norm", "point", "other"]
PartKind = Literal["weight", "activation", "token", "side", "select", "composite"]


@dataclass(frozen=True)
class Site:
    """One place where a part can be attached.

    Attributes:
        path: dotted module path in the host.
        role: one of `ROLES`.
        depth: index of the transformer block, -1 outside the blocks.
        shape: (d_out, d_in) of the weight as a matrix; for a `point` (d, d) of the activation.
        kind: how the weight is stored: `conv1d` is GPT-2's transposed linear, `point` has no weight, only an output.
        dtype: dtype name of the weight, e.g. `float32`.
        bias: whether the module has a bias.
        rows: the slice of output rows when one weight holds several roles (GPT-2's c_attn).
        source: for block roles, path of the module whose first input is the sublayer's input; empty = the module itself.
        tensors: names and shapes of the module's own parameters.
        tower, stack: which encoder of a composite host, and which block stack, the site belongs to.
        keys_values: on `model.in`, (layers, key/value heads, head width) of the encoder's attention.
        refuses: on `model.in`, (`input` or `layers`, why virtual tokens cannot go there).
    """

    path: str
    role: str
    depth: int
    shape: tuple[int, int]
    kind: SiteKind = "linear"
    dtype: str = "float32"
    bias: bool = False
    rows: tuple[int, int] | None = None
    source: str = ""
    tensors: tuple[tuple[str, tuple[int, ...]], ...] = ()
    tower: str = "main"
    stack: str = "main"
    keys_values: tuple[int, int, int] = (0, 0, 0)
    refuses: tuple[tuple[str, str], ...] = ()

    @property
    def d_out(self) -> int:
        """Rows of the weight, or width of the activation."""
        return self.shape[0]

    @property
    def d_in(self) -> int:
        """Columns of the weight."""
        return self.shape[1]

    @property
    def key(self) -> str:
        """Unique, file-safe name: the path (`model` for the host itself), plus the role where several share the module."""
        return (self.path or "model") if self.rows is None else f"{self.path}:{self.role}"


@dataclass(frozen=True)
class Paper:
    """Where a method comes from: citation, address and, for the 119, the catalogue id."""

    cite: str
    url: str
    id: int | None = None


@dataclass(frozen=True)
class Preset:
    """Named values of one Config: papers that differ only by a switch are presets of one file.

    Attributes:
        values: config fields that differ from the default.
        title: one line for the catalogue.
        paper: the paper's own source, if it is not the method's.
        default_lr: (learning rate, source), if it differs from the method's.
        also_trains: base roles unfrozen besides the adapter.
    """

    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    title: str = ""
    paper: Paper | None = None
    default_lr: tuple[float, str] | None = None


@dataclass(frozen=True)
class PeftTwin:
    """How a native method is written as a peft folder.

    Attributes:
        peft_type: peft's name, e.g. `LORA`.
        config: (cfg, sites) -> keyword arguments of peft's config besides target_modules.
        tensors: (our tensor name, site) -> (peft's suffix after the module path, e.g. `lora_A.weight`).
    """

    peft_type: str
    config: Callable[[Any, list[Site]], dict]
    tensors: Mapping[str, str]


class Config(BaseModel):
    """Base of every Config: frozen, unknown keys refused, every field described and bounded."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` is no number; pydantic would take it as 1."""
        wanted = str(cls.model_fields[info.field_name or ""].annotation)
        held = value if isinstance(value, list | tuple) else (value,)
        if ("int" in wanted or "float" in wanted) and "bool" not in wanted and any(isinstance(v, bool) for v in held):
            raise ValueError(f"it must be a number; got {str(value).lower()}")
        return value


class Placement(Config):
    """Where a method goes; the base of every method's Config."""

    roles: tuple[str, ...] | None = Field(None, description="Roles to adapt, e.g. attn.q; empty means the method's default.")
    depths: tuple[int | str, ...] | None = Field(
        None, description="Block numbers (negative from the top) or ranges like 0-3; empty means every block."
    )
    tower: str | None = Field(None, max_length=40, description="Which encoder of a composite model; empty means all.")

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, roles: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for role in roles or ():
            if role not in ROLES:
                raise ValueError(f"{role!r} is no role; roles are {', '.join(ROLES)}")
        if roles is not None and (not roles or len(set(roles)) != len(roles)):
            raise ValueError("name at least one role, each once")
        return roles

    @field_validator("depths")
    @classmethod
    def _depth_words(cls, depths: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        for depth in depths or ():
            parts = depth.split("-") if isinstance(depth, str) else []
            if isinstance(depth, str) and not (len(parts) == 2 and all(p.isdigit() and len(p) < 5 for p in parts)):
                raise ValueError(f"a depth is a whole number or a range like 0-3; got {depth!r}")
        return depths

    def picks(self, site: Site, default_roles: tuple[str, ...], n_blocks: int) -> bool:
        """Whether this placement, with the method's default roles, includes `site`."""
        if site.role not in (self.roles or default_roles) or (self.tower and site.tower != self.tower):
            return False
        if self.depths is None or site.depth < 0:
            return True
        return site.depth in self.block_numbers(n_blocks)

    def block_numbers(self, n_blocks: int) -> set[int]:
        """The block indices that `depths` names in a stack of `n_blocks`."""
        if self.depths is None:
            return set(range(n_blocks))
        chosen: set[int] = set()
        for depth in self.depths:
            if isinstance(depth, int):
                chosen.add(depth + n_blocks if depth < 0 else depth)
            else:
                low, high = map(int, depth.split("-"))
                chosen.update(range(low, high + 1))
        return chosen
