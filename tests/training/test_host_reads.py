"""Where a step looks at numbers: each look makes the host wait for a GPU, which then waits for the host."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_talr.callbacks import TokenProbability
from lit_talr.losses import DFT, EAFT, LossStrategy
from tests.helpers.fits import LOSSES, fit
from tests.helpers.params import first_is_fast

SHAPED_BY_DATA = ("nonzero", "masked_select", "unique", "bincount", "repeat_interleave", "equal", "_local_scalar_dense")
READS = ("tolist", "numpy", "cpu", "__array__")
PACKAGE = "lit_talr"


class Reads(TorchDispatchMode, Callback):
    """Counts what the package looks at, from the second step on: by file and function."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.num_steps = 0
        self.on = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.on = trainer.global_step >= 1
        self.num_steps = trainer.global_step

    def on_train_batch_end(self, *_: Any) -> None:
        self.on = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if any(isinstance(part, Tensor) and part.dtype == torch.bool for part in indices) or name.lstrip("_").startswith(SHAPED_BY_DATA):
            self.count()
        return function(*args, **(kwargs or {}))

    def count(self) -> None:
        """Unless transformers looks, or the check of labels, which is not made on a GPU."""
        frames = [frame for frame in traceback.extract_stack() if "/transformers/" in frame.filename or f"/{PACKAGE}/" in frame.filename]
        if self.on and frames and f"/{PACKAGE}/" in frames[-1].filename and frames[-1].name != "check_arguments":
            self.found[f"{Path(frames[-1].filename).name}:{frames[-1].name}"] += 1


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    counter = Reads()
    for name in READS:
        original = getattr(Tensor, name)

        def counted(tensor: Tensor, *args: Any, original: Callable[..., Any] = original) -> Any:
            counter.count()
            return original(tensor, *args)

        monkeypatch.setattr(Tensor, name, counted)
    with counter:
        yield counter


@pytest.mark.parametrize("loss", first_is_fast(EAFT, DFT, *LOSSES.values()), ids=["eaft", "dft", *LOSSES])
def test_a_step_looks_once_whatever_is_watched(folder: Path, reads: Reads, loss: Callable[[], LossStrategy]) -> None:
    """Whether it is finite, before the optimizer changes anything; the logger and the progress bar look for themselves."""
    adamw = partial(torch.optim.AdamW, lr=1e-3, fused=True)
    trainer: dict[str, Any] = {"callbacks": [TokenProbability(), reads], "gradient_clip_val": 1.0}
    fit(folder, loss(), optimizer=adamw, batching={"micro_batch_size": 4}, trainer=trainer)
    assert reads.found == {"non_finite.py:decide": reads.num_steps}
