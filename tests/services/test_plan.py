"""Plans against reality: parameters exact, figures sensible, problems in sentences, nothing allocated."""

import time

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.contract import hosts
from workbench import modifiers, recipes
from workbench.core.spec import TrainingSpec
from workbench.kernel import registry
from workbench.kernel.host import adapters_of
from workbench.plan import Entry, Machine, Workload, plan_method, sharing

WORK = Workload(rows=100, tokens=20.0, longest=32, provides=("mask", "positions"))
HERE = Machine("cpu", 1, "fp32")


def on_meta(real):
    """The same model as shapes only."""
    with torch.device("meta"):
        return type(real)(real.config)


def entry(name, cfg=None, **more):
    """An entry of a method or preset, with its test configuration unless another is given."""
    key, cls, preset = registry.find(name)
    cfg = cfg or cls.Config.model_validate({**cls.tiny.model_dump(), **preset.values})
    return Entry(name, key, cfg, **more)


def planned(real, one, training=None, work=WORK):
    """The plan of one entry on the shapes of a model."""
    host = on_meta(real)
    return plan_method(host, hosts.head(real), one, training or TrainingSpec(), work, HERE)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("name", registry.keys())
def test_parameters_are_exact(name, family):
    real = hosts.host(family)
    one = entry(name)
    plan = planned(real, one)
    adapters = adapters_of(real, hosts.head(real))
    if plan.problems:
        with pytest.raises(Exception, match=r"\w"):
            adapters.attach("a", one.key, one.cfg)
        return
    size = sum(p.numel() for p in real.parameters())
    adapter = adapters.attach("a", one.key, one.cfg)
    head = sum(p.numel() for path in hosts.head(real) for p in real.get_submodule(path).parameters())
    assert plan.new_params == adapter.new_params() or (not plan.exact and plan.new_params > adapter.new_params() > 0)
    assert plan.base_trained_params == adapter.base_params()
    assert plan.head_params == head
    assert plan.total_params == size + plan.new_params
    assert plan.peak_memory_bytes == sum(plan.memory.values()) > 0
    trains = plan.peak_trainable_params + head > 0  # a language model without a head has nothing to train in `head_only`
    assert (plan.train_seconds > 0, plan.steps > 0) == (trains, trains)


def test_a_modifier_is_counted_as_it_trains():
    real = hosts.host("bert")
    values = {"modifier": "sparse", "keep": 0.25, "score": "random"}
    plan = planned(real, entry("lora", modifiers=(modifiers.resolve(values),)))
    adapter = adapters_of(real, hosts.head(real)).attach("a", "lora", entry("lora").cfg)
    dense = adapter.new_params()
    modifiers.apply_all([values], adapter, [], torch.Generator().manual_seed(0))
    kept = sum(int(mask.sum()) for name, mask in adapter.named_buffers() if name.endswith("keep"))
    assert plan.trainable_params == kept == dense // 4
    assert plan.peak_trainable_params == dense


def test_lt_sft_counts_the_kept_scalars():
    real = hosts.host("bert")
    plan = planned(real, entry("full", recipe=recipes.configure({"recipe": "lt_sft", "keep": 0.1})))
    base = sum(p.numel() for n, p in real.named_parameters() if not n.startswith(("classifier", "workbench")))
    norms = sum(p.numel() for n, p in real.named_parameters() if "LayerNorm" in n)
    assert plan.trainable_params == int(0.1 * (base - norms))
    assert plan.peak_trainable_params == base


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (lambda: entry("lora", registry.configure("lora", {"roles": ("cross.q",)})), "cross.q, which matches nothing"),
        (lambda: entry("lora", registry.configure("lora", {"depths": (9,)})), "blocks 0 to 1"),
        (lambda: entry("lora", registry.configure("lora", {"rank": 64})), "at most 32"),
        (lambda: entry("head_only", modifiers=(modifiers.resolve({"modifier": "sparse"}),)), "needs an adapter with matrices"),
        (lambda: entry("lora", recipe=recipes.configure({"recipe": "lt_sft"})), "trains base tensors"),
    ],
)
def test_problems_are_sentences_without_figures(one, words):
    plan = planned(hosts.host("bert"), one())
    assert words in " ".join(plan.problems)
    assert all(p.endswith(".") for p in plan.problems)
    assert plan.predicted() == {"trainable_params": None, "peak_memory_bytes": None, "train_seconds": None}


@pytest.mark.parametrize("name", ["distillation", "lt_sft", "tfew"])
def test_processes_and_a_loss_of_its_own_are_a_problem_of_the_plan_as_of_the_run(name):
    cfg = recipes.find(name).Config.model_validate({"teacher": "x"} if name == "distillation" else {})
    one = entry("full", recipe=(recipes.find(name), cfg))
    said = recipes.find(name).unshared()
    assert said in planned(hosts.host("bert"), one, TrainingSpec(processes=2)).problems
    assert f"the recipe {name} has a loss of its own" in said
    assert said not in planned(hosts.host("bert"), one).problems


