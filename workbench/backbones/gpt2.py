"""GPT-2: a pre-norm decoder with learned positions; one transposed weight holds queries, keys and values."""

from typing import Any

import torch

from workbench.backbones.family import Family, Place

ROLES = (
    Place("attn.q", "h.#.attn.c_attn", rows=(0, 3)),
    Place("attn.k", "h.#.attn.c_attn", rows=(1, 3)),
    Place("attn.v", "h.#.attn.c_attn", rows=(2, 3)),
    Place("attn.out", "h.#.attn.c_proj"),
    Place("ffn.up", "h.#.mlp.c_fc"),
    Place("ffn.down", "h.#.mlp.c_proj"),
    Place("attn.block", "h.#.attn"),
    Place("ffn.block", "h.#.mlp"),
    Place("block.out", "h.#"),
    Place("embed", "wte"),
    Place("embed.out", "drop"),
    Place("model.out", "ln_f"),
)


def token_port(call: Any, module: Any, part: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the decoder behind virtual tokens, or with keys and values before every layer's own; the output keeps its length."""
    from workbench.backbones.tokens import widened

    return widened(call, module, part, ctx, *args, cut=True, room=module.config.max_position_embeddings, **kwargs)


def tiny(model_type: str) -> Any:
    """A 2-block, 32-wide causal language model with a vocabulary of 99."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64}
    sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes)).eval()


FAMILY = Family("gpt2", ("gpt2",), ROLES, ("transformer",), token_port, tiny)
