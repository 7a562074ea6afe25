"""The trained model as a Hugging Face folder that anyone can load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import ModelCardData, metadata_load
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from transformers import PreTrainedModel
from yaml import YAMLError

from lit_talr.files import new_folder, read_json, write_json, write_text
from lit_talr.lora import has_adapters, merged, save_adapters
from lit_talr.module import DomainSFT
from lit_talr.sharded import whole


class HFExport(Callback):
    """Writes the weights at the end of ``fit``, the tokenizer and a model card to ``export/`` of the run folder; ``test`` adds its scores to the card.

    With LoRA ``export/`` has the adapters merged into the weights, and ``adapter/`` has them alone, as PEFT reads them.

    Args:
        dtype: Of the weights; the fp32 masters by default. At a learning rate of 1e-6, rounding to bfloat16 can lose a good part of the update.
    """

    def __init__(self, dtype: Literal["float32", "bfloat16", "float16"] | None = None) -> None:
        self.dtype: torch.dtype | None = getattr(torch, dtype) if dtype else None

    def on_fit_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        assert pl_module.backbone is not None
        model = pl_module.backbone.model
        state = full_state_dict(model)  # collective
        if not trainer.is_global_zero:
            return
        adapters = state if has_adapters(model) else None
        if adapters is not None:
            state = merged(model, adapters)
        if self.dtype:
            casts: dict[int, Tensor] = {}  # tied weights stay one tensor
            state = {name: casts.setdefault(weight.data_ptr(), weight.to(self.dtype)) for name, weight in state.items()}
        dtype = next(iter(state.values())).dtype
        with new_folder(export_folder(trainer)) as folder:
            add_stop_tokens(model, pl_module.data.encoder.stop_token_ids, pl_module.data.encoder.pad_token_id)
            model.save_pretrained(folder, state_dict=state)
            state_dtype(folder / "config.json", dtype)
            pl_module.data.encoder.tokenizer.save_pretrained(folder)
            write_text(folder / "README.md", model_card(trainer, pl_module))
        if adapters is not None:
            with new_folder(Path(trainer.default_root_dir) / "adapter") as folder:
                save_adapters(model, adapters, folder, base=str(pl_module.pretrained), revision=pl_module.revision)

    def on_test_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """Add the scores to the card, if it is the exported model that was tested."""
        export = export_folder(trainer)
        exported_step = read_json(Path(trainer.default_root_dir) / "metrics.json").get("fit", {}).get("step")
        is_export = pl_module.pretrained is not None and Path(pl_module.pretrained).resolve() == export.resolve()
        card = export / "README.md"
        if trainer.is_global_zero and card.is_file() and (is_export or pl_module.loaded_step == exported_step):
            head = card.read_text(encoding="utf-8", errors="replace").split("## Scores")[0]
            write_text(card, head + score_section(trainer))


def export_folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "export"


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, whole, with the fp32 masters of a sharding engine in place of its rounded weights; every rank calls it."""
    found: dict[int, Tensor] = {}  # tied weights stay one tensor
    state = model.state_dict(keep_vars=True)
    for value in state.values():
        if id(value) not in found:
            found[id(value)] = whole(value)
    return {name: found[id(value)] for name, value in state.items()}


def state_dtype(path: Path, dtype: torch.dtype) -> None:
    """Name the dtype of the weights in config.json, where transformers puts that of the live model; ``from_pretrained`` loads in it."""
    config = read_json(path)
    for part in (config, *(value for value in config.values() if isinstance(value, dict) and "dtype" in value)):
        part["dtype"] = str(dtype).removeprefix("torch.")
    write_json(path, config)


def add_stop_tokens(model: PreTrainedModel, stop_token_ids: Sequence[int], pad_token_id: int) -> None:
    """So that ``generate`` of the exported model ends an answer where training ended it."""
    settings = model.generation_config
    known = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    settings.eos_token_id = sorted({*stop_token_ids, *(token for token in known if token is not None)})
    settings.pad_token_id = pad_token_id


def model_card(trainer: Trainer, module: DomainSFT) -> str:
    """What was trained, from what, on what, by which command, with which scores."""
    data = module.data
    base = module.pretrained or "random weights"
    fits = read_json(Path(trainer.default_root_dir) / "provenance.json").get("fits", [])
    commands = "\n".join(fit["command"] for fit in fits)
    base_license = license_of(module.pretrained)
    card_data = ModelCardData(base_model=module.pretrained, library_name="transformers", pipeline_tag="text-generation", tags=["lit_talr"])
    text = f"""---
{card_data.to_yaml()}
---

# {Path(trainer.default_root_dir).name}

Fine-tuned by lit_talr with the loss {module.loss_name}{f", through {module.lora}" if module.lora else ""}.

| | | licence |
|---|---|---|
| base model | {base} | {base_license} |
| data | {data.source_name} ({type(data).__name__}) | {data.license} |

Both licences bind whoever uses or shares these weights.

## Commands

```
{commands}
```

"""
    return text + score_section(trainer)


def score_section(trainer: Trainer) -> str:
    """All scores known so far, those of earlier commands of the run included."""
    recorded = read_json(Path(trainer.default_root_dir) / "metrics.json")
    scores = {name: value for part in recorded.values() for name, value in part.items() if name != "step"}
    scores |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    rows = [f"| {name} | {value:.4f} |\n" for name, value in sorted(scores.items()) if name.startswith(("val/", "test/"))]
    return "## Scores\n\n| metric | value |\n|---|---|\n" + "".join(rows)


def license_of(pretrained: str | None) -> str:
    """The licence that a local model folder's card states; for a hub model, where to read it. A card may hold anything, which must not cost the export."""
    if pretrained is None:
        return "none"
    card = Path(pretrained) / "README.md"
    if card.is_file():
        try:
            return str((metadata_load(card) or {}).get("license", "not stated in its card"))
        except (ValueError, YAMLError):
            return "not readable in its card"
    return "not stated in its folder" if Path(pretrained).is_dir() else f"see https://huggingface.co/{pretrained}"
