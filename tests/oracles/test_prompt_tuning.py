"""Prompt tuning against concatenation by hand in float64, hard prompts, real peft models, and what must not change."""

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from workbench import backbones
from workbench.backbones.tokens import widened
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import adapters_of, attach

TEXT = ("bert", "llama", "gpt2")


def prompted(name: str, dtype: torch.dtype = torch.float64, n: int = 3) -> tuple[nn.Module, Tensor]:
    """A host with prompts of size one, and these prompts."""
    model = hosts.host(name).to(dtype)
    adapter = attach(model, "prompt_tuning", n_tokens=n)
    (part,) = adapter.parts.values()
    part.P.data.normal_(0, 1, generator=torch.Generator().manual_seed(7))
    return model, part.P


def bare(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The same host without anything on it."""
    return hosts.host(name).to(dtype)


@pytest.mark.parametrize("name", TEXT)
def test_equals_concatenation_by_hand(name: str) -> None:
    """logits = f([P ; E(x)]) with a mask that is one on P; a decoder's first n logits are left out."""
    model, prompt = prompted(name)
    base, given = bare(name), hosts.inputs(name)
    words = base.get_input_embeddings()(given["input_ids"])
    joined = torch.cat([prompt.to(words).expand(len(words), -1, -1), words], 1)
    mask = torch.cat([torch.ones(len(words), 3), given["attention_mask"]], 1)
    with torch.no_grad():
        expected = base(inputs_embeds=joined, attention_mask=mask).logits
        got = model(**given).logits
    expected = expected if name == "bert" else expected[:, 3:]
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-12


def test_equals_the_blocks_run_by_hand_in_a_vit() -> None:
    """[class, P, patches] through the blocks one by one; the head reads the class token."""
    model, prompt = prompted("vit")
    base, given = bare("vit"), hosts.inputs("vit")["pixel_values"].double()
    with torch.no_grad():
        h = base.vit.embeddings(given)
        h = torch.cat([h[:, :1], prompt.to(h).expand(len(h), -1, -1), h[:, 1:]], 1)
        for block in base.vit.layers:
            h = block(h)
        expected = base.classifier(base.vit.layernorm(h)[:, 0])
        assert (model(given).logits - expected).abs().max() < 1e-12


@pytest.mark.parametrize("name", TEXT)
def test_a_hard_prompt_is_the_words_themselves(name: str) -> None:
    """Limit: with the embeddings of real words as P, the result is that of the text with these words in front."""
    model, prompt = prompted(name)
    base = bare(name)
    words = torch.tensor([11, 23, 5])
    prompt.data.copy_(base.get_input_embeddings()(words))
    given = hosts.inputs(name)
    longer = torch.cat([words.expand(4, -1), given["input_ids"]], 1)
    mask = torch.cat([torch.ones(4, 3, dtype=torch.long), given["attention_mask"]], 1)
    with torch.no_grad():
        expected = base(input_ids=longer, attention_mask=mask).logits
        got = model(**given).logits
    assert torch.allclose(got, expected if name == "bert" else expected[:, 3:], atol=1e-6)


def test_masked_prompts_are_the_base() -> None:
    """Limit: with a mask that hides P, rotary positions being relative, nothing is left of it."""
    model, base, given = bare("llama"), bare("llama"), hosts.inputs("llama")

    class Part:
        where = "input"

        def tokens(self, ctx: object) -> Tensor:
            return torch.randn(3, 32, dtype=torch.float64)

    def hidden(virtual: tuple[int, int], **kwargs: Tensor) -> object:
        kwargs["attention_mask"][:, : virtual[0]] = 0
        return type(model.model).forward(model.model, **kwargs)

    model.model.forward = lambda *args, **kwargs: widened(hidden, model.model, Part(), {}, *args, cut=True, **kwargs)
    real = given["attention_mask"].bool()
    with torch.no_grad():
        assert (model(**given).logits - base(**given).logits)[real].abs().max() < 1e-6  # transformers computes its angles in fp32


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_virtual_tokens_have_no_logits_and_no_loss(name: str) -> None:
    """Logits keep the text's length, and the loss is the mean over the text's own targets: none is predicted from P."""
    model, _ = prompted(name)
    given = hosts.inputs(name)
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    out = model(**given, labels=labels)
    assert out.logits.shape == (*labels.shape, 99)
    by_hand = nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert torch.allclose(out.loss.double(), by_hand, atol=1e-6)


def peft_twin(adapter: Adapter, base: nn.Module, task: str) -> nn.Module:
    """The base as a real peft model that holds the adapter's tensor."""
    import peft

    twin = adapter.method.peft
    assert twin is not None
    config = peft.PromptTuningConfig(task_type=task, **twin.config(adapter.cfg, adapter.sites))
    head = {f"base_model.{n}": p.clone() for n, p in base.named_parameters() if "classifier" in n}
    model = peft.get_peft_model(base, config).eval()
    tensors = head | {twin.tensors[key.rpartition(".")[2]]: value for key, value in adapter.tensors().items()}
    peft.set_peft_model_state_dict(model, tensors)
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, tensors["prompt_embeddings"])
    return model


