import sys
from copy import deepcopy
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lit_talr.data.encoded import Packing
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.modeling.backbone import Backbone, compile_layers, use_liger_layers
from lit_talr.modeling.loading import load_model
from lit_talr.training.building import recompute_layers
from tests.helpers.models import ARCHITECTURES, OTHERS, SMALL

VOCABULARY = 43
FAMILIES = {**ARCHITECTURES, **OTHERS}
CASES = [*((family, attention) for family in ARCHITECTURES for attention in ("eager", "sdpa")), *((family, "sdpa") for family in OTHERS)]
MIXING = ("qwen3_5_text", "lfm2")
"""Families that packing is refused for."""
NO_SDPA = "transformers does not offer it for Gemma 2, whose attention has a soft-cap"


def model_of(family: str, attention: str = "eager") -> PreTrainedModel:
    torch.manual_seed(0)
    model = load_model(None, None, FAMILIES[family], VOCABULARY, attention)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # so that the soft cap bends the logits
    return model


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Two rows, the second padded; some positions carry no loss."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, 40, (2, 21), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 15:] = 0
    labels = torch.randint(0, 40, (2, 21), generator=generator)
    labels[:, :7] = IGNORE_INDEX
    labels[1, 15:] = IGNORE_INDEX
    return input_ids, attention_mask, labels


