"""Distillation: the loss against a naive one, its limits, and a teacher that is only ever asked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train import planted
from workbench import recipes
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import AdapterRef, ModelRef, RunSpec
from workbench.core.spec import load_spec, parse_spec
from workbench.data import load_table
from workbench.evaluate import evaluation, others, starting
from workbench.kernel import registry
from workbench.models.bundled import weights_sha256
from workbench.recipes.contract import Models
from workbench.recipes.distillation import Distillation, DistillationConfig
from workbench.services import adapters
from workbench.services import others as resolving
from workbench.services.preparing import prepare
from workbench.train.building import build
from workbench.train.loop import Loop

FAMILIES = ["bert", "llama", "vit"]
TEACHER = {"max_steps": 12, "learning_rate": 0.05}


def taught(
    bench: Any, family: str, method: str = "lora", teacher: Any = None, training: dict[str, Any] | None = None, **options: Any
) -> RunSpec:
    """A run whose teacher is another run of the same family."""
    ref = teacher or starting.look(bench.run(family, "lora", seed=5, **TEACHER)[0]).ref
    made = bench.spec(family, method, recipe={"recipe": "distillation", "teacher": "teacher", **options}, **(training or {}))
    return made.model_copy(update={"models": {"teacher": ref}})


def ready(bench: Any, family: str, run: RunSpec) -> tuple[Distillation, list[Any]]:
    """The recipe as a run starts it, and encoded training rows."""
    task = _task(bench, family, run)
    splits = load_table(run.data, task.parts)
    models, _ = build(run, task, "cpu", others.load(run.models, task, splits, "cpu"))
    cls, cfg = recipes.configure(run.recipe)
    return cls(cfg, models, 0), task.examples(splits.train)


def _task(bench: Any, family: str, run: RunSpec) -> Any:
    from workbench import tasks

    cls = tasks.find(run.task)
    return cls(bench.base(family), load_table(run.data, cls.parts).labels, run.training.max_length)


def naive(recipe: Distillation, batch: Any, student: Tensor, teacher: Tensor) -> float:
    """The equation in float64, row by row and token by token."""
    w, t = recipe.cfg.weight, recipe.cfg.temperature
    total = 0.0
    for i in range(len(student)):
        if student.dim() == 2:
            pairs = [(student[i], teacher[i], int(batch.targets[i]))]
        else:
            places = [p for p in range(1, student.shape[1]) if int(batch.targets[i, p]) != -100]
            pairs = [(student[i, p - 1], teacher[i, p - 1], int(batch.targets[i, p])) for p in places]
        hard = soft = 0.0
        for s, z, goal in pairs:
            p = torch.exp(z.double() / t) / torch.exp(z.double() / t).sum()
            q = torch.exp(s.double() / t) / torch.exp(s.double() / t).sum()
            soft += float((p * (p.log() - q.log())).sum())
            hard -= float((torch.exp(s.double()) / torch.exp(s.double()).sum())[goal].log())
        total += ((1 - w) * hard + w * t * t * soft) / len(pairs)
    return total / len(student)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 2.0), (1.0, 5.0), (0.3, 0.7)])
def test_the_loss_is_the_equation(bench, family, weight, temperature):
    recipe, rows = ready(bench, family, taught(bench, family, weight=weight, temperature=temperature))
    batch = recipe.models.task.batch(rows[:6])
    found = recipe.step(batch)
    student = evaluation.forward(recipe.models.host, batch).logits
    said, _ = recipe.teacher.output(batch)
    assert found.item() == pytest.approx(naive(recipe, batch, student.detach(), said.logits), rel=1e-4)
    assert recipe.soft(evaluation.forward(recipe.models.host, batch), batch).item() > 1e-4


def test_the_adapters_penalty_stays_in_the_loss(bench):
    recipe, rows = ready(bench, "bert", taught(bench, "bert", "adalora"))
    batch = recipe.models.task.batch(rows[:4])
    penalty = recipe.models.adapter.penalty()
    assert penalty.item() > 0
    plain = recipe.loss(evaluation.forward(recipe.models.host, batch), batch)
    assert recipe.step(batch).item() == pytest.approx((plain + penalty).item(), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_0_is_the_standard_training_bitwise(bench, family):
    more = {"dropout": 0.1} if family == "bert" else {}
    usual, one = bench.run(family, **more)
    folder, two = bench.fresh(taught(bench, family, weight=0.0, training=more))
    assert planted.equal(planted.stored(usual), planted.stored(folder))
    assert one["metrics"] == two["metrics"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_it(bench, family):
    run = taught(bench, family)
    recipe, rows = ready(bench, family, run.model_copy(update={"init_from": run.models["teacher"]}))
    recipe.models.host.eval()
    batch = recipe.models.task.batch(rows[:5])
    output = evaluation.forward(recipe.models.host, batch)
    assert recipe.soft(output, batch).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_is_asked_in_eval_mode_and_never_changes(bench, family, monkeypatch):
    usual, known = bench.run(family)
    student = taught(bench, family)
    source, real, runs = Path(student.models["teacher"].path), Loop.run, []

    def run(loop: Loop, *args: Any) -> Any:
        teacher = loop.models.others["teacher"].host
        before = {n: t.clone() for n, t in teacher.state_dict().items()}
        done = real(loop, *args)
        assert not teacher.training
        assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
        assert all(torch.equal(t, before[n]) for n, t in teacher.state_dict().items())
        mine = {id(p) for p in loop.models.host.parameters()}
        assert not any(id(p) in mine for p in teacher.parameters())
        runs.append(done.steps)
        return done

    monkeypatch.setattr(Loop, "run", run)
    files = {p.name: p.read_bytes() for p in source.iterdir()}
    folder, result = bench.fresh(student)
    assert runs == [4]
    assert {p.name: p.read_bytes() for p in source.iterdir()} == files
    assert not planted.equal(planted.stored(folder), planted.stored(usual))
    assert result["total_params"] == known["total_params"]


def test_under_autocast_the_teacher_answers_in_fp32(bench):
    recipe, rows = ready(bench, "bert", taught(bench, "bert"))
    batch = recipe.models.task.batch(rows[:4])
    free, _ = recipe.teacher.output(batch)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = recipe.teacher.output(batch)
        assert recipe.step(batch).dtype == torch.float32
    assert cast.logits.dtype == torch.float32
    assert torch.equal(cast.logits, free.logits)
    assert not cast.logits.requires_grad


def test_a_good_teacher_helps_where_the_labels_are_noise(bench, tmp_path):
    """A student whose answers are noise follows its teacher instead of them."""
    texts = planted.sentences(160)
    good = planted.csv(tmp_path / "good.csv", "text,label", texts)
    more = {"max_steps": None, "epochs": 8, "learning_rate": 5e-3, "batch_size": 8}
    data = planted.DataSpec(source=str(good), test=0.25, validation=0.1)
    teacher, upper = bench.fresh(planted.spec(bench.base("bert"), "text_classification", data, "full", **more))
    assert upper["metrics"]["accuracy"] >= 0.9
    noise = [(t, "pos" if (i // 2) % 2 else "neg") for i, (t, _) in enumerate(planted.sentences(160, seed=9))]
    wrong = planted.csv(tmp_path / "noise.csv", "text,label", noise)
    data = data.model_copy(update={"source": str(wrong), "test": str(good)})
    plain = planted.spec(bench.base("bert"), "text_classification", data, **more)
    _, alone = bench.fresh(plain)
    recipe = {"recipe": "distillation", "teacher": "t", "weight": 0.9}
    learnt = plain.model_copy(update={"recipe": recipe, "models": {"t": starting.look(teacher).ref}})
    _, student = bench.fresh(learnt)
    assert student["metrics"]["accuracy"] > alone["metrics"]["accuracy"] + 0.15


# --- teachers of other kinds --------------------------------------------------------------------------------------


def test_a_classifier_may_learn_from_another_base_with_another_tokenizer(bench, tmp_path):
    """The teacher reads the texts with its own tokenizer, whose words have other numbers."""
    base = planted.base("bert", tmp_path / "other", hidden_size=16)
    file = base / "tokenizer.json"
    text = file.read_text()
    assert '"good":4' in text.replace(" ", "")
    file.write_text(text.replace('"good"', '"swap"').replace('"so"', '"good"').replace('"swap"', '"so"'))
    teacher, _ = bench.fresh(planted.spec(base, "text_classification", bench.rows("bert"), "lora", seed=5, **TEACHER))
    recipe, rows = ready(bench, "bert", taught(bench, "bert", teacher=starting.look(teacher).ref))
    batch = recipe.models.task.batch(rows[:6])
    _, own = recipe.teacher.output(batch)
    assert not torch.equal(own.inputs["input_ids"], batch.inputs["input_ids"])
    assert own.ids == batch.ids
    assert float(recipe.step(batch)) > 0


def test_a_language_model_may_learn_from_a_plain_base(bench, tmp_path):
    base = planted.base("gpt2", tmp_path / "large")
    ref = ModelRef(source=str(base), sha256=weights_sha256(base))
    run = taught(bench, "llama", teacher=ref)
    recipe, rows = ready(bench, "llama", run)
    batch = recipe.models.task.batch(rows[:5])
    said, _ = recipe.teacher.output(batch)
    student = evaluation.forward(recipe.models.host, batch).logits
    assert recipe.step(batch).item() == pytest.approx(naive(recipe, batch, student.detach(), said.logits), rel=1e-4)
    assert bench.fresh(run)[1]["steps"] == 4


# --- what cannot be ----------------------------------------------------------------------------------------------


def said(bench: Any, family: str, ref: Any) -> str:
    run = taught(bench, family, teacher=ref)
    with pytest.raises(WorkbenchError) as caught:
        bench.fresh(run)
    assert "\n" not in str(caught.value)
    assert resolving.problems(run.models, _task(bench, family, run), ()) == (str(caught.value),)  # the plan says it too
    return str(caught.value)


def test_a_base_without_a_trained_head_is_no_classifier(bench):
    base = bench.base("bert")
    assert "must be a run, which has a trained head for text_classification" in said(
        bench, "bert", ModelRef(source=str(base), sha256=weights_sha256(base))
    )


def test_labels_must_be_equal_and_in_one_order(bench, tmp_path):
    rows = [(t, {"pos": "good", "neg": "bad"}[k]) for t, k in planted.sentences(40)]
    data = planted.DataSpec(source=str(planted.csv(tmp_path / "named.csv", "text,label", rows)), test=0.25, validation=0.2)
    teacher, _ = bench.fresh(planted.spec(bench.base("bert"), "text_classification", data))
    words = said(bench, "bert", starting.look(teacher).ref)
    assert "its labels are 'bad', 'good', here they are 'neg', 'pos': name another." in words


def test_another_task_is_refused(bench):
    assert "its task is causal_lm, here it is text_classification" in said(
        bench, "bert", starting.look(bench.run("llama", "lora", seed=5, **TEACHER)[0]).ref
    )


def test_a_language_model_needs_the_same_vocabulary(bench, tmp_path):
    base = planted.base("gpt2", tmp_path / "other")
    file = base / "tokenizer.json"
    file.write_text(file.read_text().replace('"plot"', '"story"'))
    assert "its tokenizer has another vocabulary" in said(bench, "llama", ModelRef(source=str(base), sha256=weights_sha256(base)))


def test_an_output_layer_of_another_width_is_one_sentence(bench, tmp_path):
    from transformers import AutoModelForCausalLM

    base = planted.base("gpt2", tmp_path / "wide")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.save_pretrained(base)
    with pytest.raises(WorkbenchError, match=r"the teacher must score the same tokens as the student; it has \d+ of 35 words"):
        bench.fresh(taught(bench, "llama", teacher=ModelRef(source=str(base), sha256=weights_sha256(base))))


def test_a_teacher_that_changed_since_submit_is_refused(bench, tmp_path):
    ref = starting.look(bench.run("bert", "lora", seed=5, **TEACHER)[0]).ref
    for changed in (AdapterRef(path=ref.path, sha256="0" * 64), AdapterRef(path=str(tmp_path / "gone"), sha256=ref.sha256)):
        with pytest.raises(
            WorkbenchError, match="the model teacher must be the one that was submitted; it has changed or is gone"
        ):
            bench.fresh(taught(bench, "bert", teacher=changed))


# --- from a spec to a run ----------------------------------------------------------------------------------------

RECIPE = {"method": "lora", "recipe": {"recipe": "distillation", "teacher": "teacher"}}


def asked(bench: Any, methods: list[Any], **more: Any) -> dict[str, Any]:
    data = bench.rows("bert").model_dump(exclude_defaults=True)
    return {"name": "few", "model": str(bench.base("bert")), "task": "text_classification", "data": data, "methods": methods,
            "baseline": False, "training": {"max_steps": 2, "max_length": 24}, **more}  # fmt: skip


@pytest.fixture
def teacher(bench):
    return bench.run("bert", "lora", seed=5, **TEACHER)[0] / "adapter"


def test_a_recipe_names_an_entry_of_models_or_a_run(bench, teacher, home, monkeypatch):
    monkeypatch.setattr(adapters, "adapter_folder", {"lora-s5": teacher, "12": teacher}.__getitem__)
    for name, spec in (
        ("teacher", asked(bench, [RECIPE], models={"teacher": str(teacher)})),
        ("teacher", asked(bench, [RECIPE], models={"teacher": "lora-s5"})),
        ("teacher", asked(bench, [RECIPE], models={"teacher": 12})),
        ("lora-s5", asked(bench, [{**RECIPE, "recipe": {"recipe": "distillation", "teacher": "lora-s5"}}])),
        ("12", asked(bench, [{**RECIPE, "recipe": {"recipe": "distillation", "teacher": 12}}])),
        (str(teacher), asked(bench, [{**RECIPE, "recipe": {"recipe": "distillation", "teacher": str(teacher)}}])),
    ):
        found = prepare(parse_spec(spec), strict=True)
        assert found.problems() == []
        assert found.lines[0].models == {name: starting.look(teacher).ref}
        assert found.lines[0].recipe["teacher"] == name


def test_models_stand_only_beside_the_runs_that_name_them(bench, teacher, home):
    spec = asked(bench, ["lora", RECIPE], models={"teacher": str(teacher), "spare": str(teacher)})
    found = prepare(parse_spec(spec))
    assert [list(line.models) for line in found.lines] == [[], ["teacher"]]
    assert "models.spare is used by no recipe of this experiment." in found.notes


def test_the_plan_counts_the_teacher(bench, teacher, home):
    plain, taught = (
        one.plan for one in prepare(parse_spec(asked(bench, ["lora", RECIPE], models={"teacher": str(teacher)}))).lines
    )
    assert "other_models" not in plain.memory
    assert taught.memory["other_models"] > 0
    assert taught.peak_memory_bytes == plain.peak_memory_bytes + taught.memory["other_models"]
    assert plain.train_seconds < taught.train_seconds < 2 * plain.train_seconds
    assert taught.trainable_params == plain.trainable_params


def test_a_resolved_run_reads_back_and_runs(bench, teacher, home):
    from workbench.services import experiments

    made = experiments.resolve(parse_spec(asked(bench, [RECIPE], models={"teacher": {"source": str(teacher)}})))[0]
    again = RunSpec.model_validate(safe_yaml.loads(safe_yaml.dumps(made.model_dump(mode="json"))))
    assert again == made
    assert isinstance(again.models["teacher"], AdapterRef)
    assert bench.fresh(again)[1]["steps"] == 2


def test_relative_models_are_taken_from_the_files_folder(tmp_path):
    (tmp_path / "teacher").mkdir()
    spec = {"name": "few", "model": "bundled/minilm", "task": "t", "data": "bundled/docstrings", "methods": ["lora"],
            "models": {"a": "teacher", "b": "bundled/minilm", "c": "lora-s0"}}  # fmt: skip
    (tmp_path / "spec.yaml").write_text(safe_yaml.dumps(spec))
    found = load_spec(tmp_path / "spec.yaml").models
    assert [m.source for m in found.values()] == [str(tmp_path / "teacher"), "bundled/minilm", "lora-s0"]


BAD = {
    "no teacher": ({"recipe": "distillation"}, "distillation.teacher is required but missing"),
    "weight": ({"recipe": "distillation", "teacher": "x/y", "weight": 2}, "distillation.weight must be at most 1"),
    "temperature": ({"recipe": "distillation", "teacher": "x/y", "temperature": 0}, "distillation.temperature must be above 0"),
    "no such run": (
        {"recipe": "distillation", "teacher": "nothing"},
        "the model nothing must be a run, an adapter folder or a base",
    ),
    "no such folder": ({"recipe": "distillation", "teacher": "/nowhere/at/all"}, "the model /nowhere/at/all must be a run"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_teachers_are_one_sentence(bench, home, name):
    recipe, words = BAD[name]
    with pytest.raises(WorkbenchError) as caught:
        prepare(parse_spec(asked(bench, [{"method": "lora", "recipe": recipe}])), strict=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"t": 5.5}, "spec.models.t must be"),
        ({"t": {"sauce": "x"}}, "spec.models.t.source is required"),
        (["t"], "spec.models must be"),
    ],
)
def test_bad_models_are_one_sentence(bench, models, words):
    with pytest.raises(WorkbenchError) as caught:
        parse_spec(asked(bench, ["lora"], models=models))
    assert words in str(caught.value)


def test_it_is_listed_with_its_equation():
    text = registry.describe(Distillation)
    assert text["title"].startswith("Distillation: learn from a teacher")
    assert "KL(" in text["formula"]
    assert "distillation" in recipes.names()
    assert set(DistillationConfig.model_fields) == {"teacher", "weight", "temperature"}
    assert Models.__dataclass_fields__["others"].default_factory is not None
