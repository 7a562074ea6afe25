"""EWC: its Fisher information and its steps are those of a naive loop, it is computed once, and what it cannot do is refused."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import SGD

import lit_talr.training.fisher
from lit_talr.losses import EWC, L2, TALR, Standard
from lit_talr.losses.base import Setting
from tests.helpers.ewc import ADAMW, COEFFICIENT, ROWS, naive_ewc, naive_fisher
from tests.helpers.fits import distance, fit, write_data
from tests.helpers.params import first_is_fast

STEPS = 10


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder to write into; ``.cache`` is written next to it."""
    write_data(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of examples of each Fisher information that is computed."""
    sizes: list[int] = []
    compute = lit_talr.training.fisher.mean_squares

    def counted(trainer: Trainer, backbone: Any, examples: list[Any]) -> dict[str, Tensor]:
        sizes.append(len(examples))
        return compute(trainer, backbone, examples)

    monkeypatch.setattr(lit_talr.training.fisher, "mean_squares", counted)
    yield sizes


@pytest.mark.parametrize("source", ["base", "train"])
@pytest.mark.parametrize("precision", first_is_fast("64-true", "bf16-mixed"))
def test_the_fisher_information_is_that_of_a_naive_loop_over_single_examples(own: Path, source: Any, precision: Any) -> None:
    """Whatever the precision of training, and also where its rows are packed."""
    batching = {"micro_batch_tokens": 300, "packing": True}
    fit(own, EWC(Standard(), fisher_rows=6, fisher_from=source), 1, batching=batching, trainer={"precision": precision})
    wanted = naive_fisher(own, source, 6)
    (path,) = (own.parent / ".cache").glob("base-fisher-*.safetensors")
    found = {name.removeprefix("model."): value for name, value in load_file(path).items()}
    assert found.keys() == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == (torch.float64 if precision == "64-true" else torch.float32)
        torch.testing.assert_close(found[name].double(), value, rtol=1e-8 if precision == "64-true" else 1e-3, atol=1e-6 * float(value.max()))


@pytest.mark.slow
@pytest.mark.parametrize("batching", first_is_fast({"micro_batch_tokens": 300, "packing": True}, {"micro_batch_size": 8}))
def test_ten_steps_are_those_of_a_naive_trainer(own: Path, batching: dict[str, Any]) -> None:
    found = fit(own, EWC(Standard(), COEFFICIENT, ROWS, "train"), STEPS, optimizer=ADAMW, batching=batching)
    start, wanted = (naive_ewc(own, steps, torch.float64) for steps in (0, STEPS))
    assert distance(found, wanted, start) < 1e-6
    assert distance(fit(own, Standard(), STEPS, optimizer=ADAMW, batching=batching), wanted, start) > 0.01, "the penalty matters"


@pytest.mark.slow
def test_a_second_run_computes_no_fisher_information(own: Path, computed: list[int]) -> None:
    first = fit(own, EWC(Standard(), COEFFICIENT, 6), 3)
    again = fit(own, EWC(Standard(), COEFFICIENT, 6), 3, trainer={"default_root_dir": str(own.parent / "other run")})
    assert computed == [6] and all(torch.equal(first[name], again[name]) for name in first)
    fit(own, EWC(Standard(), 2 * COEFFICIENT, 6), 1)
    assert computed == [6], "the coefficient does not matter"
    fit(own, EWC(EWC(TALR(), COEFFICIENT, 30, "train"), COEFFICIENT, 7), 1)
    assert computed == [6, 7, 20], "each loss has its own, and there are no more than all training rows"


def test_coefficient_0_is_bitwise_the_wrapped_loss_and_computes_nothing(own: Path, computed: list[int]) -> None:
    ours, plain = fit(own, EWC(Standard(), 0.0), 3), fit(own, Standard(), 3)
    assert computed == [] and all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.slow
@pytest.mark.parametrize("forget", first_is_fast(True, False))
def test_resumed_is_bitwise_uninterrupted(own: Path, computed: list[int], forget: bool) -> None:
    """With the Fisher information from the cache or computed again; it is that of the base, not of the checkpoint."""
    options: dict[str, Any] = {"optimizer": ADAMW, "batching": {"micro_batch_size": 4}}
    loss = partial(EWC, L2(Standard(), 0.05), COEFFICIENT, 6)
    whole = fit(own, loss(), 8, **options)
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=4, save_top_k=-1)
    fit(own, loss(), 5, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = (own / "kept").glob("*.ckpt")
    if forget:
        next((own.parent / ".cache").glob("base-fisher-*")).unlink()
    resumed = fit(own, loss(), 8, ckpt_path=str(checkpoint), **options)
    assert computed == [6] * (1 + forget) and all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_logs_distance_and_penalty_before_the_step() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    loss = EWC(Standard(), 0.5)
    loss.fisher = lambda _: torch.tensor([4.0, 0.0])
    optimizer = SGD([weight], lr=1.0)
    loss.attach(optimizer)
    for _ in range(2):
        weight.grad = torch.tensor([-3.0, 4.0])
        optimizer.step()
        loss.step_end()
    assert weight.tolist() == [1 + 3 + 3 - 0.5 * 4 * 3, 2 - 4 - 4]
    assert {name: float(value) for name, value in loss.metrics().items()} == {"ewc/distance": 5.0, "ewc/penalty": 0.25 * 4 * 9}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficient": -1.0}, r"`coefficient` must lie in \[0, inf\), got -1"),
        ({"fisher_rows": 0}, "`fisher_rows` must be at least 1, got 0"),
        ({"fisher_from": "test"}, "`fisher_from` must be one of base, train, got 'test'"),
    ],
)
def test_options_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EWC(Standard(), **arguments)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(adapter=True), "EWC pulls the weights back to the base model's, and an adapter's are others; leave out `model.adapter`"),
        (Setting(precision="bf16-true"), "EWC cannot resolve how far weights are .* `trainer.precision: bf16-true`; use `bf16-mixed`"),
        (Setting(pretrained=False), "EWC holds on to what the base model knows, and random weights know nothing; give `model.pretrained`"),
    ],
)
def test_settings_are_refused(setting: Setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L2(EWC(Standard())).check(setting)


def test_without_a_fisher_information_it_is_not_attached() -> None:
    with pytest.raises(ValueError, match="EWC needs the Fisher information of the weights, which `DomainSFT` computes; elsewhere set `fisher`"):
        EWC(Standard()).attach(SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))


def test_a_gradient_that_is_not_finite_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_talr.training.fisher.sum_over_ranks", lambda total: total / 0)
    with pytest.raises(ValueError, match="The Fisher information of `.*` is not finite; look at the base model's weights and the rows"):
        fit(own, EWC(Standard(), fisher_rows=1), 1)


def test_where_no_rank_has_the_whole_model_it_must_be_in_the_cache(own: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_talr.training.fisher.shards_weights", lambda strategy: True)
    with pytest.raises(ValueError, match=r"is not in the cache, and cannot be computed where every weight is sharded \(ZeRO-3, FSDP2\); compute it once by"):
        fit(own, EWC(Standard(), fisher_rows=2), 1)
    monkeypatch.undo()
    fit(own, EWC(Standard(), fisher_rows=2), 1)
    monkeypatch.setattr("lit_talr.training.fisher.shards_weights", lambda strategy: True)
    fit(own, EWC(Standard(), fisher_rows=2), 1)
