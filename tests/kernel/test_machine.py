"""Attach, switch, merge, unmerge and detach in random order: in the end the base is bitwise back, and never wrong between."""

import pytest
import torch
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.contract import hosts
from tests.contract.checks import disturb
from tests.kernel.test_attach import put, run
from workbench.core.errors import WorkbenchError

KEYS = ("lora", "dora", "ia3", "bitfit", "full", "bottleneck")


class Life(RuleBasedStateMachine):
    """What a person can do to one host."""

    @initialize(family=st.sampled_from(["bert", "gpt2"]), low=st.booleans(), key=st.sampled_from(KEYS[:3]))
    def begin(self, family: str, low: bool, key: str) -> None:
        """A host in fp32 or bf16, with a first adapter that can be merged."""
        self.family = family
        self.model = hosts.host(family).to(torch.bfloat16 if low else torch.float32)
        self.before, self.base = hosts.snapshot(self.model), run(self.model, family)
        hosts.adapters(self.model)
        self.count = 1
        disturb(put(self.model, key, "a1"), 1)

    @property
    def names(self) -> list[str]:
        """Who is attached."""
        return list(self.model.workbench.members)

    @precondition(lambda self: len(self.names) < 3)
    @rule(key=st.sampled_from(KEYS))
    def attach(self, key: str) -> None:
        """A new adapter, moved away from its start; refused while merged."""
        self.count += 1
        if self.model.workbench.merged:
            with pytest.raises(WorkbenchError, match="unmerge before attaching"):
                put(self.model, key, "late")
        else:
            disturb(put(self.model, key, f"a{self.count}", seed=self.count), self.count)

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        """Any of them leaves."""
        self.model.workbench.detach(data.draw(st.sampled_from(self.names)))

    @precondition(lambda self: not self.model.workbench.merged)
    @rule(data=st.data())
    def activate(self, data: st.DataObject) -> None:
        """Any weights for any of them."""
        weights = {n: data.draw(st.sampled_from([0.0, 0.5, 1.0, -1.0])) for n in self.names}
        self.model.workbench.activate(weights)
        assert self.model.workbench.active == {n: w for n, w in weights.items() if w}

    @precondition(lambda self: not self.model.workbench.merged)
    @rule(all_of_them=st.booleans())
    def merge(self, all_of_them: bool) -> None:
        """What is on goes into the weights, or a sentence says why not and nothing changed."""
        members = self.model.workbench.members
        weights = (
            {n: 1.0 for n, a in members.items() if a.method.mergeable(a.cfg)} if all_of_them else self.model.workbench.active
        )
        self.model.workbench.activate(weights)
        apart = run(self.model, self.family)
        if any(not members[n].method.mergeable(members[n].cfg) for n in weights):
            with pytest.raises(WorkbenchError, match="cannot be merged"):
                self.model.workbench.merge()
            assert torch.equal(run(self.model, self.family), apart)
            return
        self.model.workbench.merge()
        event("merged" if self.model.workbench.merged else "nothing to merge")
        near = 2e-4 if self.model.dtype == torch.float32 else 0.3
        assert torch.allclose(run(self.model, self.family), apart, atol=near * max(1.0, apart.abs().max().item()))

    @rule()
    def unmerge(self) -> None:
        """Back to separate adapters, or nothing to do."""
        self.model.workbench.unmerge()
        assert not self.model.workbench.merged

    @invariant()
    def base_is_frozen(self) -> None:
        """Nothing of the base trains, whatever happened; what an adapter took over is its own."""
        if not hasattr(self, "model"):
            return
        own = {id(p) for a in self.model.workbench.members.values() for _, p, _ in a.originals().values()}
        loose = [
            n for n, p in self.model.named_parameters() if not n.startswith("workbench.") and p.requires_grad and id(p) not in own
        ]
        assert not loose

    @precondition(lambda self: not self.model.workbench.merged)
    @rule()
    def switched_off_is_the_base(self) -> None:
        """Between any two steps."""
        with self.model.workbench.only({}):
            assert torch.equal(run(self.model, self.family), self.base)

    def teardown(self) -> None:
        """The same objects with the same bits, and the same logits."""
        if not hasattr(self, "model"):
            return
        self.model.workbench.release()
        assert not hosts.differences(self.before, hosts.snapshot(self.model))
        assert torch.equal(run(self.model, self.family), self.base)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=40,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
