"""Every architecture named in `workbench/backbones/`: its roles, its parameters, its tiny member, on and off the meta device."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from workbench import backbones
from workbench.core.types import Site
from workbench.kernel.host import adapters_of, attach

MEMBERS = [(name, kind) for name, family in backbones.families().items() for kind in family.model_types]
DECODERS = [(name, kind) for name, kind in MEMBERS if name in ("llama", "gemma2", "gpt2")]
COMMON = {"attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.down", "attn.block", "ffn.block", "block.out"}
CROSS = {"cross.q", "cross.k", "cross.v", "cross.out"}
ONCE = {"model.in", "model.out", "embed.out"}


def tiny(name: str, kind: str) -> nn.Module:
    """The tiny member of a family."""
    return backbones.families()[name].tiny(kind)


def batch(model: nn.Module) -> dict[str, Tensor]:
    """Two inputs of the model."""
    gen = torch.Generator().manual_seed(3)
    if hasattr(model.config, "image_size"):
        return {"pixel_values": torch.randn(2, 1, 8, 8, generator=gen)}
    ids = torch.randint(3, 99, (2, 6), generator=gen)
    return {"input_ids": ids, **({"decoder_input_ids": ids.flip(1)} if model.config.is_encoder_decoder else {})}


def first_tower(sites: list[Site]) -> list[Site]:
    """Without those of a decoder behind an encoder."""
    return [s for s in sites if s.tower != "decoder"]


@pytest.fixture(params=MEMBERS, ids=lambda member: member[1])
def member(request: pytest.FixtureRequest) -> nn.Module:
    """Each architecture's tiny member."""
    return tiny(*request.param)


def test_the_tiny_member(member: nn.Module) -> None:
    """32 wide, 2 blocks, no dropout, 99 words or 3 labels, and the same weights every time."""
    family = backbones.of(member)
    again = family.tiny(member.config.model_type)
    assert all(torch.equal(a, b) for a, b in zip(member.state_dict().values(), again.state_dict().values(), strict=True))
    assert family.n_blocks(member) == 2
    with torch.no_grad():
        out = member.train()(**batch(member)).logits
        assert torch.equal(out, member.eval()(**batch(member)).logits)
    assert out.shape in {(2, 6, 99), (2, 3)}
    assert next(s for s in family.sites(member) if s.role == "block.out").d_out == 32


def test_roles_resolve(member: nn.Module) -> None:
    """Every role of the table stands in every block, those outside the blocks once."""
    sites = backbones.of(member).sites(member, hosts.head(member))
    for role in COMMON:
        assert [s.depth for s in first_tower(sites) if s.role == role] == [0, 1], role
    two = {s.tower for s in sites} >= {"encoder", "decoder"}
    for role in COMMON | CROSS if two else ():
        assert [s.depth for s in sites if s.role == role and s.tower == "decoder"] == [0, 1], role
    for role in ONCE - ({"model.out"} if two else set()) | ({"patch"} if hasattr(member.config, "image_size") else {"embed"}):
        assert len([s for s in first_tower(sites) if s.role == role]) == 1, role
    paths = dict(member.named_modules())
    assert all(s.path in paths and (not s.source or s.source in paths) for s in sites)
    assert len({(s.path, s.role) for s in sites}) == len(sites)


def test_shapes_are_those_of_the_weights(member: nn.Module) -> None:
    """A site's shape is (d_out, d_in) of its own rows; q, k, v of one weight do not overlap."""
    for site in backbones.of(member).sites(member):
        if site.kind in ("linear", "conv1d", "conv2d"):
            weight = member.get_submodule(site.path).weight
            rows = weight.shape[1] if site.kind == "conv1d" else weight.shape[0]
            assert site.d_out == (rows if site.rows is None else site.rows[1] - site.rows[0])
            assert site.d_in == weight.numel() // rows
    shared = [s.rows for s in backbones.of(member).sites(member) if s.rows is not None and s.depth == 0]
    assert shared in ([], [(0, 32), (32, 64), (64, 96)])


def test_every_parameter_belongs_to_exactly_one_module_of_the_sites(member: nn.Module) -> None:
    """The sites' tensors are the host's parameters: none is missing, none appears under two paths, tied ones count once."""
    sites = backbones.of(member).sites(member, hosts.head(member))
    owners = {(s.path, n): s for s in sites for n, _ in s.tensors}
    named = {f"{path}.{n}".strip("."): shape for (path, n), s in owners.items() for m, shape in s.tensors if m == n}
    every = dict(member.named_parameters(remove_duplicate=False))
    assert named == {n: tuple(p.shape) for n, p in every.items()}
    for path, tensor in owners:
        holding = [s for s in sites if s.path == path and (tensor in dict(s.tensors))]
        assert len(holding) == 1 or len({s.rows for s in holding}) == len(holding) == 3
    assert len({id(every[n]) for n in named}) == len(list(member.parameters()))


def test_meta_sites_equal_real_sites(member: nn.Module) -> None:
    """A plan sees the same sites without allocating a weight."""
    with torch.device("meta"):
        ghost = type(member)(copy.deepcopy(member.config))
    assert next(ghost.parameters()).is_meta
    family = backbones.of(member)
    assert family.sites(ghost, hosts.head(ghost)) == family.sites(member, hosts.head(member))
    assert family.port(ghost) == family.port(member)


