"""The checks that every method gets for free; `check_method(cls)` runs them all on a class of one's own."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.contract import hosts
from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.core.types import Placement
from workbench.kernel import registry, state
from workbench.kernel.adapter import Adapter
from workbench.kernel.contract import Method
from workbench.kernel.registry import default_roles

Check = Callable[["Case"], None]


@dataclass(frozen=True)
class Case:
    """One method in one configuration on one family's tiny host."""

    key: str
    cls: type[Method]
    cfg: Placement
    family: str
    preset: str = ""

    def attach(self, model: nn.Module, name: str = "adapter", seed: int = 0) -> Adapter:
        """The method on this model."""
        return hosts.adapters(model).attach(name, self.key, self.cfg, seed)

    def fresh(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Adapter]:
        """A new host with the method on it as it starts."""
        model = hosts.host(self.family).to(dtype)
        return model, self.attach(model, seed=seed)

    def trained(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Adapter]:
        """A new host with the method on it, every trainable tensor moved away from its start."""
        model, adapter = self.fresh(seed, dtype)
        disturb(adapter)
        return model, adapter

    def run(self, model: nn.Module) -> Tensor:
        """Logits of the family's batch."""
        with torch.no_grad():
            return hosts.logits(model, self.family)


CHECKS: dict[str, tuple[Check, Callable[[Case], bool]]] = {}
"""Name -> (check, whether it concerns a case)."""


def check(concerns: Callable[[Case], bool] = lambda case: True) -> Callable[[Check], Check]:
    """Add a function to `CHECKS` under its name."""

    def add(function: Check) -> Check:
        CHECKS[function.__name__] = (function, concerns)
        return function

    return add


