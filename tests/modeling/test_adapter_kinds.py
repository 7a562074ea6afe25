"""Every kind of adapter: begins as the base model, is merged as its formula says, reloads in PEFT, and resumes bitwise from a checkpoint of itself alone."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import HFExport, WholeCheckpoint
from lit_talr.checkpoint.export import export
from lit_talr.losses import KL, Standard
from lit_talr.modeling.adapters import BOFT, OFT, OSF, Adapter, LoRA
from lit_talr.modeling.adapting import adapter_names, merged_weight, tuner_layers
from lit_talr.modeling.arithmetic import weights_in
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.module import DomainSFT
from tests.helpers.fits import QWEN3, fit, write_data

KINDS: dict[str, Adapter] = {
    "rslora": LoRA(r=2, alpha=4, use_rslora=True, init_lora_weights="gaussian"),
    "orthogonal": LoRA(r=2, alpha=4, init_lora_weights="orthogonal"),
    "dora": LoRA(r=2, alpha=4, use_dora=True),
    "pissa": LoRA(r=2, alpha=4, init_lora_weights="pissa"),
    "pissa_niter": LoRA(r=2, alpha=4, dropout=0.2, use_rslora=True, init_lora_weights="pissa_niter_4"),
    "olora": LoRA(r=2, alpha=4, init_lora_weights="olora"),
    "oft": OFT(block_size=4),
    "cayley": OFT(block_size=4, use_cayley_neumann=False),
    "boft": BOFT(block_size=4),
    "osf": OSF(),
    "osf_few": OSF(effective_rank=0.25, targets=("q_proj", "down_proj")),
}
ADAMW = partial(torch.optim.AdamW, lr=0.01)
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_data(tmp_path / "run")
    return tmp_path / "run"


def fresh(kind: str, dtype: torch.dtype = torch.float32, moved: bool = False) -> tuple[nn.Module, Backbone]:
    """The base model, and the same with an adapter; what is trained may have moved at random."""
    torch.manual_seed(0)
    base = load_model(None, None, QWEN3, 43, None).to(dtype)
    model = load_model(None, None, QWEN3, 43, None).to(dtype)
    model.load_state_dict(base.state_dict())
    backbone = Backbone(model, KINDS[kind])
    for parameter in backbone.parameters() if moved else ():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return base, backbone


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(input_ids=torch.arange(40).reshape(2, 20)).logits


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_begins_as_the_base_model_whose_weights_stay(kind: str, dtype: torch.dtype) -> None:
    base, backbone = fresh(kind, dtype)
    named = dict(base.named_parameters())
    for name, weight in backbone.model.named_parameters():
        assert weight.requires_grad == (name in set(adapter_names(backbone.model)))
        assert weight.dtype == (torch.float32 if weight.requires_grad else dtype)
        assert weight.requires_grad or torch.equal(weight, named[name.replace(".base_layer.", ".")])
    torch.testing.assert_close(logits(backbone.model).float(), logits(base).float(), rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-2)


@each_kind
def test_without_the_adapter_it_is_the_base_model_bitwise(kind: str) -> None:
    """Which is what KL, ASFT and MaskTheTarget compare with."""
    base, backbone = fresh(kind, moved=True)
    assert (logits(backbone.model) - logits(base)).abs().max() > 1e-3
    trained = [name for name, weight in backbone.named_parameters() if weight.requires_grad]
    ids = torch.arange(40).reshape(2, 20)
    states = backbone.base_logits(ids)
    assert torch.equal(states.hidden, base.eval().get_decoder()(input_ids=ids).last_hidden_state)
    assert trained == [name for name, weight in backbone.named_parameters() if weight.requires_grad]


def formula(adapter: Adapter, state: Mapping[str, Tensor]) -> Tensor:
    """The merged weight of one layer, written out."""
    weight = state["base_layer.weight"].double()
    value = {name.replace(".default", ""): tensor.double() for name, tensor in state.items()}
    if isinstance(adapter, LoRA):
        scaling = adapter.alpha / (math.sqrt(adapter.r) if adapter.use_rslora else adapter.r)
        changed = weight + scaling * value["lora_B.weight"] @ value["lora_A.weight"]
        if adapter.from_weights:
            changed = changed - scaling * value["lora_B.start.weight"] @ value["lora_A.start.weight"]
        return value["lora_magnitude_vector.weight"][:, None] * changed / changed.norm(dim=1, keepdim=True) if adapter.use_dora else changed
    if isinstance(adapter, OSF):
        update = (value["osf_svd_params.U_low"] * value["osf_svd_params.S_low"]) @ value["osf_svd_params.V_low"]
        return weight + update - (value["_osf_U_low_init"] * value["_osf_S_low_init"]) @ value["_osf_V_low_init"]
    size = weight.shape[1]
    skew, eye = torch.zeros(size, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    if isinstance(adapter, BOFT):
        for number, block in enumerate(value["boft_R"][0]):
            skew[number * 4 : number * 4 + 4, number * 4 : number * 4 + 4] = (block - block.T) / 2
        return value["boft_s"] * (weight @ (eye + skew) @ torch.linalg.inv(eye - skew))
    assert isinstance(adapter, OFT)
    for number, numbers in enumerate(value["oft_R.weight"]):
        entries = iter(numbers)
        for row in range(4):
            for column in range(row + 1, 4):
                skew[number * 4 + row, number * 4 + column] = next(entries)
    skew = skew - skew.T
    if not adapter.use_cayley_neumann:
        return weight @ (eye + skew) @ torch.linalg.inv(eye - skew)
    return weight @ (eye + 2 * skew + 2 * skew @ skew + 2 * skew @ skew @ skew + skew @ skew @ skew @ skew).T


@each_kind
def test_merged_is_the_formula(kind: str) -> None:
    _, backbone = fresh(kind, moved=True)
    assert backbone.adapter_config is not None
    for layer in list(tuner_layers(backbone.model).values())[::5]:
        state: dict[str, Tensor] = layer.state_dict()  # type: ignore[attr-defined]
        before = {name: value.clone() for name, value in state.items()}
        random = torch.get_rng_state()
        found = merged_weight(backbone.adapter_config, state)
        torch.testing.assert_close(found.double(), formula(KINDS[kind], state), rtol=0, atol=1e-6)
        assert (found - state["base_layer.weight"]).abs().max() > 1e-3
        assert torch.equal(torch.get_rng_state(), random) and all(torch.equal(value, before[name]) for name, value in state.items())


@each_kind
def test_a_model_scored_in_bf16_has_the_merged_weights_rounded(kind: str) -> None:
    base, backbone = fresh(kind, moved=True)
    assert backbone.adapter_config is not None
    for name, layer in tuner_layers(backbone.model).items():
        merged = merged_weight(backbone.adapter_config, layer.state_dict())  # type: ignore[attr-defined]
        base.get_submodule(name).weight.data = merged  # type: ignore[union-attr]
    for weight in base.parameters():  # and no buffers
        weight.data = weight.data.to(torch.bfloat16)
    before = logits(backbone.model)
    with weights_in(backbone, torch.bfloat16, masters=False):
        assert torch.equal(logits(backbone.model), logits(base))
    assert torch.equal(logits(backbone.model), before)


class Kept(DomainSFT):
    """Puts itself into a list at the end."""

    seen: list[DomainSFT] = []

    def on_fit_end(self) -> None:
        Kept.seen[:] = [self]


@pytest.mark.parametrize("kind", [name if name in ("pissa_niter", "oft") else pytest.param(name, marks=pytest.mark.slow) for name in KINDS])
def test_what_is_written_computes_what_was_trained(own: Path, kind: str) -> None:
    trainer = {"precision": "32-true", "callbacks": [HFExport(), WholeCheckpoint()], "enable_checkpointing": True}
    fit(own, Standard(), steps=3, adapter=KINDS[kind], module_class=Kept, optimizer=ADAMW, trainer=trainer)
    assert Kept.seen[0].backbone is not None
    trained, start = logits(Kept.seen[0].backbone.model), AutoModelForCausalLM.from_pretrained(own / "model", dtype=torch.float32)
    assert (trained - logits(start)).abs().max() > 1e-2
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(own / "export")), trained, rtol=0, atol=1e-6)
    torch.manual_seed(7)  # so that what PEFT would draw anew would differ
    torch.testing.assert_close(logits(PeftModel.from_pretrained(start, str(own / "adapter"))), trained, rtol=0, atol=1e-6)
    export(own, own / "out")
    first, second = (load_file(folder / "model.safetensors") for folder in (own / "export", own / "out"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    (checkpoint,) = (own / "checkpoints").iterdir()
    names = {name.removeprefix("backbone.model.") for name in torch.load(checkpoint, weights_only=True)["state_dict"]}
    assert names == set(adapter_names(Kept.seen[0].backbone.model))


@pytest.mark.slow
@each_kind
def test_a_resumed_run_ends_bitwise_where_the_whole_one_does(own: Path, kind: str) -> None:
    options: dict[str, Any] = {"batching": {"micro_batch_size": 4}, "optimizer": ADAMW, "adapter": KINDS[kind], "trainer": {"precision": "32-true"}}
    whole = fit(own, Standard(), steps=5, **options)
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=3, save_top_k=-1)
    fit(own, Standard(), steps=3, **{**options, "trainer": {"precision": "32-true", "enable_checkpointing": True, "callbacks": [keep]}})
    (checkpoint,) = (own / "kept").glob("*.ckpt")
    resumed = fit(own, Standard(), steps=5, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.slow
@each_kind
def test_the_divergence_from_the_base_begins_at_nothing(own: Path, kind: str) -> None:
    class Seen(DomainSFT):
        values: list[float] = []

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            Seen.values.append(float(outputs["stats"].base_kl.max()))

    fit(own, KL(Standard(), 0.5), steps=2, adapter=KINDS[kind], module_class=Seen, optimizer=ADAMW, trainer={"precision": "32-true"})
    dropped = isinstance(KINDS[kind], LoRA) and KINDS[kind].dropout  # type: ignore[attr-defined]
    assert (dropped or Seen.values[0] < 1e-6) and Seen.values[-1] > 1e-6


def test_an_export_needs_the_same_base_model(own: Path) -> None:
    fit(own, Standard(), steps=1, adapter=KINDS["oft"], trainer={"callbacks": [HFExport(), WholeCheckpoint()], "enable_checkpointing": True})
    weights = load_file(own / "model" / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, own / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="model is not the base model that .*last-step=1.ckpt has adapters for"):
        export(own, own / "out")


def leak(optimizer: Any, own: Path) -> float:
    """The share of the squared change of U and V that lies in the frozen directions of OSF."""
    fit(own, Standard(), steps=5, adapter=OSF(), module_class=Kept, optimizer=optimizer, trainer={"precision": "32-true"})
    assert Kept.seen[0].backbone is not None
    inside = total = 0.0
    for layer in tuner_layers(Kept.seen[0].backbone.model).values():
        state = {name.replace(".default", ""): value.double() for name, value in layer.state_dict().items()}  # type: ignore[attr-defined]
        left, _, right = torch.linalg.svd(state["base_layer.weight"], full_matrices=False)
        frozen = min(state["base_layer.weight"].shape) // 2
        for change, directions in (
            (state["osf_svd_params.U_low"] - state["_osf_U_low_init"], left[:, :frozen]),
            ((state["osf_svd_params.V_low"] - state["_osf_V_low_init"]).T, right[:frozen].T),
        ):
            inside += float((directions.T @ change).square().sum())
            total += float(change.square().sum())
    return inside / total


@pytest.mark.slow
def test_osf_protects_its_directions_from_sgd_and_not_from_adamw(own: Path) -> None:
    assert leak(partial(torch.optim.SGD, lr=0.3), own) < 1e-8
    assert 0.1 < leak(ADAMW, own) < 0.15  # OSF's docstring says 12 %


@pytest.mark.parametrize(
    ("adapter", "options", "message"),
    [
        (LoRA, {"init_lora_weights": "eva"}, "`adapter.init_lora_weights: eva` reads data before training, which is not supported; use pissa"),
        (LoRA, {"init_lora_weights": "corda"}, "`adapter.init_lora_weights: corda` reads data"),
        (LoRA, {"init_lora_weights": "pissa_niter_x"}, "`adapter.init_lora_weights` must be gaussian, orthogonal, .* got 'pissa_niter_x'"),
        (LoRA, {"init_lora_weights": "orthogonal", "r": 3}, "`adapter.r` must be even with `init_lora_weights: orthogonal`, got 3"),
        (LoRA, {"init_lora_weights": "pissa", "use_dora": True}, "`adapter.use_dora` and `adapter.init_lora_weights: pissa` exclude each other"),
        (LoRA, {"init_lora_weights": "olora", "r": 17}, "`adapter.r` must be at most 16 with `init_lora_weights: olora`, the rank of `model.layers.0"),
        (OFT, {"block_size": 1}, "`adapter.block_size` must be at least 2, got 1"),
        (OFT, {"block_size": 32}, "`adapter.block_size` must divide the 16 inputs of `model.layers.0.self_attn.q_proj`, got 32; give a divisor"),
        (BOFT, {"block_size": 3}, "`adapter.block_size` must divide the 16 inputs"),
        (OSF, {"effective_rank": 1.0}, r"`adapter.effective_rank` must lie in \(0, 1\), got 1.0"),
        (OSF, {"effective_rank": 0}, "`adapter.effective_rank` must be at least 1, got 0"),
        (OSF, {"effective_rank": 8}, "must freeze 1 to 7 of the 8 singular directions of `model.layers.0.self_attn.k_proj`, got 8"),
        (OSF, {"effective_rank": 0.01}, "`adapter.effective_rank` must freeze 1 to 15 of the 16"),
        (OSF, {"targets": ()}, "`adapter.targets` must name at least one layer"),
    ],
)
def test_refusals(adapter: type[Adapter], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(load_model(None, None, QWEN3, 43, None), adapter(**options))
