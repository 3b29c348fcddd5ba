"""ViT and DeiT: pre-norm encoders of image patches behind one or two class tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from workbench.backbones.family import Family, Place

ROLES = (
    Place("attn.q", "layers.#.attention.q_proj"),
    Place("attn.k", "layers.#.attention.k_proj"),
    Place("attn.v", "layers.#.attention.v_proj"),
    Place("attn.out", "layers.#.attention.o_proj"),
    Place("ffn.up", "layers.#.mlp.fc1"),
    Place("ffn.down", "layers.#.mlp.fc2"),
    # one dropout module follows both sublayers, so the sublayers themselves are the points
    Place("attn.block", "layers.#.attention"),
    Place("ffn.block", "layers.#.mlp"),
    Place("block.out", "layers.#"),
    Place("patch", "embeddings.patch_embeddings.projection"),
    Place("embed.out", "embeddings"),
    Place("model.out", "layernorm"),
)


def token_port(call: Any, module: Any, part: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the encoder with virtual tokens between class token and patches (shallow VPT); the output keeps its length."""
    from workbench.backbones.tokens import shortened

    tokens = part.tokens(ctx)  # (n, d)
    lead = 2 if hasattr(module.embeddings, "distillation_token") else 1

    def insert(_module: nn.Module, _args: tuple, h: Tensor) -> Tensor:
        return torch.cat([h[:, :lead], tokens.to(h).expand(len(h), -1, -1), h[:, lead:]], 1)

    hook = module.embeddings.register_forward_hook(insert)
    try:
        return shortened(call(*args, **kwargs, virtual=(len(tokens), lead)), len(tokens), lead)
    finally:
        hook.remove()


def tiny(model_type: str) -> Any:
    """A 2-block, 32-wide classifier of 8 x 8 grey images in patches of 4 x 4, with 3 labels."""
    from transformers import AutoConfig, AutoModelForImageClassification

    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 3, "hidden_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    # DeiT has two classifiers, so the class must be named
    sizes |= {"architectures": [{"vit": "ViT", "deit": "DeiT"}[model_type] + "ForImageClassification"]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForImageClassification.from_config(AutoConfig.for_model(model_type, **sizes)).eval()


FAMILY = Family("vit", ("vit", "deit"), ROLES, ("vit", "deit"), token_port, tiny, ports=("input",))
