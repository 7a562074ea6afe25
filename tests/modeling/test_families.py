"""A family passes the twin's check, or is refused by the difference found."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PretrainedConfig

from lit_talr.modeling import twin
from lit_talr.modeling.families import GRADIENT, NATS, check_family, check_packing
from lit_talr.modeling.loading import load_model, new_config
from lit_talr.modeling.twin import twin_errors
from tests.helpers.models import ARCHITECTURES, OTHERS, SMALL

FAMILIES = {**ARCHITECTURES, **OTHERS}
MIXING = {"qwen3_5_text", "lfm2"}
"""Families whose linear attention or convolution runs over the bounds of examples."""


def config_of(family: str) -> PretrainedConfig:
    return new_config(FAMILIES[family], 300)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_pass(family: str) -> None:
    check_family(config_of(family), None)
    errors = twin_errors(config_of(family), None)
    assert errors.nll < NATS / 4 and errors.gradient < GRADIENT / 10
    assert errors.packed > 0.01 if family in MIXING else errors.packed < NATS / 4


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gemma3", "gemma3n_text", "gemma4", "gemma4_text", "qwen3_5", "deepseek_v3", "mixtral", "glm4", "phi3", "qwen3_moe"])
def test_real_sizes_pass(model_type: str) -> None:
    """The defaults of transformers are those of a published model."""
    check_family(CONFIG_MAPPING[model_type](), None)


def test_gpt_oss_mixes_packed_examples() -> None:
    """Its mask is made without positions."""
    config = CONFIG_MAPPING["gpt_oss"]()
    check_family(config, "eager")
    config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="models of type `gpt_oss` do not: .* changes a token's NLL by"):
        check_packing(config)


class DoubledConfig(LlamaConfig):
    model_type = "doubled"


class Doubled(LlamaForCausalLM):
    """Does something to its logits that the configuration does not say."""

    config_class = DoubledConfig

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits = output.logits * 2
        return output


class SteepConfig(LlamaConfig):
    model_type = "steep"


class Steep(LlamaForCausalLM):
    """Has the usual logits with twice the gradient."""

    config_class = SteepConfig

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits = 2 * output.logits - output.logits.detach()
        return output


class SeeingConfig(LlamaConfig):
    model_type = "seeing"


class Seeing(LlamaForCausalLM):
    """Sees later tokens, so a padded row is another one."""

    config_class = SeeingConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.embed_tokens.register_forward_hook(lambda module, args, output: output + output.mean(1, keepdim=True))


@pytest.fixture
def doubles() -> Iterator[None]:
    for config, model in ((DoubledConfig, Doubled), (SteepConfig, Steep), (SeeingConfig, Seeing)):
        AutoConfig.register(config.model_type, config)
        AutoModelForCausalLM.register(config, model)
    yield
    for config in (DoubledConfig, SteepConfig, SeeingConfig):
        del CONFIG_MAPPING._extra_content[config.model_type]
        del AutoModelForCausalLM._model_mapping._extra_content[config]


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("doubled", r"`doubled` are not supported: on a small random one, the NLL of .* must be within 0.0001 nats, and differ by \d.*; teach `logit_options`"),
        (
            "steep",
            r"`steep` are not supported: on a small random one, the gradients of .* within 0.001 of their norm, and differ by 0.5; teach `logit_options`",
        ),
        ("seeing", "`seeing` are not supported: .* the NLL of this package and that of the model's own logits"),
    ],
)
def test_an_unusual_model_is_refused_by_the_difference(doubles: None, model_type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(None, None, {"model_type": model_type, **SMALL}, 43, None)


def test_a_scale_that_is_not_read_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_talr.modeling.backbone.logit_options", lambda config: (None, 1.0))
    twin.measure.cache_clear()
    for family in ("granite", "cohere2", "gemma2"):
        with pytest.raises(ValueError, match=f"`{family}` are not supported: .* differ by"):
            check_family(config_of(family), None)
    twin.measure.cache_clear()


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (lambda: CONFIG_MAPPING["gpt2"](), "ValueError: its configuration has no `num_hidden_layers`"),
        (lambda: CONFIG_MAPPING["llama4_text"](), "it needs a decoder with `layers`, and a linear head"),
        (lambda: CONFIG_MAPPING["llama"](head_dim=2**16), "the twin has .* weights"),
    ],
)
def test_a_twin_that_cannot_be_made_is_refused_with_the_cause(config: Any, cause: str) -> None:
    with pytest.raises(ValueError, match=rf"`\w+` are not supported: a small random one, .* must run on a CPU, and does not .*{cause}"):
        check_family(config(), None)


def test_a_routers_loss_is_refused() -> None:
    config = new_config({**OTHERS["qwen3_moe"], "output_router_logits": True}, 300)
    with pytest.raises(ValueError, match="`output_router_logits` adds the router's auxiliary loss, which is not computed here; set it to false"):
        check_family(config, None)


@pytest.mark.parametrize("family", sorted(MIXING))
def test_packing_is_refused_where_examples_mix(family: str) -> None:
    model = load_model(None, None, FAMILIES[family], 300, "sdpa")
    with pytest.raises(ValueError, match=rf"models of type `{family}` do not: on a small random one, another example in the row changes a token's NLL by \d"):
        check_packing(model.config)


def test_flash_attention_is_checked_by_its_name_and_the_rest_by_the_twin() -> None:
    flash = config_of("qwen3")
    flash._attn_implementation_internal = "flash_attention_2"
    check_packing(flash)
    flash._attn_implementation_internal = "paged|sdpa"
    with pytest.raises(ValueError, match="`data.batching.packing` needs an attention that isolates .*which `paged|sdpa` is not known to do; set"):
        check_packing(flash)
    flash = config_of("lfm2")
    flash._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="models of type `lfm2` do not"):
        check_packing(flash)


def test_errors_are_not_a_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Tensor:
        return torch.full((33,), torch.nan, requires_grad=True)

    monkeypatch.setattr(twin, "padded_nll", broken)
    twin.measure.cache_clear()
    with pytest.raises(ValueError, match="differ by nan"):
        check_family(config_of("qwen2"), None)
    twin.measure.cache_clear()
