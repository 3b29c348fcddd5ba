"""The planted bugs: each is one short replacement in one file, and the smallest tests that must notice it."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One planted bug.

    Attributes:
        file: path from the repository's root.
        old: text that occurs exactly once in the file.
        new: what stands there instead.
        why: what goes wrong, in a few words.
        tests: what pytest is given.
    """

    file: str
    old: str
    new: str
    why: str
    tests: str


ATTACH, HOST, MERGING, ADAPTER, STATE = (f"workbench/kernel/{n}.py" for n in ("attach", "host", "merging", "adapter", "state"))
REGISTRY, SPARSE = "workbench/kernel/registry.py", "workbench/modifiers/sparse.py"
DURABLE = "workbench/core/durable.py"
T_ATTACH, T_HOST, T_STATE, T_REGISTRY = (f"tests/kernel/test_{n}.py" for n in ("attach", "host", "state", "registry"))
CALIBRATING, KMEANS, ELASTIC = (f"workbench/kernel/{n}.py" for n in ("calibrating", "kmeans", "elastic"))
BRIDGE = "workbench/kernel/peft_bridge.py"
T_SPARSE, T_CALIBRATING = "tests/oracles/test_sparse.py", "tests/kernel/test_calibrating.py"
T_KMEANS, T_DYLORA, T_NAS, T_VBLORA, T_ROAD = (
    "tests/kernel/test_kmeans.py",
    *(f"tests/oracles/test_{n}.py" for n in ("dylora", "lora_nas", "vblora", "road")),
)

