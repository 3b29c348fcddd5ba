"""Several adapters on one host: sums, weights, rows of a batch, merging and leaving in any order."""

import itertools

import pytest
import torch

from tests.contract import hosts
from tests.contract.checks import disturb
from tests.kernel.test_attach import put, run
from workbench.core.errors import WorkbenchError
from workbench.kernel import registry
from workbench.kernel.host import adapters_of, attach


def three(family: str = "bert") -> tuple[torch.nn.Module, torch.Tensor]:
    """A host with a dense change, a LoRA and a shift, and the base's logits."""
    model = hosts.host(family)
    base = run(model, family)
    put(model, "dense", "a", seed=1)
    disturb(put(model, "lora", "b", seed=2))
    put(model, "shift", "c", seed=3)
    return model, base


def test_weighted_sums() -> None:
    """Two changes of one weight add up with their weights; a negative weight subtracts."""
    model, by_hand = hosts.host("bert"), hosts.host("bert")
    one, two = put(model, "dense", "one", seed=1), put(model, "dense", "two", seed=2)
    for wa, wb in ((1.0, 1.0), (0.5, -2.0), (0.0, 3.0)):
        fresh = hosts.host("bert")
        for (_, a), (_, b) in zip(one.named_parts(), two.named_parts(), strict=True):
            module = by_hand.get_submodule(a.site.path)
            base = fresh.get_submodule(a.site.path)
            with torch.no_grad():
                module.weight.copy_(base.weight + wa * a.D + wb * b.D)
                module.bias.copy_(base.bias + wa * a.d + wb * b.d)
        model.workbench.activate({"one": wa, "two": wb})
        apart = run(model, "bert")
        assert torch.allclose(apart, run(by_hand, "bert"), atol=1e-5)
        model.workbench.merge()
        assert torch.allclose(run(model, "bert"), apart, atol=1e-5)
        model.workbench.unmerge()


def test_weights_of_activation_edits_and_base_tensors() -> None:
    """Weight w moves the output, or the base tensor, by w times the change."""
    model = hosts.host("bert")
    shift = put(model, "shift", "s", roles=["model.out"])
    model.workbench.activate({"s": 0.25})
    (part,) = shift.parts.values()
    quarter = run(model, "bert")
    with torch.no_grad():
        part.v.mul_(0.25)
    model.workbench.activate({"s": 1.0})
    assert torch.allclose(run(model, "bert"), quarter, atol=1e-6)
    model.workbench.release()
    before = hosts.host("bert").bert.pooler.dense.bias.detach()
    one, two = put(model, "biases", "one"), put(model, "biases", "two")
    disturb(one, 1)
    disturb(two, 2)
    model.workbench.activate({"one": 0.5, "two": 2.0})
    mine, theirs = (a.originals()["bert.pooler.dense.bias"][1] for a in (one, two))
    expected = before + 0.5 * (mine - before) + 2.0 * (theirs - before)
    assert torch.allclose(model.bert.pooler.dense.bias, expected, atol=1e-6)
    model.workbench.activate({"one": 1.0})
    assert model.bert.pooler.dense.bias is mine
    model.workbench.activate({})
    assert torch.equal(model.bert.pooler.dense.bias, before)


def test_a_select_part_takes_over_the_bases_tensor_even_when_another_stands_there() -> None:
    """The second adapter starts from the base, and the first can leave before it."""
    model = hosts.host("bert")
    before = hosts.snapshot(model)
    disturb(put(model, "biases", "one"))
    second = put(model, "biases", "two")
    for original, own, _ in second.originals().values():
        assert torch.equal(original, own)
        assert id(original) in {i for i, _, _ in before.values()}
    model.workbench.detach("one")
    model.workbench.release()
    assert not hosts.differences(before, hosts.snapshot(model))