def disturb(adapter: Adapter, seed: int = 5) -> None:
    """Move every trainable tensor by noise, so that nothing is at a special value."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.named_trainable().values():
            p.add_((0.05 * torch.randn(p.shape, generator=gen)).to(p.dtype))


def close(a: Tensor, b: Tensor, within: float = 1e-5) -> bool:
    """Largest difference at most `within` times the size of b (at least 1)."""
    return bool(torch.isfinite(a).all()) and (a - b).abs().max().item() <= within * max(1.0, b.abs().max().item())


def mergeable(case: Case) -> bool:
    """Whether this configuration claims to merge."""
    return case.cls.mergeable(case.cfg)


def trains(case: Case) -> bool:
    """Whether the method has anything to train (head only has not)."""
    return bool(case.fresh()[1].named_trainable())


def train(case: Case, model: nn.Module, adapter: Adapter, steps: int, lr: float = 0.02) -> tuple[list[float], set[str]]:
    """Adam on the adapter (the head where there is none): losses of the steps, names of tensors that got a gradient."""
    named = adapter.named_trainable()
    groups = adapter.param_groups(lr)
    if not named:
        groups = [
            {"params": [p.requires_grad_() for h in hosts.head(model) for p in model.get_submodule(h).parameters()], "lr": lr}
        ]
    optimizer, losses, reached = torch.optim.Adam(groups), [], set()
    model.train()
    for step in range(1, steps + 1):
        loss = hosts.loss(model, case.family)
        losses.append(loss.item())
        penalty = adapter.penalty()
        (loss if penalty is None else loss + penalty).backward()
        reached |= {n for n, p in named.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
        adapter.on_step(step, steps)
        optimizer.zero_grad()
    model.eval()
    return losses, reached


@check()
def identity_at_init(case: Case) -> None:
    """A fresh adapter changes nothing exactly where the class says so."""
    base = case.run(hosts.host(case.family))
    now = case.run(case.fresh()[0])
    assert now.shape == base.shape
    if case.cls.starts_as_base(case.cfg):
        assert close(now, base), "it declares that it starts as the base, yet the fresh adapter changes the output"
    else:
        assert not torch.equal(now, base), "it declares that a fresh adapter changes the output, yet it does not"


@check()
def params_match_formula(case: Case) -> None:
    """n_params(cfg, sites) counts exactly the new trainable scalars, or at least as many where only weights or training tell."""
    adapter = case.fresh()[1]
    counted = case.cls.n_params(case.cfg, adapter.sites)
    assert adapter.new_params() == counted or (not case.cls.counts_exactly(case.cfg) and 0 < adapter.new_params() < counted)


@check()
def only_adapter_trains_and_all_of_it(case: Case) -> None:
    """Every trainable tensor gets a gradient and moves; the base stays frozen and bitwise as it was."""
    model, adapter = case.fresh()
    originals = {n: o for n, (o, _, _) in adapter.originals().items()}
    watched = {n: p for n, p in model.named_parameters() if not n.startswith("workbench.") and n not in originals} | originals
    assert not [n for n, p in watched.items() if p.requires_grad], "a tensor of the base would train"
    before = {n: p.detach().clone() for n, p in watched.items()}
    start = {n: p.detach().clone() for n, p in adapter.named_trainable().items()}
    if not start:
        return
    reached = train(case, model, adapter, steps=4)[1]
    assert not start.keys() - reached, f"no gradient reached {sorted(start.keys() - reached)}"
    assert not [n for n, p in adapter.named_trainable().items() if torch.equal(p, start[n])], "a tensor did not move"
    own = {id(p) for _, p, _ in adapter.originals().values()}
    assert not [n for n, p in watched.items() if not torch.equal(p, before[n]) and id(p) not in own], "a base tensor changed"
    assert not [n for n, p in watched.items() if p.grad is not None and id(p) not in own], "a base tensor got a gradient"


@check()
def param_groups_hold_each_tensor_once(case: Case) -> None:
    """The optimizer groups cover everything that trains, each tensor once."""
    adapter = case.fresh()[1]
    grouped = [id(p) for g in adapter.param_groups(0.1) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in adapter.named_trainable().values())
    assert all(g["lr"] > 0 for g in adapter.param_groups(0.1))


@check()
def disable_equals_base(case: Case) -> None:
    """Switched off, the host computes bitwise what the base computes; switched on again, what it computed before."""
    base = case.run(hosts.host(case.family))
    model, adapter = case.trained()
    on = case.run(model)
    with model.workbench.only({}):
        assert torch.equal(case.run(model), base), "switched off, it still changes the output"
    assert torch.equal(case.run(model), on), "switched on again, it is not what it was"
    assert not adapter.named_trainable() or not torch.equal(on, base), "a disturbed adapter changes nothing"


@check()
def detach_restores_base_bitwise(case: Case) -> None:
    """After training and detaching, every tensor is the same object with the same bits, and no patch is left."""
    for dtype in (torch.float32, torch.bfloat16):
        model = hosts.host(case.family).to(dtype)
        before, out = hosts.snapshot(model), case.run(model)
        modules = [n for n, _ in model.named_modules()]
        disturb(case.attach(model))
        case.run(model)
        model.workbench.release()
        assert not hosts.differences(before, hosts.snapshot(model)), dtype
        assert [n for n, _ in model.named_modules()] == modules
        assert not [n for n, m in model.named_modules() if "forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks]
        assert torch.equal(case.run(model), out)


@check(mergeable)
def merge_equals_unmerged(case: Case) -> None:
    """Written into the weights, the host computes the same."""
    base = case.run(hosts.host(case.family))
    model, adapter = case.trained()
    apart = case.run(model)
    assert not adapter.named_trainable() or not close(apart, base, 1e-4), "a disturbed adapter changes nothing"
    model.workbench.merge()
    assert close(case.run(model), apart, 2e-5)
    live = [p for _, p in adapter.named_parts()]
    for part in live:  # merged weights stand alone: what the parts hold no longer matters
        with torch.no_grad():
            for p in part.parameters():
                p.add_(1.0)
    assert close(case.run(model), apart, 2e-5), "a merged adapter still takes part in the forward pass"


@check(mergeable)
def merge_and_back_is_bitwise(case: Case) -> None:
    """Unmerging puts the very same base tensors back, in bf16 as well."""
    for dtype in (torch.bfloat16, torch.float32):
        model, _ = case.trained(dtype=dtype)
        before, out = hosts.snapshot(model), case.run(model)
        model.workbench.merge()
        case.run(model)
        model.workbench.unmerge()
        assert not hosts.differences(before, hosts.snapshot(model)), dtype
        assert torch.equal(case.run(model), out)


@check(lambda case: not mergeable(case))
def merge_is_refused_with_its_reason(case: Case) -> None:
    """A method that cannot merge says why, and leaves the host as it was."""
    model, _ = case.trained()
    before, out = hosts.snapshot(model), case.run(model)
    said = ""
    try:
        model.workbench.merge()
    except WorkbenchError as error:
        said = str(error)
    assert said, "it declares that it cannot be merged, yet it was"
    assert case.key in said
    assert case.cls.not_mergeable in said
    assert not hosts.differences(before, hosts.snapshot(model))
    assert torch.equal(case.run(model), out)


@check()
def save_load_roundtrip(case: Case) -> None:
    """A stored adapter computes bitwise the same on a fresh host, the head included."""
    model, adapter = case.trained(seed=3)
    with torch.no_grad():
        for name in hosts.head(model):
            for p in model.get_submodule(name).parameters():
                p.mul_(1.5)
    head = {n: p for n, p in model.named_parameters() if n.startswith(hosts.head(model))}
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "adapter", adapter, {"label": "test"}, head=head)
        stored = state.read(Path(folder) / "adapter")
    again = hosts.host(case.family)
    loaded = state.restore(again, stored, "adapter", hosts.head(again))
    assert loaded.key == case.key
    assert loaded.cfg == case.cfg
    mine, theirs = adapter.tensors(), loaded.tensors()
    assert mine.keys() == theirs.keys()
    solved = any(parametrize.is_parametrized(m) for m in loaded.modules())  # stored as values, inverted to rounding
    differ = [n for n in mine if not (close(mine[n], theirs[n], 1e-6) if solved else torch.equal(mine[n], theirs[n]))]
    assert not differ, f"stored and loaded, {differ[0]} is something else"
    assert close(case.run(again), case.run(model), 1e-5 if solved else 0.0)


@check()
def same_seed_same_adapter(case: Case) -> None:
    """Equal seeds give bitwise equal adapters whatever the global generator does; other seeds give others."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = case.fresh(seed=7)[1].tensors()
    assert torch.equal(before, torch.get_rng_state()), "attaching draws from the global generator"
    torch.manual_seed(2)
    model = hosts.host(case.family)
    drew = _watch_draws(hosts.adapters(model))
    two = case.attach(model, seed=7).tensors()
    assert not [n for n in one if not torch.equal(one[n], two[n])], "equal seeds give different adapters"
    other = case.fresh(seed=8)[1].tensors()
    differ = [n for n in one if not torch.equal(one[n], other[n])]
    assert bool(differ) == bool(drew) or case.cls.engine == "peft", "other seeds must differ exactly where values are drawn"


