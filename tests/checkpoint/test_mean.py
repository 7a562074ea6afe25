"""The exponential mean of a run's checkpoints, against torch's average of the model after each step."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from lit_talr.callbacks import HFExport, WholeCheckpoint
from lit_talr.checkpoint.export import export
from lit_talr.checkpoint.mean import bema_shares, decayed_shares
from lit_talr.cli.command_line import main
from lit_talr.losses import Standard
from lit_talr.modeling.adapters import LoRA
from lit_talr.utils.identity import folder_weights
from lit_talr.utils.manifest import MANIFEST
from tests.checkpoint.test_export import state
from tests.helpers.fits import QWEN3, fit, write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    write_data(path)
    return path


def train(folder: Path, path: Path, **options: Any) -> list[dict[str, Tensor]]:
    """Train for four steps, each with a checkpoint, and export each."""
    trainer = {
        "callbacks": [HFExport(), WholeCheckpoint(every_n_train_steps=1, save_top_k=-1)],
        "default_root_dir": str(path),
        "precision": "32-true",
        "enable_checkpointing": True,
        "logger": False,
    }
    fit(folder, Standard(), steps=4, optimizer=partial(torch.optim.SGD, lr=0.3), trainer=trainer, **options)
    for step in range(1, 5):
        export(path / "checkpoints" / f"last-step={step}.ckpt", path / f"step-{step}")
    return [state(path / f"step-{step}") for step in range(1, 5)]


@pytest.mark.parametrize(("options", "decay"), [({"adapter": LoRA(r=2, alpha=6)}, 0.9), ({}, 0.6), pytest.param({}, 0.0, marks=pytest.mark.slow)])
def test_it_is_torchs_mean_of_the_exported_models(folder: Path, tmp_path: Path, options: dict[str, Any], decay: float) -> None:
    """Adapters are averaged as the models that they make, not A and B each for itself."""
    states = train(folder, tmp_path / "run", **options)
    models = [nn.ParameterDict({name.replace(".", "-"): value for name, value in each.items()}) for each in states]
    average = AveragedModel(models[0], avg_fn=get_ema_avg_fn(decay))
    for each in models:
        average.update_parameters(each)
    main(["export", "--ckpt", str(tmp_path / "run"), "--out", str(tmp_path / "mean"), "--decay", str(decay)])
    found = state(tmp_path / "mean")
    assert found.keys() == states[0].keys()
    for name, value in average.module.items():
        torch.testing.assert_close(found[name.replace("-", ".")], value.detach(), rtol=1e-6, atol=1e-8)
    identity = folder_weights(tmp_path / "mean")
    assert identity.step is None and identity.base == folder_weights(tmp_path / "run" / "step-4").base, "no step has these weights"
    card = (tmp_path / "mean" / "README.md").read_text()
    assert f"--decay {decay:g}" in card
    files = {path.name for path in (tmp_path / "mean").iterdir()}
    assert MANIFEST in files and files == {path.name for path in (tmp_path / "run" / "export").iterdir()}


@pytest.mark.parametrize("options", [{}, pytest.param({"adapter": LoRA(r=2, alpha=6)}, marks=pytest.mark.slow)], ids=["full", "lora"])
def test_bema_is_a_plain_loop_from_the_base_model(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    states, base = train(folder, tmp_path / "run", **options), state(folder / "model")
    mean = {name: value.double() for name, value in base.items()}
    for step, each in enumerate(states, 1):
        mean = {name: (1 - (10 + step) ** -0.5) * mean[name] + (10 + step) ** -0.5 * each[name].double() for name in mean}
    expected = {name: mean[name] + 14**-0.2 * (states[-1][name].double() - base[name].double()) for name in mean}
    main(["export", "--ckpt", str(tmp_path / "run"), "--out", str(tmp_path / "mean"), "--decay", "bema"])
    found = state(tmp_path / "mean")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(found[name], states[-1][name]) for name in found)
    assert "--decay bema" in (tmp_path / "mean" / "README.md").read_text()


def test_bema_needs_a_base_model(folder: Path, tmp_path: Path) -> None:
    trained = tmp_path / "run"
    train(folder, trained, architecture=QWEN3)
    with pytest.raises(ValueError, match=r"`decay: bema` begins at the base model, and .* random weights"):
        export(trained, tmp_path / "mean", decay="bema")


def test_shares_sum_to_one() -> None:
    paths = [Path(str(number)) for number in range(7)]
    assert sum(decayed_shares(paths, 0.9).values()) == pytest.approx(1)
    assert list(decayed_shares(paths[:3], 0.5).values()) == [0.25, 0.25, 0.5]
    shares, base = bema_shares({path: 10 * number for number, path in enumerate(paths, 1)})
    assert sum(shares.values()) + base == pytest.approx(1)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    train(folder, path)
    return path


def test_the_same_line_again_and_another_decay(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(trained, tmp_path / "mean", decay=0.5)
    export(trained, tmp_path / "mean", decay=0.5)
    printed = capsys.readouterr().out
    assert "mean of 4 checkpoints to last-step=4.ckpt" in printed and "is there already, from the same checkpoints" in printed
    with pytest.raises(ValueError, match="mean is there already"):
        export(trained, tmp_path / "mean", decay=0.6)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(trained: Path, tmp_path: Path, decay: float) -> None:
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\)"):
        export(trained, tmp_path / "mean", decay=decay)


def test_fewer_than_two_steps_are_refused(trained: Path, tmp_path: Path) -> None:
    one = trained / "checkpoints" / "last-step=2.ckpt"
    with pytest.raises(
        ValueError, match="`decay`: .*last-step=2.ckpt has checkpoints of 0 step.s. in its `checkpoints`, and a mean needs two; give the folder"
    ):
        export(one, tmp_path / "mean", decay=0.5)


def test_a_checkpoint_that_is_not_whole_is_refused(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last-step=2.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="last-step=2.ckpt is not a whole checkpoint"):
        export(tmp_path / "run", tmp_path / "mean", decay=0.5)
    assert not (tmp_path / "mean").exists()
