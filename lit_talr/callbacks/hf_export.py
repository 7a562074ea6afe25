"""The trained model as a Hugging Face folder that anyone can load."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from logging import getLogger
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import ModelCardData, metadata_load
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from yaml import YAMLError

from lit_talr.checkpoint.export import RECORD, SKELETON, copy_skeleton
from lit_talr.checkpoint.rounding import Rounding
from lit_talr.checkpoint.weights import Weights, merged_weights, widest, write_shards
from lit_talr.modeling.lora import save_adapters
from lit_talr.modeling.sharded import whole
from lit_talr.module import DomainSFT
from lit_talr.utils.files import new_folder, read_json, shipped, write_json, write_text

logger = getLogger(__name__)


class HFExport(Callback):
    """Writes the weights at the end of ``fit``, the tokenizer and a model card to ``export/`` of the run folder; ``test`` adds its scores to the card.

    Under every strategy, tensor by tensor: one file of the export is in memory, of one rank. With LoRA ``export/`` has the adapters merged into the weights,
    and ``adapter/`` has them alone, as PEFT reads them. ``skeleton/``, written as training starts, has all but the weights, for ``lit-talr export`` of any
    checkpoint.

    Args:
        dtype: Of the weights; the fp32 masters by default. At a learning rate of 1e-6, rounding to bfloat16 can lose a good part of the update; for a
            dtype of half precision the log says how much.
    """

    def __init__(self, dtype: Literal["float32", "bfloat16", "float16"] | None = None) -> None:
        self.dtype: torch.dtype | None = getattr(torch, dtype) if dtype else None

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        assert pl_module.backbone is not None
        names = file_names(pl_module.backbone.model)
        if trainer.is_global_zero:
            write_skeleton(trainer, pl_module, names)

    def on_fit_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        assert pl_module.backbone is not None
        model, lora, root = pl_module.backbone.model, pl_module.lora, Path(trainer.default_root_dir)
        weights = live_weights(model, torch.float32 if isinstance(trainer.strategy, DeepSpeedStrategy) else None)
        merged = merged_weights(weights, lora.alpha / lora.r) if lora else weights
        dtype, names = self.dtype or merged.dtype, file_names(model)
        if trainer.is_global_zero:
            write_skeleton(trainer, pl_module, names)  # of a run that began without
            rounding = Rounding.of(dtype, pl_module.pretrained, pl_module.revision)
            with new_folder(export_folder(trainer)) as folder:
                copy_skeleton(root / SKELETON, folder)
                write_text(folder / "README.md", model_card(trainer, pl_module) + score_section(trainer))
                write_shards(folder, names, merged, dtype, rounding)
            if rounding is not None:
                logger.info(f"{export_folder(trainer)}: {rounding}")
        else:
            write_shards(None, names, merged, dtype)
        if lora is not None:
            adapters = {name: weights.read(name) for name in weights.shapes if ".lora_" in name}
            if trainer.is_global_zero:
                with new_folder(root / "adapter") as folder:
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


def live_weights(model: nn.Module, least: torch.dtype | None) -> Weights:
    """Those of a model that is being trained, with the fp32 masters of a sharding engine in place of its rounded ones.

    Args:
        model: Whose weights may be sharded.
        least: The dtype of an engine's masters.
    """
    state = model.state_dict(keep_vars=True)
    shapes = {name: tuple(getattr(value, "ds_shape", value.shape)) for name, value in state.items()}
    return Weights(shapes, widest((value.dtype for value in state.values()), least), lambda name: whole(state[name]))


def file_names(model: PreTrainedModel) -> dict[str, str]:
    """Of each tensor that ``save_pretrained`` would write of the model without adapters, its name in the files, and in the model. A tied one once.

    Every rank calls it: FSDP2 lets go of gathered weights where a state dict is taken, and a rank that alone does so then gathers alone.
    """
    found: dict[str, str] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if ".lora_" not in name and id(value) not in seen:
            seen.add(id(value))
            plain = name.replace(".base_layer.", ".")
            ((file_name, _),) = revert_weight_conversion(model, {plain: torch.empty(0)}).items()
            found[file_name] = plain
    return found


def write_skeleton(trainer: Trainer, module: DomainSFT, names: dict[str, str]) -> None:
    """What ``lit-talr export`` needs beside a checkpoint: configuration, tokenizer, card, and a record of names, LoRA and starting model."""
    assert module.backbone is not None
    model, encoder, path = module.backbone.model, module.data.encoder, Path(trainer.default_root_dir) / SKELETON
    if not path.exists():
        start = str(Path(module.pretrained).resolve()) if module.pretrained and Path(module.pretrained).is_dir() else module.pretrained
        lora = asdict(module.lora) if module.lora else None
        with new_folder(path) as folder:
            config = deepcopy(model.config)
            config.architectures = [type(model).__name__]
            config.save_pretrained(folder)
            stop_tokens(model.generation_config, encoder.stop_token_ids, encoder.pad_token_id).save_pretrained(folder)
            encoder.tokenizer.save_pretrained(folder)
            write_json(folder / RECORD, {"pretrained": start, "revision": module.revision, "lora": lora, "names": names})
    write_text(path / "README.md", model_card(trainer, module))


def stop_tokens(settings: GenerationConfig, stop_token_ids: Sequence[int], pad_token_id: int) -> GenerationConfig:
    """So that ``generate`` of the exported model ends an answer where training ended it."""
    settings = deepcopy(settings)
    known = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    settings.eos_token_id = sorted({*stop_token_ids, *(token for token in known if token is not None)})
    settings.pad_token_id = pad_token_id
    return settings


def model_card(trainer: Trainer, module: DomainSFT) -> str:
    """What was trained, from what, on what, by which command."""
    data = module.data
    base = module.pretrained or "random weights"
    fits = read_json(Path(trainer.default_root_dir) / "provenance.json").get("fits", [])
    commands = "\n".join(fit["command"] for fit in fits)
    base_license = license_of(module.pretrained)
    sources = "\n".join(f"| data | {source.source_name} ({type(source).__name__}) | {source.license} |" for source in data.sources)
    card_data = ModelCardData(base_model=module.pretrained, library_name="transformers", pipeline_tag="text-generation", tags=["lit_talr"])
    return f"""---
{card_data.to_yaml()}
---

# {Path(trainer.default_root_dir).name}

Fine-tuned by lit_talr with the loss {module.loss.description}{f", through {module.lora}" if module.lora else ""}.

| | | licence |
|---|---|---|
| base model | {base} | {base_license} |
{sources}

All of these licences bind whoever uses or shares these weights.

## Commands

```
{commands}
```

"""


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
    pretrained = shipped(pretrained)
    card = Path(pretrained) / "README.md"
    if card.is_file():
        try:
            return str((metadata_load(card) or {}).get("license", "not stated in its card"))
        except (ValueError, YAMLError):
            return "not readable in its card"
    return "not stated in its folder" if Path(pretrained).is_dir() else f"see https://huggingface.co/{pretrained}"
