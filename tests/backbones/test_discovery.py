"""Architectures that no family describes: what is matched, what is said about it, and what is refused."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from tests.contract import hosts
from workbench import backbones
from workbench.backbones import discovery
from workbench.core.errors import WorkbenchError
from workbench.kernel.host import adapters_of, attach

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SIZES |= {"num_labels": 3, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MORE: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "deberta-v2": {},
    "mpnet": {},
    "modernbert": {"num_hidden_layers": 3, "cls_token_id": 1, "sep_token_id": 2},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "gpt_neox": {},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "intermediate_size": 1},
    "phi3": {},
    "olmo2": {},
    "bloom": {"intermediate_size": 1},
    "mixtral": {"num_local_experts": 4, "num_key_value_heads": 4, "head_dim": 8},
}
ENCODERS = ("albert", "electra", "deberta-v2", "mpnet", "modernbert")
QKV = {"attn.q", "attn.k", "attn.v"}
ALL = QKV | {"attn.out", "ffn.up", "ffn.down", "attn.block", "ffn.block", "block.out", "model.in", "model.out", "embed"}
LACKS = {"modernbert": QKV, "gpt_neox": QKV, "phi3": QKV, "bloom": QKV, "mixtral": {"ffn.up", "ffn.down", "ffn.block"}}


def build(kind: str, task: Any = None, **sizes: Any) -> nn.Module:
    """A tiny member of an architecture that has no file."""
    task = task or (AutoModelForSequenceClassification if kind in ENCODERS else AutoModelForCausalLM)
    config = AutoConfig.for_model(kind, **{**SIZES, **MORE.get(kind, {}), **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return task.from_config(config).eval()


@pytest.mark.parametrize("kind", MORE)
def test_roles_are_found(kind: str) -> None:
    """Every role that the architecture has apart is there in every block, with the shapes of its weights."""
    model = build(kind)
    family = backbones.of(model)
    assert family.name == f"discovered:{kind}"
    sites = family.sites(model, hosts.head(model))
    blocks = {"albert": 1, "modernbert": 3}.get(kind, 2)
    assert family.n_blocks(model) == blocks
    assert {s.role for s in sites} & ALL == ALL - LACKS.get(kind, set())
    for role in ALL - LACKS.get(kind, set()) - {"model.in", "model.out", "embed"}:
        assert [s.depth for s in sites if s.role == role] == list(range(blocks)), role
    owners = {(s.path, n) for s in sites for n, _ in s.tensors}
    every = {tuple(f".{n}".rpartition(".")[::2]) for n, _ in model.named_parameters(remove_duplicate=False)}
    assert {(f".{p}" if p else "", n) for p, n in owners} == every


@pytest.mark.parametrize("kind", MORE)
def test_methods_attach_act_and_leave(kind: str) -> None:
    """LoRA on what is there changes the output, keeps its shape, merges, and goes without a trace."""
    model = build(kind)
    ids = torch.randint(3, 99, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        base = model(input_ids=ids).logits
        adapter = attach(model, "lora", rank=2, roles=["attn.out"])
        for p in adapter.parameters():
            p.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        moved = model(input_ids=ids).logits
        adapters_of(model).merge()
        assert torch.allclose(model(input_ids=ids).logits, moved, atol=1e-5)
        adapters_of(model).release()
        assert torch.equal(model(input_ids=ids).logits, base)
    assert moved.shape == base.shape
    assert not torch.allclose(moved, base, atol=1e-5)


@pytest.mark.parametrize("kind", [k for k in MORE if k not in ENCODERS])
def test_block_roles_are_what_is_added(kind: str) -> None:
    """The points' outputs are exactly what a pre-norm block adds to the residual stream."""
    model = build(kind)
    kept: dict[str, torch.Tensor] = {}
    roles = ("attn.block", "ffn.block", "block.out")
    points = {s.role: s.path for s in backbones.of(model).sites(model) if s.depth == 1 and s.role in roles}
    if kind == "mixtral":  # its experts have no roles
        points["ffn.block"] = points["block.out"] + ".mlp"

    def keep(role: str) -> Any:
        return lambda m, a, out: kept.update({role: out[0] if isinstance(out, tuple) else out})

    for role, path in points.items():
        model.get_submodule(path).register_forward_hook(keep(role))
    model.get_submodule(points["block.out"]).register_forward_pre_hook(lambda m, a: kept.update(x=a[0]))
    with torch.no_grad():
        model(input_ids=torch.randint(3, 99, (2, 6)))
    x, attention, ffn = kept["x"], kept["attn.block"], kept["ffn.block"].view_as(kept["x"])  # OPT flattens batch and tokens
    assert torch.allclose(kept["block.out"], x + attention + ffn, atol=1e-6)


