"""Surgery on single modules: every way a weight is stored, what a part sees, and what runs in which precision."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from tests.kernel.parts import Plain
from workbench.kernel import attach as surgery
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter


def put(model: nn.Module, key: str, name: str = "a", seed: int = 0, **config: Any) -> Adapter:
    """A method on a model."""
    cls = registry.methods()[key]
    return hosts.adapters(model).attach(
        name, key, cls.Config.model_validate({**cls.tiny.model_dump(exclude_unset=True), **config}), seed
    )


def watch(module: nn.Module) -> list[tuple[tuple, Any]]:
    """(positional inputs, output) of each call of the module as the host sees it."""
    calls: list[tuple[tuple, Any]] = []
    module.register_forward_hook(lambda m, args, out: calls.append((args, out)))
    return calls


def run(model: nn.Module, family: str) -> Tensor:
    """Logits without gradients."""
    with torch.no_grad():
        return hosts.logits(model, family)


@pytest.mark.parametrize(
    ("family", "role"), [("bert", "ffn.up"), ("llama", "attn.q"), ("vit", "patch"), ("bert", "embed"), ("gpt2", "ffn.up")]
)
def test_weight_change_equals_a_changed_weight(family: str, role: str) -> None:
    """On Linear with and without bias, Conv2d, Embedding and Conv1D: W + D attached equals W + D written by hand."""
    model, by_hand = hosts.host(family), hosts.host(family)
    adapter = put(model, "dense", roles=[role])
    for _, part in adapter.named_parts():
        module = by_hand.get_submodule(part.site.path)
        kind = part.site.kind
        with torch.no_grad():
            change = part.D.t() if kind in ("conv1d", "embedding") else part.D.reshape(module.weight.shape)
            module.weight.add_(change)
            if kind not in ("conv2d", "embedding") and module.bias is not None:
                module.bias.add_(part.d)
    if {s.kind for s in adapter.sites} == {"conv2d"}:
        for part in adapter.parts.values():
            part.d.data.zero_()
    assert torch.allclose(run(model, family), run(by_hand, family), atol=2e-5)
    assert not torch.allclose(run(model, family), run(hosts.host(family), family), atol=1e-3)


def test_roles_that_share_one_weight_change_their_own_rows() -> None:
    """GPT-2's c_attn: a change of attn.v leaves the rows of queries and keys bitwise alone, forward and merged."""
    model = hosts.host("gpt2")
    adapter = put(model, "dense", roles=["attn.v"], depths=[0])
    (part,) = adapter.parts.values()
    module = model.get_submodule(part.site.path)
    calls, base = watch(module), module.weight.detach().clone()
    run(model, "gpt2")
    (x,), y = calls[0]
    plain = x @ base + module.bias
    assert torch.equal(y[..., :64], plain[..., :64])
    assert torch.allclose(y[..., 64:], plain[..., 64:] + x @ part.D.t() + part.d, atol=1e-5)
    model.workbench.merge()
    assert torch.equal(module.weight[:, :64], base[:, :64])
    assert torch.allclose(module.weight[:, 64:], base[:, 64:] + part.D.t(), atol=1e-6)
    assert torch.equal(surgery.matrix(module, part.site), module.weight[:, 64:].t())


def test_three_roles_of_one_weight_add_up() -> None:
    """q, k and v of c_attn adapted together are three parts with keys of their own."""
    model = hosts.host("gpt2")
    adapter = put(model, "dense", roles=["attn.q", "attn.k", "attn.v"])
    assert len(adapter.parts) == 6
    apart = run(model, "gpt2")
    model.workbench.merge()
    assert torch.allclose(run(model, "gpt2"), apart, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_reads_output_gets_the_product_without_the_bias(family: str) -> None:
    """A part that doubles W by way of y must not double the bias."""
    model, by_hand = hosts.host(family), hosts.host(family)
    for _, part in put(model, "scaled").named_parts():
        module, rows = by_hand.get_submodule(part.site.path), slice(*(part.site.rows or (None, None)))
        with torch.no_grad():
            weight = module.weight.t() if part.site.kind == "conv1d" else module.weight
            weight[rows] *= 2
    assert torch.allclose(run(model, family), run(by_hand, family), atol=1e-5)


def test_adapter_maths_is_fp32_over_a_bf16_host() -> None:
    """The sum of base output and change is formed in fp32 and rounded once."""
    model = hosts.host("bert").to(torch.bfloat16)
    adapter = put(model, "lora", roles=["ffn.up"], depths=[0])
    (part,) = adapter.parts.values()
    with torch.no_grad():
        part.B.normal_(generator=torch.Generator().manual_seed(0))
    module = model.get_submodule(part.site.path)
    calls = watch(module)
    run(model, "bert")
    (x,), y = calls[0]
    base = nn.functional.linear(x, module.weight, module.bias)
    exact = base.float() + part.scale * (x.float() @ part.A.t() @ part.B.t())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact.to(torch.bfloat16))
    hosts.loss(model, "bert").backward()
    assert part.B.grad is not None
    assert part.B.grad.dtype == torch.float32


