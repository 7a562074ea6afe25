"""Checkpoints that cannot be written."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_talr.checkpoint.whole import save_whole


def lose_the_folder(path: Path, weights_only: bool) -> None:
    raise FileNotFoundError(2, "No such file or directory", str(path))


def lose_a_rank(path: Path, weights_only: bool) -> None:
    raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")


@pytest.mark.parametrize(
    ("name", "fail", "sentence"),
    [
        ("last.ckpt", lose_the_folder, "its folder has been removed or renamed meanwhile"),
        ("gone/last.ckpt", None, "its folder has been removed or renamed meanwhile"),
        ("last.ckpt", lose_a_rank, "^another rank has ended"),
    ],
)
def test_the_cause_is_named(tmp_path: Path, name: str, fail: Any, sentence: str) -> None:
    strategy = SimpleNamespace(broadcast=lambda fault: fault, checkpoint_io=None)
    trainer: Any = SimpleNamespace(is_global_zero=True, global_rank=0, strategy=strategy, save_checkpoint=fail)
    with pytest.raises(OSError, match=sentence):
        save_whole(trainer, tmp_path / name)
    assert not list(tmp_path.iterdir())  # no new folder, which would lack the rest of the run