@pytest.mark.parametrize(("device", "gpus", "refused"), [("cuda", 1, True), ("cuda", 2, False), ("cpu", 0, False)])
def test_processes_need_as_many_gpus(device, gpus, refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    found = sharing.problems("lora", registry.methods()["lora"], recipes.find("standard"), device, 2)
    assert len(found) == refused
    assert not found or found[0].startswith("2 processes need as many GPUs, and this run may use 1; ")


def test_processes_and_a_method_that_moves_by_its_own_rows_are_a_problem_of_the_plan():
    said = "losia cannot share its batches between processes: each would score its block by the gradients of its own rows; "
    assert planned(hosts.host("bert"), entry("losia"), TrainingSpec(processes=2)).problems[0].startswith(said)
    assert not planned(hosts.host("bert"), entry("losia")).problems


def test_a_search_at_the_end_takes_time_for_every_judgement():
    def seconds(**options):
        recipe = recipes.configure({"recipe": "search", **options})
        work = Workload(rows=100, tokens=20.0, longest=32, judged=400)
        return planned(hosts.host("bert"), entry("lora_nas", recipe=recipe), work=work).train_seconds

    one, ten, forty = seconds(strategy="middle"), seconds(evaluations=10), seconds(evaluations=40)
    assert one < ten < forty
    assert forty - ten == pytest.approx((ten - one) * 30 / 9, rel=0.2)  # the probe of the machine may find it faster meanwhile


def test_every_other_recipe_may_share_batches():
    assert {key for key in recipes.names() if recipes.find(key).unshared()} == {"distillation", "lt_sft", "tfew"}


def test_a_missing_context_key_is_a_problem():
    plan = planned(hosts.host("bert"), entry("loreft"), work=Workload(10, 5.0, 8, ()))
    assert plan.problems == (
        "loreft needs 'positions' from every batch, which this task does not provide; choose another task or method.",
    )


@pytest.fixture(scope="module")
def encoder():
    """Shapes of a six-block encoder of the bundled one's size, and its head."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **sizes)), ("classifier",)


def test_costs_are_ordered_as_the_work_is(encoder):
    def cost(name, **training):
        return plan_method(*encoder, entry(name), TrainingSpec(**training), Workload(100, 60.0, 128, ("mask",)), HERE)

    head, side, lora, full = (cost(n) for n in ("head_only", "read_rnn", "lora", "full"))
    assert head.train_seconds < side.train_seconds < lora.train_seconds < full.train_seconds
    assert head.peak_memory_bytes < side.peak_memory_bytes < lora.peak_memory_bytes < full.peak_memory_bytes
    assert cost("lora", epochs=3).train_seconds == pytest.approx(3 * lora.train_seconds, rel=0.05)
    assert cost("lora", epochs=3, max_steps=1).train_seconds < lora.train_seconds / 3
    assert cost("lora", batch_size=4).peak_memory_bytes < lora.peak_memory_bytes


@pytest.mark.parametrize(
    ("name", "precision", "megabytes"),
    [("head_only", "fp32", 175), ("lora", "fp32", 896), ("lora", "bf16", 664), ("full", "fp32", 1066), ("bitfit", "fp32", 763)],
)
def test_memory_agrees_with_what_was_measured(encoder, name, precision, megabytes):
    """Batches of 16 x 128 tokens on this encoder, peak over the loaded model, measured in processes of their own."""
    key, cls, _ = registry.find(name)
    work, machine = Workload(200, 128.0, 128, ("mask",), 20), Machine("cpu", 1, precision)
    plan = plan_method(*encoder, Entry(name, key, cls.Config()), TrainingSpec(), work, machine)
    assert plan.peak_memory_bytes / 1e6 == pytest.approx(megabytes, rel=0.15)


def test_virtual_tokens_lengthen_every_example(encoder):
    key, cls, _ = registry.find("prompt_tuning")
    work = Workload(100, 50.0, 100, ("mask",))
    long = Workload(100, 70.0, 120, ("mask",))
    few, many = (
        plan_method(*encoder, Entry("p", key, cls.Config(n_tokens=n)), TrainingSpec(), w, HERE)
        for n, w in ((21, work), (1, long))
    )
    assert few.memory["activations"] == many.memory["activations"]
    assert few.train_seconds == pytest.approx(many.train_seconds, rel=0.01)


def test_judging_twice_the_batch_can_be_the_peak(encoder):
    key, cls, _ = registry.find("head_only")
    sizes = (0, 20, 2000)
    plans = [
        plan_method(*encoder, Entry("h", key, cls.Config()), TrainingSpec(), Workload(100, 50.0, 100, ("mask",), n), HERE)
        for n in sizes
    ]
    assert plans[0].peak_memory_bytes <= plans[1].peak_memory_bytes <= plans[2].peak_memory_bytes


def test_a_base_of_seven_billion_is_planned_at_once_without_weights():
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
    config = AutoConfig.for_model("llama", **sizes)
    planned(hosts.host("llama"), entry("lora"))  # imports and the probe of the machine are not counted
    start = time.process_time()
    with torch.device("meta"):
        host = AutoModelForCausalLM.from_config(config)
    plan = plan_method(host, (), entry("lora", registry.configure("lora", {"rank": 8})), TrainingSpec(), WORK, HERE)
    assert plan.trainable_params == 32 * 2 * 8 * (4096 + 4096)
    assert plan.base_params == 6_738_415_616
    assert time.process_time() - start < 4
    assert all(p.is_meta for p in host.parameters())