MUTANTS = [
    # --- surgery ---
    Mutant(ATTACH, "total = added if total is None else total + added", "total = added", "only the last adapter counts", T_HOST),
    Mutant(ATTACH, "added = weight * _addition(", "added = _addition(", "weights of weight parts are ignored", T_HOST),
    Mutant(
        ATTACH,
        "return (y.to(total.dtype) + total).to(y.dtype) if y.dtype != total.dtype else y + total",
        "return y + total.to(y.dtype)",
        "the change is rounded before it is added",
        T_ATTACH,
    ),
    Mutant(
        ATTACH,
        "(0, 0, site.rows[0], out - site.rows[1])",
        "(0, 0, 0, out - site.rows[1] + site.rows[0])",
        "merging writes into another role's rows",
        T_ATTACH,
    ),
    Mutant(
        ATTACH,
        "nn.functional.pad(added, (site.rows[0], y.shape[-1] - site.rows[1]))",
        "nn.functional.pad(added, (y.shape[-1] - site.rows[1], site.rows[0]))",
        "adds to another role's columns",
        T_ATTACH,
    ),
    Mutant(
        ATTACH, "base = base if bias is None else base - bias.float()", "pass", "the bias is scaled like the product", T_ATTACH
    ),
    Mutant(ATTACH, "self.adapters.finish()", "pass", "activations outlive the forward pass", T_ATTACH),
    Mutant(ATTACH, "del self.module.forward", "self.module.forward = self.original", "a detached patch leaves a trace", T_ATTACH),
    Mutant(
        ATTACH, "self.module.forward = self.own_before", "del self.module.forward", "another tool's forward is lost", T_ATTACH
    ),
    Mutant(ATTACH, "self.readers = [r for r in self.readers if r[0] != name]", "pass", "a reader outlives its adapter", T_ATTACH),
    Mutant(ATTACH, "self.watchers = [w for w in self.watchers if w[0] != name]", "pass", "a tap outlives its adapter", T_ATTACH),
    Mutant(
        ATTACH,
        "self.adapters.inputs[part.site.source] if part.site.source else x",
        "x",
        "a block role reads the last layer's input, not the sublayer's",
        T_ATTACH,
    ),
    Mutant(
        ATTACH,
        "near = ctx if rows is None else _rows(ctx, rows, len(h))",
        "near = ctx",
        "chosen rows see the whole batch's facts",
        T_HOST,
    ),
    Mutant(
        ATTACH,
        "new = new if weight == 1 else sub + weight * (new - sub)",
        "pass",
        "weights of activation edits are ignored",
        T_HOST,
    ),
    Mutant(ATTACH, "return (h, *out[1:]) if", "return (h,) if", "a tuple loses what follows its first item", T_ATTACH),
    Mutant(ATTACH, "sub, some = sub.float(), some.float()", "sub, some = sub, some", "activation edits run in bf16", T_ATTACH),
    # --- the host ---
    Mutant(HOST, "surgery.first(out).detach()", "surgery.first(out)", "a side network sends gradients into the base", T_ATTACH),
    Mutant(HOST, "p.requires_grad_(False)", "pass", "the base trains along", T_HOST),
    Mutant(
        MERGING,
        "records.append(([(module, name)], old))",
        "records.append(([(module, name)], nn.Parameter(old.detach().clone(), requires_grad=False)))",
        "unmerge puts a copy back",
        T_HOST,
    ),
    Mutant(
        MERGING,
        "surgery.place([(module, name)], nn.Parameter(new.to(old.dtype), requires_grad=False))",
        "old.data = new.to(old.dtype)",
        "merging writes into the base's own tensor",
        T_HOST,
    ),
    Mutant(
        MERGING,
        "total = total + scale * surgery.stored_form(",
        "total = total.to(weight.dtype).float() + scale * surgery.stored_form(",
        "merging rounds after every adapter",
        T_ATTACH,
    ),
    Mutant(MERGING, "if len(where) > 1:", "if False:", "a tied weight is merged", T_HOST),
    Mutant(
        HOST,
        "except Exception:\n            self.unmerge()\n",
        "except Exception:\n",
        "a refused merge leaves half of it",
        T_HOST,
    ),
    Mutant(
        HOST,
        "with self.only({}):  # parts",
        "with self.only(self.active):  # parts",
        "an adapter is built on another's tensors",
        T_HOST,
    ),
    Mutant(HOST, "torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)", "the seed is ignored", T_HOST),
    Mutant(
        HOST, "torch.Generator().manual_seed(seed)", "torch.default_generator", "values come from the global generator", T_HOST
    ),
    Mutant(MERGING, "shift[rows] += scale * moved", "shift[rows] += moved", "weights of merged biases are ignored", T_HOST),
    Mutant(HOST, "self.given = before", "pass", "facts outlive their block", T_ATTACH),
    Mutant(HOST, "p.requires_grad_(True)", "pass", "release leaves the base frozen", T_HOST),
    Mutant(HOST, "if n in self.members})", "})", "an adapter that left inside a block breaks the switch back", T_HOST),
    Mutant(MERGING, "total = base + sum(w * (own", "total = base + sum((own", "weights of base tensors are ignored", T_HOST),
    # --- one adapter ---
    Mutant(ADAPTER, "return t.to(new.device) if", "return new.to(t.dtype) if", "casting the host rounds the adapter", T_SPARSE),
    Mutant(ADAPTER, '("lacks", mine.keys() - tensors.keys()), ', "", "a missing tensor is no clear error", T_STATE),
    Mutant(ADAPTER, "if tensor.shape != tensors[key].shape:", "if False:", "a misshapen tensor is no clear error", T_STATE),
    Mutant(
        ADAPTER,
        "setattr(owner, leaf, value)",
        "getattr(owner, leaf).copy_(value)",
        "loading misses re-parametrised tensors",
        T_SPARSE,
    ),
    Mutant(
        ADAPTER,
        "if original is None or any(original is p for p, _ in self._places.values()):",
        "if original is None:",
        "a tied tensor is taken twice",
        T_HOST,
    ),
    Mutant(
        ADAPTER,
        "{n: chain.original for n, chain in plain.items()}",
        "{}",
        "optimizer groups miss the tensors under a modifier",
        T_SPARSE,
    ),
    # --- folders ---
    Mutant(
        STATE,
        'if not (k.startswith("base.") and k.endswith(("#at", "#to")))',
        'if "#" not in k',
        "parts beyond the first get lost",
        T_STATE,
    ),
    Mutant(STATE, "not torch.isfinite(tensor).all()", "False", "NaN is loaded", T_STATE),
    Mutant(DURABLE, "        wipe(work)\n        if old", "        if old", "a failed write leaves rubbish", T_STATE),
    Mutant(STATE, "adapters.detach(name)\n        raise", "raise", "a failed load leaves an adapter attached", T_STATE),
    Mutant(STATE, "file_sha256(folder / name) != hashes[name]", "False", "a changed file is not noticed", T_STATE),
    Mutant(
        STATE,
        "value[at.long()] = to.to(value.dtype)",
        "value[at.long()] += to.to(value.dtype)",
        "stored base values are added",
        T_STATE,
    ),
    # --- finding things ---
    Mutant(REGISTRY, "{**chosen.values, **values}", "{**values, **chosen.values}", "a preset overrides the person", T_REGISTRY),
    Mutant(
        "workbench/core/types.py", "depth + n_blocks if depth < 0 else depth", "depth", "negative depths mean nothing", T_HOST
    ),
    Mutant(
        "workbench/backbones/__init__.py", "if not 0 <= d < n_blocks", "if not 0 <= d", "depths beyond the stack pass", T_HOST
    ),
    Mutant(
        "workbench/backbones/gpt2.py",
        'Place("attn.v", "h.#.attn.c_attn", rows=(2, 3))',
        'Place("attn.v", "h.#.attn.c_attn", rows=(1, 3))',
        "values are taken for keys",
        T_ATTACH,
    ),
    Mutant(
        "workbench/backbones/bert.py", ', source=f"{_BERT}.attention")', ")", "a parallel adapter reads the wrong place", T_ATTACH
    ),
    Mutant(
        "workbench/backbones/tokens.py",
        "torch.cat([mask.new_ones(batch, n), mask], 1)",
        "torch.cat([mask.new_zeros(batch, n), mask], 1)",
        "virtual tokens are masked out",
        "tests/backbones/test_tokens.py tests/oracles/test_prompt_tuning.py tests/oracles/test_prefix_tuning.py",
    ),
    # --- methods and modifiers ---
    Mutant(
        "workbench/methods/low_rank/lora.py",
        "(math.sqrt(cfg.rank) if cfg.rank_stabilised else cfg.rank)",
        "cfg.rank",
        "rsLoRA scales like LoRA",
        "tests/oracles/test_lora.py",
    ),
    Mutant(
        "workbench/methods/low_rank/lora.py",
        "lr * self.cfg.b_rate",
        "lr",
        "LoRA+ trains B no faster",
        "tests/oracles/test_lora.py",
    ),
    Mutant(
        "workbench/methods/low_rank/dora.py",
        "with torch.no_grad():\n            norms",
        "with torch.enable_grad():\n            norms",
        "DoRA's norm gets a gradient",
        "tests/oracles/test_dora.py",
    ),
    Mutant(SPARSE, "descending=True", "descending=False", "the smallest scores stay", T_SPARSE),
    Mutant(SPARSE, 'if cfg.score != "random":', "if False:", "a matrix of zeros is pruned by nothing", T_SPARSE),
    Mutant(
        SPARSE,
        "total = [t + g for t, g in zip(total, _gradients(loss, leaves), strict=True)]",
        "total = _gradients(loss, leaves)",
        "snip sees one batch",
        T_SPARSE,
    ),
    Mutant(SPARSE, "[p.detach() * s for p, s in", "[(p.detach() * s).abs() for p, s in", "grasp loses its sign", T_SPARSE),
    Mutant(SPARSE, "return torch.where(self.keep, weight, 0.0)", "return weight", "nothing is pruned", T_SPARSE),
    # --- looking first, choosing later, packing ---
    Mutant(CALIBRATING, "x[mask.bool()] if real else x.flatten(0, -2)", "x.flatten(0, -2)", "padding is observed", T_CALIBRATING),
    Mutant(
        CALIBRATING, "with adapters.only(), ExitStack()", "with ExitStack()", "the adapter disturbs its own start", T_CALIBRATING
    ),
    Mutant(CALIBRATING, "host.train(training)", "pass", "the host stays in evaluation", T_CALIBRATING),
    Mutant(KMEANS, "centres = torch.where(mass > 0, mean, centres)", "pass", "the centres never move", T_KMEANS),
    Mutant(
        KMEANS, "torch.where(gain > cost, new, centres)", "torch.where(gain > cost, centres, centres)", "no swap helps", T_KMEANS
    ),
    Mutant(ELASTIC, "if step >= WHOLE_STEPS else", "if step < 0 else", "only the largest ever trains", T_NAS),
    Mutant(ELASTIC, "return self.size(self.chosen())", "return self.size(self.largest())", "counts what is cut away", T_NAS),
    Mutant(ADAPTER, "return mine + sum(", "return mine + 0 * sum(", "counts what is not in use", T_ROAD),
    Mutant(
        STATE, "full = adapter.method.unpacked(adapter.cfg, own)", "full = dict(own)", "packed files cannot be read", T_VBLORA
    ),
    Mutant(BRIDGE, "self.trains = trains", "self.trains = None", "resting scalars count", T_ROAD),
]
