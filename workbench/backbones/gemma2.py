"""Gemma 2 and 3: Llama's names with a second norm behind each sublayer, the last step before the residual add."""

from workbench.backbones.family import Family, Place
from workbench.backbones.llama import LINEARS, tiny, token_port

ROLES = (
    *LINEARS,
    Place("attn.block", "layers.#.post_attention_layernorm", source="layers.#.self_attn"),
    Place("ffn.block", "layers.#.post_feedforward_layernorm", source="layers.#.mlp"),
)
FAMILY = Family("gemma2", ("gemma2", "gemma3_text"), ROLES, ("model",), token_port, tiny)