def test_an_image_encoder_is_found_but_takes_no_virtual_tokens() -> None:
    """DINOv2: roles as in text; without word embeddings no place for virtual tokens is known."""
    from transformers import AutoModelForImageClassification

    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4}
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model("dinov2", **sizes)).eval()
    sites = backbones.of(model).sites(model, ("classifier",))
    assert {s.role for s in sites} >= ALL - {"embed"} | {"embed.out", "head"}
    attach(model, "lora", rank=2)
    with pytest.raises(WorkbenchError, match="Dinov2Model lets no virtual tokens before its input"):
        attach(model, "prompt_tuning", name="prompt")


def test_the_matches_are_said() -> None:
    """Sentences name the stack, the roles with their sizes, and what is uncertain."""
    said = "\n".join(discovery.explain(build("phi3")))
    assert "phi3 is not a known family" in said
    assert "Blocks: model.layers.#, 2 of type Phi3DecoderLayer." in said
    assert "attn.out: model.layers.#.self_attn.o_proj (32 x 32)." in said
    assert "holds q, k and v in one weight" in said
    assert "ffn.up: model.layers.#.mlp.gate_up_proj (128 x 32), which also holds the gate." in said
    assert "runs 2 layers but stores 1 block(s)" in "\n".join(discovery.explain(build("albert")))
    assert discovery.explain(hosts.host("llama")) == ["llama belongs to the known family llama."]


def test_agrees_with_a_known_family() -> None:
    """On models whose table is written by hand, discovery finds the same linear maps and points."""
    for name in ("bert", "llama", "vit"):
        model = hosts.host(name)
        known, found = (f.sites(model, hosts.head(model)) for f in (backbones.of(model), discovery.discover(model)))
        roles = ALL - {"model.out"} | {"ffn.gate"}
        seen = [{(s.path, s.role, s.depth) for s in sites if s.role in roles} for sites in (known, found)]
        assert seen[0] == seen[1]


def test_a_fused_weight_has_no_query_role() -> None:
    """Asking for what could not be told apart fails, and says what is there."""
    with pytest.raises(WorkbenchError, match=r"attn\.q.*matches nothing.*attn\.out"):
        attach(build("gpt_neox"), "lora", roles=["attn.q"])


@pytest.mark.parametrize(
    ("kind", "task", "words"),
    [("mamba", AutoModelForCausalLM, "list of equal blocks"), ("bart", AutoModelForSeq2SeqLM, "encoder-decoder")],
)
def test_refusals(kind: str, task: Any, words: str) -> None:
    """No stack of attention blocks, or two stacks: one sentence."""
    model = build(kind, task)
    with pytest.raises(WorkbenchError, match=words) as error:
        backbones.of(model)
    assert str(error.value).count(". ") == 0
    assert str(error.value).endswith(".")


def test_attention_without_names_goes_by_order() -> None:
    """Four linear maps in a module called attention are taken as q, k, v, out, and that is said."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.ModuleDict({name: nn.Linear(32, 32) for name in "abcd"})
            self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 32)

    host = nn.Module()
    host.layers = nn.ModuleList([Block(), Block()])
    host.config = AutoConfig.for_model("electra", hidden_size=32, num_hidden_layers=2)
    host.get_input_embeddings = lambda: None
    found = discovery.discover(host)
    roles = {p.role: p.path for p in found.places(host)}
    assert [roles[f"attn.{x}"] for x in ("q", "k", "v", "out")] == [f"layers.#.attention.{x}" for x in "abcd"]
    assert roles["ffn.down"] == "layers.#.second"
    assert "assumed from the order" in "\n".join(found.matched)
