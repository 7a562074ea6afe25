"""Run by torchrun on two CPU ranks: continues runs longer, otherwise, and otherwise on purpose; writes what happened."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.distributed.tensor import DTensor

from lit_talr.callbacks.checkpoint import WholeCheckpoint
from lit_talr.losses import TALR, LossStrategy, Standard
from lit_talr.modeling.strategies import end_process
from lit_talr.module import DomainSFT
from lit_talr.training.schedules import Cosine
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import fit

ADAMW = partial(torch.optim.AdamW, lr=0.01)


class Watch(Callback):
    """Keeps the rate of every step as it is logged, the optimizer's options, and the size of its first moment as training starts."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {"rates": {}}

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if "moment" not in self.seen:
            optimizer: Any = trainer.optimizers[0]
            states = getattr(optimizer, "optimizer", optimizer).state.values()  # the one that DeepSpeed wraps
            moments = [state["exp_avg"] for state in states if "exp_avg" in state]
            self.seen["moment"] = sum(float((moment.to_local() if isinstance(moment, DTensor) else moment).abs().sum()) for moment in moments)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if "train/learning_rate" not in trainer.callback_metrics:
            return  # inside the first step
        self.seen["rates"][trainer.global_step - 1] = float(trainer.callback_metrics["train/learning_rate"])
        group = trainer.optimizers[0].param_groups[0]
        self.seen["group"] = {name: group[name] for name in ("lr", "initial_lr", "weight_decay")} | {"betas": list(group["betas"])}


def module(resume_with: list[str], *words: Any, **options: Any) -> DomainSFT:
    made = DomainSFT(*words, **{**options, "schedule": Cosine(warmup_ratio=0.3)})
    made.record.resume_with = resume_with
    return made


def run(folder: Path, out: Path, name: str, steps: int, loss: LossStrategy, optimizer: Any, checkpoint: Path | None, *names: str, **changed: Any) -> Any:
    """Fits, and gives what was seen, or the sentence of the refusal."""
    watch, batching = Watch(), {"micro_batch_size": 2, **changed.pop("batching", {})}
    callbacks = [watch] if checkpoint else [watch, WholeCheckpoint(every_n_train_steps=1, save_top_k=-1)]
    trainer: dict[str, Any] = {"strategy": STRATEGIES[name](), "devices": 2, "precision": "32-true", "enable_checkpointing": True, "callbacks": callbacks}
    trainer |= {"default_root_dir": str(out / name), "limit_val_batches": None, **changed}
    path = str(checkpoint) if checkpoint else None
    try:
        fit(folder, loss, steps, partial(module, list(names)), optimizer, batching=batching, ckpt_path=path, trainer=trainer)
    except ValueError as error:
        return str(error)
    return watch.seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    for case in sys.argv[3:]:
        fits = partial(run, folder, out, case)
        found = {"first": fits(3, Standard(), ADAMW, None)}
        last = out / case / "checkpoints" / "last-step=3.ckpt"
        found["longer"] = fits(6, Standard(), ADAMW, last)
        other = partial(torch.optim.AdamW, lr=0.05, betas=(0.8, 0.9), weight_decay=0.3)
        found["on purpose"] = fits(5, Standard(), other, last, *(f"model.optimizer.{name}" for name in ("lr", "betas", "weight_decay")))
        found["lr"] = fits(6, Standard(), partial(torch.optim.AdamW, lr=0.05), last)
        found["loss"] = fits(6, TALR(), ADAMW, last)
        found["clip"] = fits(6, Standard(), ADAMW, last, gradient_clip_val=0.5)
        found["seed"] = fits(6, Standard(), ADAMW, last, batching={"seed": 1})
        found["nothing"] = fits(6, Standard(), ADAMW, last, "model.optimizer.eps")
        rows = folder / "train.jsonl"
        text = rows.read_text()
        torch.distributed.barrier()
        if os.environ["RANK"] == "0":
            rows.write_text("".join(text.splitlines(keepends=True)[::-1]))
        torch.distributed.barrier()
        found["rows"] = fits(6, Standard(), ADAMW, last)
        torch.distributed.barrier()
        if os.environ["RANK"] == "0":
            rows.write_text(text)
        (out / f"{case}-{os.environ['RANK']}.json").write_text(json.dumps(found))
        torch.distributed.barrier()
    end_process()
