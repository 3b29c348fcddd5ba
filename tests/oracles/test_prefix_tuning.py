"""Prefix tuning against attention written out in float64, silent keys, real peft models, and the projection."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import adapters_of, attach


def prefixed(name: str, dtype: torch.dtype = torch.float64, **options: object) -> tuple[nn.Module, Adapter]:
    """A host with keys and values of size one."""
    model = hosts.host(name).to(dtype)
    adapter = attach(model, "prefix_tuning", n_tokens=3, **options)
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_(0, 1, generator=torch.Generator().manual_seed(7))
    return model, adapter


def keys_values(adapter: Adapter) -> tuple[Tensor, Tensor]:
    """Virtual keys and values (layers, n, heads, width) in float64."""
    (part,) = adapter.parts.values()
    keys, values = part.keys_values({})
    return keys.detach().double(), values.detach().double()


def heads(x: Tensor, width: int = 8) -> Tensor:
    """(batch, tokens, h d_h) -> (batch, h, tokens, d_h)."""
    return x.view(*x.shape[:2], -1, width).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, virtual: tuple[Tensor, Tensor], allowed: Tensor) -> Tensor:
    """softmax(q [P_k ; k]^T / sqrt(d_h)) [P_v ; v], the virtual ones always allowed; (batch, h, t, d_h) -> (batch, t, h d_h)."""
    p_k, p_v = (t.transpose(0, 1).expand(len(q), -1, -1, -1) for t in virtual)
    scores = q @ torch.cat([p_k, k], 2).transpose(2, 3) / math.sqrt(q.shape[-1])
    open_ = torch.cat([torch.ones(*allowed.shape[:-1], p_k.shape[2], dtype=torch.bool), allowed], -1)
    weights = scores.masked_fill(~open_, -torch.inf).softmax(-1)
    return (weights @ torch.cat([p_v, v], 2)).transpose(1, 2).flatten(2)


def test_equals_bert_written_out() -> None:
    """Two BERT layers by hand; the text's positions start behind the prefix, as in peft."""
    model, adapter = prefixed("bert")
    keys, values = keys_values(adapter)
    base, given = hosts.host("bert").double(), hosts.inputs("bert")
    allowed = given["attention_mask"].bool()[:, None, None, :]
    with torch.no_grad():
        x = base.bert.embeddings(given["input_ids"], position_ids=torch.arange(3, 10)[None])
        for number, layer in enumerate(base.bert.encoder.layer):
            own = layer.attention.self
            q, k, v = (heads(m(x)) for m in (own.query, own.key, own.value))
            mixed = attend(q, k, v, (keys[number], values[number]), allowed)
            x = layer.attention.output.LayerNorm(layer.attention.output.dense(mixed) + x)
            x = layer.output.LayerNorm(layer.output.dense(nn.functional.gelu(layer.intermediate.dense(x))) + x)
        expected = base.classifier(torch.tanh(base.bert.pooler.dense(x[:, 0])))
        got = model(**given).logits
    assert (got - expected).abs().max() < 1e-12


