"""Every format over several methods: what is written behaves like the run, and what cannot be written is refused."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from workbench import export as exports
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.evaluate import saved
from workbench.export import exporting, fresh, lora_svd, merged
from workbench.kernel.host import adapters_of

pytestmark = pytest.mark.usefixtures("near")
ALL = ("peft", "lora", "merged", "bundle")


def effect(run: Path) -> float:
    """How far the adapter moves the logits of the test rows."""
    revived = saved.revive(saved.read(saved.place(run)), saved.place(run))
    rows = saved.some_test_rows(revived)
    on = saved.logits(revived, rows.batches)
    with adapters_of(revived.host).only({}):
        return fresh.distance(on, saved.logits(revived, rows.batches))[0]


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "vera"])
@pytest.mark.parametrize("format", ALL)
def test_every_format_of_mergeable_methods(trained: Any, tmp_path: Path, method: str, format: str) -> None:
    run = trained(method)
    found = exports.export(run, format, tmp_path / "out")
    assert found["checked"] is True
    assert found["rows"] == 32
    assert found["max_error"] <= 1e-4 < effect(run)  # a folder that forgot the adapter would be seen
    assert found["metric_before"] == found["metric_after"]
    assert found["bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert exports.verify(tmp_path / "out")["ok"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("method", "family", "works"),
    [
        ("full", "bert", {"lora", "merged", "bundle"}),
        ("head_only", "bert", {"merged", "bundle"}),
        ("houlsby_adapter", "bert", {"bundle"}),
        ("prompt_tuning", "bert", {"peft", "bundle"}),
        ("prefix_tuning", "llama", {"peft", "bundle"}),
        ("loreft", "llama", {"bundle"}),
        ("lora", "gpt2", {"lora", "merged", "bundle"}),  # queries, keys and values share one weight: peft adapts all or none
        ("lora", "vit", {"peft", "lora", "merged", "bundle"}),
    ],
)
def test_formats_that_work_work_and_the_others_say_which_do(
    trained: Any, tmp_path: Path, method: str, family: str, works: set[str]
) -> None:
    run = trained(method, family)
    for format in ALL:
        if format in works:
            found = exports.export(run, format, tmp_path / format)
            assert found["max_error"] <= 1e-4 or (method, format) == ("full", "lora")
        else:
            with pytest.raises(WorkbenchError) as refused:
                exports.export(run, format, tmp_path / format)
            assert str(refused.value).endswith(f"formats that work: {', '.join(f for f in ALL if f in works)}.")
            assert not (tmp_path / format).exists()


def test_a_masked_lora_is_plain_values_in_a_peft_folder(trained: Any, tmp_path: Path) -> None:
    assert exports.export(trained("lora", modifiers="sparse"), "peft", tmp_path / "out")["max_error"] <= 1e-4
    stored = load_file(tmp_path / "out/adapter_model.safetensors")
    factors = torch.cat([t.flatten() for k, t in stored.items() if "lora_" in k])
    assert 0.4 < float((factors == 0).float().mean()) < 0.6


def test_bias_and_conv_and_embedding_places(trained: Any, tmp_path: Path) -> None:
    for number, (method, family, roles) in enumerate(
        [("lora", "bert", ("embed",)), ("lora", "vit", ("patch",)), ("ia3", "vit", None)]
    ):
        run = trained(method, family, roles=roles) if roles else trained(method, family)
        assert exports.export(run, "peft", tmp_path / f"p{number}")["max_error"] <= 1e-4 < effect(run)
    found = exports.export(trained("ia3", "vit"), "lora", tmp_path / "lora")
    assert found["dropped"] == []  # the change of the biases is in lora_B.bias
    assert found["max_error"] <= 1e-4


def test_a_merged_folder_is_a_whole_model(trained: Any, tmp_path: Path) -> None:
    exports.export(trained("full"), "merged", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    assert {"tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert "workbench" not in " ".join(load_file(tmp_path / "out/model.safetensors"))


def test_tied_weights_are_not_merged(trained: Any, tmp_path: Path) -> None:
    run = trained("lora", "gpt2", roles=("embed",))
    with pytest.raises(WorkbenchError, match="shares its weight"):
        exports.export(run, "merged", tmp_path / "out")


def test_a_base_in_bf16_is_cast_back_and_the_rounding_is_reported(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("lora")
    revive = saved.revive

    def rounded(*args: Any, **more: Any) -> Any:
        revived = revive(*args, **more)
        revived.dtypes = dict.fromkeys(revived.dtypes, torch.bfloat16)
        return revived

    monkeypatch.setattr(saved, "revive", rounded)
    found = exports.export(run, "merged", tmp_path / "out")
    assert found["dtype"] == "bfloat16"
    assert found["max_error"] > 1e-4
    assert found["limit"] is None
    assert {t.dtype for t in load_file(tmp_path / "out/model.safetensors").values()} == {torch.bfloat16}
    with pytest.raises(WorkbenchError, match="must behave like the run"):
        exports.export(run, "merged", tmp_path / "strict", max_error=1e-6)


def test_lora_by_svd_has_the_error_that_the_singular_values_say(trained: Any) -> None:
    where = saved.place(trained("full"))
    revived = saved.revive(saved.read(where), where)
    before, after = merged.both(revived)
    changes, dropped = lora_svd._changes(revived)
    assert any("LayerNorm" in n for n in dropped)
    for change in changes[:3]:
        dw = (after[f"{change.path}.weight"] - before[f"{change.path}.weight"]).double()
        for rank in (1, 3, len(change.s)):
            a, b = change.factors(rank)
            assert a.shape[0] == rank == b.shape[1]
            assert float((b.double() @ a.double() - dw).norm() / dw.norm()) == pytest.approx(change.error(rank), abs=1e-5)


def test_rank_and_max_error_of_lora(trained: Any, tmp_path: Path) -> None:
    run = trained("full")
    small = exports.export(run, "lora", tmp_path / "r2", rank=2)
    assert small["rank"] == 2
    assert small["max_error"] > exports.export(run, "lora", tmp_path / "full")["max_error"]
    reached = exports.export(trained("dora"), "lora", tmp_path / "limit", max_error=0.05)
    assert reached["max_error"] <= 0.05
    with pytest.raises(WorkbenchError, match="must behave like the run"):
        exports.export(trained("dora"), "lora", tmp_path / "smaller", max_error=0.05 * 1e-6)
    lower = reached["rank"] - 1
    if lower:
        assert exports.export(trained("dora"), "lora", tmp_path / "lower", rank=lower)["max_error"] > 0.05
    with pytest.raises(WorkbenchError, match="rank must be from 1 to"):
        exports.export(run, "lora", tmp_path / "none", rank=999)


@pytest.mark.parametrize(("method", "family"), [("corda", "bert"), ("urae", "llama")])
def test_components_of_the_weight_are_a_lora_of_twice_their_rank(trained: Any, tmp_path: Path, method: str, family: str) -> None:
    run = trained(method, family, rank=3)
    found = exports.export(run, "lora", tmp_path / "out", rank=6)
    assert found["max_error"] <= 1e-4 < effect(run)
    assert found["dropped"] == []
    assert max(found["relative_errors"].values()) < 1e-5
    assert exports.export(run, "lora", tmp_path / "free")["rank"] <= 6


def test_the_card_has_front_matter_and_the_measured_error(trained: Any, tmp_path: Path) -> None:
    found = exports.export(trained("lora"), "peft", tmp_path / "out")
    _, front, text = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    facts = safe_yaml.loads(front)
    assert facts["library_name"] == "peft"
    assert facts["pipeline_tag"] == "text-classification"
    assert facts["metrics"] == ["accuracy"]
    assert facts["base_model"] == "bert"
    assert f"{found['max_error']:.3g}" in text
    assert "PeftModel.from_pretrained" in text


def test_a_failing_check_leaves_nothing(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fresh.logits
    monkeypatch.setattr(fresh, "logits", lambda request, batches: [t + 2e-4 for t in honest(request, batches)])
    for format in ("peft", "merged", "bundle"):
        with pytest.raises(WorkbenchError, match="must behave like the run"):
            exports.export(trained("lora"), format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert exports.export(trained("lora"), "lora", tmp_path / "out")["max_error"] == pytest.approx(2e-4, rel=0.05)  # reported


@pytest.mark.parametrize("place", ["save_file", "write_text", "sync"])
def test_a_full_disk_leaves_nothing(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = trained("lora")
    where = {
        "save_file": "workbench.export.peft.save_file",
        "write_text": "pathlib.Path.write_text",
        "sync": "workbench.core.durable.sync",
    }
    monkeypatch.setattr(where[place], full)
    with pytest.raises(WorkbenchError, match="the disk is full"):
        exports.export(run, "peft", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_are_not_ours_are_left_alone(trained: Any, tmp_path: Path) -> None:
    run, mine = trained("lora"), tmp_path / "mine"
    mine.mkdir()
    exports.export(run, "bundle", mine)  # empty: fine
    exports.export(run, "peft", mine)  # an export of ours is replaced
    assert (mine / "adapter_config.json").is_file()
    assert not (mine / "workbench_adapter.json").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for target in (other, tmp_path / "file"):
        with pytest.raises(WorkbenchError):
            exports.export(run, "peft", target)
    assert (other / "thesis.txt").read_text() == "years of work"


def test_without_its_data_a_run_is_checked_on_the_stored_rows(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "spec_of", lambda folder, meta: None)
    found = exports.export(trained("lora"), "peft", tmp_path / "out")
    assert found["rows"] == 8
    assert found["metric_before"] is None
    assert "stored rows" in found["rows_from"]


def test_the_job_asks_for_what_it_needs(trained: Any, tmp_path: Path) -> None:
    request = {"adapter": str(trained("lora") / "adapter"), "format": "bundle", "to": str(tmp_path / "out"), "max_error": None}
    assert exports.run_job(request, tmp_path)["format"] == "bundle"
    assert exports.verify_job({"folder": str(tmp_path / "out")}, tmp_path)["ok"] is True
    for bad in ({}, {"adapter": "x", "format": "peft"}):
        with pytest.raises(WorkbenchError, match="must name"):
            exports.run_job(bad, tmp_path)
    with pytest.raises(WorkbenchError, match="closest: peft"):
        exports.export(trained("lora"), "pefd", tmp_path / "x")
    assert exporting.FORMATS.keys() == set(ALL)
