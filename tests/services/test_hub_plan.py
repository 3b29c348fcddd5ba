"""A Hub model that was never downloaded is planned from its settings; the weights stay where they are until a launch."""

import huggingface_hub.constants  # noqa: F401 - the stub changes them, so they must be loaded
import pytest

from tests.models.test_names import _Hub, folder, hub
from tests.train import planted
from workbench.core.spec import parse_spec
from workbench.models.bundled import is_complete, resolve_model
from workbench.services import plans
from workbench.services.preparing import prepare

__all__ = ["folder", "hub"]


@pytest.fixture
def asked(home, hub, tmp_path, spec):
    """A spec on `org/tiny`, a model of the Hub on localhost."""
    base = planted.base("bert", tmp_path / "base")
    _Hub.repositories = {"org/tiny": {p.name: p.read_bytes() for p in base.iterdir()}}
    return {**spec, "model": "org/tiny", "methods": ["lora"]}


def fetched():
    """Names of the files whose content was asked for."""
    return {path.rpartition("/")[2] for path in _Hub.asked if "/resolve/" in path}


def test_only_the_settings_are_downloaded_for_a_plan(asked):
    found = plans.plan(parse_spec(asked))
    assert not found["problems"]
    assert found["methods"][0]["trainable_params"] == 2 * 2 * 8 * (32 + 32)
    assert found["weights_bytes"] > 0
    assert any("org/tiny are not here yet" in note for note in found["notes"])
    assert {"config.json", "tokenizer.json"} <= fetched()
    assert "model.safetensors" not in fetched()
    assert not is_complete(resolve_model("org/tiny", weights=False))


def test_a_launch_downloads_the_weights(asked):
    plans.plan(parse_spec(asked))
    ready = prepare(parse_spec(asked), strict=True)
    assert "model.safetensors" in fetched()
    assert len(ready.model.sha256) == 64
    assert not any("not here yet" in note for note in plans.plan(parse_spec(asked))["notes"])


def test_settings_alone_are_no_model_when_the_hub_is_away(asked, monkeypatch):
    plans.plan(parse_spec(asked))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert plans.plan(parse_spec(asked))["methods"][0]["trainable_params"]
    with pytest.raises(Exception, match="can be reached"):
        prepare(parse_spec(asked), strict=True)
