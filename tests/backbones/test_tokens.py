"""Virtual tokens in every architecture: shapes, padding, generation with and without a cache, nesting, gradients, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.backbones.test_discovery import build
from tests.backbones.test_families import DECODERS, MEMBERS, batch, tiny
from tests.contract import hosts
from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.kernel import registry
from workbench.kernel.host import adapters_of, attach

TOKEN = ("prompt_tuning", "prefix_tuning")
NEWCOMERS = ("opt", "gpt_neox", "phi3", "bloom")
CORE = ("llama", "gpt2", "gemma3_text")
STACKS = [(one,) for one in TOKEN] + [(outer, inner) for outer in TOKEN for inner in TOKEN]
HOSTS = [(name, kind, methods) for name, kind in DECODERS for methods in (STACKS if kind in CORE else STACKS[3:5])]
HOSTS += [("discovered", kind, STACKS[3]) for kind in NEWCOMERS]


def fresh(name: str, kind: str) -> nn.Module:
    """A tiny model whose weights are large enough for every token to matter."""
    model = build(kind, **({"dropout": 0.0} if kind == "opt" else {})) if name == "discovered" else tiny(name, kind)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return model


def put(model: nn.Module, methods: tuple[str, ...]) -> None:
    """Attach token methods with tensors of size one."""
    for number, method in enumerate(methods):
        adapter = attach(model, method, name=f"a{number}", n_tokens=3 + number)
        with torch.no_grad():
            for p in adapter.parameters():
                p.normal_(0, 1, generator=torch.Generator().manual_seed(number))


def padded() -> dict[str, tuple[Tensor, Tensor]]:
    """Three rows of words, the second one short: padded at its left and at its right."""
    ids = torch.randint(3, 99, (3, 6), generator=torch.Generator().manual_seed(1))
    left, right = ids.clone(), ids.clone()
    left[1, :3], right[1, :3], right[1, 3:] = 0, ids[1, 3:], 0
    return {"left": (left, (left != 0).long()), "right": (right, (right != 0).long())}


@pytest.mark.parametrize("method", TOKEN)
@pytest.mark.parametrize(("name", "kind"), MEMBERS)
def test_outputs_keep_their_shape_and_gradients_reach_the_tokens(name: str, kind: str, method: str) -> None:
    """Logits have the base's shape in train and eval mode and for any batch size; only the tokens get gradients."""
    model = tiny(name, kind)
    base = model(**batch(model)).logits
    if backbones.of(model).refusal(model, registry.methods()[method].where):
        with pytest.raises(WorkbenchError, match=r"lets no virtual tokens (into its layers|before its input)"):
            attach(model, method)
        assert not adapters_of(model).members
        return
    adapter = attach(model, method, n_tokens=3)
    out = model.train()(**batch(model)).logits
    assert out.shape == base.shape
    assert not torch.allclose(out, base, atol=1e-6)
    one = model.eval()(**{k: v[:1] for k, v in batch(model).items()}).logits
    assert torch.allclose(one, out[:1], atol=1e-6)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("workbench."))


@pytest.mark.parametrize(("name", "kind", "methods"), HOSTS, ids=lambda x: "+".join(x) if isinstance(x, tuple) else x)
def test_cached_generation_equals_the_greedy_reference(name: str, kind: str, methods: tuple[str, ...]) -> None:
    """Left-padded `generate` gives the words that whole forward passes without a cache choose one by one."""
    model = fresh(name, kind)
    put(model, methods)
    model.generation_config.eos_token_id = None
    ids, mask = padded()["left"]
    made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=5)
    with torch.no_grad():
        for _ in range(5):
            best = model(ids, attention_mask=mask, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            ids, mask = torch.cat([ids, best], 1), torch.cat([mask, torch.ones_like(best)], 1)
    assert torch.equal(made, ids)


@pytest.mark.parametrize(("name", "kind", "methods"), HOSTS, ids=lambda x: "+".join(x) if isinstance(x, tuple) else x)
def test_padding_changes_nothing(name: str, kind: str, methods: tuple[str, ...]) -> None:
    """A row alone, padded at its left and padded at its right has the same logits at its words."""
    model = fresh(name, kind)
    put(model, methods)
    sides = padded()
    with torch.no_grad():
        alone = model(sides["right"][0][1:2, :3]).logits
        left, right = (model(ids, attention_mask=mask).logits[1:2] for ids, mask in (sides["left"], sides["right"]))
    assert torch.allclose(left[:, 3:], alone, atol=2e-5)
    assert torch.allclose(right[:, :3], alone, atol=2e-5)


@pytest.mark.parametrize("method", TOKEN)
def test_step_by_step_with_the_cache_that_came_back(method: str) -> None:
    """A cache made by the encoder itself is known again when it comes back: the tokens are added once."""
    model = fresh("llama", "llama")
    put(model, (method,))
    ids = padded()["left"][0][:1]
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :4], use_cache=True)
        second = model(ids[:, 4:], past_key_values=first.past_key_values, use_cache=True)
        cache = second.past_key_values
        cache.reset()
        again = model(ids, past_key_values=cache, use_cache=True)
    assert torch.allclose(torch.cat([first.logits, second.logits], 1), whole, atol=1e-5)
    assert torch.allclose(again.logits, whole, atol=1e-5), "an emptied cache holds no tokens any more"