def logits_of(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    model.eval()
    return model(input_ids=input_ids, attention_mask=attention_mask).logits.float()


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_nll_entropy_and_gradients_are_those_of_the_family_own_logits(family: str, attention: str) -> None:
    """Whose attention is given a mask of the padding."""
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip(NO_SDPA)
    model = model_of(family, attention)
    input_ids, attention_mask, labels = batch()
    logits = logits_of(model, input_ids, attention_mask)
    naive = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE_INDEX).view_as(labels)
    naive.sum().backward()
    text = [(name, weight) for name, weight in model.named_parameters() if "vision" not in name and "projector" not in name]
    expected = {name: weight.grad.clone() for name, weight in text if weight.grad is not None}
    model.zero_grad()
    backbone = Backbone(model)
    output = backbone(input_ids, labels, correct=True, entropy=True)
    torch.testing.assert_close(output.nll, naive, rtol=1e-5, atol=1e-5)
    output.nll.sum().backward()
    assert expected and expected.keys() == {name for name, weight in text}
    for name, weight in text:
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-5 if family in ARCHITECTURES else 1e-4)
    mask = labels != IGNORE_INDEX
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(output.entropy, entropy * mask, rtol=1e-4, atol=1e-5)
    assert torch.equal(output.correct, (logits.argmax(-1) == labels) & mask)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not find_spec("liger_kernel"), reason="needs a GPU and pip install lit-talr[liger]")
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_ligers_layers_are_the_family_own(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(family).cuda()
    modeling = sys.modules[type(model).__module__]
    for name, value in list(vars(modeling).items()):
        monkeypatch.setattr(modeling, name, value)  # so that models of later tests are the family's own
    input_ids, _, labels = (tensor.cuda() for tensor in batch())
    own = Backbone(deepcopy(model))
    expected = own(input_ids, labels).nll
    expected.sum().backward()
    use_liger_layers(model)
    fused = Backbone(model)
    nll = fused(input_ids, labels).nll
    nll.sum().backward()
    torch.testing.assert_close(nll, expected, rtol=1e-4, atol=1e-4)
    for (name, weight), other in zip(fused.named_parameters(), own.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_ligers_layers_without_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="`model.compute.liger_layers` needs a GPU and `pip install lit-talr.liger.`; leave it out"):
        use_liger_layers(model_of("qwen2"))


def packed(first: Tensor, second: Tensor) -> tuple[Tensor, Packing]:
    """Two documents in one row."""
    position_ids = torch.cat([torch.arange(len(first)), torch.arange(len(second))])[None]
    boundaries = torch.tensor([0, len(first), len(first) + len(second)], dtype=torch.int32)
    return torch.cat([first, second])[None], Packing(position_ids, boundaries, max(len(first), len(second)))


@pytest.mark.parametrize(
    ("family", "attention"),
    [*(case for case in CASES if case[0] not in MIXING), *(pytest.param(family, "flex_attention", marks=pytest.mark.slow) for family in ARCHITECTURES)],
)
def test_packed_documents_do_not_see_each_other(family: str, attention: str) -> None:
    """They are longer than Gemma's sliding windows, 16 tokens here."""
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip(NO_SDPA)
    torch.manual_seed(0)
    backbone = Backbone(load_model(None, None, FAMILIES[family], VOCABULARY, attention)).eval()
    first, other, second = (torch.randint(0, 40, (size,), generator=torch.Generator().manual_seed(size)) for size in (25, 26, 40))
    with torch.no_grad():
        before = backbone.states(*packed(first, second))
        changed = backbone.states(*packed(other[1:], second))
        alone = [backbone.states(document[None]) for document in (first, second)]
    assert torch.equal(before[:, 25:], changed[:, 25:]) and not torch.equal(before[:, :25], changed[:, :25])
    torch.testing.assert_close(before, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)


def variable_length(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **options: Any) -> tuple[Tensor, None]:
    """What FlashAttention computes when it is told where documents lie: ``[1, H, T, D]`` to ``[1, T, H, D]``."""
    assert options["cu_seq_lens_q"] is options["cu_seq_lens_k"] and options["max_length_q"] == options["max_length_k"]
    bounds = options["cu_seq_lens_q"].tolist()
    assert max(end - start for start, end in pairwise(bounds)) == options["max_length_q"]
    parts = [
        functional.scaled_dot_product_attention(*(x[:, :, start:end] for x in (query, key, value)), is_causal=True, scale=options["scaling"], enable_gqa=True)
        for start, end in pairwise(bounds)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_flash_attention_is_told_where_packed_documents_lie(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each layer would search for them, and a GPU would be waited for."""
    backbone = Backbone(model_of(family)).eval()
    first, second = torch.arange(13), torch.arange(20, 27)
    alone = torch.cat([backbone.states(document[None]) for document in (first, second)], dim=1)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_naive", variable_length)
    backbone.config._attn_implementation = "flash_attention_naive"
    torch.testing.assert_close(backbone.states(*packed(first, second)), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_head_still_gives_logits_and_the_state_dict_is_unchanged(family: str) -> None:
    model = model_of(family)
    input_ids, attention_mask, _ = batch()
    keys, logits = list(model.state_dict()), logits_of(model, input_ids, attention_mask)
    Backbone(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(logits_of(model, input_ids, attention_mask), logits)


def test_gemma3_freezes_its_vision_parts_only() -> None:
    backbone = Backbone(model_of("gemma3"))
    frozen = {name.split(".")[1] for name, weight in backbone.model.named_parameters() if not weight.requires_grad}
    assert frozen == {"vision_tower", "multi_modal_projector"}
    assert all(weight.requires_grad for weight in backbone.decoder.parameters())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_batch_without_supervised_tokens_gives_zero_gradients(family: str) -> None:
    backbone = Backbone(model_of(family))
    ids = torch.zeros(1, 2, dtype=torch.int64)
    backbone(ids, torch.full_like(ids, IGNORE_INDEX)).nll.sum().backward()
    for name, weight in backbone.named_parameters():
        assert not weight.requires_grad or (weight.grad is not None and not weight.grad.any()), name


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3"])
def test_loads_a_folder_in_the_default_dtype_and_in_training_mode(family: str, tmp_path: Path) -> None:
    model_of(family).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), None, None, VOCABULARY, None)
    assert type(loaded) is type(AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    assert loaded.training and {weight.dtype for weight in loaded.parameters()} == {torch.float32}


def test_refuses_a_head_that_is_not_linear() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=VOCABULARY))
    model.lm_head = nn.Sequential(nn.Linear(8, VOCABULARY))  # type: ignore[assignment]
    with pytest.raises(ValueError, match="`gpt2` are not supported: the head must be a linear layer, got Sequential"):
        Backbone(model)


@pytest.mark.parametrize("model_type", ["t5", "no-such-model", None])
def test_refuses_an_architecture_that_is_no_causal_language_model(model_type: str | None) -> None:
    with pytest.raises(ValueError, match=f"a `model_type` that is a causal language model of transformers, got {model_type}; docs/families.md"):
        load_model(None, None, {"model_type": model_type}, VOCABULARY, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_layers_give_the_same_gradients(family: str) -> None:
    input_ids, _, labels = batch()
    kept, recomputed = (Backbone(model_of(family, "sdpa" if family != "gemma2" else "eager")) for _ in range(2))
    recompute_layers(recomputed, 1)
    for backbone in (kept, recomputed):
        backbone(input_ids, labels).nll.sum().backward()
    assert all(layer.gradient_checkpointing for layer in recomputed.decoder.layers)  # type: ignore[union-attr]
    for (name, weight), other in zip(recomputed.named_parameters(), kept.parameters(), strict=True):
        if other.requires_grad:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_layers_give_the_same_gradients(family: str) -> None:
    input_ids, _, labels = batch()
    plain, compiled = (Backbone(model_of(family, "sdpa" if family != "gemma2" else "eager")) for _ in range(2))
    compile_layers(compiled.decoder)
    for backbone in (plain, compiled):
        backbone(input_ids, labels).nll.sum().backward()
    for (name, weight), other in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        if other.requires_grad:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder with a config.json"):
        load_model(str(tmp_path), None, None, VOCABULARY, None)


@pytest.mark.parametrize(("pretrained", "architecture"), [(None, None), ("model", {"model_type": "qwen3", **SMALL})])
def test_needs_either_weights_or_an_architecture(pretrained: str | None, architecture: dict[str, int] | None) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        load_model(pretrained, None, architecture, VOCABULARY, None)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_weights_are_cast_and_buffers_are_not(family: str) -> None:
    backbone = Backbone(load_model(None, None, ARCHITECTURES[family], 300, None))
    before = dict(backbone.named_buffers())
    half = backbone.to(torch.bfloat16)
    assert half is backbone and all(weight.dtype == torch.bfloat16 for weight in half.parameters())
    after = dict(half.named_buffers())
    assert any("inv_freq" in name for name in after) and after.keys() == before.keys()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())