def test_the_bare_encoder_has_the_same_sites(member: nn.Module) -> None:
    """Without its task the encoder is `model.in` itself, and every role stays."""
    family = backbones.of(member)
    inner = member.get_submodule(family.inner_path(member))
    there = [s for s in family.sites(member) if s.path.startswith(family.inner_path(member))]
    bare = family.sites(inner)
    assert next(s for s in bare if s.role == "model.in").path == ""
    assert [(s.role, s.depth, s.shape) for s in bare] == [(s.role, s.depth, s.shape) for s in there]


@pytest.mark.parametrize(("name", "kind"), DECODERS)
def test_classifiers_on_decoders(name: str, kind: str) -> None:
    """A sequence classifier on a decoder resolves, and virtual tokens do not move the token it reads."""
    from transformers import AutoModelForSequenceClassification

    config = tiny(name, kind).config
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert {s.role for s in backbones.of(model).sites(model, ("score",))} >= COMMON | {"head"}
    attach(model, "prompt_tuning", n_tokens=3)
    ids = batch(model)["input_ids"]
    padded = torch.cat([ids, torch.zeros(2, 2, dtype=torch.long)], 1)
    mask = (padded != 0).long()
    with torch.no_grad():
        assert model(input_ids=ids).logits.shape == (2, 3)
        assert torch.allclose(model(input_ids=ids).logits, model(input_ids=padded, attention_mask=mask).logits, atol=1e-6)


def _record(module: nn.Module, kept: dict[str, Tensor], name: str, entry: bool = False) -> None:
    def hook(_: nn.Module, args: tuple, kwargs: dict, out: object) -> None:
        first = out[0] if isinstance(out, tuple) else out
        kept[name] = (args[0] if args else next(iter(kwargs.values()))) if entry else first

    module.register_forward_hook(hook, with_kwargs=True)


def test_block_roles_are_the_last_point_before_the_residual_add(member: nn.Module) -> None:
    """What leaves `attn.block` and `ffn.block` is exactly what is added to the residual stream."""
    sites = first_tower(backbones.of(member).sites(member))
    kept: dict[str, Tensor] = {}
    for site in sites:
        if site.depth == 1 and site.role in ("attn.block", "ffn.block", "block.out"):
            _record(member.get_submodule(site.path), kept, site.role)
        if site.depth == 1 and site.role == "block.out":
            _record(member.get_submodule(site.path), kept, "in", entry=True)
    with torch.no_grad():
        member(**batch(member))
    x, attention, ffn = kept["in"], kept["attn.block"], kept["ffn.block"]
    if backbones.of(member).name == "bert":  # post-norm: each sum is normed; the norms' weights are still 1 and 0
        expected = nn.functional.layer_norm(nn.functional.layer_norm(x + attention, (32,)) + ffn, (32,))
        assert torch.allclose(kept["block.out"], expected, atol=1e-5)
    else:
        assert torch.allclose(kept["block.out"], x + attention + ffn, atol=1e-6)
    assert min(attention.abs().max(), ffn.abs().max()) > 1e-4


def test_sources_give_the_sublayer_input(member: nn.Module) -> None:
    """The module named as source is called with the sublayer's input first: hidden states of the block's width."""
    family = backbones.of(member)
    kept: dict[str, Tensor] = {}
    points = [s for s in family.sites(member) if s.role in ("attn.block", "ffn.block") and s.depth == 1]
    for site in points:
        _record(member.get_submodule(site.source or site.path), kept, site.role, entry=True)
    with torch.no_grad():
        member(**batch(member))
    assert kept.keys() == {"attn.block", "ffn.block"}
    assert all(isinstance(x, Tensor) and x.dim() == 3 and x.shape[-1] == 32 for x in kept.values())


def test_lora_on_every_role_trains_and_merges(member: nn.Module) -> None:
    """The kernel works on this architecture: LoRA on all its weights merges to the same outputs."""
    named = {"attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.gate", "ffn.down"} | CROSS
    there = {s.role for s in backbones.of(member).sites(member)}
    shared = getattr(member.config, "tie_word_embeddings", False) or member.config.is_encoder_decoder
    tied = shared or hasattr(member.config, "image_size")
    roles = sorted(named & there) + ([] if tied else ["embed"])
    adapter = attach(member, "lora", rank=2, roles=roles)
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        before = member(**batch(member)).logits
        adapters_of(member).merge()
        size = max(1.0, float(before.abs().max()))  # mT5's output layer starts at deviation 1
        assert torch.allclose(member(**batch(member)).logits, before, atol=1e-5 * size)


def test_scaled_embeddings_adapt_and_merge_alike() -> None:
    """Gemma multiplies the rows it looks up; a change of the rows is multiplied too."""
    config = tiny("llama", "gemma").config
    config.tie_word_embeddings = False
    model = type(tiny("llama", "gemma"))(config).eval()
    family = backbones.of(model)
    table = family.vocabulary(model)
    assert table is not None
    ids = batch(model)["input_ids"]
    assert torch.allclose(table[ids], family.embedding(model)(ids), atol=1e-6)
    adapter = attach(model, "lora", rank=2, roles=["embed"])
    with torch.no_grad():
        base = model(ids).logits
        adapter.parts["model/embed_tokens"].B.normal_(0, 0.1)
        before = model(ids).logits
        adapters_of(model).merge()
        assert torch.allclose(model(ids).logits, before, atol=1e-5)
    assert not torch.allclose(before, base, atol=1e-3)
