"""Checks a checkpoint before a strategy loads it."""

from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy

from lit_talr.checkpoint.find import check_whole
from lit_talr.checkpoint.pickles import refuse_code


def check_before_loading(strategy: Strategy) -> None:
    """Lets a strategy load only whole checkpoints that cannot run code, also where no command line has checked them.

    All ranks load rank zero's: beside a running ``fit``, each may have found another one to be the last.
    """
    load = strategy.load_checkpoint

    def load_checked(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(strategy.broadcast(str(checkpoint_path)))
        check_whole(path, "ckpt_path", "give another, such as one that WholeCheckpoint wrote")
        if weights_only is not False:
            refuse_code(path)
        return load(path, weights_only)

    strategy.load_checkpoint = load_checked  # type: ignore[method-assign,assignment]
