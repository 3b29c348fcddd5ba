"""T5, mT5 and their descendants (Flan-T5, T0): a pre-norm encoder and a decoder that also attends to what was encoded."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from workbench.backbones.family import Family, Place
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site

_SELF, _CROSS = "block.#.layer.0.SelfAttention", "block.#.layer.1.EncDecAttention"
_FFN = ("block.#.layer.1.DenseReluDense", "block.#.layer.2.DenseReluDense")  # of the encoder, and of the decoder
_LETTERS = {"q": "q", "k": "k", "v": "v", "out": "o"}
ROLES = (
    *(Place(f"attn.{role}", f"{_SELF}.{name}") for role, name in _LETTERS.items()),
    *(Place(f"cross.{role}", f"{_CROSS}.{name}") for role, name in _LETTERS.items()),
    *(
        Place(role, f"{ffn}.{name}")
        for ffn in _FFN
        for role, name in (("ffn.up", "wi"), ("ffn.gate", "wi_0"), ("ffn.up", "wi_1"))
    ),
    *(Place("ffn.down", f"{ffn}.wo") for ffn in _FFN),
    Place("attn.block", _SELF),
    *(Place("ffn.block", ffn) for ffn in _FFN),
    Place("block.out", "block.#"),
    Place("embed", "embed_tokens"),
    Place("embed.out", "embed_tokens"),
)
TOWERS = ("encoder", "decoder")


class EncoderDecoder(Family):
    """A family whose sites lie in two towers, each with blocks from 0; side networks and virtual tokens have no place."""

    def sites(self, host: nn.Module, head: tuple[str, ...] = ()) -> list[Site]:
        """Every site of the host, those of the encoder and of the decoder in the towers of that name."""
        return [replace(s, tower=top) if (top := s.path.partition(".")[0]) in TOWERS else s for s in super().sites(host, head)]


def token_port(call: Any, module: Any, part: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
    """Virtual tokens would have to be told to the decoder's view of the encoder too, which this family does not do.

    Raises:
        WorkbenchError: always.
    """
    raise WorkbenchError("encoder-decoders take no virtual tokens; use another method or model.")


def tiny(model_type: str) -> Any:
    """An encoder and a decoder of 2 blocks each, 32 wide, with a gated feed-forward and a vocabulary of 99."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    sizes = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    sizes |= {"feed_forward_proj": "gated-gelu", "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(model_type, **sizes)).eval()


FAMILY = EncoderDecoder("t5", ("t5", "mt5", "umt5"), ROLES, ("encoder",), token_port, tiny, ports=())
