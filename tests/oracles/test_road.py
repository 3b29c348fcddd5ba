"""RoAd against its equation in all variants, its counts, its rotation, and one adapter per example."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.contract import hosts
from tests.contract.checks import disturb
from tests.oracles import bridged
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.host import adapters_of
from workbench.methods.orthogonal.road import RoAd, RoAdConfig

GROUP = 8


def matrix(t, site, variant):
    theta, alpha, half = t["road_theta"], t["road_alpha"], GROUP // 2
    R = torch.zeros(site.d_out, site.d_out, dtype=torch.float64)
    for i in range(site.d_out):
        group, place = divmod(i, GROUP)
        first = place < half
        partner = i + half if first else i - half
        if variant == "road_1":
            cosine = sine = group * half + place % half
        elif variant == "road_2":
            cosine = sine = i
        else:
            cosine, sine = group * 2 * GROUP + place, group * 2 * GROUP + GROUP + place
        R[i, i] = alpha[cosine] * torch.cos(theta[cosine])
        R[i, partner] = alpha[sine] * torch.sin(theta[sine]) * (-1 if first else 1)
    return R


@pytest.mark.parametrize("variant", ["road_1", "road_2", "road_4"])
def test_equation_in_float64(variant: str) -> None:
    """Outputs and bias are multiplied by 2 x 2 blocks over pairs half a group apart."""

    def naive(t, weight, bias, site):
        R = matrix(t, site, variant)
        return R @ weight, R @ bias

    bridged.check("road", naive, variant=variant)


def test_counts_of_the_paper() -> None:
    """RoBERTa-base, all linear layers: 82,944 for RoAd_1, twice and four times that for the others."""
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    sites = [Site(f"{i}.{j}", "attn.q", i, shape) for i in range(12) for j, shape in enumerate(shapes)]
    counts = [RoAd.n_params(RoAdConfig(variant=v), sites) for v in ("road_1", "road_2", "road_4")]
    assert counts == [82_944, 2 * 82_944, 4 * 82_944]


def test_without_scale_it_keeps_the_norm() -> None:
    """RoAd_1 with a = 1 is a rotation of the output."""
    model, adapter = bridged.attached("road")
    for name, p in adapter.named_trainable().items():
        if "road_alpha" in name:
            p.data.fill_(1)
    site = adapter.sites[0]
    x = torch.randn(5, site.d_in)
    module = model.get_submodule(site.path)
    with model.workbench.only({}):
        before = module(x)
    torch.testing.assert_close(module(x).norm(dim=-1), before.norm(dim=-1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(module(x), before, atol=1e-3)


def test_mixed_batch_equals_each_example_alone() -> None:
    """Examples of one batch with adapters of their own get what they get alone."""
    model = hosts.host("bert")
    adapters = hosts.adapters(model)
    for number, name in enumerate(("one", "two")):
        disturb(adapters.attach(name, "road", registry.methods()["road"].tiny), number)
    batch = hosts.inputs("bert")
    with torch.no_grad():
        with adapters.per_example(["one", None, "two", "one"]):
            mixed = model(**batch).logits
        alone = []
        for i, name in enumerate(("one", None, "two", "one")):
            with adapters.only({name: 1.0} if name else {}):
                alone.append(model(**{k: v[i : i + 1] for k, v in batch.items()}).logits[0])
    torch.testing.assert_close(mixed, torch.stack(alone), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[0], mixed[1], atol=1e-3)


def test_half_of_the_pairs_rests() -> None:
    """The other pairs stay the identity through training, and only the moving half counts."""
    for half, rest in (("first", 1), ("second", 0)):
        _, adapter = bridged.attached("road", half=half)
        adapter.on_step(1, 2)
        angles = [p for n, p in adapter.named_trainable().items() if "road_theta" in n]
        assert angles
        assert all(p[1 - rest :: 2].any() and not p[rest::2].any() for p in angles)
        assert adapter.new_params() == RoAd.n_params(adapter.cfg, adapter.sites) == sum(s.d_out for s in adapter.sites) // 2


LETTERS = "abcdefghij"
SIGNS = {sign: number for number, sign in enumerate(LETTERS + LETTERS.upper() + "RU?:")}


def strings(task: str, n: int, gen: random.Random) -> torch.Tensor:
    """`n` rows like `Rabcd:dcba` as token numbers; copies and both tasks under `?` are what the base learns."""
    rows = []
    for _ in range(n):
        word = "".join(gen.choice(LETTERS) for _ in range(4))
        answer = {"copy": word, "R": word[::-1], "U": word.upper(), "?": gen.choice((word[::-1], word.upper()))}[task]
        rows.append([SIGNS[sign] for sign in f"{gen.choice('RU?') if task == 'copy' else task}{word}:{answer}"])
    return torch.tensor(rows)


def answer_loss(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the four letters after the colon."""
    logits = model(input_ids=rows).logits[:, 5:-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 6:].flatten())


@pytest.mark.slow
def test_two_halves_serve_two_tasks_at_once() -> None:
    """Reversing by one half and capitals by the other: both active close over half of each task's gap to its own adapter."""
    gen, tasks = random.Random(0), {"R": "first", "U": "second"}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(SIGNS), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=16,
    ))  # fmt: skip
    base_steps = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(400):
        base_steps.zero_grad()
        answer_loss(model, strings(("copy", "?")[step % 2], 64, gen)).backward()
        base_steps.step()
    adapters, test = adapters_of(model, ()), {task: strings(task, 256, gen) for task in tasks}

    @torch.no_grad()
    def losses(*active: str) -> dict[str, float]:
        with adapters.only(dict.fromkeys(active, 1.0)):
            return {task: float(answer_loss(model, rows)) for task, rows in test.items()}

    for task, half in tasks.items():
        adapter = adapters.attach(task, "road", RoAdConfig(group=16, half=half))
        adapters.activate({task: 1.0})
        optimizer = torch.optim.AdamW(adapter.param_groups(1e-2), weight_decay=0)
        for step in range(60):
            optimizer.zero_grad()
            answer_loss(model, strings(task, 64, gen)).backward()
            optimizer.step()
            adapter.on_step(step + 1, 60)
    base, both = losses(), losses(*tasks)
    for task in tasks:
        gap = base[task] - losses(task)[task]
        assert gap > 1, "the task alone must be worth learning"
        assert base[task] - both[task] > 0.5 * gap, task
