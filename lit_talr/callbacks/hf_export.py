"""Exports the trained model as a Hugging Face folder."""

from copy import deepcopy
from dataclasses import asdict
from logging import getLogger
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import ModelCardData, metadata_load
from lightning.pytorch import Callback, Trainer
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from yaml import YAMLError

from lit_talr.callbacks.base import exported_generation
from lit_talr.checkpoint.export import RECORD, SKELETON, copy_skeleton
from lit_talr.checkpoint.rounding import Rounding
from lit_talr.checkpoint.weights import Weights, merged_weights, widest, write_shards
from lit_talr.modeling.lora import save_adapters
from lit_talr.modeling.sharded import whole
from lit_talr.modeling.strategies import is_deepspeed
from lit_talr.module import DomainSFT
from lit_talr.utils.files import new_folder, read_json, shipped, write_json, write_text
from lit_talr.utils.manifest import write_manifest

logger = getLogger(__name__)


class HFExport(Callback):
    """Writes weights, tokenizer and a model card to ``export/`` of the run folder at the end of ``fit``; ``test`` adds its scores to the card.

    Works under every strategy. Weights are written tensor by tensor: one rank holds one file of the export in memory. With LoRA, ``export/`` has the adapters
    merged into the weights, and ``adapter/`` has them alone, as PEFT reads them. ``skeleton/``, written as training starts, has everything but the weights,
    for ``lit-talr export`` of any checkpoint.

    Args:
        dtype: Dtype of the weights; the fp32 masters by default. At a learning rate of 1e-6, rounding to bfloat16 can lose a good part of the update; for a
            dtype of half precision the log tells how much.
    """

    def __init__(self, dtype: Literal["float32", "bfloat16", "float16"] | None = None) -> None:
        self.dtype: torch.dtype | None = getattr(torch, dtype) if dtype else None

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        assert pl_module.backbone is not None
        write_skeleton(trainer, pl_module, file_names(pl_module.backbone.model))

    def on_fit_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        assert pl_module.backbone is not None
        model, lora = pl_module.backbone.model, pl_module.lora
        weights = live_weights(model, torch.float32 if is_deepspeed(trainer.strategy) else None)
        names = file_names(model)
        write_skeleton(trainer, pl_module, names)  # again, for a run that began without this callback
        self.write_export(trainer, pl_module, names, merged_weights(weights, lora.alpha / lora.r) if lora else weights)
        if lora is not None:
            adapters = {name: weights.read(name) for name in weights.shapes if ".lora_" in name}
            if trainer.is_global_zero:
                with new_folder(Path(trainer.default_root_dir) / "adapter") as folder:
                    save_adapters(model, adapters, folder, base=str(pl_module.pretrained), revision=pl_module.revision)

    def write_export(self, trainer: Trainer, module: DomainSFT, names: dict[str, str], weights: Weights) -> None:
        """Write the folder on rank zero. Collective."""
        dtype, path = self.dtype or weights.dtype, export_folder(trainer)
        if not trainer.is_global_zero:
            write_shards(None, names, weights, dtype)
            return
        rounding = Rounding.of(dtype, module.pretrained, module.revision)
        with new_folder(path) as folder:
            copy_skeleton(Path(trainer.default_root_dir) / SKELETON, folder)
            write_text(folder / "README.md", model_card(trainer, module) + score_section(trainer))
            write_shards(folder, names, weights, dtype, rounding)
            write_manifest(folder)
        if rounding is not None:
            logger.info(f"{path}: {rounding}")

    def on_test_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """Add the scores to the card if the exported model was tested."""
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
    """The weights of a model in training, which may be sharded; ``least`` is the dtype of an engine's masters, which replace its rounded weights."""
    state = model.state_dict(keep_vars=True)
    shapes = {name: tuple(getattr(value, "ds_shape", value.shape)) for name, value in state.items()}
    return Weights(shapes, widest((value.dtype for value in state.values()), least), lambda name: whole(state[name]))


def file_names(model: PreTrainedModel) -> dict[str, str]:
    """Names in the files to names in the model, of the tensors that ``save_pretrained`` would write without adapters; tied ones once.

    Every rank calls it: FSDP2 frees gathered weights where a state dict is taken, and a single rank would then gather alone.
    """
    names: dict[str, str] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if ".lora_" not in name and id(value) not in seen:
            seen.add(id(value))
            plain = name.replace(".base_layer.", ".")
            ((file_name, _),) = revert_weight_conversion(model, {plain: torch.empty(0)}).items()
            names[file_name] = plain
    return names


def write_skeleton(trainer: Trainer, module: DomainSFT, names: dict[str, str]) -> None:
    """Write on rank zero what ``lit-talr export`` needs next to a checkpoint: configuration, tokenizer, card, and a record of names, LoRA and base model."""
    if not trainer.is_global_zero:
        return
    assert module.backbone is not None
    model, path = module.backbone.model, Path(trainer.default_root_dir) / SKELETON
    if not path.exists():
        base = str(Path(module.pretrained).resolve()) if module.pretrained and Path(module.pretrained).is_dir() else module.pretrained
        with new_folder(path) as folder:
            config = deepcopy(model.config)
            config.architectures = [type(model).__name__]
            config.save_pretrained(folder)
            exported_generation(module).save_pretrained(folder)
            module.data.encoder.tokenizer.save_pretrained(folder)
            lora = asdict(module.lora) if module.lora else None
            write_json(folder / RECORD, {"pretrained": base, "revision": module.revision, "lora": lora, "names": names})
            write_manifest(folder)
    write_text(path / "README.md", model_card(trainer, module))


def model_card(trainer: Trainer, module: DomainSFT) -> str:
    """The model card without scores: base model, data, licences and commands."""
    fits = read_json(Path(trainer.default_root_dir) / "provenance.json").get("fits", [])
    commands = "\n".join(fit["command"] for fit in fits)
    sources = "\n".join(f"| data | {source.source_name} ({type(source).__name__}) | {source.license} |" for source in module.data.sources)
    card_data = ModelCardData(base_model=module.pretrained, library_name="transformers", pipeline_tag="text-generation", tags=["lit_talr"])
    return f"""---
{card_data.to_yaml()}
---

# {Path(trainer.default_root_dir).name}

Fine-tuned by lit_talr with the loss {module.loss.description}{f", through {module.lora}" if module.lora else ""}.

| | | licence |
|---|---|---|
| base model | {module.pretrained or "random weights"} | {license_of(module.pretrained)} |
{sources}

All of these licences apply to using and sharing these weights.

## Commands

```
{commands}
```

"""


def score_section(trainer: Trainer) -> str:
    """The card's table of scores, also those of the run's earlier commands."""
    recorded = read_json(Path(trainer.default_root_dir) / "metrics.json")
    scores = {name: value for part in recorded.values() for name, value in part.items() if name != "step"}
    scores |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    rows = [f"| {name} | {value:.4f} |\n" for name, value in sorted(scores.items()) if name.startswith(("val/", "test/"))]
    return "## Scores\n\n| metric | value |\n|---|---|\n" + "".join(rows)


def license_of(pretrained: str | None) -> str:
    """The licence in a local model folder's card; for a hub model, where to read it. An unreadable card does not stop the export."""
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