def test_equals_llama_written_out() -> None:
    """Two Llama layers by hand: grouped heads, causal, rotated text keys at positions n, n + 1, ..., virtual keys as they are."""
    model, adapter = prefixed("llama")
    keys, values = keys_values(adapter)
    base, ids = hosts.host("llama").double(), hosts.inputs("llama")["input_ids"][:1]
    angle = torch.arange(3, 10).double()[:, None] / 10_000 ** (torch.arange(0, 8, 2).double() / 8)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def rotate(t: Tensor) -> Tensor:
        return t * cos + torch.cat([-t[..., 4:], t[..., :4]], -1) * sin

    causal = torch.ones(7, 7).tril().bool()[None, None]
    with torch.no_grad():
        x = base.model.embed_tokens(ids)
        for number, layer in enumerate(base.model.layers):
            own, h = layer.self_attn, layer.input_layernorm(x)
            q, k, v = heads(own.q_proj(h)), heads(own.k_proj(h)), heads(own.v_proj(h))
            k, v = rotate(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            virtual = tuple(t[number].repeat_interleave(2, 1) for t in (keys, values))
            x = x + own.o_proj(attend(rotate(q), k, v, virtual, causal))
            h = layer.post_attention_layernorm(x)
            x = x + layer.mlp.down_proj(nn.functional.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
        expected = base.lm_head(base.model.norm(x))
        got = model(ids).logits
    assert (got - expected).abs().max() < 1e-5  # transformers computes its angles and softmax in fp32


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_keys_that_nobody_reads_leave_the_base(name: str) -> None:
    """Limit: where every query scores the virtual keys near minus infinity, only the shift of positions remains."""
    model, adapter = prefixed(name)
    base = hosts.host(name).double()
    for host in (model, base):
        for site in backbones.of(host).sites(host):
            if site.role == "attn.q":
                host.get_submodule(site.path).bias.data[slice(*(site.rows or (0, 32)))] = 10
    (part,) = adapter.parts.values()
    part.P.data.view(3, 2, 2, 4, 8)[:, :, 0] = -1e3
    given = hosts.inputs(name)
    with torch.no_grad():
        got = model(**given).logits
        assert (got - base(**given, position_ids=torch.arange(3, 10)[None]).logits).abs().max() < 1e-9
        part.P.data.view(3, 2, 2, 4, 8)[:, :, 0] = 1
        assert (model(**given).logits - got).abs().max() > 1e-3


def peft_twin(adapter: Adapter, base: nn.Module, task: str) -> nn.Module:
    """The base as a real peft model that holds the adapter's tensor."""
    import peft

    twin = adapter.method.peft
    assert twin is not None
    config = peft.PrefixTuningConfig(task_type=task, **twin.config(adapter.cfg, adapter.sites))
    head = {f"base_model.{n}": p.clone() for n, p in base.named_parameters() if "classifier" in n}
    model = peft.get_peft_model(base, config).eval()
    tensors = head | {twin.tensors[key.rpartition(".")[2]]: value for key, value in adapter.tensors().items()}
    peft.set_peft_model_state_dict(model, tensors)
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, tensors["prompt_embeddings"])
    return model


@pytest.mark.parametrize(("name", "task"), [("bert", "SEQ_CLS"), ("llama", "CAUSAL_LM"), ("gpt2", "CAUSAL_LM")])
def test_peft_twin(name: str, task: str) -> None:
    """The same tensor in peft's own model gives the same outputs."""
    model, adapter = prefixed(name, torch.float32)
    twin = peft_twin(adapter, hosts.host(name), task)
    given = hosts.inputs(name)
    with torch.no_grad():
        assert (model(**given).logits - twin(**given).logits).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "qwen3"), ("llama", "mistral"), ("gemma2", "gemma2"), ("gemma2", "gemma3_text")]
)
def test_peft_twin_of_other_decoders(family: str, kind: str) -> None:
    """Heads of their own width, fewer key heads, and alternating windows go through peft the same way."""
    (model, base), given = (backbones.families()[family].tiny(kind) for _ in range(2)), hosts.inputs("llama")
    adapter = attach(model, "prefix_tuning", n_tokens=3)
    with torch.no_grad():
        adapter.parts["model"].P.normal_(0, 1, generator=torch.Generator().manual_seed(7))
        assert (model(**given).logits - peft_twin(adapter, base, "CAUSAL_LM")(**given).logits).abs().max() <= 1e-5


def test_generation_equals_peft() -> None:
    """Greedy words are those of the peft model, left padding included."""
    model, adapter = prefixed("llama", torch.float32)
    twin = peft_twin(adapter, hosts.host("llama"), "CAUSAL_LM")
    ids = hosts.inputs("llama")["input_ids"].clone()
    ids[2, :3] = 0
    ids[1] = ids[1].roll(2)
    options = {"do_sample": False, "max_new_tokens": 8, "attention_mask": (ids != 0).long()}
    assert torch.equal(model.generate(ids, **options), twin.generate(input_ids=ids, **options))


def test_the_projection_is_a_two_layer_network() -> None:
    """The projected form gives the keys and values of the plain form that holds W_2 tanh(W_1 E + b_1) + b_2."""
    model, adapter = prefixed("bert", prefix_projection=True, projection_width=6)
    (part,) = adapter.parts.values()
    plain, other = prefixed("bert")
    (holder,) = other.parts.values()
    hidden = torch.tanh(part.E @ part.W1.T + part.b1)
    holder.P.data.copy_(hidden @ part.W2.T + part.b2)
    assert (hosts.logits(model, "bert") - hosts.logits(plain, "bert")).abs().max() < 1e-5
    assert adapter.new_params() == adapter.method.n_params(adapter.cfg, adapter.sites) == 3 * 32 + 6 * 33 + 128 * 7
    assert adapters_of(model).members["adapter"] is adapter
    with pytest.raises(WorkbenchError, match="export a bundle"):
        adapter.method.peft.config(adapter.cfg, adapter.sites)


def test_published_size() -> None:
    """P-tuning v2 on BERT-large with 100 tokens: 2 x 100 x 24 x 1024 parameters."""
    from transformers import BertConfig, BertModel

    from workbench.methods.prompt.prefix_tuning import PrefixTuning, PrefixTuningConfig

    with torch.device("meta"):
        model = BertModel(BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096))
    sites = [s for s in backbones.of(model).sites(model) if s.role == "model.in"]
    assert PrefixTuning.n_params(PrefixTuningConfig(n_tokens=100), sites) == 2 * 100 * 24 * 1024 == 4_915_200
