"""Unknown architectures: the stack of equal blocks is found by its shape, the roles inside by sizes and usual names."""

import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from workbench.backbones.family import Family, Place, hidden_size
from workbench.core.errors import WorkbenchError

_QKV = {
    letter: re.compile(rf"^(w_?|to_|lin_|linear_|in_proj_)?({letter}|{word})(_?(proj|lin|linear|layer))?$", re.IGNORECASE)
    for letter, word in (("q", "query"), ("k", "key"), ("v", "value"))
}
_FUSED = re.compile(r"qkv|query_key_value|^c_attn$", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_NOT_OUT = re.compile(r"(^|_)(q|k|v|query|key|value|pos|rel)(_|$)", re.IGNORECASE)
_GATE = re.compile(r"gate|^w1$", re.IGNORECASE)
_POST_FFN = r"^post_(feed_?forward|mlp|ffn|ff)"


def discover(host: nn.Module) -> Family:
    """The family of a model that no file here describes.

    Raises:
        WorkbenchError: an encoder-decoder, or no stack of blocks.
    """
    if getattr(host.config, "is_encoder_decoder", False):
        name = type(host).__name__
        raise WorkbenchError(f"a base model must have one encoder or decoder; got the encoder-decoder {name}, so use another.")
    path, stack = _stack(host)
    found = _Findings(path, list(stack)[-1], hidden_size(host))  # the last block: a first one may lack its norm
    found.say(f"Blocks: {path}.#, {len(stack)} of type {type(stack[0]).__name__}.")
    uses = getattr(host.config, "num_hidden_layers", len(stack))
    if uses > len(stack):
        found.say(f"The model runs {uses} layers but stores {len(stack)} block(s), so layers share an adapter in a block.")
    found.add("block.out", "")
    found.attention()
    found.feed_forward()
    found.surroundings(host)
    causal = _is_causal(host, stack)
    found.say(f"Attention is {'causal: virtual tokens leave' if causal else 'bidirectional: virtual tokens stay in'} the output.")
    kind, prefix = host.config.model_type, getattr(host, "base_model_prefix", "")
    port = functools.partial(_token_port, causal=causal)
    roles, said = tuple(found.places), tuple(found.sentences)
    ports = ("input", "layers") if any(p.role == "embed" for p in roles) else ()  # without words, no place is known
    return Family(f"discovered:{kind}", (kind,), roles, (prefix,) if prefix else (), port, _tiny, ports, said)


def explain(host: nn.Module) -> list[str]:
    """What the workbench knows of a model's architecture, in sentences."""
    from workbench import backbones

    family = backbones.of(host)
    if family.matched:
        return [f"{host.config.model_type} is not a known family; its parts were matched by shape and name.", *family.matched]
    return [f"{host.config.model_type} belongs to the known family {family.name}."]


def _token_port(call: Any, module: Any, part: Any, ctx: Any, *args: Any, causal: bool, **kwargs: Any) -> Any:
    from workbench.backbones.tokens import widened

    return widened(call, module, part, ctx, *args, cut=causal, **kwargs)


def _tiny(model_type: str) -> Any:
    raise WorkbenchError(f"only known families have a tiny member; {model_type} was discovered.")


def _is_causal(host: Any, stack: nn.Module) -> bool:
    from transformers.models.auto import modeling_auto as known

    name = host.config.model_type
    decoder = name in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and name not in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return decoder or any(getattr(m, "is_causal", False) for m in stack.modules())


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _sizes(module: Any) -> tuple[int, int]:
    """(d_out, d_in) of a linear map."""
    out, into = module.weight.shape
    return (into, out) if type(module).__name__ == "Conv1D" else (out, into)


def _stack(host: nn.Module) -> tuple[str, Any]:
    """The largest list of blocks of one type with an attention inside; of equally large ones the innermost."""
    base = [(p, m) for p, m in host.named_modules() if p.split(".")[0] != "workbench"]
    lists = [(p, m) for p, m in base if isinstance(m, nn.ModuleList | nn.Sequential)]
    same = [(p, m) for p, m in lists if len(m) and len({type(b) for b in m}) == 1]
    attending = [(p, m) for p, m in same if all(_attends(b) for b in m)]
    innermost = [(p, m) for p, m in attending if not any(q.startswith(f"{p}.") for q, _ in attending)]
    if not innermost:
        name = type(host).__name__
        raise WorkbenchError(f"a base model must have a list of equal blocks with linear attention maps; {name} has none.")
    return max(innermost, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def _attends(block: nn.Module) -> bool:
    return any(_is_linear(m) and (_FUSED.search(leaf) or _QKV["q"].match(leaf)) for leaf, m in _leaves(block)) or any(
        _ATTENTION.search(path) and 3 <= sum(map(_is_linear, m.modules())) <= 4 for path, m in block.named_modules()
    )


def _leaves(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in block.named_modules():
        yield path.rpartition(".")[2], module


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _common(paths: list[str]) -> str:
    """The longest module path above all of `paths`; empty when that is the block itself."""
    split = [_parent(p).split(".") for p in paths]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


@dataclass
class _Findings:
    """What was matched in one block of a stack, and the sentences that say so."""

    stack: str
    block: nn.Module
    hidden: int
    places: list[Place] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.linears = {p: m for p, m in self.block.named_modules() if _is_linear(m)}

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def add(self, role: str, path: str, source: str = "", note: str = "") -> None:
        """Record a place inside the block; `path` and `source` are relative to it."""
        full = f"{self.stack}.#.{path}".rstrip(".")
        self.places.append(Place(role, full, f"{self.stack}.#.{source}" if source else ""))
        self.taken.add(path)
        size = " x ".join(map(str, _sizes(self.linears[path]))) if path in self.linears and not role.endswith("block") else ""
        self.say(f"{role}: {full}{f' ({size})' if size else ''}{note}.")

    def attention(self) -> None:
        """Name q, k, v and out by name, or by order where a submodule called attention has three or four linear maps."""
        named: dict[str, str] = {}
        for path in self.linears:
            for letter, hint in _QKV.items():
                if hint.match(path.rpartition(".")[2]):
                    named.setdefault(letter, path)  # the first attention; a later one is a cross-attention
        fused = [p for p in self.linears if _FUSED.search(p.rpartition(".")[2])]
        note = ""
        if len(named) < 3 and not fused:
            named, note = self._by_order(), ", assumed from the order of its linear maps"
        for letter, path in named.items():
            self.add(f"attn.{letter}", path, note=note)
        for path in fused:
            self.taken.add(path)
            self.say(f"{self.stack}.#.{path} holds q, k and v in one weight of unknown order, so they have no roles.")
        inside = [*named.values(), *fused]
        region = _common(inside)
        free = [p for p, m in self.linears.items() if p not in self.taken and _sizes(m)[0] == self.hidden]
        free = [p for p in free if not _NOT_OUT.search(p.rpartition(".")[2])]
        near = [p for r in (region, _parent(region)) if r for p in free if p.startswith(f"{r}.")]
        if not near:
            return self.say("attn.out: nothing matched.")
        self.add("attn.out", near[0], note=note)
        self._block_role("attn.block", [*inside, near[0]], near[0], r"^post_(self_)?att")

    def _by_order(self) -> dict[str, str]:
        for path, module in self.block.named_modules():
            mine = [p for p in self.linears if p.startswith(f"{path}.")]
            if _ATTENTION.search(path) and 3 <= len(mine) <= 4 and module is not self.block:
                return dict(zip("qkv", mine, strict=False))
        return {}

    def feed_forward(self) -> None:
        """Name the last narrowing map down, the widening ones up and gate."""
        free = {p: _sizes(m) for p, m in self.linears.items() if p not in self.taken and "expert" not in p}
        down = [p for p, (out, into) in free.items() if out == self.hidden < into]
        wide = [p for p, (out, into) in free.items() if into == self.hidden < out]
        if not down or not wide:
            return self.say("ffn.up and ffn.down: nothing matched.")
        gates = [p for p in wide if _GATE.search(p.rpartition(".")[2])] if len(wide) > 1 else []
        ups = [p for p in wide if p not in gates] or wide[-1:]
        double = _sizes(self.linears[ups[0]])[0] == 2 * _sizes(self.linears[down[-1]])[1]
        self.add("ffn.up", ups[0], note=", which also holds the gate" if double else "")
        for path in gates[:1]:
            self.add("ffn.gate", path)
        self.add("ffn.down", down[-1])
        self._block_role("ffn.block", [ups[0], down[-1]], down[-1], _POST_FFN)

    def _block_role(self, role: str, members: list[str], last: str, after: str) -> None:
        """The point whose output is added to the residual stream: a norm behind the sublayer, the sublayer, or its last map."""
        region = _common(members)
        children = dict(self.block.named_children())
        # a norm called post_attention also stands before the feed-forward in Llama; only a second one shows the sandwich
        norms = [n for n, m in children.items() if _is_norm(m)]
        sandwich = any(re.match(_POST_FFN, n) for n in norms)
        norm = next((n for n in norms if sandwich and re.match(after, n)), "")
        source = region or (members[0] if _parent(members[0]) == "" else _parent(members[0]))
        if norm:
            return self.add(role, norm, source)
        if region and not self._adds_inside(region):
            return self.add(role, region)
        holder = self.block.get_submodule(_parent(last))
        dropout = next((n for n, m in holder.named_children() if isinstance(m, nn.Dropout)), "")
        point = f"{_parent(last)}.{dropout}" if dropout and _parent(last) not in ("", region) else last
        return self.add(role, point, source)

    def _adds_inside(self, region: str) -> bool:
        """Whether a sublayer takes the residual stream or norms it, so that its output is already the sum."""
        sublayer = self.block.get_submodule(region)
        if "residual" in inspect.signature(type(sublayer).forward).parameters:
            return True
        for path, module in sublayer.named_modules():
            norm = _is_norm(module) and not re.match(r"^(q|k|query|key)", path.rpartition(".")[2])
            if norm and any(p.numel() == self.hidden for p in module._parameters.values() if p is not None):
                return True
        return False

    def surroundings(self, host: Any) -> None:
        """Name the embedding, and the norm behind the stack or the module that holds it as the encoder's output."""
        holder = _parent(self.stack)
        norms = [n for n, m in host.get_submodule(holder).named_children() if _is_norm(m)]
        while not norms and holder.rpartition(".")[2].isdigit():
            holder = _parent(_parent(holder))  # a list runs nothing itself
        last = f"{holder}.{norms[-1]}".strip(".") if norms else holder
        if last:
            self.places.append(Place("model.out", last))
            self.say(f"model.out: {last}.")
        try:
            table = host.get_input_embeddings()
        except NotImplementedError:
            table = None
        path = next((p for p, m in host.named_modules() if m is table), "")
        if path:
            self.places.append(Place("embed.out", path))
            self.places += [Place("embed", path)] if isinstance(table, nn.Embedding) else []
            self.say(f"embed: {path}.")