def _watch_draws(adapters: Any) -> list[bool]:
    """A list that gets an element when building draws from the adapter's generator."""
    drew: list[bool] = []
    build = adapters._build

    def watched(adapter: Adapter, gen: torch.Generator) -> None:
        before = gen.get_state()
        build(adapter, gen)
        drew.extend([True] * (not torch.equal(before, gen.get_state())))

    adapters._build = watched
    return drew


@check()
def config_json_roundtrip_and_form(case: Case) -> None:
    """The Config survives JSON, refuses unknown keys, and its form says of each field what it is and how far it goes."""
    config = case.cls.Config
    assert config.model_validate_json(case.cfg.model_dump_json()) == case.cfg
    assert config() is not None, "every field needs a default"
    for wrong in ({"no_such_option": 1}, {"roles": ["no.such.role"]}):
        try:
            config.model_validate(wrong)
        except ValidationError:
            continue
        raise AssertionError(f"{config.__name__} accepts {wrong}")
    fields = config.model_json_schema()["properties"]
    for name in config.model_fields.keys() - Placement.model_fields.keys():
        text = fields[name].get("description", "")
        assert text.endswith("."), f"{name} needs a description that is a sentence"
        assert len(text.split()) > 2, f"{name} needs a description that is a sentence"
        for form in _leaves(fields[name]):
            assert _bounded(form), f"{name} needs bounds: {form}"