def test_given_positions_are_moved() -> None:
    """Explicit positions mean the words' own; with and without them the result is the same."""
    for method in TOKEN:
        model = fresh("gpt2", "gpt2")
        put(model, (method,))
        ids = padded()["left"][0][:1]
        with torch.no_grad():
            assert torch.allclose(model(ids, position_ids=torch.arange(6)[None]).logits, model(ids).logits, atol=1e-6)


def test_token_types_are_widened() -> None:
    """Virtual tokens are of type 0; all-zero types equal none."""
    model = hosts.host("bert")
    put(model, ("prompt_tuning",))
    ids = hosts.inputs("bert")
    with torch.no_grad():
        assert torch.equal(model(**ids, token_type_ids=torch.zeros_like(ids["input_ids"])).logits, model(**ids).logits)


def test_hidden_states_are_cut_too() -> None:
    """Every hidden state that a decoder or a ViT returns has the input's length."""
    for name in ("llama", "gpt2", "vit"):
        model = hosts.host(name)
        lengths = [h.shape[1] for h in model(**hosts.inputs(name), output_hidden_states=True).hidden_states]
        put(model, ("prompt_tuning", "prompt_tuning"))
        assert [h.shape[1] for h in model(**hosts.inputs(name), output_hidden_states=True).hidden_states] == lengths


def test_adapters_on_the_embedding_still_apply() -> None:
    """The words are embedded by the host's own embedding, so LoRA on it acts under virtual tokens."""
    model = hosts.host("llama")
    put(model, ("prompt_tuning",))
    lora = attach(model, "lora", name="words", rank=2, roles=["embed"])
    with torch.no_grad():
        before = hosts.logits(model, "llama")
        for p in lora.parameters():
            p.normal_(0, 0.3)
        assert not torch.allclose(hosts.logits(model, "llama"), before, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "bert", "vit"])
def test_parts_inside_see_the_moved_context(name: str) -> None:
    """Mask and positions that other parts read count the virtual tokens; outside the encoder they do not."""
    model = hosts.host(name)
    put(model, ("prompt_tuning",))
    adapters = adapters_of(model)
    seen: list[Any] = []
    path = next(s.path for s in adapters.sites if s.role == "block.out")
    model.get_submodule(path).register_forward_hook(lambda m, a, out: seen.append((adapters.ctx, out)))
    facts = {"positions": torch.tensor([[0, 7], [0, 5], [1, 7], [0, 6]]), "mask": torch.ones(4, 7)}
    with adapters.context(**facts):
        model(**hosts.inputs(name))
    ctx, h = seen[0]
    lead = 1 if name == "vit" else 0
    assert ctx["mask"].shape[1] == 7 + 3
    assert torch.equal(ctx["positions"], facts["positions"] + 3 * (facts["positions"] >= lead))
    assert h.shape[1] == (5 if name == "vit" else 7) + 3
    assert adapters.ctx.get("mask", facts["mask"]).shape[1] == 7