def test_each_example_gets_its_adapter() -> None:
    """Rows of one batch with different adapters equal the rows of batches with one adapter each."""
    model = hosts.host("bert")
    base = run(model, "bert")
    for number, key in enumerate(("dense", "lora", "shift", "read_rnn")):
        disturb(put(model, key, f"a{number}", seed=number))
    alone = {}
    for name in model.workbench.members:
        with model.workbench.only({name: 1.0}):
            alone[name] = run(model, "bert")
    for choice in (["a0", "a1", None, "a2"], ["a3", None, "a3", "a1"], [None] * 4, ["a1"] * 4):
        with model.workbench.per_example(choice):
            mixed = run(model, "bert")
        for row, name in enumerate(choice):
            expected = base[row] if name is None else alone[name][row]
            assert torch.allclose(mixed[row], expected, atol=1e-5), (choice, row)
    assert model.workbench.choice is None


def test_rows_get_their_own_facts() -> None:
    """A part that is chosen for some rows sees the mask and positions of these rows."""
    model = hosts.host("bert")
    (part, _) = put(model, "shift").parts.values()
    with model.workbench.per_example([None, "a", None, "a"]):
        run(model, "bert")
    h, x, ctx = part.seen[-1]
    assert len(h) == len(x) == 2
    assert torch.equal(ctx["mask"], hosts.inputs("bert")["attention_mask"][[1, 3]])
    assert torch.equal(ctx["positions"], hosts.facts("bert")["positions"][[1, 3]])


def test_what_cannot_be_chosen_per_example_says_so() -> None:
    """Base tensors stand for the whole batch; unknown names are named."""
    model = hosts.host("bert")
    put(model, "biases", "b")
    with (
        pytest.raises(WorkbenchError, match="biases cannot be chosen per example"),
        model.workbench.per_example(["b", None, None, None]),
    ):
        pass
    with (
        pytest.raises(WorkbenchError, match="no adapter is called 'x' here; attached: b"),
        model.workbench.per_example(["x"] * 4),
    ):
        pass
    with pytest.raises(WorkbenchError, match="no adapter is called 'x' here"):
        model.workbench.activate({"x": 1.0})
    put(model, "lora", "l")
    with pytest.raises(WorkbenchError, match="4 examples; got 3"), model.workbench.per_example(["l"] * 3):
        run(model, "bert")


@pytest.mark.parametrize("order", list(itertools.permutations("abcd")))
def test_detach_in_any_order(order: tuple[str, ...]) -> None:
    """Whichever leaves first, those that stay compute the same, and in the end the base is back."""
    model = hosts.host("bert")
    before, base = hosts.snapshot(model), run(model, "bert")
    for name, key in zip("abcd", ("dense", "pair", "biases", "lora"), strict=True):
        disturb(put(model, key, name, seed=ord(name)))
    for gone in range(4):
        left = [n for n in "abcd" if n not in order[:gone]]
        with model.workbench.only({left[-1]: 1.0}):
            last = run(model, "bert")
        model.workbench.detach(order[gone])
        if order[gone] != left[-1]:
            with model.workbench.only({left[-1]: 1.0}):
                assert torch.equal(run(model, "bert"), last)
    assert torch.equal(run(model, "bert"), base)
    model.workbench.release()
    assert not hosts.differences(before, hosts.snapshot(model))
    assert not hasattr(model, "workbench")


