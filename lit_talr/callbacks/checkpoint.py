"""When checkpoints are written; lit_talr/checkpoint/whole.py writes them."""

import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_talr.checkpoint.whole import remove, remove_parts, save_whole
from lit_talr.utils.collectives import sum_over_ranks


class WholeCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, with checkpoints that are complete or absent, whenever the run is killed, and that fall between optimizer steps.

    Without ``monitor`` it also writes one when the run is asked to end (SIGTERM, as schedulers send before they take a machine away): the open step is
    finished, all ranks agree, the checkpoint is written, and the process exits with 143.

    Args:
        filename: Name of a checkpoint; without the step in it, ``--ckpt_path last`` goes by the time of writing.
        monitor: Keep the best by this metric; the newest if left out.
        mode: ``min`` or ``max``: whether less or more of the metric is better.
        save_top_k: How many checkpoints stay; -1 for all.
        every_n_epochs: Write after every so many epochs.
        every_n_train_steps: Write after every so many optimizer steps instead.
    """

    def __init__(
        self,
        filename: str = "last-{step}",
        monitor: str | None = None,
        mode: str = "min",
        save_top_k: int = 1,
        every_n_epochs: int | None = None,
        every_n_train_steps: int | None = None,
    ) -> None:
        super().__init__(
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.asked_to_end = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        if stage == "fit" and trainer.is_global_zero:
            remove_parts(Path(self.dirpath))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.monitor is None:
            signal.signal(signal.SIGTERM, self.ask_to_end)  # replaces Lightning's handler, in which ranks wait for each other

    def ask_to_end(self, *_: Any) -> None:
        self.asked_to_end = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.end_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.end_if_asked(trainer)

    def end_if_asked(self, trainer: Trainer) -> None:
        """Write a checkpoint and end the run where any rank was asked to end. Collective."""
        if self.monitor is not None or not sum_over_ranks(torch.tensor(float(self.asked_to_end), device=trainer.strategy.root_device)):
            return
        if self._last_global_step_saved != trainer.global_step:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))
        raise SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.monitor is None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is lost from here on

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        path = Path(filepath)
        save_whole(trainer, path, self.save_weights_only)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        prefix = str(self.filename).split("{")[0]
        if self.monitor is None and self.save_top_k == 1 and prefix and trainer.is_global_zero:
            for other in path.parent.glob(f"{prefix}*.ckpt"):  # also those that a killed run left behind
                if other != path:
                    remove(other)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the paths, relative to a run folder that may have moved."""
        assert self.dirpath is not None
        here = Path(self.dirpath)
        moved = {name: str(here / Path(value).name) for name, value in state_dict.items() if name.endswith("_path") and value}
        best = {str(here / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Compares names only, since the run folder may have had another path: also the checkpoint that the run was resumed from goes."""
        return Path(previous).name != Path(current).name

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        assert self.dirpath is not None
        if trainer.is_global_zero:
            remove(Path(self.dirpath) / Path(filepath).name)