def test_vit_tokens_follow_the_class_token() -> None:
    """The blocks see [class, virtual tokens, patches]; DeiT's second class token stays in front, too."""
    for kind, lead in (("vit", 1), ("deit", 2)):
        model = tiny("vit", kind)
        inner = getattr(model, kind)
        kept: list[Tensor] = []
        inner.layers[0].register_forward_pre_hook(lambda m, a, kept=kept: kept.append(a[0]))
        with torch.no_grad():
            model(**batch(model))
            put(model, ("prompt_tuning",))
            model(**batch(model))
        plain, wide = kept
        tokens = adapters_of(model).members["a0"].parts[kind].P
        assert torch.equal(wide, torch.cat([plain[:, :lead], tokens.expand(2, -1, -1), plain[:, lead:]], 1))
        assert not inner.embeddings._forward_hooks


def test_dtypes_follow_the_host() -> None:
    """In a bfloat16 host the tokens stay fp32 and enter as bfloat16."""
    for method in TOKEN:
        model = hosts.host("llama").to(torch.bfloat16)
        adapter = attach(model, method, n_tokens=3)
        out = model(**hosts.inputs("llama")).logits
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in adapter.parameters())


# --- refusals: one sentence before anything wrong is computed ---------------------------------------------------------


def test_refusals_before_anything_is_built() -> None:
    """Where virtual tokens do not fit, or depths are asked for, nothing is attached."""
    for model, method, words in (
        (tiny("bert", "distilbert"), "prefix_tuning", "DistilBertModel lets no virtual tokens into its layers"),
        (hosts.host("vit"), "prefix_tuning", "ViTModel lets no virtual tokens into its layers"),
        (build("modernbert"), "prefix_tuning", "ModernBertModel lets no virtual tokens into its layers"),
    ):
        with pytest.raises(WorkbenchError, match=words):
            attach(model, method)
        site = next(s for s in backbones.of(model).sites(model) if s.role == "model.in")
        assert words in registry.methods()[method].problem(registry.configure(method, {}), [site])
        assert not adapters_of(model).members
    with pytest.raises(WorkbenchError, match="leave depths empty"):
        attach(hosts.host("bert"), "prompt_tuning", depths=[0])


@pytest.mark.parametrize("method", TOKEN)
def test_refusals_while_running(method: str) -> None:
    """A prepared mask, a cache of fixed size, a cache filled without the tokens, a text too long."""
    from transformers import StaticCache

    model = fresh("gpt2", "gpt2")
    ids = padded()["left"][0]
    filled = model(ids, use_cache=True).past_key_values
    put(model, (method,))
    for kwargs, words in (
        ({"attention_mask": torch.zeros(3, 1, 6, 6)}, "plain one"),
        ({"past_key_values": StaticCache(config=model.config, max_cache_len=32)}, "got StaticCache"),
        ({"past_key_values": filled}, "start an empty one"),
    ):
        with pytest.raises(WorkbenchError, match=words):
            model(ids, **kwargs)
    with pytest.raises(WorkbenchError, match="fit into 64 positions; got 62 and 3"):
        model(torch.ones(1, 62, dtype=torch.long))
    assert model(torch.ones(1, 61, dtype=torch.long)).logits.shape == (1, 61, 99)


def test_roberta_has_fewer_positions_than_its_table() -> None:
    """RoBERTa's positions start behind the padding index: 64 rows, 63 places."""
    model = tiny("bert", "roberta")
    put(model, ("prompt_tuning",))
    assert model(torch.full((1, 60), 5)).logits.shape == (1, 3)
    with pytest.raises(WorkbenchError, match="fit into 63 positions"):
        model(torch.full((1, 61), 5))


def test_gradient_checkpointing_would_drop_virtual_keys() -> None:
    """It is refused with a prefix, and changes nothing with a prompt."""
    model = hosts.host("llama")
    put(model, ("prompt_tuning",))
    before = hosts.loss(model.train(), "llama")
    model.gradient_checkpointing_enable()
    assert torch.allclose(hosts.loss(model, "llama"), before, atol=1e-6)
    put_prefix = attach(model, "prefix_tuning", name="late", n_tokens=2)
    assert put_prefix.new_params() == 2 * 2 * 2 * 16
    with pytest.raises(WorkbenchError, match="gradient checkpointing drops; switch it off"):
        hosts.loss(model, "llama")
