"""VisibleUpdate: the naive formula, where it is measured, what it says, and no side effects."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import Drift, DriftBudget, HFExport, Summary, VisibleUpdate
from lit_talr.checkpoint.rounding import PIECE, PIECES, Rounding, boundary_distance, median_distance
from lit_talr.losses import Standard
from lit_talr.modeling.adapters import LoRA
from lit_talr.utils.weight_files import tensors
from tests.helpers.fits import QWEN3, fit, write_data
from tests.helpers.scores import read_values

RATE = 3e-5
"""At which some steps move some of the tiny model's weights to another number, and not others."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and a base model on the grid of bfloat16, as published ones are."""
    folder = tmp_path_factory.mktemp("visible")
    write_data(folder)
    AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).save_pretrained(folder / "model")
    return folder


def run(folder: Path, out: Path, callbacks: Any = None, steps: int = 4, rate: float = RATE, precision: str = "bf16-mixed", **options: Any) -> dict[str, Tensor]:
    trainer = {"callbacks": callbacks or [Summary(), VisibleUpdate()], "default_root_dir": str(out), "precision": precision, **options.pop("trainer", {})}
    optimizer = options.pop("optimizer", partial(torch.optim.AdamW, lr=rate, weight_decay=0.0))
    return fit(folder, Standard(), steps=steps, optimizer=optimizer, trainer=trainer, **options)


def naive(base: Path, tuned: Path, dtype: torch.dtype) -> float:
    before, after = (load_file(path / "model.safetensors") for path in (base, tuned))
    flat = [torch.cat([part[name].flatten().double() for name in after]) for part in (before, after)]
    update, rounded = flat[1] - flat[0], flat[1].to(dtype).double() - flat[0].to(dtype).double()
    return float(rounded @ update / (update @ update))


def logged(out: Path) -> dict[str, float]:
    return read_values(out, "fit")


