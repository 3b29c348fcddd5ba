"""Forgetting: against the equation in float64, at its limits, and without leaving a trace."""

import math

import pytest
import torch

from tests.analyses.conftest import disturb
from workbench.analyses.forgetting import cka
from workbench.analyses.forgetting import forgetting as analysis
from workbench.data import Table, held_out
from workbench.data.bundled import docstring_table
from workbench.evaluate import saved
from workbench.models import stdlib

FEW = {"texts": 6, "tokens": 16, "batch_size": 4}


def rows(runs, **settings):
    return analysis(runs, {**FEW, **settings}).tables["runs"].to_dict("records")


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "vit", "t5"])
def test_a_fresh_adapter_has_forgotten_nothing(plant, family):
    (row,) = rows([plant(family, "lora")])
    assert row["forgetting"] == pytest.approx(0, abs=1e-6)
    assert row["ci_low"] <= row["forgetting"] <= row["ci_high"]
    if row["kind"] == "drift":
        assert row["cosine"] == pytest.approx(1, abs=1e-5)
        assert row["cka"] == pytest.approx(1, abs=1e-5)
    assert row["rows"] == 6


@pytest.mark.parametrize(("family", "kind"), [("bert", "drift"), ("vit", "drift"), ("llama", "nll"), ("gpt2", "nll")])
@pytest.mark.parametrize("method", ["full", "bottleneck", "prompt_tuning"])
def test_a_disturbed_base_is_worse(plant, family, kind, method):
    result = analysis([plant(family, method, disturb())], FEW)
    (row,) = result.tables["runs"].to_dict("records")
    assert row["kind"] == kind
    assert row["forgetting"] > 0.005
    assert result.per_run == {row["run_id"]: {"forgetting": row["forgetting"], "forgetting_kind": kind}}
    assert list(result.figures) == [kind]
    assert (row["perplexity"] is None) == (kind == "drift"), "a base without its head has no perplexity"
    assert ("representation drift" in result.sentences[0]) == (kind == "drift")


def test_an_encoder_decoder_drifts_and_speaks_of_no_loss(plant):
    (row,) = rows([plant("t5", "ia3", disturb(1.0))])
    assert (row["kind"], row["perplexity"]) == ("drift", None)
    assert row["forgetting"] > 0.005


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_is_the_shifted_cross_entropy_in_float64(plant, family):
    run = plant(family, "full", disturb())
    (row,) = rows([run])
    texts = held_out.texts("code", 6, 8 * 16)
    task, base = run.base("cpu", 16)
    adapted = saved.revive(run.stored, run.adapter).host
    for host, figure in ((base, "base_nll"), (adapted, "nll")):
        total = count = 0.0
        for example in task.encode(Table(tuple(range(6)), {"text": texts})):
            ids = torch.tensor([example.fields["head"] + example.fields["tail"]])
            logits = host(input_ids=ids).logits[0].double()
            first = max(len(example.fields["head"]), 1)  # the marker of the beginning is given, not predicted
            for i in range(first, ids.shape[1]):
                total -= logits[i - 1].log_softmax(-1)[ids[0, i]].item()
                count += 1
        assert row[figure] == pytest.approx(total / count, rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(row["nll"]))
    assert row["forgetting"] == pytest.approx(row["nll"] - row["base_nll"])


def test_the_base_is_measured_before_anything_was_attached(plant):
    """An adapter that changes the output from the start must not move the baseline, nor may the one before it."""
    odd, fine = plant("llama", "prompt_tuning", disturb(3.0)), plant("llama", "lora")
    both, alone = rows([odd, fine]), rows([fine])
    assert {r["base_nll"] for r in both} == {alone[0]["base_nll"]}
    assert both[1]["forgetting"] == alone[0]["forgetting"]
    assert both[0]["nll"] != both[0]["base_nll"]


def test_the_drift_is_the_mean_relative_distance_of_the_last_hidden_states(plant):
    run = plant("bert", "full", disturb(0.05))
    (row,) = rows([run], batch_size=1)
    task, base = run.base("cpu", 16)
    adapted = saved.revive(run.stored, run.adapter).host
    found = []
    for text in held_out.texts("prose", 6, 8 * 16):
        batch = task.collate(task.encode(Table((0,), {"text": [text]})))
        h, new = (host.bert(**batch.inputs).last_hidden_state[0].double() for host in (base, adapted))
        found.append(((new - h).norm(dim=1) / h.norm(dim=1)).mean().item())
    assert row["relative_l2"] == row["forgetting"] == pytest.approx(sum(found) / len(found), rel=1e-4)


def test_a_run_is_only_read(plant, tmp_path):
    run = plant("bert", "lora", disturb())

    def shape():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")}

    before = shape()
    rows([run])
    assert shape() == before


def test_runs_of_one_base_share_one_model_which_stays_as_it_was(plant, monkeypatch):
    runs = [plant("bert", "full", disturb()), plant("bert", "lora", disturb()), plant("vit", "lora", disturb())]
    made = []
    original = type(runs[0]).base

    def remembered(self, *args):
        task, host = original(self, *args)
        made.append((host, {n: t.clone() for n, t in host.state_dict().items()}))
        return task, host

    monkeypatch.setattr(type(runs[0]), "base", remembered)
    found = rows(runs)
    assert [r["run_id"] for r in found] == [run.reference for run in runs]
    assert len(made) == 2
    for host, before in made:
        head = {n for n in before if n.startswith("classifier")}
        assert not hasattr(host, "workbench")
        assert all(torch.equal(t, before[n]) for n, t in host.state_dict().items() if n not in head)


def test_cka_does_not_see_rotations_and_scale_but_sees_another_representation():
    gen = torch.Generator().manual_seed(0)
    a, other = torch.randn(200, 8, generator=gen), torch.randn(200, 8, generator=gen)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=gen))
    assert cka(a, 3 * a @ turn + 1) == pytest.approx(1, abs=1e-6)
    assert cka(a, other) < 0.2


def test_held_out_text_is_neither_pretraining_text_nor_bundled_data():
    files = list(stdlib.sources())
    training = "\n".join(file.text for file in files if not stdlib.is_held_out(file.module))
    pieces = held_out.texts("code", 10_000, 1024)
    assert len(pieces) > 64
    assert not any(piece in training for piece in pieces)
    lines = [line for piece in pieces for line in piece.splitlines()]
    prose = held_out.texts("prose", 10_000, 1024)
    assert len(prose) > 64
    forbidden = stdlib.docstring_lines(files)
    assert not any(stdlib.plain(line) in forbidden for line in [*prose, *lines])
    assert not set(prose) & set(docstring_table()["text"])
    few = held_out.texts("prose", 10, 50)
    assert len(few) == 10
    assert max(map(len, few)) == 50
