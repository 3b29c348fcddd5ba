"""Virtual tokens: run an encoder with a token part's tokens before its own, in training and in cached generation."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.core.errors import WorkbenchError

_MARK = "virtual_tokens"  # attribute of a cache: {id of the part: number of its tokens in the cache}


def widened(
    call: Callable[..., Any], module: Any, part: Any, ctx: Any, *args: Any, cut: bool, room: int | None = None, **kwargs: Any
) -> Any:
    """Call an encoder with virtual tokens (`part.where == "input"`) or virtual keys and values (`"layers"`) in front.

    The first call of a sequence adds them; calls that continue a cache which already holds them only widen the mask and
    shift the positions. Positions are those of peft, except that left padding does not count in decoders: real tokens
    follow the virtual ones directly, whatever the padding side.

    Args:
        call: the encoder's forward, or what stands around it; told how many tokens are new as `virtual=(n, 0)`.
        module: the encoder (`model.in`), a transformers model, and `args`, `kwargs` what it was called with.
        part: the token part.
        ctx: the context of this forward pass.
        cut: leave the virtual tokens out of the returned hidden states, so that logits keep the input's length.
        room: positions the encoder has, where it stores one vector for each.

    Raises:
        WorkbenchError: a prepared mask, another kind of cache, gradient checkpointing with virtual keys, too long a text.
    """
    takes = inspect.signature(type(module).forward).parameters
    kwargs |= dict(zip(list(takes)[1:], args, strict=False))
    batch, length = (kwargs["inputs_embeds"] if kwargs.get("input_ids") is None else kwargs["input_ids"]).shape[:2]
    cache, deep = kwargs.get("past_key_values"), part.where == "layers"
    _check(module, kwargs.get("attention_mask"), cache, deep)
    n, new = _tokens(part, ctx, cache, length, room)
    added = n if new and not deep else 0
    _shift_positions(kwargs, length, n, added, padding_aware=cut and "position_ids" in takes)
    if (mask := kwargs.get("attention_mask")) is not None:
        kwargs["attention_mask"] = torch.cat([mask.new_ones(batch, n), mask], 1)
    if new and deep:
        cache = kwargs["past_key_values"] = _prefilled(cache, module, *new, batch=batch)
    elif new:
        _prepend(kwargs, module, *new, batch=batch)
    _mark(cache, part, n)
    out = call(**kwargs, virtual=(added, 0))
    _mark(getattr(out, "past_key_values", None), part, n)
    return shortened(out, added) if cut and added else out


def shortened(out: Any, n: int, lead: int = 0) -> Any:
    """An encoder's output without `n` positions behind its first `lead` ones, in every hidden state it carries."""

    def cut(h: Tensor) -> Tensor:  # (batch, lead + n + rest, d) -> (batch, lead + rest, d)
        return torch.cat([h[:, :lead], h[:, lead + n :]], 1) if lead else h[:, n:]

    if isinstance(out, tuple):
        return (cut(out[0]), *out[1:])
    out.last_hidden_state = cut(out.last_hidden_state)
    if getattr(out, "hidden_states", None) is not None:
        out.hidden_states = tuple(cut(h) for h in out.hidden_states)
    return out


def _check(module: Any, mask: Any, cache: Any, deep: bool) -> None:
    """Refuse what could not be widened, or would silently lose the virtual keys."""
    from transformers import DynamicCache

    if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
        raise WorkbenchError("virtual tokens need a mask of shape (batch, tokens); got a prepared one, so pass the plain one.")
    if cache is not None and not isinstance(cache, DynamicCache):
        raise WorkbenchError(f"virtual tokens need a cache that grows; got {type(cache).__name__}, so use the default one.")
    if deep and module.training and any(getattr(m, "gradient_checkpointing", False) for m in module.modules()):
        raise WorkbenchError("virtual keys live in the cache, which gradient checkpointing drops; switch it off.")


def _tokens(part: Any, ctx: Any, cache: Any, length: int, room: int | None) -> tuple[int, tuple[Tensor, ...]]:
    """How many virtual tokens a part has, and the tokens themselves unless the cache holds them already."""
    past = 0 if cache is None else cache.get_seq_length()
    held = getattr(cache, _MARK, {}) if past else {}  # an emptied cache holds none
    new: tuple[Tensor, ...] = ()
    if id(part) not in held:
        if past > sum(held.values()):
            raise WorkbenchError("virtual tokens come before the text; got a cache filled without them, so start an empty one.")
        new = part.keys_values(ctx) if part.where == "layers" else (part.tokens(ctx),)
    n = held[id(part)] if not new else new[0].shape[-3 if part.where == "layers" else -2]
    if room is not None and past + length + (n if new else 0) > room:
        raise WorkbenchError(
            f"text and virtual tokens must fit into {room} positions; got {length} and {n}, so shorten the text or use fewer."
        )
    return n, new


def _mark(cache: Any, part: Any, n: int) -> None:
    if cache is not None:
        setattr(cache, _MARK, {**getattr(cache, _MARK, {}), id(part): n})


def _shift_positions(kwargs: dict[str, Any], length: int, n: int, added: int, padding_aware: bool) -> None:
    """Move given positions behind the virtual tokens; without any, count from the first real token of padded rows."""
    positions, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    if positions is None and padding_aware and mask is not None and not bool(mask[:, 0].all()):
        padding = (mask.cumsum(1) == 0).sum(1, keepdim=True)  # (batch, 1)
        positions = (torch.arange(mask.shape[1], device=mask.device) - padding).clamp(min=0)[:, -length:]
    if positions is None:
        return  # the encoder then counts the virtual tokens itself
    if positions.dim() == 1:
        positions = positions[None]
    front = positions.amin(1, keepdim=True) + torch.arange(added, device=positions.device)
    kwargs["position_ids"] = torch.cat([front, positions + n], 1)


def _prepend(kwargs: dict[str, Any], module: Any, tokens: Tensor, batch: int) -> None:
    """Embed the text with the encoder's own embedding and put the tokens (n, d) in front."""
    text = kwargs.get("inputs_embeds")
    if text is None:
        text = module.get_input_embeddings()(kwargs["input_ids"])
    kwargs["input_ids"] = None
    kwargs["inputs_embeds"] = torch.cat([tokens.to(text).expand(batch, -1, -1), text], 1)
    if (kinds := kwargs.get("token_type_ids")) is not None:
        kwargs["token_type_ids"] = torch.cat([kinds.new_zeros(len(kinds), len(tokens)), kinds], 1)


def _prefilled(cache: Any, module: Any, keys: Tensor, values: Tensor, batch: int) -> Any:
    """A cache whose every layer starts with the virtual keys and values, each (layers, n, kv_heads, head_dim)."""
    from transformers import DynamicCache

    cache = DynamicCache(config=module.config) if cache is None else cache
    for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
        k, v = (t.to(module.device, module.dtype).transpose(0, 1).expand(batch, -1, -1, -1) for t in (k, v))
        cache.update(k, v, layer)
    return cache