def _leaves(form: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plain types a schema is made of."""
    inner = [
        *form.get("anyOf", []),
        *form.get("prefixItems", []),
        *([form["items"]] if isinstance(form.get("items"), dict) else []),
    ]
    for one in inner:
        yield from _leaves(one)
    if not inner:
        yield form


def _bounded(form: dict[str, Any]) -> bool:
    """Whether a form field has an end on both sides."""
    if form.get("type") in ("integer", "number"):
        return bool({"minimum", "exclusiveMinimum"} & form.keys() and {"maximum", "exclusiveMaximum"} & form.keys())
    return form.get("type") != "string" or bool({"enum", "const", "maxLength", "pattern"} & form.keys())


@check()
def documented(case: Case) -> None:
    """Title, equation, text, parameters, source and learning rate are there."""
    words = registry.describe(case.cls)
    name, colon, sentence = words["title"].partition(":")
    assert colon, "line 1 of the docstring is `Title: one sentence.`"
    assert name.strip(), "line 1 of the docstring is `Title: one sentence.`"
    assert sentence.strip(), "line 1 of the docstring is `Title: one sentence.`"
    missing = [k for k in ("formula", "text", "parameters") if not words[k]]
    assert not missing, f"the docstring lacks {missing}"
    assert case.cls.paper.cite, "a paper needs a citation"
    assert case.cls.paper.url.startswith("https://"), "a paper needs an address"
    rate, source = case.cls.default_lr
    assert 0 < rate <= 1
    assert source, "default_lr is (rate, where it comes from)"
    assert source != Method.default_lr[1], "default_lr is still the contract's own"
    if case.preset:
        preset = case.cls.presets[case.preset]
        assert preset.title, "a preset needs a title"
        assert preset.paper is None or preset.paper.url.startswith("https://")
        assert preset.values.keys() <= case.cls.Config.model_fields.keys()


@check()
def meta_plan_equals_real(case: Case) -> None:
    """Sites and parameters come out the same on the meta device, where nothing is allocated."""
    model = hosts.host(case.family)
    real = case.attach(model)
    meta = copy.deepcopy(hosts.host(case.family)).to("meta")
    family = backbones.of(meta)
    sites = family.sites(meta, hosts.head(meta))
    planned = backbones.chosen(sites, case.cfg, default_roles(case.cls, case.cfg), family.n_blocks(meta), case.key)
    assert planned == real.sites
    counted = case.cls.n_params(case.cfg, planned)
    assert counted == case.cls.n_params(case.cfg, real.sites)
    assert counted == real.new_params() or not case.cls.counts_exactly(case.cfg)


@check(trains)
def two_adapters_compose(case: Case) -> None:
    """Beside a second of its kind and a LoRA, each can be used alone, summed and taken away in any order."""
    alone = case.run(case.trained(seed=1)[0])
    model = hosts.host(case.family)
    disturb(case.attach(model, "one", seed=1))
    disturb(case.attach(model, "two", seed=2), seed=6)
    model.workbench.activate({"one": 1.0, "two": 1.0})  # base tensors of several owners are summed when switched on
    both = case.run(model)
    with model.workbench.only({"one": 1.0}):
        assert torch.equal(case.run(model), alone), "the first alone is not what it is without the second"
    with model.workbench.only({"two": 1.0}):
        second = case.run(model)
    assert not close(both, alone, 1e-4), "the second changes nothing"
    assert not close(both, second, 1e-4), "the first changes nothing"
    used = {s.path for a in model.workbench.members.values() for s in a.sites} if case.cls.engine == "peft" else set()
    free = [
        s.role
        for s in model.workbench.sites
        if s.kind in ("linear", "conv1d") and s.depth >= 0 and s.path not in used and s.role != "other"
    ]
    if free:
        cfg = registry.configure("lora", {"rank": 2, "roles": [free[0]]})
        disturb(model.workbench.attach("beside", "lora", cfg))
        assert not close(case.run(model), both, 1e-4), "a LoRA beside it changes nothing"
    model.workbench.detach("two")
    with model.workbench.only({"one": 1.0}):
        assert torch.equal(case.run(model), alone), "taking the second away changed the first"


@check()
def survives_to_and_train_eval(case: Case) -> None:
    """Casting the host leaves the adapter's own tensors in fp32, bit for bit; train and eval reach every part."""
    model, adapter = case.trained()
    chosen = {n for n in adapter.tensors() if n.startswith("base.")}
    before = {n: t.clone() for n, t in adapter.tensors().items() if n not in chosen}
    out = case.run(model)
    model.to(torch.bfloat16)
    after = adapter.tensors()
    assert not [n for n, t in before.items() if after[n].dtype != t.dtype or not torch.equal(after[n], t)], "casting changed it"
    assert close(case.run(model), out, 0.2), "in bf16 the host computes something else"
    for mode in (True, False):
        model.train(mode)
        assert {m.training for m in adapter.modules()} == {mode}


@check(trains)
def trains_in_mixed_precision(case: Case) -> None:
    """Under bf16 autocast the output stays near that of fp32, and every gradient is finite."""
    model, adapter = case.trained()
    exact = case.run(model)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = hosts.loss(model, case.family)
        penalty = adapter.penalty()
    (loss if penalty is None else loss + penalty).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in adapter.named_trainable().values())
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert close(case.run(model), exact, within=0.1)


