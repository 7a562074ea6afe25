"""A twin is built once, whole, and without a trace."""

from types import SimpleNamespace

import pytest
import torch
from transformers import PretrainedConfig

from lit_talr.modeling import twin
from lit_talr.modeling.loading import new_config
from lit_talr.modeling.twin import twin_errors
from tests.helpers.models import ARCHITECTURES


def config_of(family: str) -> PretrainedConfig:
    return new_config(ARCHITECTURES[family], 300)


def test_nothing_else_is_changed_and_a_twin_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[SimpleNamespace] = []
    build = twin.twin
    monkeypatch.setattr(twin, "twin", lambda *args: built.append(SimpleNamespace(dtype=torch.get_default_dtype())) or build(*args))
    twin.measure.cache_clear()
    torch.manual_seed(3)
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode(), torch.device("meta"):
            first = twin_errors(config_of("qwen3"), None)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(dtype)
    again = twin_errors(new_config({**ARCHITECTURES["qwen3"], "num_hidden_layers": 3}, 5000), None)
    assert first == again and len(built) == 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_zero3_does_not_shard_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed = pytest.importorskip("deepspeed.runtime.zero.partition_parameters")
    calls: list[str] = []
    monkeypatch.setattr(deepspeed, "shutdown_init_context", lambda: calls.append("whole"))
    monkeypatch.setattr(deepspeed, "restore_init_context", lambda: calls.append("sharded"))
    twin.measure.cache_clear()
    twin_errors(config_of("llama"), None)
    assert calls == ["whole", "sharded"]
