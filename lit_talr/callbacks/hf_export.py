"""Exports the trained model as a Hugging Face folder."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from logging import getLogger
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from huggingface_hub import ModelCardData, metadata_load
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from yaml import YAMLError

from lit_talr.callbacks.base import exported_generation
from lit_talr.checkpoint.export import RECORD, SKELETON, copy_skeleton
from lit_talr.checkpoint.rounding import Rounding
from lit_talr.checkpoint.weights import Weights, merged_weights, widest, write_shards
from lit_talr.modeling.adapting import adapter_names, adapter_record, save_adapters
from lit_talr.modeling.sharded import whole
from lit_talr.modeling.strategies import is_deepspeed
from lit_talr.module import DomainSFT
from lit_talr.utils.files import new_folder, read_json, shipped, write_json, write_text
from lit_talr.utils.identity import WeightsIdentity, folder_weights
from lit_talr.utils.manifest import write_manifest
from lit_talr.utils.score import Score, Scores, read_scores

logger = getLogger(__name__)


class HFExport(Callback):
    """Writes weights, tokenizer and a model card to ``export/`` of the run folder at the end of ``fit``; ``test`` adds its scores to the card.

    Works under every strategy. Weights are written tensor by tensor: one rank holds one file of the export in memory. With an adapter, ``export/`` has it
    merged into the weights, and ``adapter/`` has it alone, as PEFT reads it. ``skeleton/``, written as training starts, has everything but the weights,
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
        model, config = pl_module.backbone.model, pl_module.backbone.adapter_config
        weights = live_weights(model, torch.float32 if is_deepspeed(trainer.strategy) else None)
        names = file_names(model)
        with ended_by_exception():
            write_skeleton(trainer, pl_module, names)  # again, for a run that began without this callback
            self.write_export(trainer, pl_module, names, merged_weights(weights, config) if config else weights)
            if config is not None:
                self.write_adapter(trainer, pl_module, weights)

    def write_adapter(self, trainer: Trainer, module: DomainSFT, weights: Weights) -> None:
        """Write the adapters alone on rank zero. Collective."""
        assert module.backbone is not None
        adapters = {name: weights.read(name) for name in adapter_names(module.backbone.model)}
        if trainer.is_global_zero:
            with new_folder(Path(trainer.default_root_dir) / "adapter") as folder:
                save_adapters(module.backbone.model, adapters, folder, base=str(module.pretrained), revision=module.revision)

    def write_export(self, trainer: Trainer, module: DomainSFT, names: dict[str, str], weights: Weights) -> None:
        """Write the folder on rank zero. Collective."""
        dtype, path = self.dtype or weights.dtype, export_folder(trainer)
        if not trainer.is_global_zero:
            write_shards(None, names, weights, dtype)
            return
        rounding = Rounding.of(dtype, module.pretrained, module.revision)
        with new_folder(path) as folder:
            copy_skeleton(Path(trainer.default_root_dir) / SKELETON, folder)
            write_text(folder / "README.md", model_card(trainer, module) + score_section(self.own_scores(trainer, module, module.weights)))
            write_shards(folder, names, weights, dtype, rounding)
            write_manifest(folder, about=module.weights.about())
        if rounding is not None:
            logger.info(f"{path}: {rounding}")

    def own_scores(self, trainer: Trainer, module: DomainSFT, exported: WeightsIdentity) -> dict[str, Score]:
        """The scores of this command, and of the run's earlier ones, that are of the exported weights.

        An export that rounds the weights is not what was scored in memory, unless scores were computed with weights rounded likewise.
        """
        recorded = read_scores(Path(trainer.default_root_dir) / "metrics.json").values()
        scores = {name: score for by_name in (*recorded, module.score_records()) for name, score in by_name.items()}
        in_memory, folder = exported._replace(folder=None).digest, exported.digest
        rounded = {torch.bfloat16: "bf16 weights", torch.float16: "fp16 weights"}.get(self.dtype)  # type: ignore[arg-type]

        def is_own(score: Score) -> bool:
            return score.weights == folder or (score.weights == in_memory and rounded in (None, score.arithmetic))

        return {name: score for name, score in scores.items() if is_own(score)}

    def on_test_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """Add the scores to the card if the exported model was tested."""
        export = export_folder(trainer)
        card = export / "README.md"
        if trainer.is_global_zero and card.is_file():
            head = card.read_text(encoding="utf-8", errors="replace").split("## Scores")[0]
            write_text(card, head + score_section(self.own_scores(trainer, pl_module, folder_weights(export))))


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """Within the block, SIGTERM ends the run as it does during training: nothing half-written stays, and the log says how to go on."""

    def end(*_: Any) -> NoReturn:
        raise SIGTERMException

    if threading.current_thread() is not threading.main_thread():  # which alone may have handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def export_folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "export"


