"""Llama, Qwen, Mistral and the first Gemma: pre-norm decoders with rotary positions and a gated feed-forward."""

from typing import Any

import torch

from workbench.backbones.family import Family, Place

LINEARS = (
    Place("attn.q", "layers.#.self_attn.q_proj"),
    Place("attn.k", "layers.#.self_attn.k_proj"),
    Place("attn.v", "layers.#.self_attn.v_proj"),
    Place("attn.out", "layers.#.self_attn.o_proj"),
    Place("ffn.gate", "layers.#.mlp.gate_proj"),
    Place("ffn.up", "layers.#.mlp.up_proj"),
    Place("ffn.down", "layers.#.mlp.down_proj"),
    Place("block.out", "layers.#"),
    Place("embed", "embed_tokens"),
    Place("embed.out", "embed_tokens"),
    Place("model.out", "norm"),
)
ROLES = (*LINEARS, Place("attn.block", "layers.#.self_attn"), Place("ffn.block", "layers.#.mlp"))


def token_port(call: Any, module: Any, part: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the decoder behind virtual tokens, or with keys and values before every layer's own; the output keeps its length."""
    from workbench.backbones.tokens import widened

    return widened(call, module, part, ctx, *args, cut=True, **kwargs)


def tiny(model_type: str) -> Any:
    """A 2-block, 32-wide causal language model of the given type with a vocabulary of 99."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "attention_dropout": 0.0}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes)).eval()


FAMILY = Family("llama", ("llama", "qwen2", "qwen3", "mistral", "gemma"), ROLES, ("model",), token_port, tiny)
