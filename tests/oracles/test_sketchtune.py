"""SketchTune against the dense weight it stands for, its sketch's limits, the published counts and its size in a file.

All acceptance checks of the catalogue are here except the accuracy beside LoRA, which is the paper file `116-sketchtune.yaml`;
the k-means itself is tests/kernel/test_kmeans.py.
"""

import copy
import itertools
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.contract import hosts
from workbench.core.types import Site
from workbench.kernel import registry, state
from workbench.kernel.attach import matrix
from workbench.kernel.calibrating import calibrate
from workbench.methods.structured.sketchtune import SketchTune, SketchTuneConfig, packed, unpacked

WEIGHT = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))


def part(weight: torch.Tensor = WEIGHT, **options: object) -> SketchTune:
    cfg = SketchTuneConfig.model_validate({"bits": 2, "groups": 2, **options})
    return SketchTune(cfg, Site("l", "attn.q", 0, tuple(weight.shape)), None, torch.Generator(), weight)


def new_weight(one: SketchTune) -> torch.Tensor:
    """W' in plain loops: the table of every row and group, read at the codes."""
    codes = unpacked(one.codes, one.cfg.bits)
    rows, columns = one.site.shape
    wide, out = columns // one.cfg.groups, torch.zeros(rows, columns, dtype=torch.float64)
    for i, j in itertools.product(range(rows), range(columns)):
        out[i, j] = one.tables[i, j // wide, int(codes[i, j])].item()
    return out


def test_looked_up_weight_in_float64() -> None:
    """W' x and the merged weight are those of the tables, read entry by entry."""
    one, x = part(), torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    one.tables.data.normal_(generator=torch.Generator().manual_seed(2))
    wanted, y = new_weight(one), x @ WEIGHT.T
    torch.testing.assert_close((WEIGHT + one.delta(WEIGHT, {})).double(), wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close((y + one.apply_to(y, x, WEIGHT, {})).double(), x.double() @ wanted.T, atol=1e-5, rtol=1e-5)


def test_gradients_equal_a_dense_reference() -> None:
    """Each table entry gets the sum of dL/dW' over its positions, x gets g W'; in both orders."""
    one, gen = part(), torch.Generator().manual_seed(3)
    x, pull = torch.randn(2, 5, 24, generator=gen).requires_grad_(), torch.randn(2, 5, 6, generator=gen)
    dense, other = new_weight(one).float().requires_grad_(), x.detach().clone().requires_grad_()
    (nn.functional.linear(other, dense) * pull).sum().backward()
    codes, wanted = unpacked(one.codes, 2), torch.zeros(6, 2, 4)
    for i, j in itertools.product(range(6), range(24)):
        wanted[i, j // 12, int(codes[i, j])] += dense.grad[i, j]
    (one.apply_to(torch.zeros(2, 5, 6), x, WEIGHT, {}) * pull).sum().backward()
    torch.testing.assert_close(one.tables.grad, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad, other.grad, atol=1e-5, rtol=1e-5)
    one.tables.grad = None
    (nn.functional.linear(x.detach(), WEIGHT + one.delta(WEIGHT, {})) * pull).sum().backward()
    torch.testing.assert_close(one.tables.grad, wanted, atol=1e-5, rtol=1e-5)


def test_half_precision_gives_the_same_gradients_roughly() -> None:
    one, x = part(), torch.randn(4, 24, generator=torch.Generator().manual_seed(4))
    grads = []
    for casting in (False, True):
        one.tables.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=casting):
            one.apply_to(torch.zeros(4, 6), x, WEIGHT, {}).float().square().sum().backward()
        grads.append(one.tables.grad)
    assert grads[1].dtype == torch.float32
    torch.testing.assert_close(*grads, atol=0.03 * float(grads[0].abs().max()), rtol=0.1)


def test_enough_codes_are_exact_and_the_error_falls_with_bits_and_groups() -> None:
    few = WEIGHT[:, torch.arange(24) % 4] + torch.arange(24) // 12  # four different values in every row and group
    assert torch.equal(few + part(few).delta(few, {}), few)
    wide = torch.randn(20, 64, generator=torch.Generator().manual_seed(5))
    by_bits = [part(wide, bits=b).delta(wide, {}).square().sum().item() for b in range(1, 6)]
    by_groups = [part(wide, groups=g).delta(wide, {}).square().sum().item() for g in (1, 2, 4, 8)]
    assert all(b < a for errors in (by_bits, by_groups) for a, b in itertools.pairwise(errors))
    assert part(wide, bits=6, groups=1).delta(wide, {}).abs().max() == 0


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_packed_without_loss(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (5, 13), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    tight = packed(codes, bits)
    assert tight.dtype == torch.uint8
    assert tight.shape == (5, -(-13 // (8 // bits)))
    assert torch.equal(unpacked(tight, bits)[:, :13], codes)


def attached(family: str = "bert", **options: object):
    model = hosts.host(family)
    cfg = registry.configure("sketchtune", {"bits": 2, "groups": 2, **options})
    return model, hosts.adapters(model).attach("a", "sketchtune", cfg)


def test_training_moves_the_tables_alone() -> None:
    model, adapter = attached()
    codes = {n: t.clone() for n, t in adapter.tensors().items() if n.endswith("codes")}
    assert sum(p.numel() for p in adapter.named_trainable().values()) == sum(s.d_out * 2 * 4 for s in adapter.sites)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        hosts.loss(model, "bert").backward()
        optimizer.step()
    assert all(torch.equal(adapter.tensors()[n], t) for n, t in codes.items())


def test_calibration_lowers_the_error_of_the_outputs_and_is_stored() -> None:
    """The sketch of the observed inputs has a lower weighted error than that of equal columns; a file brings it back."""
    model, adapter = attached("gpt2")
    plain = copy.deepcopy(adapter.tensors())
    seen: dict[str, torch.Tensor] = {}
    observe = SketchTune.observe

    def noting(self: SketchTune, x: torch.Tensor) -> None:
        seen[self.site.key] = x.square().mean(0)
        observe(self, x)

    adapters = hosts.adapters(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SketchTune, "observe", noting)
        calibrate(adapters, adapter, [lambda: hosts.logits(model, "gpt2")])
    errors = []
    for key, one in adapter.named_parts():
        weight = matrix(model.get_submodule(one.site.path), one.site)
        with torch.no_grad():
            after = float((one.delta(weight, {}).square() * seen[key]).sum())
            mine = [t.clone() for t in (one.tables, one.codes)]
            one.tables.copy_(plain[f"{key}.tables"])
            one.codes.copy_(plain[f"{key}.codes"])
            errors.append((float((one.delta(weight, {}).square() * seen[key]).sum()), after))
            one.tables.copy_(mine[0])
            one.codes.copy_(mine[1])
    before, after = map(sum, zip(*errors, strict=True))
    assert after < 0.95 * before
    out = hosts.logits(model, "gpt2")
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "adapter", adapter, {})
        again = hosts.host("gpt2")
        state.restore(again, state.read(Path(folder) / "adapter"))
    assert torch.equal(hosts.logits(again, "gpt2"), out)


def test_size_in_a_file_is_below_half_of_the_weights_in_fp16() -> None:
    """b = 4 on the linears of bundled/minilm (six blocks of width 384) and of a wider base, codes and tables counted."""
    for hidden, inner in ((384, 1536), (768, 3072)):
        stored = weights = 0
        for shape in [(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]:
            one = part(torch.randn(shape[0] // 8, shape[1]), bits=4)  # an eighth of the rows: every row is alike
            stored += one.tables.numel() * 4 + one.codes.numel()
            weights += one.site.d_out * one.site.d_in
        assert stored < 0.5 * 2 * weights


def test_published_counts() -> None:
    """b = 4, g = 4: 87,031,808 on Llama-7B and 88,080,384 on Llama-3-8B; a quarter of it with g = 1."""
    square = [(4096, 4096)] * 4
    llama = [*square, (11008, 4096), (11008, 4096), (4096, 11008)]
    llama3 = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14336, 4096), (14336, 4096), (4096, 14336)]
    cfg = SketchTuneConfig(groups=4)
    for shapes, count in ((llama, 87_031_808), (llama3, 88_080_384)):
        sites = [Site(f"{i}.{n}", "attn.q", i, s) for i in range(32) for n, s in enumerate(shapes)]
        assert SketchTune.n_params(cfg, sites) == count
        assert SketchTune.n_params(SketchTuneConfig(groups=1), sites) == count // 4


def test_nothing_of_the_weights_size_is_kept_for_the_backward_pass() -> None:
    one, sizes = part(torch.randn(512, 512), bits=4), {}
    x = torch.randn(8, 512, requires_grad=True)

    def pack(t: torch.Tensor) -> torch.Tensor:
        sizes[t.data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        assert one.apply_to(torch.zeros(8, 512), x, torch.zeros(1), {}).requires_grad
    assert sum(sizes.values()) == x.numel() + one.tables.numel()


def test_tuning_the_tables_recovers_what_the_sketch_lost() -> None:
    """At one bit the sketch leaves the base's outputs; training the tables alone brings them back most of the way."""
    wanted = hosts.logits(hosts.host("llama"), "llama").detach()
    model, adapter = attached("llama", bits=1)
    optimizer, errors = torch.optim.Adam(adapter.parameters(), lr=0.02), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(hosts.logits(model, "llama"), wanted)
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.1 * errors[0]


def test_refuses_groups_that_do_not_divide_and_inputs_that_are_no_vectors() -> None:
    site = Site("l", "attn.q", 0, (8, 30))
    assert "not a multiple of 4" in SketchTune.problem(SketchTuneConfig(groups=4), [site])
    assert SketchTune.problem(SketchTuneConfig(groups=3), [site]) == ""
    table = Site("e", "embed", -1, (8, 30), "embedding")
    assert "vectors" in SketchTune.problem(SketchTuneConfig(groups=1), [table])
    assert SketchTune.problem(SketchTuneConfig(groups=1, calibration=0), [table]) == ""