def live_weights(model: nn.Module, least: torch.dtype | None) -> Weights:
    """The weights of a model in training, which may be sharded; ``least`` is the dtype of an engine's masters, which replace its rounded weights."""
    state = model.state_dict(keep_vars=True)
    shapes = {name: tuple(getattr(value, "ds_shape", value.shape)) for name, value in state.items()}
    return Weights(shapes, widest((value.dtype for value in state.values()), least), lambda name: whole(state[name]))


def file_names(model: PreTrainedModel) -> dict[str, str]:
    """Names in the files to names in the model, of the tensors that ``save_pretrained`` would write without adapters; tied ones once.

    Fused experts stay one tensor, which transformers reads as well as the tensors of single experts that it would write.

    Every rank calls it: FSDP2 frees gathered weights where a state dict is taken, and a single rank would then gather alone.
    """
    names: dict[str, str] = {}
    seen, adapters = set[int](), set(adapter_names(model))
    for name, value in model.state_dict(keep_vars=True).items():
        if name not in adapters and id(value) not in seen:
            seen.add(id(value))
            plain = name.replace(".base_layer.", ".")
            shape = getattr(value, "ds_shape", value.shape)
            written = list(revert_weight_conversion(model, {plain: torch.empty(shape, device="meta")}))
            names[written[0] if len(written) == 1 else plain] = plain
    return names


def write_skeleton(trainer: Trainer, module: DomainSFT, names: dict[str, str]) -> None:
    """Write on rank zero what ``lit-talr export`` needs next to a checkpoint: configuration, tokenizer, card, and a record of names, adapter and base model."""
    if not trainer.is_global_zero:
        return
    assert module.backbone is not None
    model, path = module.backbone.model, Path(trainer.default_root_dir) / SKELETON
    if not path.exists():
        base = str(Path(module.pretrained).resolve()) if module.pretrained and Path(module.pretrained).is_dir() else module.pretrained
        with new_folder(path) as folder:
            config, dtype = deepcopy(model.config), str(module.backbone.head.weight.dtype).removeprefix("torch.")
            config.architectures = [type(model).__name__]
            config.save_pretrained(folder)
            exported_generation(module).save_pretrained(folder)
            module.data.encoder.tokenizer.save_pretrained(folder)
            adapter = adapter_record(module.backbone.adapter_config) if module.backbone.adapter_config else None
            write_json(folder / RECORD, {"pretrained": base, "revision": module.revision, "adapter": adapter, "dtype": dtype, "names": names})
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

Fine-tuned by lit_talr with the loss {module.loss.description}{f", through {module.adapter}" if module.adapter else ""}.

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


def score_section(scores: Scores) -> str:
    """The card's table of scores."""
    shown = {name: score for name, score in sorted(scores.items()) if name.startswith(("val/", "test/", "general/"))}
    rows = [f"| {name} | {score.value:.4f} | {score.num_items or ''} {score.unit or ''} | {score.arithmetic} |\n" for name, score in shown.items()]
    return "## Scores\n\n| metric | value | over | computed in |\n|---|---|---|---|\n" + "".join(rows)


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
