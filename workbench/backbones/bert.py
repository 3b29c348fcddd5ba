"""BERT, RoBERTa, DistilBERT and their descendants (MiniLM): post-norm encoders."""

from typing import Any

import torch

from workbench.backbones.family import Family, Place

_BERT = "encoder.layer.#"
_DISTIL = "transformer.layer.#"
ROLES = (
    Place("attn.q", f"{_BERT}.attention.self.query"),
    Place("attn.k", f"{_BERT}.attention.self.key"),
    Place("attn.v", f"{_BERT}.attention.self.value"),
    Place("attn.out", f"{_BERT}.attention.output.dense"),
    Place("ffn.up", f"{_BERT}.intermediate.dense"),
    Place("ffn.down", f"{_BERT}.output.dense"),
    # the dropout modules are the last step before the residual add, where Houlsby's adapters go
    Place("attn.block", f"{_BERT}.attention.output.dropout", source=f"{_BERT}.attention"),
    Place("ffn.block", f"{_BERT}.output.dropout", source=f"{_BERT}.intermediate"),
    Place("block.out", _BERT),
    Place("attn.q", f"{_DISTIL}.attention.q_lin"),
    Place("attn.k", f"{_DISTIL}.attention.k_lin"),
    Place("attn.v", f"{_DISTIL}.attention.v_lin"),
    Place("attn.out", f"{_DISTIL}.attention.out_lin"),
    Place("ffn.up", f"{_DISTIL}.ffn.lin1"),
    Place("ffn.down", f"{_DISTIL}.ffn.lin2"),
    Place("attn.block", f"{_DISTIL}.attention"),
    Place("ffn.block", f"{_DISTIL}.ffn"),
    Place("block.out", _DISTIL),
    Place("embed", "embeddings.word_embeddings"),
    Place("embed.out", "embeddings"),
    Place("model.out", "encoder"),
    Place("model.out", "transformer"),
)


def token_port(call: Any, module: Any, part: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the encoder with virtual tokens in front, or with keys and values in front of every layer's own.

    The sequence keeps its virtual tokens: a classifier on the first token then reads the first virtual one, as in peft.
    """
    from workbench.backbones.tokens import widened

    config = module.config
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert")  # their positions start behind the padding index
    room = config.max_position_embeddings - (config.pad_token_id + 1 if shifted else 0)
    return widened(call, module, part, ctx, *args, cut=getattr(config, "is_decoder", False), room=room, **kwargs)


def tiny(model_type: str) -> Any:
    """A 2-block, 32-wide classifier of the given type with 3 labels and a vocabulary of 99."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"vocab_size": 99, "max_position_embeddings": 64, "num_labels": 3, "pad_token_id": 0}
    if model_type == "distilbert":
        sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
        sizes |= {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    else:
        sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **sizes)).eval()


_TYPES = ("bert", "roberta", "distilbert", "xlm-roberta", "camembert")
FAMILY = Family("bert", _TYPES, ROLES, ("bert", "roberta", "distilbert"), token_port, tiny)
