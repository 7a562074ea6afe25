"""Adapters: only they are trained, the frozen weights stay, and what is written computes what was trained."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import HFExport
from lit_talr.losses import FLOW, L2, TALR, Standard
from lit_talr.modeling.adapters import LoRA
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.module import DomainSFT
from tests.helpers.fits import QWEN3, distance, fit, merged, write_data
from tests.helpers.models import ARCHITECTURES, OTHERS

ADAMW = partial(torch.optim.AdamW, lr=0.01)
SMALL = LoRA(r=2, alpha=4)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_data(tmp_path / "run")
    return tmp_path / "run"


def logits(model: torch.nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(40).reshape(2, 20)).logits


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_adapters_are_in_every_linear_layer_of_the_decoder_and_nowhere_else(family: str) -> None:
    backbone = Backbone(load_model(None, None, ARCHITECTURES[family], 43, None), SMALL)
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name and "vision" not in name for name in trained)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("family", [family for family in OTHERS if "num_experts" not in OTHERS[family]])
def test_every_adapter_of_other_families_learns(family: str) -> None:
    """Fused projections (Phi-3) and linear attention (Qwen3.5) included."""
    backbone = Backbone(load_model(None, None, OTHERS[family], 43, None), SMALL)
    ids = torch.arange(20)[None]
    backbone(ids, ids).nll.sum().backward()
    linear = [name for name, module in backbone.decoder.named_modules() if isinstance(module, LoraLayer)]
    plain = [name for name, module in backbone.decoder.named_modules() if isinstance(module, torch.nn.Linear) and "lora_" not in name]
    assert linear and linear == [name.removesuffix(".base_layer") for name in plain]
    for name, weight in backbone.named_parameters():
        assert weight.requires_grad == ("lora_" in name)
        assert not weight.requires_grad or weight.grad is not None, name


def test_experts_get_no_adapters() -> None:
    message = (
        r"`adapter.targets` must be given for this model, whose experts \(`layers.0.mlp.experts.gate_up_proj`\) are no linear layers .*: there are k_proj, o_"
    )
    with pytest.raises(ValueError, match=message):
        Backbone(load_model(None, None, OTHERS["olmoe"], 43, None), SMALL)
    backbone = Backbone(load_model(None, None, OTHERS["olmoe"], 43, None), LoRA(r=2, targets=("q_proj", "v_proj")))
    assert sum(isinstance(module, LoraLayer) for module in backbone.modules()) == 4


def test_a_fresh_adapter_changes_nothing() -> None:
    torch.manual_seed(0)
    model = load_model(None, None, QWEN3, 43, None)
    before = logits(model)
    Backbone(model, SMALL)
    assert any(isinstance(module, LoraLayer) for module in model.modules())
    assert torch.equal(logits(model), before)


def test_only_adapters_move_and_what_is_written_computes_what_was_trained(own: Path) -> None:
    seen: list[DomainSFT] = []

    class Kept(DomainSFT):
        def on_fit_end(self) -> None:
            seen.append(self)

    options: dict[str, Any] = {"trainer": {"precision": "32-true", "callbacks": [HFExport()]}, "optimizer": ADAMW}
    weights = fit(own, TALR(), steps=4, adapter=SMALL, module_class=Kept, **options)
    start = AutoModelForCausalLM.from_pretrained(own / "model", dtype=torch.float32)
    named = dict(start.named_parameters())
    for name, weight in weights.items():
        if "lora_" not in name:
            assert torch.equal(weight, named[name.replace(".base_layer.", ".")]), name
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)
    assert seen[0].backbone is not None
    trained = logits(seen[0].backbone.model)
    assert (trained - logits(start)).abs().max() > 1e-2
    exported = AutoModelForCausalLM.from_pretrained(own / "export")
    assert exported.dtype == torch.float32
    torch.testing.assert_close(logits(exported), trained, rtol=0, atol=1e-5)
    adapted = PeftModel.from_pretrained(start, str(own / "adapter"))
    torch.testing.assert_close(logits(adapted), trained, rtol=0, atol=1e-6)
    assert {path.name for path in (own / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_resumed_run_ends_bitwise_where_the_whole_one_does(own: Path) -> None:
    options: dict[str, Any] = {"batching": {"micro_batch_size": 4}, "optimizer": ADAMW, "adapter": LoRA(r=2, alpha=4, dropout=0.2)}
    whole = fit(own, Standard(), steps=7, **options)
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=4, save_top_k=-1)
    fit(own, Standard(), steps=4, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = (own / "kept").glob("*.ckpt")
    resumed = fit(own, Standard(), steps=7, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match="its model.adapter.alpha is 4, here 8"):
        fit(own, Standard(), steps=7, ckpt_path=str(checkpoint), **{**options, "adapter": LoRA(r=2, alpha=8, dropout=0.2)})
    weights = load_file(own / "model" / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, own / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="its model.pretrained .hash of its weights. is "):
        fit(own, Standard(), steps=7, ckpt_path=str(checkpoint), **options)


def test_under_mixed_precision_the_frozen_weights_are_bf16_and_the_adapters_fp32(own: Path) -> None:
    weights = fit(own, Standard(), steps=1, adapter=SMALL, trainer={"precision": "bf16-mixed", "callbacks": [HFExport()]}, optimizer=ADAMW)
    assert {weight.dtype for name, weight in weights.items() if "lora_" in name} == {torch.float32}
    assert {weight.dtype for name, weight in weights.items() if "lora_" not in name} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(own / "export").dtype == torch.float32


def test_a_head_that_is_the_embedding_is_written_once(own: Path) -> None:
    """Also where the frozen weights are cast on the way."""
    fit(own, Standard(), steps=1, adapter=SMALL, trainer={"precision": "bf16-mixed", "callbacks": [HFExport()]}, optimizer=ADAMW)
    assert load_file(own / "export" / "model.safetensors").keys() == load_file(own / "model" / "model.safetensors").keys()


def test_merged_is_the_frozen_weight_plus_the_scaled_product() -> None:
    backbone = Backbone(load_model(None, None, QWEN3, 43, None), LoRA(r=2, alpha=6))
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    state = backbone.model.state_dict()
    found = merged(backbone.model, state)
    assert found.keys() == load_model(None, None, QWEN3, 43, None).state_dict().keys()
    place = "model.layers.1.mlp.up_proj"
    first, second = (state[f"{place}.lora_{part}.default.weight"] for part in "AB")
    torch.testing.assert_close(found[f"{place}.weight"], state[f"{place}.base_layer.weight"] + 3 * second @ first)
    assert torch.equal(found["model.norm.weight"], state["model.norm.weight"])


@pytest.mark.parametrize("batching", [{"micro_batch_size": 1}, {"micro_batch_size": 4}])
def test_a_step_is_the_same_however_it_is_split(own: Path, batching: dict[str, int]) -> None:
    start = fit(own, FLOW(), steps=1, adapter=SMALL, optimizer=partial(torch.optim.SGD, lr=0.0))
    whole = fit(own, FLOW(), steps=3, adapter=SMALL, batching={"micro_batch_size": 8})
    assert distance(fit(own, FLOW(), steps=3, adapter=SMALL, batching=batching), whole, start) < 1e-10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "`adapter.r` must be at least 1, got 0"),
        ({"alpha": 0}, "`adapter.alpha` must be at least 1, got 0"),
        ({"dropout": 1.0}, r"`adapter.dropout` must lie in \[0, 1\), got 1.0"),
        ({"targets": ()}, "`adapter.targets` must name at least one layer"),
        ({"targets": ("q_proj", "lm_head")}, "`adapter.targets` must not hold `lm_head`: the head has its own backward"),
        ({"targets": ("c_attn",)}, "`c_attn` is not a linear layer of the decoder; there are down_proj, gate_proj"),
        ({"targets": ("embed_tokens",)}, "`embed_tokens` is not a linear layer of the decoder"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(load_model(None, None, QWEN3, 43, None), LoRA(**options))


def test_what_does_not_go_together_is_refused_before_anything_is_loaded(own: Path) -> None:
    with pytest.raises(ValueError, match="random ones are of no use; give `model.pretrained`"):
        fit(own, Standard(), adapter=SMALL, architecture=QWEN3)
    with pytest.raises(ValueError, match="L2 pulls the weights back"):
        fit(own, L2(Standard()), adapter=SMALL)
