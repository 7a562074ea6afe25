"""When checkpoints are written; that they are whole is lit_talr/checkpoint/whole.py."""

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
    """Lightning's ``ModelCheckpoint``, whose checkpoints are whole or not there, whenever the run is killed, and fall between optimizer steps.

    One that monitors nothing also writes where the run is told to end (SIGTERM, as schedulers send before they take a machine away): the open step is
    finished, all ranks agree, a checkpoint is written, and the process exits with 143.

    Args:
        filename: Its name; with the step in it, or ``--ckpt_path last`` goes by the time it was written.
        monitor: Keep the best by this metric; the newest if left out.
        mode: Whether less or more of it is better.
        save_top_k: How many are kept; -1 for all.
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
        self.told_to_end = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        if stage == "fit" and trainer.is_global_zero:
            remove_parts(Path(self.dirpath))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.monitor is None:
            signal.signal(signal.SIGTERM, self.tell)  # in place of Lightning's, in which ranks wait for each other; it restores what was there before

    def tell(self, *_: Any) -> None:
        self.told_to_end = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.end_if_told(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.end_if_told(trainer)

    def end_if_told(self, trainer: Trainer) -> None:
        """Collective."""
        if self.monitor is not None or not sum_over_ranks(torch.tensor(float(self.told_to_end), device=trainer.strategy.root_device)):
            return
        if self._last_global_step_saved != trainer.global_step:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))
        raise SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.monitor is None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is lost any more

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        path = Path(filepath)
        save_whole(trainer, path, self.save_weights_only)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        prefix = str(self.filename).split("{")[0]
        if self.monitor is None and self.save_top_k == 1 and prefix and trainer.is_global_zero:
            for other in path.parent.glob(f"{prefix}*.ckpt"):  # also of runs that were killed before they could
                if other != path:
                    remove(other)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of a run folder that may have moved since."""
        assert self.dirpath is not None
        here = Path(self.dirpath)
        moved = {name: str(here / Path(value).name) for name, value in state_dict.items() if name.endswith("_path") and value}
        best = {str(here / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Also the one that the run was resumed from, and one that another machine wrote under another path."""
        return Path(previous).name != Path(current).name

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        assert self.dirpath is not None
        if trainer.is_global_zero:
            remove(Path(self.dirpath) / Path(filepath).name)
