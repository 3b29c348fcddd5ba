"""READ against recurrent cells written by hand, its count, and what must not be kept of the base."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.side.read_rnn import ReadRNN, ReadRNNConfig


def part(d: int = 5, layers: int = 3, **options: object) -> ReadRNN:
    """A part with every tensor drawn at random."""
    gen = torch.Generator().manual_seed(0)
    reads = [Site(f"layer.{i}", "block.out", i, (d, d), "point") for i in range(layers)]
    one = ReadRNN(ReadRNNConfig(**{"hidden": 4, **options}), reads, Site("encoder", "model.out", -1, (d, d), "point"), None, gen)
    for p in one.parameters():
        p.data.normal_(std=0.5, generator=gen)
    return one


def states(one: ReadRNN, phis: list[Tensor]) -> list[Tensor]:
    """The recurrent state of one token after every layer, in float64, by the cells' own equations."""
    W, U, b, c = (getattr(one.rnn, n).detach().double() for n in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))
    s, memory, found = torch.zeros(4).double(), torch.zeros(4).double(), []
    for phi in phis:
        x = (phi - phi.mean()) / (phi.var(unbiased=False) + 1e-5).sqrt() * one.norm.weight.double()
        i, h = (W @ x + b).split(4), (U @ s + c).split(4)
        if one.cfg.cell == "gru":
            r, z = torch.sigmoid(i[0] + h[0]), torch.sigmoid(i[1] + h[1])
            s = (1 - z) * torch.tanh(i[2] + r * h[2]) + z * s
        elif one.cfg.cell == "lstm":
            gate, forget, out = (torch.sigmoid(i[k] + h[k]) for k in (0, 1, 3))
            memory = forget * memory + gate * torch.tanh(i[2] + h[2])
            s = out * torch.tanh(memory)
        else:
            s = torch.tanh(i[0] + h[0])
        found.append(s)
    return found


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("aggregate", ["mean", "last"])
def test_equation_in_float64(cell: str, aggregate: str) -> None:
    """Every token alone, layer after layer, through hand-written cells."""
    one = part(cell=cell, aggregate=aggregate, output_scale=2.0)
    taps = [torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    ours = one.side(taps, {})
    assert ours.shape == (2, 3, 5)
    for row in range(2):
        for token in range(3):
            found = states(one, [t[row, token].double() for t in taps])
            read = torch.stack(found).mean(0) if aggregate == "mean" else found[-1]
            expected = 2.0 * (one.W_o.double() @ read + one.b_o.double())
            torch.testing.assert_close(ours[row, token].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("options", "expected"), [({}, 986_112), ({"layer_norm": False}, 985_344)])
def test_count_does_not_grow_with_depth(options: dict, expected: int) -> None:
    """3 (d h + h^2 + 2 h) + h d + d + d for d = 768, h = 256, whatever the number of layers."""
    for layers in (12, 24):
        one = part(768, layers, hidden=256, **options)
        assert sum(p.numel() for p in one.parameters()) == ReadRNN.n_params(one.cfg, [one.site]) == expected


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_count_of_every_cell(cell: str) -> None:
    """The formula holds for each cell."""
    one = part(cell=cell)
    assert sum(p.numel() for p in one.parameters()) == ReadRNN.n_params(one.cfg, [one.site])


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_zero_projection_is_the_base(family: str) -> None:
    """A fresh adapter changes nothing; a disturbed one does."""
    model = hosts.host(family)
    with torch.no_grad():
        base = hosts.logits(model, family)
        adapter = hosts.adapters(model).attach("a", "read_rnn", ReadRNN.tiny)
        assert (hosts.logits(model, family) - base).abs().max() <= 1e-6
        disturb(adapter)
        assert (hosts.logits(model, family) - base).abs().max() > 1e-3


def test_depths_choose_the_layers_read() -> None:
    """With depths the cell sees those block outputs only."""
    one = part(depths=(-1, 0))
    taps = [torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    before = one.side(taps, {})
    taps[1] = taps[1] + 1
    assert torch.equal(one.side(taps, {}), before)
    taps[2] = taps[2] + 1
    assert not torch.equal(one.side(taps, {}), before)


def saved_bytes(run: Callable[[], Tensor]) -> tuple[int, set[int]]:
    """Bytes that autograd keeps for the backward pass, and the storages that hold them."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run().backward()
    return sum(kept.values()), set(kept)


def test_nothing_of_the_base_is_kept_for_the_backward_pass() -> None:
    """No base tensor requires a gradient, and autograd keeps no activation or weight of the encoder but the stacked taps."""
    model = hosts.host("bert")
    disturb(hosts.adapters(model).attach("a", "read_rnn", ReadRNN.tiny))
    assert not [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("workbench.")]
    made: list[Tensor] = []  # kept alive, so that no storage is used twice
    for module in model.bert.encoder.modules():
        module.register_forward_hook(lambda m, args, out: made.extend(t for t in (out, *args) if isinstance(t, Tensor)))
    weights = {p.untyped_storage().data_ptr() for p in model.bert.encoder.parameters()}
    _, kept = saved_bytes(lambda: hosts.loss(model, "bert"))
    assert len(made) > 20
    assert not kept & {t.untyped_storage().data_ptr() for t in made}
    assert not kept & weights


def test_taps_carry_no_gradient_even_above_a_trained_lora() -> None:
    """Beside an adapter that trains below it, the side network still sends nothing back into the base."""
    model = hosts.host("bert")
    adapters = hosts.adapters(model)
    disturb(adapters.attach("below", "lora", registry.configure("lora", {"rank": 2})))
    one = next(adapters.attach("side", "read_rnn", ReadRNN.tiny).named_parts())[1]
    seen: list[Tensor] = []
    inner = one.side
    one.side = lambda taps, ctx: (seen.extend(taps), inner(taps, ctx))[1]
    out = hosts.loss(model, "bert")
    assert out.requires_grad
    assert len(seen) == 2
    assert not [t for t in seen if t.requires_grad]


def test_less_is_kept_than_for_lora() -> None:
    """On the same model and batch the backward pass keeps fewer bytes than LoRA's."""
    sizes = {}
    for method in ("read_rnn", "lora"):
        model = hosts.host("bert")
        cfg = registry.configure(method, {"hidden": 8} if method == "read_rnn" else {"rank": 4})
        disturb(hosts.adapters(model).attach("a", method, cfg))
        sizes[method] = saved_bytes(lambda host=model: hosts.loss(host, "bert"))[0]
    assert sizes["read_rnn"] < sizes["lora"]


def test_cached_hidden_states_give_the_same_loss_curve() -> None:
    """Training on stored block outputs follows the training through the model."""
    batch = hosts.inputs("bert")
    labels = torch.tensor([0, 1, 2, 0])
    curves = []
    for cached in (False, True):
        model = hosts.host("bert")
        with torch.no_grad():
            hidden = model.bert(**batch, output_hidden_states=True).hidden_states[1:]
        adapter = hosts.adapters(model).attach("a", "read_rnn", ReadRNNConfig(hidden=8))
        side = next(adapter.named_parts())[1]

        def logits(model: nn.Module = model, side: ReadRNN = side, hidden: tuple = hidden, cached: bool = cached) -> Tensor:
            if not cached:
                return model(**batch).logits
            return model.classifier(model.bert.pooler(hidden[-1] + side.side(list(hidden), {})))

        optimizer, losses = torch.optim.Adam(adapter.parameters(), lr=1e-2), []
        for _ in range(10):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(logits(), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < curves[0][0]
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), atol=1e-5, rtol=1e-5)
