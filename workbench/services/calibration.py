"""Predictions beside what runs really took: how far off they were on this machine, and the factor that mends the next ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.core.paths import jobs_db, run_folder
from workbench.jobs.store import Store
from workbench.services import stored

if TYPE_CHECKING:
    from workbench.plan import Factor

RECENT = 200  # finished runs that are looked at, the newest first


@dataclass(frozen=True)
class Calibration:
    """The factors for one kind of device, precision and base model.

    Attributes:
        memory, seconds: one `Factor` each.
        where: the runs they are taken from, in words.
    """

    memory: "Factor"
    seconds: "Factor"
    where: str = ""

    def as_plain(self) -> dict[str, Any]:
        """{memory: {n, factor, low, high, error, used}, seconds: {...}, sentence}."""
        shown = {name: {**vars(one), "used": one.used} for name, one in (("memory", self.memory), ("seconds", self.seconds))}
        return {**shown, "sentence": self.sentence()}

    def sentence(self) -> str:
        """One line for people: what past predictions were worth, and what is made of it."""
        from workbench.plan import ENOUGH

        if not max(self.memory.n, self.seconds.n):
            return f"Not calibrated: no finished run {self.where} yet has a prediction to compare with."
        said = [_said(name, one) for name, one in (("memory", self.memory), ("time", self.seconds)) if one.n]
        much = "" if self.memory.used or self.seconds.used else f" Used from {ENOUGH} runs on."
        return f"Past predictions {self.where}: {'; '.join(said)}.{much}"


def _said(name: str, one: "Factor") -> str:
    runs = f"{one.n} run{'s' * (one.n != 1)}"
    made = f", so it is multiplied by {one.factor:.2f} here" if one.used else ""
    return f"{name} off by {one.error:.0%} ({runs}){made}"


@dataclass
class Record:
    """What finished runs of this home say, read once; `of` picks those that count for one prediction."""

    runs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls) -> "Record":
        """The newest finished trainings that carry a prediction of the present formulas; other jobs in parallel spoil a time."""
        from workbench.plan import FORMULA

        if not jobs_db().is_file():
            return cls()
        with Store(jobs_db()) as store:
            rows = store.last_finished(RECENT)
        found = (_result(row) for row in rows)
        return cls([r for r in found if (r.get("predicted") or {}).get("formula") == FORMULA and not r.get("neighbours")])

    def of(self, device: str, precision: str, base_sha256: str) -> Calibration:
        """What to expect of one base model on one kind of device: its own runs if there are enough, else those of all models.

        Args:
            device: `cpu` or `cuda`.
            precision: `fp32` or `bf16`.
            base_sha256: of the base model's weights.
        """
        from workbench.plan import ENOUGH, learn

        near = [r for r in self.runs if r["precision"] == precision and str(r["memory_kind"]).startswith(device)]
        same = [r for r in near if r["base_sha256"] == base_sha256]
        own = len(same) >= ENOUGH
        chosen, kind = (same, "of this base model") if own else (near, "of any base model")
        where = f"{kind} on {device.replace('cuda', 'CUDA').replace('cpu', 'the processor')} in {precision}"
        memory = [_past(r, "peak_memory_bytes") for r in chosen]
        whole = [r for r in chosen if r["steps"] == r["predicted"].get("steps")]  # not stopped early
        return Calibration(learn(memory), learn([_past(r, "train_seconds") for r in whole]), where)


def _past(result: Mapping[str, Any], name: str) -> Any:
    from workbench.plan import Past

    said = result["predicted"]
    return Past(said.get(f"raw_{name}") or 0.0, said.get(name) or 0.0, result.get(name) or 0.0)


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    """A finished run's result; empty where its folder is gone."""
    verdict = stored.verdict(run_folder(row["run_id"]))
    return verdict.get("result") or {} if verdict.get("attempt") == row["attempt"] else {}
