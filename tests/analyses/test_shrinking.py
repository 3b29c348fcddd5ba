"""Shrinking: every value is that of the base plus so much of the change, and digits show the miniature of R-Adapter."""

import pytest
import torch

from tests.analyses.conftest import disturb
from tests.train import planted
from workbench.analyses import Run
from workbench.analyses.shrinking import shrinking as analysis
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.spec import DataSpec
from workbench.data import load_table, shifts
from workbench.evaluate import evaluation, saved
from workbench.kernel.host import adapters_of

FEW = {"factors": (0.0, 0.5, 1.0), "rows": 8}


def rows(result):
    return {(r["rows"], r["factor"]): r["value"] for r in result.tables["shrinking"].to_dict("records")}


SHIFTS = {"bert": ["typos"], "llama": ["typos"], "vit": ["noise", "blur", "inversion"]}


@pytest.mark.parametrize("family", SHIFTS)
def test_every_value_is_that_of_the_model_with_so_much_of_the_change_merged(plant, family):
    run = plant(family, "lora", disturb())
    found = rows(analysis([run], FEW))
    assert {name for name, _ in found} == {"test", *SHIFTS[family]}
    revived = saved.revive(run.stored, run.adapter)
    task, host = revived.task, revived.host
    whole = load_table(saved.spec_of(run.adapter, run.meta).data, task.parts).test
    own = whole.select([i * len(whole) // 8 for i in range(8)])
    for name, some in {"test": own, **shifts.shifted(own, 0.3)}.items():
        for factor in (0.0, 0.5, 1.0):
            adapters_of(host).activate({"adapter": factor})
            adapters_of(host).merge()
            _, metrics = evaluation.evaluate(task, host, task.examples(some), 4)
            adapters_of(host).unmerge()
            assert found[name, factor] == pytest.approx(metrics[task.metric], rel=1e-4)


def test_full_fine_tuning_is_interpolated_with_its_base(plant):
    """Halfway, every tensor of the base is the mean of both."""
    run = plant("llama", "full", disturb(0.1))
    found = rows(analysis([run], FEW))
    revived = saved.revive(run.stored, run.adapter)
    with torch.no_grad():
        for base, own, _ in revived.adapter.originals().values():
            own.copy_((base + own) / 2)
    task = revived.task
    whole = load_table(saved.spec_of(run.adapter, run.meta).data, task.parts).test
    some = whole.select([i * len(whole) // 8 for i in range(8)])
    _, metrics = evaluation.evaluate(task, revived.host, task.examples(some), 4)
    assert found["test", 0.5] == pytest.approx(metrics[task.metric], rel=1e-4)
    assert len({found["test", a] for a in (0.0, 0.5, 1.0)}) == 3


def test_factors_are_sorted_once_and_the_figure_has_a_line_for_own_and_for_shifted_rows(plant):
    result = analysis([plant("vit", "r_adapter", disturb(0.05))], {"factors": (1.0, 0.0, 0.5, 0.5), "rows": 8})
    figure = result.figures["shrinking"]
    assert [s["name"] for s in figure["series"]] == ["r_adapter s0 test", "r_adapter s0 shifted"]
    assert all(s["x"] == [0.0, 0.5, 1.0] for s in figure["series"])
    found = rows(result)
    means = [sum(found[kind, a] for kind in ("noise", "blur", "inversion")) / 3 for a in (0.0, 0.5, 1.0)]
    assert figure["series"][1]["y"] == pytest.approx(means)
    assert "on shifted rows (noise, blur, inversion) accuracy is best at factor" in result.sentences[0]
    assert "choose a factor" in result.sentences[1]


def test_the_best_factor_is_the_one_with_the_lowest_perplexity_where_less_is_better(plant):
    result = analysis([plant("llama", "lora", disturb(1.0))], {**FEW, "split": "validation"})
    found = {a: v for (name, a), v in rows(result).items() if name == "typos"}
    assert f"best at factor {min(found, key=found.get):g}, " in result.sentences[0]
    assert len(result.sentences) == 1, "validation rows may be used to choose"


def test_what_is_no_change_of_weights_is_one_sentence(plant):
    with pytest.raises(WorkbenchError, match="shrinking needs a method that can be merged; bottleneck cannot: its non-linearity"):
        analysis([plant("bert", "bottleneck")], FEW)


def test_an_adapter_without_its_run_is_one_sentence(plant):
    run = plant("bert", "lora")
    (run.adapter.parent / "spec.yaml").unlink()
    with pytest.raises(WorkbenchError, match="there is no run of this adapter here"):
        analysis([run], FEW)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_between_base_and_adapter_shifted_digits_are_read_best(tmp_path, seed):
    """The miniature of R-Adapter: a factor strictly between 0 and 1 beats both ends on noisy, blurred and inverted digits."""
    data = DataSpec(source="bundled/digits", limit=200, validation=0.2, test=0.3)
    facts = {"learning_rate": 2e-3, "max_steps": None, "epochs": 10, "batch_size": 16, "eval_every": 999}
    spec = planted.spec("bundled/vit", "image_classification", data, "r_adapter", seed=seed, **facts)
    planted.go(spec, tmp_path)
    (tmp_path / "spec.yaml").write_text(safe_yaml.dumps(spec.model_dump(mode="json")))
    run = Run("digits", "r_adapter", tmp_path / "adapter", {"seed": seed})
    figure = analysis([run], {"rows": 500}).figures["shrinking"]
    own, shifted = (dict(zip(s["x"], s["y"], strict=True)) for s in figure["series"])
    best = max(shifted, key=lambda a: shifted[a])
    assert 0 < best < 1
    assert shifted[best] >= max(shifted[0.0], shifted[1.0]) + 0.01
    assert own[best] > own[0.0]