def test_activation_edits_are_fp32_over_a_bf16_host() -> None:
    """`edit` sees fp32 tensors and its result is rounded back."""
    model = hosts.host("bert").to(torch.bfloat16)
    adapter = put(model, "shift")
    out = run(model, "bert")
    assert torch.isfinite(out).all()
    assert {t.dtype for part in adapter.parts.values() for h, x, _ in part.seen for t in (h, x)} == {torch.float32}


def test_merging_into_bf16_rounds_once() -> None:
    """The sum is formed in fp32: two changes that cancel leave the weight as it was."""
    model = hosts.host("bert").to(torch.bfloat16)
    one, two = put(model, "dense", "one"), put(model, "dense", "two")
    with torch.no_grad():
        for a, b in zip(one.parts.values(), two.parts.values(), strict=True):
            a.D.fill_(1000.0)
            b.D.fill_(-1000.0)
            a.d.fill_(1000.0)
            b.d.fill_(-1000.0)
    module = model.get_submodule(one.sites[0].path)
    weight, bias = module.weight.detach().clone(), module.bias.detach().clone()
    model.workbench.merge()
    assert torch.allclose(module.weight.float(), weight.float(), atol=1e-2)
    assert torch.allclose(module.bias.float(), bias.float(), atol=1e-2)


def test_tuples_pass_through() -> None:
    """An edit at an attention module, which returns a tuple, changes its first item and keeps the rest."""
    model = hosts.host("gpt2")
    adapter = put(model, "shift", roles=["attn.block"], depths=[0])
    (part,) = adapter.parts.values()
    module = model.get_submodule(part.site.path)
    calls, original = watch(module), type(module).forward
    run(model, "gpt2")
    out = calls[0][1]
    assert isinstance(out, tuple)
    assert torch.equal(out[0], part.seen[0][0] + part.v)
    assert len(out) > 1
    assert module.forward.__wrapped__.__func__ is original


def test_block_roles_read_the_sublayers_input() -> None:
    """On BERT the edit stands before the residual add, and x is what the sublayer as a whole was given."""
    model = hosts.host("bert")
    adapter = put(model, "shift", roles=["attn.block", "ffn.block"], depths=[0])
    block = model.bert.encoder.layer[0]
    attention, ffn = watch(block.attention), watch(block.intermediate)
    run(model, "bert")
    first, second = (part.seen[0] for part in adapter.parts.values())
    assert torch.equal(first[1], attention[0][0][0])
    assert torch.equal(second[1], ffn[0][0][0])
    assert not torch.equal(first[0], first[1])


def test_around_can_skip_a_block() -> None:
    """With the fact in the context the block is left out, without it nothing happens; its module never runs."""
    model, shorter = hosts.host("bert"), hosts.host("bert")
    shorter.bert.encoder.layer = shorter.bert.encoder.layer[:1]
    full, short = run(model, "bert"), run(shorter, "bert")
    put(model, "skip", depths=[1])
    ran = watch(model.bert.encoder.layer[1].attention)
    assert torch.equal(run(model, "bert"), full)
    assert len(ran) == 1
    with model.workbench.context(skip=True):
        assert torch.equal(run(model, "bert"), short)
    assert len(ran) == 1
    assert torch.equal(run(model, "bert"), full)


def test_around_can_change_the_input_and_weight_parts_see_it() -> None:
    """Halving the input of a layer equals halving its weight."""
    model, by_hand = hosts.host("bert"), hosts.host("bert")
    put(model, "half")
    for layer in by_hand.bert.encoder.layer:
        layer.output.dense.weight.data /= 2
    assert torch.allclose(run(model, "bert"), run(by_hand, "bert"), atol=1e-6)


def test_around_cannot_be_chosen_per_example() -> None:
    """A part that changes the whole call says so instead of acting on every row."""
    model = hosts.host("bert")
    put(model, "half")
    with (
        pytest.raises(NotImplementedError, match="cannot be chosen per example"),
        model.workbench.per_example(["a", None, None, None]),
    ):
        run(model, "bert")


