"""VeRA against its equation, and what is shared."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    A, B = t["shared.vera_A"][:, : site.d_in], t["shared.vera_B"][: site.d_out]
    return weight + torch.diag(t["vera_lambda_b"]) @ B @ torch.diag(t["vera_lambda_d"]) @ A, bias


def test_equation_in_float64() -> None:
    """Slices of two shared frozen matrices, scaled by the site's own vectors; sites of different widths."""
    _, adapter = bridged.check("vera", naive, roles=("attn.q", "ffn.up", "ffn.down"), rank=64)
    assert {s.shape for s in adapter.sites} == {(32, 32), (64, 32), (32, 64)}


def test_projections_are_stored_once_and_follow_their_own_seed() -> None:
    """One pair for all sites; the run's seed does not matter, the projection's does."""
    tensors = {(run, seed): bridged.attached("vera", run, projection_seed=seed)[1].tensors() for run in (0, 1) for seed in (0, 1)}
    shared = [k for k in tensors[0, 0] if "vera_A" in k or "vera_B" in k]
    assert sorted(shared) == ["shared.vera_A", "shared.vera_B"]
    assert torch.equal(tensors[0, 0]["shared.vera_A"], tensors[1, 0]["shared.vera_A"])
    assert not torch.equal(tensors[0, 0]["shared.vera_A"], tensors[0, 1]["shared.vera_A"])