def test_merging_and_switching_exclude_each_other() -> None:
    """While merged nothing can be attached, switched or merged again; detaching unmerges first."""
    model, base = three()
    model.workbench.detach("c")
    model.workbench.merge()
    for call, sentence in (
        (lambda: model.workbench.activate({}), "unmerge before switching"),
        (lambda: put(model, "lora", "new"), "unmerge before attaching"),
        (model.workbench.merge, "already merged"),
    ):
        with pytest.raises(WorkbenchError, match=sentence):
            call()
    model.workbench.detach("a")
    model.workbench.detach("b")
    assert torch.equal(run(model, "bert"), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerge_puts_the_very_same_tensors_back(dtype: torch.dtype) -> None:
    """Weights and biases of the base: the same objects, the same bits."""
    model = hosts.host("bert").to(dtype)
    put(model, "dense")
    before, apart = hosts.snapshot(model), run(model, "bert")
    model.workbench.merge()
    changed = {line.split(":")[0] for line in hosts.differences(before, hosts.snapshot(model)) if "another value" in line}
    assert changed == {f"{s.path}.{n}" for s in model.workbench.members["a"].sites for n in ("weight", "bias")}
    model.workbench.unmerge()
    assert not hosts.differences(before, hosts.snapshot(model))
    assert torch.equal(run(model, "bert"), apart)


def test_a_merge_that_fails_half_way_leaves_nothing_merged() -> None:
    """GPT-2 ties its embedding to the output: that weight is refused, and what was merged before is taken back."""
    model = hosts.host("gpt2")
    put(model, "dense", "q")
    disturb(put(model, "lora", "e", roles=["embed"]))
    before, out = hosts.snapshot(model), run(model, "gpt2")
    with pytest.raises(WorkbenchError, match="tied weight cannot be merged"):
        model.workbench.merge()
    assert not model.workbench.merged
    assert not hosts.differences(before, hosts.snapshot(model))
    assert torch.equal(run(model, "gpt2"), out)


@pytest.mark.parametrize("key", ["words", "full"])
def test_a_tied_base_tensor_is_taken_once_and_stays_tied(key: str) -> None:
    """Training the embedding of a tied model trains its output too; detach restores both places."""
    model = hosts.host("gpt2")
    before = hosts.snapshot(model)
    adapter = put(model, key)
    assert model.transformer.wte.weight is model.lm_head.weight
    chosen = [original for original, _, _ in adapter.originals().values()]
    assert len({id(p) for p in chosen}) == len(chosen) == len(adapter.chosen)
    assert adapter.base_params() == sum(p.numel() for p in chosen)
    disturb(adapter)
    model.workbench.release()
    assert model.transformer.wte.weight is model.lm_head.weight
    assert not hosts.differences(before, hosts.snapshot(model))


def test_only_and_context_nest_and_come_back_after_errors() -> None:
    """The weights before the block hold after it, whatever happened inside."""
    model, _ = three()
    model.workbench.activate({"a": 0.5, "b": 2.0})

    def fail() -> None:
        assert model.workbench.active == {"c": 1.0}
        raise ArithmeticError

    with pytest.raises(ArithmeticError), model.workbench.only({"c": 1.0}):
        fail()
    assert model.workbench.active == {"a": 0.5, "b": 2.0}
    with model.workbench.only({"c": 1.0}):
        model.workbench.detach("a")
    assert model.workbench.active == {"b": 2.0}


def test_adapters_on_a_model_without_a_head() -> None:
    """AutoModel: the host is its own encoder; every kind of part finds its place."""
    from transformers import AutoModel

    for key in ("lora", "shift", "read_rnn", "prompt_tuning", "biases"):
        model = AutoModel.from_config(hosts.host("bert").config).eval()
        before = hosts.snapshot(model)
        batch = hosts.inputs("bert")
        with torch.no_grad():
            base = model(**batch).last_hidden_state
        disturb(put(model, key))
        with torch.no_grad():
            now = model(**batch).last_hidden_state
        assert now.shape[-1] == base.shape[-1]
        assert now.shape != base.shape or not torch.allclose(now, base, atol=1e-3)
        model.workbench.release()
        assert not hosts.differences(before, hosts.snapshot(model))


def test_a_composite_keeps_its_parts_apart() -> None:
    """Two parts at one module have their own keys; the bank is stored once; norms of the base train."""
    model = hosts.host("bert")
    adapter = put(model, "pair", roles=["attn.q"])
    keys = [k for k, _ in adapter.named_parts()]
    assert len(keys) == len(set(keys)) == 4
    shared = [k for k in adapter.tensors() if k.startswith("shared.")]
    assert len(shared) == 2
    assert adapter.new_params() == registry.methods()["pair"].n_params(adapter.cfg, adapter.sites)
    norms = {n for n, _ in model.named_parameters() if "LayerNorm" in n and not n.startswith("workbench.")}
    assert set(adapter.originals()) == norms
    assert adapter.base_params() == len(norms) * 32


def test_the_head_is_no_site() -> None:
    """Full fine-tuning takes every tensor but the task's head; without a declared head it takes that too."""
    model = hosts.host("bert")
    chosen = set(put(model, "full").originals())
    assert chosen == {n for n, _ in model.named_parameters() if not n.startswith(("classifier.", "workbench."))}
    bare = hosts.host("bert")
    assert {"classifier.weight", "classifier.bias"} <= set(attach(bare, "full").originals())


@pytest.mark.parametrize("name", ["a", "1st", "with space", "a.b", "", "keys", "forward"])
def test_names_of_adapters(name: str) -> None:
    """Taken names and names that no attribute can have are refused in one sentence."""
    model = hosts.host("bert")
    put(model, "lora", "a")
    with pytest.raises(WorkbenchError, match="must be new and made of letters, digits and _"):
        put(model, "lora", name)
    assert list(model.workbench.members) == ["a"]


def test_places_that_are_not_there() -> None:
    """A role that matches nothing, a depth outside the stack, a word that is no role: one sentence each, nothing attached."""
    model = hosts.host("bert")
    for values, sentence in (
        (
            {"roles": ["cross.q"]},
            "lora needs the role cross.q, which matches nothing in this base model; it has attn.block, attn.k",
        ),
        ({"depths": [2]}, "depths must name blocks 0 to 1 of this base model; got 2"),
        ({"depths": ["0-5"]}, "depths must name blocks 0 to 1"),
        ({"depths": [-3]}, "depths must name blocks 0 to 1"),
        ({"depths": ["first"]}, "a depth is a whole number or a range like 0-3; got 'first'"),
        ({"roles": ["q_proj"]}, "'q_proj' is no role; roles are attn.q"),
        ({"roles": []}, "name at least one role"),
    ):
        with pytest.raises(WorkbenchError, match=sentence):
            adapters_of(model, ("classifier",)).attach("a", "lora", registry.configure("lora", values))
    assert not model.workbench.members
    last = put(model, "lora", depths=[-1])
    assert {s.depth for s in last.sites} == {1}


def test_an_unfit_attach_leaves_the_host_alone() -> None:
    """A role that does not exist anywhere is found before anything is built."""
    model = hosts.host("bert")
    put(model, "lora", "kept")
    out, patches = run(model, "bert"), len(model.workbench._patches)
    with pytest.raises(WorkbenchError):
        put(model, "dense", "new", roles=["cross.q"])
    assert len(model.workbench._patches) == patches
    assert torch.equal(run(model, "bert"), out)


def test_a_model_without_a_config_is_refused() -> None:
    """The family is read from the config."""
    with pytest.raises(WorkbenchError, match="must carry a transformers config; got Linear"):
        adapters_of(torch.nn.Linear(2, 2))


def test_release_makes_trainable_again_what_was() -> None:
    """requires_grad of every tensor comes back as it was found, frozen ones included."""
    model = hosts.host("bert")
    model.bert.embeddings.requires_grad_(False)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    put(model, "lora")
    assert not any(p.requires_grad for n, p in model.named_parameters() if not n.startswith("workbench."))
    model.workbench.release()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before


def test_shared_draws_do_not_depend_on_other_adapters() -> None:
    """The seed alone decides the values, not what was attached or drawn before."""
    model = hosts.host("bert")
    first = put(model, "lora", "first", seed=1)
    second = put(model, "lora", "second", seed=2)
    torch.rand(3)
    alone = put(hosts.host("bert"), "lora", "second", seed=2)
    assert not any(torch.equal(a, b) for a, b in zip(first.tensors().values(), second.tensors().values(), strict=True) if a.any())
    assert all(torch.equal(a, b) for a, b in zip(second.tensors().values(), alone.tensors().values(), strict=True))