def test_the_context_holds_the_mask_and_what_was_given() -> None:
    """`mask` comes from the call, other facts from `context`, and they end with the block."""
    model = hosts.host("bert")
    (part, _) = put(model, "shift").parts.values()
    run(model, "bert")
    seen = part.seen[-1][2]
    assert torch.equal(seen["mask"], hosts.inputs("bert")["attention_mask"])
    assert torch.equal(seen["positions"], hosts.facts("bert")["positions"])
    with model.workbench.context(task="outer"), model.workbench.context(step=3):
        model(**hosts.inputs("bert"))
        assert part.seen[-1][2].keys() == {"mask", "task", "step"}
    model(input_ids=hosts.inputs("bert")["input_ids"])
    assert part.seen[-1][2] == {}


def test_an_exception_inside_the_forward_leaves_nothing_behind() -> None:
    """Tapped activations and given facts are gone, and the next pass is right."""
    model = hosts.host("bert")
    put(model, "parallel_adapter" if "parallel_adapter" in registry.methods() else "shift", "good", roles=["ffn.block"])
    clean = run(model, "bert")
    put(model, "fails", depths=[1])
    with pytest.raises(ArithmeticError, match="planned"), model.workbench.context(task="x"):
        model(**hosts.inputs("bert"))
    assert not model.workbench.inputs
    assert not model.workbench.taps
    assert model.workbench.given == {}
    model.workbench.detach("a")
    assert torch.equal(run(model, "bert"), clean)


def test_a_side_network_keeps_no_activation_of_the_base() -> None:
    """Inside the blocks nothing is saved for the backward pass; a LoRA there saves plenty."""

    def saved(key: str) -> int:
        model = hosts.host("bert").train()
        put(model, key)
        inside, count = [0], [0]
        for block in model.bert.encoder.layer:
            block.register_forward_pre_hook(lambda *_: inside.__setitem__(0, 1))
            block.register_forward_hook(lambda *_: inside.__setitem__(0, 0))

        def pack(t: Tensor) -> Tensor:
            count[0] += inside[0]
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            hosts.loss(model, "bert").backward()
        return count[0]

    assert saved("read_rnn") == 0
    assert saved("lora") > 10


def test_a_side_network_sends_nothing_back() -> None:
    """Its taps are cut off: with a trainable tensor below, no gradient arrives there through the side."""
    model = hosts.host("bert")
    adapter = put(model, "read_rnn")
    with torch.no_grad():
        next(iter(adapter.parts.values())).W_o.normal_()
    leaf = model.bert.embeddings.LayerNorm.weight.requires_grad_()
    taps: list[Tensor] = []
    part = next(iter(adapter.parts.values()))
    side = type(part).side
    part.__class__ = type("Seen", (type(part),), {"side": lambda self, t, ctx: (taps.extend(t), side(self, t, ctx))[1]})
    model(**hosts.inputs("bert")).logits.sum().backward()
    assert len(taps) == 2
    assert not any(t.requires_grad for t in taps)
    assert leaf.grad is not None


def test_patches_keep_the_signature_and_go_away() -> None:
    """transformers reads the signature of forward: it must stay; and a second adapter keeps the patch alive."""
    import inspect

    model = hosts.host("bert")
    before = inspect.signature(model.forward)
    put(model, "lora", "one")
    put(model, "lora", "two")
    assert inspect.signature(model.forward) == before
    query = model.bert.encoder.layer[0].attention.self.query
    model.workbench.detach("one")
    assert "forward" in query.__dict__
    model.workbench.detach("two")
    put(model, "shift", roles=["attn.block"])  # reads at one module, writes at another
    put(model, "read_rnn", "side")
    for name in ("a", "side"):
        model.workbench.detach(name)
    assert [n for n, m in model.named_modules() if "forward" in m.__dict__] == [""]
    model.workbench.release()
    assert "forward" not in model.__dict__


def test_a_forward_that_was_already_replaced_is_put_back() -> None:
    """accelerate and others set `forward` on instances: release gives theirs back."""
    model = hosts.host("bert")
    own = model.classifier.forward
    model.classifier.forward = own
    mine = model.classifier.__dict__["forward"]
    put(model, "shift", roles=["model.out"])
    adapters = model.workbench
    adapters._patch(model.classifier)
    adapters.release()
    assert model.classifier.__dict__["forward"] is mine


def test_plain_configs_are_frozen() -> None:
    """The test methods' Config behaves as every other."""
    assert Plain() == Plain.model_validate({})