@pytest.fixture(scope="module")
def trained(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run(own, out, [Summary(), VisibleUpdate(), HFExport()])
    return out


def test_it_is_the_naive_formula(own: Path, trained: Path) -> None:
    visible = logged(trained)["update/visible"]
    assert visible == pytest.approx(naive(own / "model", trained / "export", torch.bfloat16), rel=1e-6) and 0.05 < visible < 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_shares_of_three_ranks_are_the_whole(own: Path, trained: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of odd size."""
    whole, shared = (Rounding(dtype, tensors(own / "model")) for _ in range(2))
    weights = load_file(trained / "export" / "model.safetensors")
    for name, value in weights.items():
        whole.add(name, value)
    monkeypatch.setattr("lit_talr.checkpoint.rounding.CHUNK", 7)
    for rank in range(3):
        for name, value in weights.items():
            shared.add(name, value, rank, 3)
    assert whole.visible == pytest.approx(naive(own / "model", trained / "export", dtype), rel=1e-12)
    assert shared.visible == pytest.approx(whole.visible, rel=1e-12) and shared.lost == pytest.approx(whole.lost, rel=1e-12)
    assert (shared.moved, shared.compared, shared.off_grid) == (whole.moved, whole.compared, whole.off_grid)
    assert whole.compared == sum(value.numel() for value in weights.values()) and (whole.off_grid == 0) == (dtype == torch.bfloat16)


def test_training_is_bitwise_the_same_with_and_without(own: Path, tmp_path: Path) -> None:
    first, second = run(own, tmp_path / "with"), run(own, tmp_path / "without", [Summary()])
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_logged_after_each_epoch_and_at_the_end(own: Path, tmp_path: Path) -> None:
    """At the step that ended last, counted from 0: after the three steps of an epoch, and after one more."""
    run(own, tmp_path, trainer={"logger": CSVLogger(tmp_path, "", "")})
    rows = pd.read_csv(tmp_path / "metrics.csv").dropna(subset="update/visible")
    assert rows["step"].tolist() == [2, 3] and rows["update/visible"].iloc[-1] == pytest.approx(logged(tmp_path)["update/visible"])


@pytest.mark.parametrize(
    "options", [{"precision": "32-true"}, {"adapter": LoRA(r=2, alpha=2)}, {"architecture": QWEN3}, {"rate": 0.0}], ids=["fp32", "lora", "random", "still"]
)
def test_where_there_is_nothing_to_measure_nothing_is_logged(own: Path, tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lit_talr"):
        run(own, tmp_path, steps=1, **options)
    assert "update/visible" not in logged(tmp_path) and "moves a weight" not in caplog.text and "update/visible" not in caplog.text


def test_what_is_hardly_visible_is_said_before_and_after(own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lit_talr"):
        run(own, tmp_path, rate=1e-6)
    needed = median_distance(torch.bfloat16, tensors(own / "model").values())
    assert f"AdamW moves a weight by at most about 4e-06 in this run (rate 1e-06, 4 steps), and half of the weights need {needed:.2g} to round" in caplog.text
    assert f": {needed / 1e-6:,.0f} steps at the full rate." in caplog.text
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING" and "update/visible" in record.message)
    visible = logged(tmp_path)["update/visible"]
    assert visible < 0.5 and warning.message.startswith(f"update/visible is {visible:.2g}: ") and "fp32" in warning.message and "LoRA" in warning.message
    assert "off the grid" not in caplog.text


@pytest.mark.slow
def test_a_run_that_shows_says_nothing(own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lit_talr"):
        run(own, tmp_path / "far", rate=1e-2)
    assert logged(tmp_path / "far")["update/visible"] > 0.95 and "moves a weight" not in caplog.text and "update/visible" not in caplog.text
    with caplog.at_level("INFO", "lit_talr"):
        run(own, tmp_path / "sgd", optimizer=partial(torch.optim.SGD, lr=1e-6))
    assert "moves a weight" not in caplog.text, "only Adam's steps are as long as the rate"


def test_a_base_off_the_grid_shows_its_update_on_average(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lit_talr"):
        run(folder, tmp_path)
    assert caplog.text.count("of the base model's weights lie off the grid of bfloat16.") == 1 and "update/visible is" not in caplog.text
    assert logged(tmp_path)["update/visible"] == pytest.approx(1, abs=0.2)


def test_weights_that_a_budget_drops_have_no_share(own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    budget = DriftBudget(0.0, errors=0.0, on_exceeded="restore")
    run(own, tmp_path, [Summary(), VisibleUpdate(), Drift(num_sequences=4, length=8), budget])
    assert budget.stopped and "update/visible" not in logged(tmp_path) and "update/visible is" not in caplog.text


@pytest.mark.parametrize(
    ("value", "dtype", "distance"),
    [
        (0.100097656, torch.bfloat16, 2.0**-12),  # on the grid, whose spacing is 2^-11 between 1/16 and 1/8
        (-0.100097656, torch.bfloat16, 2.0**-12),
        (1.0, torch.bfloat16, 2.0**-8),
        (1 + 2.0**-9, torch.bfloat16, 2.0**-9),  # half-way to the boundary
        (1.0, torch.float16, 2.0**-11),
        (0.0, torch.float16, 2.0**-25),  # half of the smallest number
        (2.0**-20, torch.float16, 2.0**-25),
    ],
)
def test_the_distance_to_another_number(value: float, dtype: torch.dtype, distance: float) -> None:
    start = torch.tensor([value], dtype=torch.float64)
    assert float(boundary_distance(start, dtype)) == pytest.approx(distance, rel=1e-4)
    away = start.sign() + (start == 0)
    nearer, further = ((start + away * factor * distance).to(dtype) for factor in (0.99, 1.01))
    assert torch.equal(nearer, start.to(dtype)) and not torch.equal(further, start.to(dtype))


def test_half_of_the_weights_are_nearer_than_the_median(tmp_path: Path) -> None:
    """A large tensor, of which a sample is read, counts as all of its weights; small ones as theirs."""
    torch.manual_seed(0)
    large = torch.randn(4 * PIECES * PIECE + 5)
    parts = {"large": (0.1 * large).bfloat16(), "small": torch.randn(7, 9).bfloat16(), "one": torch.ones(1).bfloat16()}
    save_file(parts, tmp_path / "model.safetensors")
    exact = boundary_distance(torch.cat([part.flatten() for part in parts.values()]), torch.bfloat16).median()
    assert median_distance(torch.bfloat16, tensors(tmp_path).values()) == float(exact)