@pytest.mark.parametrize(("name", "task"), [("bert", "SEQ_CLS"), ("llama", "CAUSAL_LM"), ("gpt2", "CAUSAL_LM")])
def test_peft_twin(name: str, task: str) -> None:
    """The same tensor in peft's own model gives the same outputs; peft's logits of P are cut off."""
    model, _ = prompted(name, torch.float32)
    twin = peft_twin(adapters_of(model).members["adapter"], hosts.host(name), task)
    given = hosts.inputs(name)
    with torch.no_grad():
        got, theirs = model(**given).logits, twin(**given).logits
    assert (got - theirs[:, -got.shape[1] :] if name != "bert" else got - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_peft_twin_of_other_encoders(kind: str) -> None:
    """The twin's config carries every size, so peft need not guess them (it cannot for DistilBERT)."""
    family = backbones.families()["bert"]
    model, base, given = family.tiny(kind), family.tiny(kind), hosts.inputs("bert")
    adapter = attach(model, "prompt_tuning", n_tokens=3)
    twin = peft_twin(adapter, base, "SEQ_CLS")
    with torch.no_grad():
        assert (model(**given).logits - twin(**given).logits).abs().max() <= 1e-5


def test_generation_equals_peft() -> None:
    """Greedy words are those of the peft model."""
    model, _ = prompted("gpt2", torch.float32)
    twin = peft_twin(adapters_of(model).members["adapter"], hosts.host("gpt2"), "CAUSAL_LM")
    ids = hosts.inputs("gpt2")["input_ids"][:1]
    options = {"do_sample": False, "max_new_tokens": 8, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **options), twin.generate(input_ids=ids, **options))


def test_where_the_start_comes_from() -> None:
    """Rows of the vocabulary as they leave the embedding (scaled in Gemma), noise of its spread, or small noise in images."""
    for kind, family in (("llama", "llama"), ("gemma", "llama"), ("gemma3_text", "gemma2")):
        model = backbones.families()[family].tiny(kind)
        every = model.get_input_embeddings()(torch.arange(99))
        rows = attach(model, "prompt_tuning", n_tokens=8).parts["model"].P
        assert all((every - row).abs().amax(1).min() < 1e-6 for row in rows)
        noise = attach(model, "prompt_tuning", name="noise", n_tokens=512, init="normal").parts["model"].P
        assert abs(noise.std() / every.std() - 1) < 0.05
    image = attach(hosts.host("vit"), "prompt_tuning", n_tokens=512).parts["vit"].P
    assert abs(image.std() - 0.02) < 0.002


def test_published_size() -> None:
    """Lester et al.: 20 tokens of T5-XXL's width 4096 are 81,920 parameters."""
    from workbench.core.types import Site
    from workbench.methods.prompt.prompt_tuning import PromptTuning, PromptTuningConfig

    assert PromptTuning.n_params(PromptTuningConfig(n_tokens=20), [Site("", "model.in", -1, (4096, 4096), "point")]) == 81_920