@check(trains)
def resumes_bitwise(case: Case) -> None:
    """Five steps, then five more on a fresh adapter with what was taken of the first, end bitwise where ten end."""

    def stretch(model: nn.Module, adapter: Adapter, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        model.train()
        for step in range(first, last + 1):
            torch.manual_seed(step)
            loss, penalty = hosts.loss(model, case.family), adapter.penalty()
            (loss if penalty is None else loss + penalty).backward()
            optimizer.step()
            for p in adapter.on_step(step, 10):
                optimizer.state.pop(p, None)
            optimizer.zero_grad()

    def started() -> tuple[nn.Module, Adapter, torch.optim.Optimizer]:
        model, adapter = case.fresh()
        return model, adapter, torch.optim.Adam(adapter.param_groups(0.01))

    model, adapter, optimizer = started()
    stretch(model, adapter, optimizer, 1, 5)
    kept = {n: t.detach().clone() for n, t in (*adapter.named_parameters(), *adapter.named_buffers())}
    moments, progress = copy.deepcopy(optimizer.state_dict()), {n: t.clone() for n, t in adapter.progress().items()}
    stretch(model, adapter, optimizer, 6, 10)
    whole = {n: t.clone() for n, t in adapter.tensors().items()}

    model, adapter, optimizer = started()
    with torch.no_grad():
        for n, t in (*adapter.named_parameters(), *adapter.named_buffers()):
            t.copy_(kept[n])
    adapter.resume(5, progress)
    optimizer.load_state_dict(moments)
    stretch(model, adapter, optimizer, 6, 10)
    assert [n for n, t in adapter.tensors().items() if not torch.equal(t, whole[n])] == []


@check()
def loss_falls_in_20_steps(case: Case) -> None:
    """Twenty steps of Adam on one batch lower the loss clearly; head only trains the head, causal_lm then nothing."""
    model, adapter = case.fresh()
    if not adapter.named_trainable() and not hosts.head(model):
        return
    losses, _ = train(case, model, adapter, steps=20)
    assert all(value == value for value in losses)
    assert losses[-1] < 0.97 * losses[0], f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f}"


def tiny(cls: type[Method], preset: str = "") -> Placement:
    """The configuration for the tiny hosts: the class's `tiny`, a preset's values on top."""
    values = cls.tiny.model_dump(exclude_unset=True) | (dict(cls.presets[preset].values) if preset else {})
    return cls.Config.model_validate(values)


def fits(key: str, cls: type[Method], cfg: Placement, family: str) -> bool:
    """Whether the family's tiny host has what this configuration needs."""
    model = hosts.host(family)
    if set(cls.needs) - {"mask", *hosts.facts(family)} or ("mask" in cls.needs and family == "vit"):
        return False
    try:
        hosts.adapters(model).attach("probe", key, cfg)
    except WorkbenchError:
        return False
    return True


@contextmanager
def known(cls: type[Method], key: str) -> Iterator[None]:
    """Let the registry know a class that lives outside `workbench.methods` for the length of a block."""
    table = registry.methods()
    before = table.get(key)
    table[key] = cls
    try:
        yield
    finally:
        if before is None:
            del table[key]
        else:
            table[key] = before


def check_method(cls: type[Method], key: str = "", families: Sequence[str] = hosts.FAMILIES) -> dict[str, str]:
    """Run every check on every tiny host the class fits.

    Args:
        cls: the method's class; it need not lie in `workbench/methods`.
        key: the name it would have as a file; by default the class's name in lower case.
        families: which tiny hosts to try.

    Returns:
        "<check> on <family>" -> what is wrong; empty when all is well.
    """
    key, wrong = key or cls.__name__.lower(), {}
    with known(cls, key):
        cases = [Case(key, cls, tiny(cls), f) for f in families if fits(key, cls, tiny(cls), f)]
        if not cases:
            return {"fits": f"{key} fits none of the tiny hosts"}
        for case in cases:
            for name, (function, concerns) in CHECKS.items():
                try:
                    if concerns(case):
                        function(case)
                except Exception as error:
                    wrong[f"{name} on {case.family}"] = (
                        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                    )
    return wrong
